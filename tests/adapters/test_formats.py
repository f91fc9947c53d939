"""Adapters: what each makes of a small sample, and one list of properties that all keep."""

from __future__ import annotations

import gzip
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from streams.adapters.canonical import LABEL, TRANSACTION
from streams.adapters.formats import NAMES, Converted, adapter
from streams.errors import ConfigError, FormatError
from streams.privacy import has_pan
from streams.schema import DAY_MS, REQUIRED_FIELDS

DATA = Path(__file__).parents[1] / "data"
KEY = b"a secret for the tests"
HANDBOOK = {
    "transaction_id": [0, 1, 2],
    "event_time": [1522540831000, 1522540930000, 1522541276000],
    "customer_id": [596, 4961, 596],
    "terminal_id": [3156, 3412, 3156],
    "amount": [5716, 8151, 14600],
    "is_fraud": pa.array([0, 1, 0], pa.int8()),
    "fraud_scenario": pa.array([0, 2, 0], pa.int8()),
}


def sample(name: str, tmp_path: Path) -> Path:
    if name != "handbook":
        return DATA / f"{name}.csv"
    path = tmp_path / "handbook.parquet"
    pq.write_table(pa.table(HANDBOOK), path)
    return path


def read(name: str, path: Path) -> tuple[list[dict[str, Any]], list[dict[str, Any]]]:
    pieces: Iterator[Converted] = adapter(name).rows(path, KEY)
    rows: list[dict[str, Any]] = []
    labels: list[dict[str, Any]] = []
    for piece in pieces:
        rows += piece.transactions.to_pylist()
        labels += piece.labels.to_pylist()
    return rows, labels


@pytest.mark.parametrize("name", NAMES)
def test_every_adapter_keeps_the_contract(name: str, tmp_path: Path) -> None:
    found = adapter(name)
    pieces = list(found.rows(sample(name, tmp_path), KEY))
    assert len({tuple(p.transactions.schema.names) for p in pieces}) == 1
    for piece in pieces:
        assert all(f in TRANSACTION for f in piece.transactions.schema)
        assert piece.labels.schema == LABEL
        assert set(REQUIRED_FIELDS) <= set(piece.transactions.schema.names)
        piece.transactions.validate(full=True)
    rows, labels = read(name, sample(name, tmp_path))
    assert len({row["transaction_id"] for row in rows}) == len(rows) >= 3
    times = [row["event_time"] for row in rows]
    assert (times == sorted(times)) == found.SORTED
    by_id = {row["transaction_id"]: row for row in rows}
    assert labels
    for label in labels:
        row = by_id[label["transaction_id"]]
        assert (label["label"], label["account_id"]) == ("fraud", row["account_id"])
        assert label["label_time"] == row["event_time"] + 7 * DAY_MS
    for row in rows:
        assert row["amount"] >= 0
        assert not any(has_pan(str(v)) for k, v in row.items() if k not in ("event_time", "amount"))


def test_handbook(tmp_path: Path) -> None:
    rows, labels = read("handbook", sample("handbook", tmp_path))
    assert rows[0] == {
        "schema_version": 1, "transaction_id": "hb0", "account_id": "customer-596",
        "event_time": 1522540831000, "amount": 5716, "currency": "EUR",
        "terminal_id": "terminal-3156",
    }  # fmt: skip
    assert [(label["transaction_id"], label["fraud_type"]) for label in labels] == [
        ("hb1", "compromised_terminal")
    ]


def test_handbook_under_its_own_names(tmp_path: Path) -> None:
    """As the book's authors publish it, read with pandas, which keeps some ids as text."""
    times = pa.array([ms * 1_000_000 for ms in HANDBOOK["event_time"]], pa.timestamp("ns"))
    published = {
        "TRANSACTION_ID": HANDBOOK["transaction_id"],
        "TX_DATETIME": times,
        "CUSTOMER_ID": ["596", "4961", "596"],
        "TERMINAL_ID": ["3156", "3412", "3156"],
        "TX_AMOUNT": [57.16, 81.51, 146.0],
        "TX_TIME_SECONDS": ["31", "130", "476"],
        "TX_TIME_DAYS": ["0", "0", "0"],
        "TX_FRAUD": [0, 1, 0],
        "TX_FRAUD_SCENARIO": [0, 2, 0],
    }
    path = tmp_path / "published.parquet"
    pq.write_table(pa.table(published), path)
    assert read("handbook", path) == read("handbook", sample("handbook", tmp_path))
    for column, values, said in (
        ("CUSTOMER_ID", ["596", "a", "1"], "column CUSTOMER_ID: string is not the book's"),
        ("TX_AMOUNT", [1.0, 2.005, 3.0], "row 2, column TX_AMOUNT: more than 2 decimals"),
        ("TX_AMOUNT", [1.0, 2.0, -3.0], "row 3, column TX_AMOUNT: negative"),
        ("TX_FRAUD", [0, 1, 2], "row 3, column TX_FRAUD: neither 1 nor 0"),
    ):
        pq.write_table(pa.table({**published, column: values}), path)
        with pytest.raises(FormatError, match=said):
            read("handbook", path)


def test_sparkov() -> None:
    rows, labels = read("sparkov", DATA / "sparkov.csv")
    first, second, third = rows
    assert first["account_id"] == third["account_id"] != second["account_id"]
    assert first["event_time"] == 1546300818000
    assert [row["amount"] for row in rows] == [497, 10723, 22010]
    assert [row["channel"] for row in rows] == ["ecommerce", "card_present", "card_present"]
    assert [row["mcc"] for row in rows] == ["5969", "5411", "5541"]
    assert first["merchant_id"] == "Example, Sample and Test"
    assert (first["latitude"], first["longitude"]) == (36.011293, -82.048315)
    assert [label["transaction_id"] for label in labels] == [second["transaction_id"]]


def test_sparkov_card_numbers_and_people_do_not_come_through() -> None:
    rows, labels = read("sparkov", DATA / "sparkov.csv")
    text = repr([*rows, *labels])
    for secret in ("4111", "5555555555554444", "Ada", "Bob", "Sample Street", "1988", "1978"):
        assert secret not in text
    other = next(adapter("sparkov").rows(DATA / "sparkov.csv", b"another secret")).transactions
    accounts = set(other.column("account_id").to_pylist())
    assert not accounts & {row["account_id"] for row in rows}


def test_tabformer() -> None:
    rows, labels = read("tabformer", DATA / "tabformer.csv")
    assert [row["event_time"] for row in rows] == [
        1030861260000, 1036132920000, 1030947720000, 1030924740000,
    ]  # fmt: skip
    assert [row["amount"] for row in rows] == [13409, 3848, 120034, 50]
    assert [row["event_type"] for row in rows] == [
        "authorization", "refund", "authorization", "authorization",
    ]  # fmt: skip
    assert [row["direction"] for row in rows] == ["debit", "credit", "debit", "debit"]
    assert [row["account_id"] for row in rows] == ["user-0", "user-0", "user-0", "user-1"]
    assert [row["card_id"] for row in rows][2:] == ["user-0-1", "user-1-0"]
    assert [row["merchant_country"] for row in rows] == ["US", "US", None, "IT"]
    assert [row["mcc"] for row in rows] == ["5300", "5411", "0763", "5912"]
    assert [row["auth_response"] for row in rows] == ["approved"] * 2 + ["declined"] * 2
    assert rows[1]["merchant_id"] == rows[2]["merchant_id"] != rows[0]["merchant_id"]
    assert [label["transaction_id"] for label in labels] == ["tf3", "tf4"]


def test_tabformer_without_a_category(tmp_path: Path) -> None:
    """MCC is optional in the schema: a blank one is absent, and costs nobody the file."""
    path = tmp_path / "blank.csv"
    path.write_text((DATA / "tabformer.csv").read_text().replace(",5411,", ",,"))
    rows, _ = read("tabformer", path)
    assert [row["mcc"] for row in rows] == ["5300", None, "0763", "5912"]


def test_tabformer_categories_as_pandas_writes_them(tmp_path: Path) -> None:
    """A blank cell makes numbers with a fraction of the column's others."""
    path = tmp_path / "pandas.csv"
    text = (DATA / "tabformer.csv").read_text().replace(",5411,", ",,")
    path.write_text(text.replace(",5300,", ",5300.0,").replace(",763,", ",763.0,"))
    rows, _ = read("tabformer", path)
    assert [row["mcc"] for row in rows] == ["5300", None, "0763", "5912"]


def test_paysim() -> None:
    rows, labels = read("paysim", DATA / "paysim.csv")
    assert [row["event_time"] for row in rows] == [
        1451606400000, 1451606400000, 1451610000000, 1451613600000,
    ]  # fmt: skip
    assert rows[0]["merchant_id"] == "M1000000001"
    assert rows[0]["counterparty_account_id"] is None
    assert rows[1]["counterparty_account_id"] == "C2000000001"
    assert [row["direction"] for row in rows] == ["debit", "debit", "credit", "debit"]
    assert [label["transaction_id"] for label in labels] == ["ps2", "ps4"]


@pytest.mark.parametrize(
    ("name", "old", "new", "said"),
    [
        ("sparkov", "107.23", "1O7.23", "row 2, column amt"),
        ("sparkov", "107.23", "-107.23", "row 2, column amt: negative"),
        ("sparkov", "107.23", "107.235", "row 2, column amt: more than 2 decimals"),
        ("sparkov", "grocery_pos", "groceries", "row 2, column category"),
        ("sparkov", "49.159047", "90.1", "row 2, column merch_lat"),
        ("sparkov", "-118.186462", "-180.1", "row 2, column merch_long"),
        ("sparkov", "2019-01-01 00:00:44", "yesterday", "row 2, column trans_date_trans_time"),
        ("sparkov", "5555555555554444", "", "row 2, column cc_num: empty"),
        ("sparkov", "5555555555554444", "5.55556E+15", "row 2, column cc_num: not digits alone"),
        ("sparkov", "cc_num", "card", "no column cc_num"),
        ("tabformer", "06:42", "26:42", "row 2, column Time"),
        ("tabformer", "2002,11,1", "2002,11,31", "row 2, column Day"),
        ("tabformer", "2002,11,1", "2002,13,1", "row 2, column Month"),
        ("tabformer", "$-38.48", "thirty", "row 2, column Amount"),
        ("tabformer", "Chip T", "Chop T", "row 2, column Use Chip"),
        ("tabformer", "0,1,2002", ",1,2002", "row 3, column User"),
        ("paysim", "1,TRANSFER,181.0", "0,TRANSFER,181.0", "row 2, column step"),
        ("paysim", "TRANSFER", "GIFT", "row 2, column type"),
        ("paysim", "5337.77,C1", "inf,C1", "row 3, column amount: not an amount"),
        ("paysim", "5337.77,C1", "nan,C1", "row 3, column amount: not an amount"),
        ("paysim", "5337.77,C1", "1e13,C1", "row 3, column amount: not an amount"),
        ("paysim", "5337.77,C1", "-0.01,C1", "row 3, column amount: negative"),
        ("paysim", "0.0,1,0\n2", "0.0,2,0\n2", "row 2, column isFraud: neither 1 nor 0"),
        ("tabformer", "91754.0,5411,,No", "91754.0,5411,,no", "column Is Fraud?: neither Yes nor"),
        ("tabformer", "5411", "grocer", "row 2, column MCC: not a number"),
        ("tabformer", "5411", "5411.5", "row 2, column MCC: not a number"),
        ("paysim", "2,CASH_IN", "two,CASH_IN", "row 3, column step"),
    ],
)
def test_a_fault_is_named_by_row_and_column(
    name: str, old: str, new: str, said: str, tmp_path: Path
) -> None:
    text = (DATA / f"{name}.csv").read_text()
    assert text.count(old) == 1
    path = tmp_path / "bad.csv"
    path.write_text(text.replace(old, new))
    with pytest.raises(FormatError) as error:
        read(name, path)
    assert said in str(error.value)
    assert "4111" not in str(error.value)


def test_quotes_that_are_not_closed_swallow_no_rows(tmp_path: Path) -> None:
    """Between two of one column Arrow takes the rows for a part of the first text."""
    text = (DATA / "sparkov.csv").read_text()
    path = tmp_path / "bad.csv"
    path.write_text(text.replace(",grocery_pos", ',"grocery_pos').replace(",gas_tr", ',"gas_tr'))
    with pytest.raises(FormatError, match="row 2, column category: a line break"):
        read("sparkov", path)


@pytest.mark.parametrize("name", [name for name in NAMES if name != "handbook"])
def test_a_row_cut_short_is_named_and_not_shown(name: str, tmp_path: Path) -> None:
    heading, first, *_ = (DATA / f"{name}.csv").read_text().splitlines()
    path = tmp_path / "short.csv"
    path.write_text("\n".join([heading, first, "1,2019-01-01 00:00:18,4111111111111111"]))
    width = len(heading.split(","))
    with pytest.raises(FormatError, match=f"row 2: Expected {width} columns, got 3$") as error:
        read(name, path)
    assert "4111" not in str(error.value)


@pytest.mark.parametrize(
    ("column", "values", "said"),
    [
        ("amount", [5716, -1, 3], "row 2, column amount: negative"),
        ("amount", [1.5, 2.0, 3.0], "column amount: not an integer"),
        ("customer_id", pa.array([1, 2, None], pa.int64()), "row 3, column customer_id: empty"),
        ("amount", None, "no column amount"),
    ],
)
def test_handbook_faults(column: str, values: Any, said: str, tmp_path: Path) -> None:
    columns = {**HANDBOOK, column: values}
    pq.write_table(
        pa.table({k: v for k, v in columns.items() if v is not None}), tmp_path / "h.parquet"
    )
    with pytest.raises(FormatError, match=said):
        read("handbook", tmp_path / "h.parquet")


def test_a_payment_of_nothing_is_one(tmp_path: Path) -> None:
    """As a card is tried: schema v1 has amounts from 0 on."""
    path = tmp_path / "h.parquet"
    pq.write_table(pa.table({**HANDBOOK, "amount": [0, 0, 0]}), path)
    assert [row["amount"] for row in read("handbook", path)[0]] == [0, 0, 0]
    for name, amount in (("sparkov", "107.23"), ("tabformer", "-38.48"), ("paysim", "5337.77")):
        path.write_text((DATA / f"{name}.csv").read_text().replace(amount, "0.00"))
        assert 0 in [row["amount"] for row in read(name, path)[0]]


def test_files_that_are_something_else(tmp_path: Path) -> None:
    path = tmp_path / "x"
    path.write_bytes(b"\x00\x01 no table at all")
    for name in NAMES:
        with pytest.raises(FormatError):
            read(name, path)
    with pytest.raises(ConfigError, match="sparkov"):
        adapter("sparky")


def test_damaged_bytes_of_the_handbook_are_the_files_own_fault(tmp_path: Path) -> None:
    """Arrow says OSError for them, as for the disk that is written to."""
    path = sample("handbook", tmp_path)
    whole = bytearray(path.read_bytes())
    whole[8:60] = b"x" * 52
    path.write_bytes(whole)
    with pytest.raises(FormatError, match=r"^cannot read \S+ as Parquet: [^\n]+$"):
        read("handbook", path)


@pytest.mark.parametrize(
    ("written", "said"),
    [
        (lambda text: b"", "empty. A CSV file begins with a heading"),
        (lambda text: gzip.compress(text.encode()), "packed by gzip, .*Unpack it first"),
        (lambda text: text.encode("utf-16"), "UTF-16, .*Save it as UTF-8"),
        (lambda text: text.replace(",", ";").encode(), "Separate the columns by commas"),
        (
            lambda text: text.replace("PAYMENT", "PAYM\xc9NT").encode("latin-1"),
            "row 1, column type: a text that is not UTF-8",
        ),
    ],
)
def test_a_csv_of_another_kind_is_told_what_it_is(
    written: Callable[[str], bytes], said: str, tmp_path: Path
) -> None:
    path = tmp_path / "x.csv"
    path.write_bytes(written((DATA / "paysim.csv").read_text()))
    with pytest.raises(FormatError, match=f"^x.csv.*{said}"):
        read("paysim", path)


def test_empty_lines_before_the_heading(tmp_path: Path) -> None:
    path = tmp_path / "x.csv"
    path.write_text("\n\n" + (DATA / "paysim.csv").read_text())
    assert read("paysim", path) == read("paysim", DATA / "paysim.csv")
