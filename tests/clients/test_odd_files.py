"""Files of another kind given to `publish`, as people do: each is told what it is, what to do."""

from __future__ import annotations

from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from streams.clients.files import PANDAS_INDEX
from streams.clients.publish import chunks
from streams.errors import FormatError


@pytest.mark.parametrize(
    ("start", "said"),
    [
        (b"\x1f\x8b\x08\x00", "is packed by gzip, .*Unpack it first"),
        (b"PAR1\x15\x04", "is a Parquet file, .*Name it .parquet"),
        ("{".encode("utf-16"), "is UTF-16, .*Save it as UTF-8"),
    ],
)
@pytest.mark.parametrize("suffix", ["csv", "jsonl"])
def test_a_file_that_is_no_text_is_told_what_it_is(
    start: bytes, said: str, suffix: str, tmp_path: Path
) -> None:
    path = tmp_path / f"x.{suffix}"
    path.write_bytes(start)
    with pytest.raises(FormatError, match=f"^x.{suffix} {said}"):
        list(chunks(path, None))


@pytest.mark.parametrize("text", ['[{"account_id": "a"}]', '{\n "account_id": "a"\n}', "[\n{}\n]"])
def test_json_that_is_not_one_object_a_line(text: str, tmp_path: Path) -> None:
    path = tmp_path / "x.json"
    path.write_text(text)
    with pytest.raises(FormatError, match=r"line 1: .*Write one object a line"):
        list(chunks(path, None))


def test_lines_of_another_kind(tmp_path: Path) -> None:
    path = tmp_path / "x.jsonl"
    path.write_text('{"reason": "empty", "value": null}\n')
    with pytest.raises(FormatError, match=r"field account_id: .* docs/schema.md has its fields"):
        list(chunks(path, None))


def test_the_place_in_a_line_is_told_once(tmp_path: Path) -> None:
    """The parser sees one line, and calls each of them the first."""
    path = tmp_path / "x.jsonl"
    path.write_text('{"account_id":"a"}\n{"a":1,\n')
    with pytest.raises(FormatError, match=r"line 2: not JSON: .*, at character 8$"):
        list(chunks(path, None))


@pytest.mark.parametrize(
    ("heading", "said"),
    [
        ("", "is empty. A CSV file begins with a heading"),
        ("Account_ID,", "no column account_id. Write their names in small letters"),
        (" account_id,", "no column account_id. Write their names in small letters"),
        (f"{PANDAS_INDEX},account_id,", "write the file with `index=False`"),
    ],
)
def test_a_heading_that_is_nearly_right(heading: str, said: str, tmp_path: Path) -> None:
    others = "schema_version,transaction_id,event_time,amount,currency\n"
    path = tmp_path / "x.csv"
    path.write_text(heading and f"{heading}{others}" + "1," * heading.count(",") + "1,t,1,1,EUR\n")
    with pytest.raises(FormatError, match=said):
        list(chunks(path, None))


def test_a_day_is_no_moment(tmp_path: Path) -> None:
    """Arrow has no way from its days to numbers, and says so in its own words."""
    path = tmp_path / "x.parquet"
    texts = {name: ["a"] for name in ("transaction_id", "account_id", "currency")}
    days = pa.array([20_000], pa.date32())
    columns = {"schema_version": [1], "amount": [1], "event_time": days, **texts}
    pq.write_table(pa.table(columns), path)
    with pytest.raises(FormatError, match=r"event_time: date32.day. where .* Times are whole"):
        list(chunks(path, None))


def test_a_text_of_another_encoding(tmp_path: Path) -> None:
    path = tmp_path / "x.csv"
    path.write_bytes(
        "schema_version,transaction_id,account_id,event_time,amount,currency\n"
        "1,t\xe9,a,1,1,EUR\n".encode("latin-1")
    )
    with pytest.raises(FormatError, match="row 1, column transaction_id: a text that is not UTF-8"):
        list(chunks(path, None))
