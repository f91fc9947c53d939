"""Conversion of whole files: both outputs, time order, and nothing left behind by a failure."""

from __future__ import annotations

from pathlib import Path

import orjson
import pyarrow.parquet as pq
import pytest
from typer.testing import CliRunner

from streams.adapters.formats import NAMES
from streams.cli import build
from streams.clients.convert import convert, token_key
from streams.clients.files import batches, format_of
from streams.errors import ConfigError, FormatError

DATA = Path(__file__).parents[1] / "data"
KEY = b"a secret for the tests"


@pytest.mark.parametrize("name", [name for name in NAMES if name != "handbook"])
@pytest.mark.parametrize("suffix", ["parquet", "csv", "jsonl"])
def test_convert_writes_what_publish_reads(name: str, suffix: str, tmp_path: Path) -> None:
    out, labels = tmp_path / f"o.{suffix}", tmp_path / f"l.{suffix}"
    counts = convert(name, DATA / f"{name}.csv", out, labels, KEY)
    assert (counts.outside, counts.uncoded) == (0, 0)
    for path, count in zip((out, labels), counts[:2], strict=True):
        if suffix == "jsonl":
            assert len(list(map(orjson.loads, path.read_bytes().splitlines()))) == count > 0
            continue
        found = list(batches(path, path.name, format_of(path)))
        assert sum(map(len, found)) == count > 0
    assert set(tmp_path.iterdir()) == {out, labels}


def test_what_the_service_refuses_is_counted(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """TabFormer begins in 1991."""
    monkeypatch.chdir(tmp_path)
    source = tmp_path / "tabformer.csv"
    source.write_text(
        (DATA / "tabformer.csv")
        .read_text()
        .replace("0,0,2002,9,1,", "0,0,1991,9,1,")
        .replace(",5411,", ",54110,")
    )
    words = ["convert", "tabformer", str(source), "o.parquet", "--set", "worker.data_dir=d"]
    done = CliRunner().invoke(build(), words, catch_exceptions=False)
    assert (done.exit_code, done.stdout.split()[:2]) == (0, ["transactions", "4"])
    assert "1 transactions are not within the years 2000 to 2099: the service" in done.stderr
    assert "1 transactions have an MCC of more than 4 digits: the service refuses" in done.stderr


@pytest.mark.parametrize(
    ("out", "why"),
    [
        ("o.csv", "it is a folder"),
        ("p.csv", "it is a folder"),  # Its labels' place is one.
        ("no/o.csv", "its folder does not exist"),
        ("file/o.csv", "its folder does not exist"),
    ],
)
@pytest.mark.parametrize("verb", [("convert", "paysim", "in.csv"), ("simulate",)])
def test_a_place_that_no_file_can_take_is_told_before_the_work(
    verb: tuple[str, ...], out: str, why: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    for folder in ("o.csv", "p-labels.csv"):
        (tmp_path / folder).mkdir()
    (tmp_path / "file").touch()
    (tmp_path / "in.csv").write_text("not even PaySim\n")
    done = CliRunner().invoke(build(), [*verb, out])
    assert isinstance(done.exception, ConfigError)
    assert why in str(done.exception)
    assert not (tmp_path / ".fraudstream").exists(), "a key was made"


def test_order_of_time(tmp_path: Path) -> None:
    out, labels = tmp_path / "o.parquet", tmp_path / "l.parquet"
    convert("tabformer", DATA / "tabformer.csv", out, labels, KEY)
    found = pq.read_table(out)
    assert found.column("transaction_id").to_pylist() == ["tf1", "tf4", "tf3", "tf2"]
    assert pq.read_table(labels).column("transaction_id").to_pylist() == ["tf4", "tf3"]


@pytest.mark.parametrize("suffix", ["parquet", "jsonl"])
def test_a_month_without_fraud(suffix: str, tmp_path: Path) -> None:
    """A piece of the labels is then empty."""
    source = tmp_path / "tabformer.csv"
    lines = (DATA / "tabformer.csv").read_text().splitlines(keepends=True)
    source.write_text("".join(lines).replace("0,0,2002,9,1,", "0,0,2001,1,1,"))
    out, labels = tmp_path / f"o.{suffix}", tmp_path / f"l.{suffix}"
    assert convert("tabformer", source, out, labels, KEY)[:2] == (4, 2)


def test_a_broken_column_of_times_does_not_open_files_without_end(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    out, labels = tmp_path / "o.parquet", tmp_path / "l.parquet"
    arguments = ("tabformer", DATA / "tabformer.csv", out, labels, KEY)
    monkeypatch.setattr("streams.clients.convert.MAX_SPANS", 1)
    with pytest.raises(FormatError, match="more than 1 months"):
        convert(*arguments)
    assert list(tmp_path.iterdir()) == []


def test_a_file_that_should_be_sorted_and_is_not(tmp_path: Path) -> None:
    heading, *rows = (DATA / "sparkov.csv").read_text().splitlines(keepends=True)
    source = tmp_path / "joined.csv"
    source.write_text(heading + "".join(reversed(rows)))
    out, labels = tmp_path / "o.parquet", tmp_path / "l.parquet"
    assert convert("sparkov", source, out, labels, KEY) == (3, 1, 0, 0)
    times = pq.read_table(out).column("event_time").to_pylist()
    assert times == sorted(times)
    assert len(set(times)) == 3


def test_a_failure_leaves_no_files(tmp_path: Path) -> None:
    bad = tmp_path / "bad.csv"
    bad.write_text((DATA / "tabformer.csv").read_text().replace("06:22", "99:22"))
    with pytest.raises(FormatError):
        convert("tabformer", bad, tmp_path / "o.parquet", tmp_path / "l.parquet", KEY)
    bad.write_text((DATA / "tabformer.csv").read_text().splitlines()[0] + "\n")
    with pytest.raises(FormatError, match="has no rows"):
        convert("tabformer", bad, tmp_path / "o.parquet", tmp_path / "l.parquet", KEY)
    assert list(tmp_path.iterdir()) == [bad]
    with pytest.raises(ConfigError):
        convert("tabformer", tmp_path / "no", tmp_path / "o.parquet", tmp_path / "l.parquet", KEY)
    with pytest.raises(ConfigError, match="is a folder"):
        convert("tabformer", tmp_path, tmp_path / "o.parquet", tmp_path / "l.parquet", KEY)


def test_a_failure_keeps_what_stood_there(tmp_path: Path) -> None:
    bad = tmp_path / "bad.csv"
    bad.write_text((DATA / "tabformer.csv").read_text().replace("06:22", "99:22"))
    out, labels = tmp_path / "o.csv", tmp_path / "l.csv"
    for path in (out, labels):
        path.write_text("of the run before")
    with pytest.raises(FormatError):
        convert("tabformer", bad, out, labels, KEY)
    joined = tmp_path / "joined.csv"
    joined.write_text((DATA / "sparkov.csv").read_text().replace("2019-01-01 00:00:44", "x"))
    with pytest.raises(FormatError):
        convert("sparkov", joined, out, labels, KEY)
    assert out.read_text() == labels.read_text() == "of the run before"
    assert set(tmp_path.iterdir()) == {bad, joined, out, labels}


def test_a_file_is_not_written_over_the_one_it_is_made_of(tmp_path: Path) -> None:
    source, other = tmp_path / "same.csv", tmp_path / "other.csv"
    content = (DATA / "paysim.csv").read_bytes()
    source.write_bytes(content)
    link = tmp_path / "link.csv"
    link.symlink_to(source)
    for out, labels in ((source, other), (other, source), (link, other), (other, link)):
        with pytest.raises(ConfigError, match="is the file to convert") as told:
            convert("paysim", source, out, labels, KEY)
        assert told.value.remedy is not None
        assert source.read_bytes() == content
    with pytest.raises(ConfigError, match="the transactions and the labels"):
        convert("paysim", source, other, other, KEY)
    assert set(tmp_path.iterdir()) == {source, link}


def test_a_link_leads_to_the_new_file(tmp_path: Path) -> None:
    (tmp_path / "far").mkdir()
    out = tmp_path / "o.csv"
    out.symlink_to(tmp_path / "far" / "o.csv")
    counts = convert("paysim", DATA / "paysim.csv", out, tmp_path / "l.csv", KEY)
    assert out.is_symlink()
    assert len((tmp_path / "far" / "o.csv").read_bytes().splitlines()) == counts[0] + 1


def test_token_key(tmp_path: Path) -> None:
    path = tmp_path / "deep" / "token.key"
    with pytest.raises(ConfigError):
        token_key(path, make=False)
    made = token_key(path, make=True)
    assert len(made) == 32
    assert token_key(path, make=True) == token_key(path, make=False) == made
    assert path.stat().st_mode & 0o077 == 0
    path.write_bytes(b"short")
    with pytest.raises(ConfigError, match="shorter"):
        token_key(path, make=True)
