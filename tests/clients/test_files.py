"""Files and encoding: the same rows through Parquet, CSV and JSON lines; faults named."""

from __future__ import annotations

import gzip
import io
import re
from pathlib import Path
from typing import Any

import orjson
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from streams.adapters.canonical import LABEL, TRANSACTION
from streams.clients.encode import messages
from streams.clients.files import FileFormat, batches, check_columns, format_of, lines
from streams.clients.publish import chunks, count_rows
from streams.clients.writer import Writer
from streams.errors import ConfigError, FormatError

FULL: dict[str, Any] = {
    "schema_version": 1, "transaction_id": "t1", "account_id": "kontö", "event_time": 1735689600000,
    "amount": 1250, "currency": "EUR", "mcc": "0763", "latitude": 48.5, "longitude": -0.000001,
    "merchant_id": 'a "quoted" \\ name', "ext": {"till": "7", "note": "x,y"},
    "observed_time": 1735689600001,
}  # fmt: skip
BARE = {k: FULL[k] for k in ("schema_version", "account_id", "event_time", "amount", "currency")}
ROWS = [FULL, {**BARE, "transaction_id": "t2"}, {**BARE, "transaction_id": "t3", "latitude": 1.0}]


def table(rows: list[dict[str, Any]]) -> pa.Table:
    names = {name for row in rows for name in row}
    schema = pa.schema([f for f in TRANSACTION if f.name in names])
    return pa.Table.from_pylist(rows, schema=schema)


def test_messages_leave_out_what_is_not_given() -> None:
    keys, values = messages(table(ROWS).to_batches()[0])
    assert [orjson.loads(value) for value in values] == ROWS
    assert keys == ["kontö".encode()] * 3
    assert messages(table(ROWS).to_batches()[0].slice(0, 0)) == ([], [])


text = st.text(st.characters(codec="utf-8", exclude_characters="\x00"), max_size=12)
row = st.fixed_dictionaries(
    {"account_id": text, "amount": st.integers(-(2**62), 2**62)},
    optional={
        "merchant_id": text,
        "latitude": st.floats(allow_nan=False, allow_infinity=False),
        "ext": st.dictionaries(text, text, max_size=3),
    },
)


@settings(deadline=None)
@given(st.lists(row, min_size=1, max_size=8))
def test_messages_say_exactly_the_rows(rows: list[dict[str, Any]]) -> None:
    fields = [f.with_nullable(True) for f in TRANSACTION if any(f.name in r for r in rows)]
    made = pa.Table.from_pylist(rows, schema=pa.schema(fields)).to_batches()[0]
    assert [orjson.loads(value) for value in messages(made)[1]] == rows
    coded = made.set_column(
        made.schema.names.index("account_id"), "account_id",
        made.column("account_id").dictionary_encode(),
    )  # fmt: skip
    assert messages(coded) == messages(made)


@pytest.mark.parametrize("form", ["parquet", "csv"])
def test_what_is_written_is_read(form: FileFormat, tmp_path: Path) -> None:
    path = tmp_path / f"rows.{form}"
    with Writer(path, table(ROWS).schema) as writer:
        writer.write(table(ROWS))
        writer.write(table(ROWS).to_batches()[0])
    found = [value for batch in batches(path, path.name, form) for value in messages(batch)[1]]
    assert [orjson.loads(value) for value in found] == ROWS * 2


def test_json_lines(tmp_path: Path) -> None:
    path = tmp_path / "rows.jsonl"
    with Writer(path, table(ROWS).schema) as writer:
        writer.write(table(ROWS))
    with path.open("rb") as file:
        assert [(n, orjson.loads(line)) for n, line in lines(file, "x")] == [*enumerate(ROWS, 1)]


def test_lines_skip_blanks_and_bound_the_length() -> None:
    assert list(lines(io.BytesIO(b"\n{}\r\n  \n[]"), "x")) == [(2, b"{}"), (4, b"[]")]
    with pytest.raises(FormatError, match="x, line 2: longer"):
        list(lines(io.BytesIO(b"{}\n" + b"a" * 1_000_000), "x"))


def test_parquet_of_pandas_kind(tmp_path: Path) -> None:
    """Times as timestamps, whole numbers as other integers, text as large_string."""
    made = table([ROWS[1]])
    for name, kind in (
        ("event_time", pa.timestamp("us", "UTC")),
        ("amount", pa.int32()),
        ("currency", pa.large_string()),
        ("schema_version", pa.int64()),
    ):
        at = made.schema.names.index(name)
        column = made.column(name)
        if name == "event_time":
            column = column.cast(pa.timestamp("ms", "UTC"))
        made = made.set_column(at, name, column.cast(kind))
    pq.write_table(made, tmp_path / "p.parquet")
    (batch,) = batches(tmp_path / "p.parquet", "p.parquet", "parquet")
    assert orjson.loads(messages(batch)[1][0]) == ROWS[1]


def test_wrong_types_in_parquet(tmp_path: Path) -> None:
    path = tmp_path / "p.parquet"
    for column, said in (
        (pa.array(["12"]), "column amount: string where"),
        (pa.array([271.83]), "rows 1 to 1, column amount: a value of double that no int64"),
        (pa.array([2**64 - 83], pa.uint64()), "column amount: a value of uint64 that no int64"),
        (pa.array([27183], pa.date32()), "column amount: date32.day. where"),
        (pa.array([True]), "column amount: true and false"),
    ):
        made = table([ROWS[1]])
        pq.write_table(made.set_column(made.schema.names.index("amount"), "amount", column), path)
        with pytest.raises(FormatError, match=said) as refusal:
            list(batches(path, path.name, "parquet"))
        assert "83" not in str(refusal.value)
    times = pa.array([1735689600000083], pa.timestamp("us"))
    pq.write_table(
        made.set_column(made.schema.names.index("event_time"), "event_time", times), path
    )
    with pytest.raises(FormatError, match=r"timestamp\[us\] with parts of a millisecond.*round"):
        list(batches(path, path.name, "parquet"))
    path.write_bytes(b"PAR1 but no more")
    with pytest.raises(FormatError, match="not a Parquet file"):
        list(batches(path, path.name, "parquet"))
    with pytest.raises(FormatError, match="standard input"):
        batches(io.BytesIO(), "-", "parquet")


@pytest.mark.parametrize("name", ["merchant_id", "amount"])
@pytest.mark.parametrize("value", [["m"], {"a": "m"}])
def test_what_nests_in_parquet_is_refused(name: str, value: object, tmp_path: Path) -> None:
    path = tmp_path / "p.parquet"
    made = table([ROWS[1]])
    if name in made.schema.names:
        made = made.drop_columns(name)
    pq.write_table(made.append_column(name, pa.array([value])), path)
    with pytest.raises(FormatError, match=f"rows 1 to 1, column {name}: "):
        list(batches(path, path.name, "parquet"))


@pytest.mark.parametrize("name", ["account_id", "transaction_id", "merchant_id", "ext"])
def test_texts_of_parquet_that_are_not_utf8(name: str, tmp_path: Path) -> None:
    """Parquet takes any bytes for a text; the message would be a dead letter, if it could be."""
    path = tmp_path / "p.parquet"
    (full,) = table([FULL]).to_batches()
    raw = pa.array([b"caf\xe9"])
    texts = pa.StringArray.from_buffers(1, raw.buffers()[1], raw.buffers()[2])
    column = pa.MapArray.from_arrays([0, 1], pa.array(["a"]), texts) if name == "ext" else texts
    at = full.schema.names.index(name)
    pq.write_table(pa.Table.from_batches([full]).set_column(at, name, column), path)
    where = "rows 1 to 1 or below" if name in ("account_id", "merchant_id") else "rows 1 to 1"
    with pytest.raises(FormatError, match=f"{where}, column {name}: a text that is not UTF-8"):
        list(batches(path, path.name, "parquet"))


def test_damaged_parquet_is_refused_or_read(tmp_path: Path) -> None:
    """Arrow has many words for damage; the user hears one."""
    path = tmp_path / "p.parquet"
    pq.write_table(table(ROWS * 50), path)
    whole = path.read_bytes()
    refused = 0
    for at in range(4, len(whole), max(1, len(whole) // 300)):
        damaged = bytearray(whole)
        damaged[at] ^= 0x55
        path.write_bytes(damaged)
        for read in (
            lambda: list(batches(path, path.name, "parquet")),
            lambda: count_rows(path, None),
        ):
            try:
                read()
            except FormatError:
                refused += 1
    assert refused > 100


def test_a_value_that_says_little_ten_thousand_times(tmp_path: Path) -> None:
    """Some kilobytes that would be many megabytes of messages."""
    path = tmp_path / "p.parquet"
    rows = [{**ROWS[1], "merchant_id": "m" * 100_000}] * 200
    pq.write_table(table(rows), path, compression="zstd")
    assert path.stat().st_size < 50_000
    with pytest.raises(FormatError, match="column merchant_id: longer than"):
        list(batches(path, path.name, "parquet"))


def test_a_fault_far_down_is_named_by_its_row(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A file is read in parts, and a person counts from its beginning."""
    path = tmp_path / "p.parquet"
    monkeypatch.setattr("streams.clients.files.ROWS", 7)
    for name, where in (("transaction_id", "15 to 21"), ("merchant_id", "1 to 7 or below")):
        rows = [{**ROWS[1], name: "m" * (100_000 if at == 16 else 1)} for at in range(30)]
        pq.write_table(table(rows), path)
        with pytest.raises(FormatError, match=f"rows {where}, column {name}: longer than"):
            list(batches(path, path.name, "parquet"))
    path = tmp_path / "p.csv"
    monkeypatch.setattr("streams.clients.files.CSV_BLOCK", 256)
    heading = "schema_version,transaction_id,account_id,event_time,amount,currency,ext\n"
    for bad, said in (("[1]", "not a JSON object"), ("{", "not JSON")):
        cells = [bad if at == 22 else "{}" for at in range(30)]
        lines = [f"1,t{at},a1,1735689600000,12,EUR,{cell}\n" for at, cell in enumerate(cells)]
        path.write_text(heading + "".join(lines))
        with pytest.raises(FormatError, match=said) as refusal:
            list(batches(path, path.name, "csv"))
        where = re.search(r"rows (\d+) to \d+, row (\d+) of them", str(refusal.value))
        assert where is not None and int(where[1]) > 1
        assert int(where[1]) - 1 + int(where[2]) == 23


def test_an_error_in_csv_quotes_no_row(tmp_path: Path) -> None:
    path = tmp_path / "p.csv"
    heading = "schema_version,transaction_id,account_id,event_time,amount,currency\n"
    path.write_text(f"{heading}1,t1,acct-secret,1735689600000,12\n")
    with pytest.raises(FormatError, match=r"row 1: Expected 6 columns, got 5$") as refusal:
        list(batches(path, path.name, "csv"))
    assert "acct-secret" not in str(refusal.value)


def test_wrong_values_in_csv(tmp_path: Path) -> None:
    path = tmp_path / "p.csv"
    heading = "schema_version,transaction_id,account_id,event_time,amount,currency,ext\n"
    for line, said in (
        (
            "1,t1,a1,1735689600000,12.5,EUR,",
            r"row 1, column amount: not a value of type int64\. Amounts.*minor units",
        ),
        ("1,t1,a1,2025-01-01T00:00:00Z,12,EUR,", r"row 1, column event_time: .*\. Times.*1970"),
        ("1,t1,a1,1735689600000,12,EUR", "columns"),
        ("1,t1,a1,1735689600000,12,EUR,[1]", "column ext: not a JSON object"),
    ):
        path.write_text(f"{heading}{line}\n")
        with pytest.raises(FormatError, match=said):
            list(batches(path, path.name, "csv"))


@pytest.mark.parametrize(
    ("heading", "remedy"),
    [
        ("schema_version;transaction_id;account_id;event_time;amount;currency", "by commas"),
        ("transaction_id,account_id,event_time,amount,currency", "with 1 in each row"),
        ("customer,sum", "fraudstream convert"),
    ],
)
def test_a_heading_of_another_kind_is_told_what_is_wrong(
    heading: str, remedy: str, tmp_path: Path
) -> None:
    path = tmp_path / "p.csv"
    path.write_text(f"{heading}\n1\n")
    with pytest.raises(FormatError, match=remedy):
        list(batches(path, path.name, "csv"))


def test_csv_that_arrow_decompresses(tmp_path: Path) -> None:
    """Its heading cannot be looked at beforehand."""
    path = tmp_path / "p.csv.gz"
    heading = "schema_version,transaction_id,account_id,event_time,amount,currency\n"
    path.write_bytes(gzip.compress(f"{heading}1,t1,a1,1735689600000,12,EUR\n".encode()))
    (batch,) = batches(path, path.name, "csv")
    assert batch.to_pylist()[0]["amount"] == 12
    path.write_bytes(gzip.compress(f"{heading}1,t1,a1,1735689600000,12.5,EUR\n".encode()))
    with pytest.raises(FormatError, match="row 1, column 5: not a value of type int64"):
        list(batches(path, path.name, "csv"))


def test_a_quote_that_is_not_closed_swallows_no_rows(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Arrow takes what follows, to the next quote or to the end, for one text."""
    path = tmp_path / "p.csv"
    heading = "schema_version,transaction_id,account_id,event_time,amount,currency,merchant_id\n"
    rows = [f"1,t{i},a1,1735689600000,12,EUR,m\n" for i in range(9)]
    for broken in ({4}, {4, 7}):
        lines = [row.replace(",m", ',"m') if i in broken else row for i, row in enumerate(rows)]
        path.write_text(heading + "".join(lines))
        with pytest.raises(FormatError, match=r"row 5, column merchant_id: a line break .* quote"):
            list(batches(path, path.name, "csv"))
    monkeypatch.setattr("streams.clients.files.CSV_BLOCK", 256)
    path.write_text(heading + rows[0].replace(",m", ',"m') + 50 * rows[1])
    with pytest.raises(FormatError, match=r"a row of many megabytes: .* quote"):
        list(batches(path, path.name, "csv"))


def test_line_breaks_inside_ext_are_read_wherever_a_block_ends(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("streams.clients.files.CSV_BLOCK", 256)
    path = tmp_path / "p.csv"
    heading = "schema_version,transaction_id,account_id,event_time,amount,currency,ext\n"
    row = '1,t1,a1,1735689600000,12,EUR,"{\n""a"":\n""b""\n}"\n'
    path.write_text(heading + 50 * row)
    found = [v for batch in batches(path, path.name, "csv") for v in messages(batch)[1]]
    assert [orjson.loads(value)["ext"] for value in found] == [{"a": "b"}] * 50


def test_ext_in_csv_is_spelled_as_json_spells_it(tmp_path: Path) -> None:
    path = tmp_path / "p.csv"
    heading = "schema_version,transaction_id,account_id,event_time,amount,currency,ext\n"
    told = {"a": None, "b": True, "c": False, "d": 7, "e": 1.5, "f": "None", "g": {"h": [None]}}
    cells = [orjson.dumps(each).decode().replace('"', '""') for each in (told, {"a": None})]
    rows = [f'1,t1,a1,1735689600000,12,EUR,"{cell}"\n' for cell in [*cells, "null"]]
    path.write_text(heading + "".join(rows))
    found = [v for batch in batches(path, path.name, "csv") for v in messages(batch)[1]]
    assert [orjson.loads(value).get("ext") for value in found] == [
        {"b": "true", "c": "false", "d": "7", "e": "1.5", "f": "None", "g": '{"h":[null]}'},
        {},
        None,
    ]
    deep = '{""a"":' * 400 + "1" + "}" * 400
    path.write_text(f'{heading}1,t1,a1,1735689600000,12,EUR,"{deep}"\n')
    with pytest.raises(FormatError, match="column ext: nests too deep"):
        list(batches(path, path.name, "csv"))


def test_columns_tell_transactions_from_labels() -> None:
    assert check_columns(TRANSACTION.names, "x") is TRANSACTION
    assert check_columns(LABEL.names, "x") is LABEL
    for names, said in (
        ([*TRANSACTION.names, "colour"], "unknown columns: colour"),
        (TRANSACTION.names[1:], "no column schema_version"),
        (["label_id", "label"], "not a file of labels"),
        ([*TRANSACTION.names, "mcc"], "twice"),
    ):
        with pytest.raises(FormatError, match=said):
            check_columns(names, "x")


def test_format_of() -> None:
    assert format_of(Path("a.PARQUET")) == "parquet"
    assert format_of(Path("a.ndjson")) == format_of(Path("a"), "jsonl") == "jsonl"
    for path, given_format in ((Path("a.xls"), None), (Path("a.csv"), "excel")):
        with pytest.raises(ConfigError):
            format_of(path, given_format)


@pytest.mark.parametrize(
    ("name", "said"), [("missing.jsonl", "no file .*"), ("directory.jsonl", ".* is a folder")]
)
def test_what_is_no_file_is_named(name: str, said: str, tmp_path: Path) -> None:
    (tmp_path / "directory.jsonl").mkdir()
    with pytest.raises(ConfigError, match=said) as raised:
        chunks(tmp_path / name, None)
    assert name in str(raised.value)


def test_standard_input_that_is_closed(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("sys.stdin", None)
    with pytest.raises(ConfigError, match="standard input is closed"):
        chunks(None, None)
