"""The simulated stream of the Fraud Detection Handbook (ULB), joined to one Parquet file.

In: the book's own columns (TX_DATETIME and so on, times taken as UTC), or transaction_id,
event_time (ms UTC), customer_id, terminal_id, amount (cents), is_fraud, and if there,
fraud_scenario. Out: schema v1. The source names no currency: EUR is put in, as its authors'.
fraud_scenario goes to the label's fraud_type only, never into a transaction.
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq

from streams.adapters.formats import Converted
from streams.adapters.reading import (
    constant,
    fraud_labels,
    mapped,
    minor_units,
    missing_columns,
    prefixed,
    refuse,
    required,
    transactions,
    yes_or_no,
)
from streams.errors import FormatError

SORTED = True
ROWS = 65_536
COLUMNS = ("transaction_id", "event_time", "customer_id", "terminal_id", "amount", "is_fraud")
PUBLISHED = {
    "TRANSACTION_ID": "transaction_id",
    "TX_DATETIME": "event_time",
    "CUSTOMER_ID": "customer_id",
    "TERMINAL_ID": "terminal_id",
    "TX_AMOUNT": "amount",
    "TX_FRAUD": "is_fraud",
    "TX_FRAUD_SCENARIO": "fraud_scenario",
}
SCENARIOS = {"1": "large_amount", "2": "compromised_terminal", "3": "compromised_customer"}


def _numbers(path: Path, first: int, piece: pa.RecordBatch) -> pa.RecordBatch:
    """The book's own columns in our units: times in ms, amounts in cents, ids as numbers (pandas
    keeps some as text). Raises FormatError for a column of another kind."""
    columns: list[pa.Array] = []
    for name, column in zip(piece.schema.names, piece.columns, strict=True):
        try:
            if name == "TX_AMOUNT":
                cents = minor_units(path, first, column.cast(pa.float64()).to_numpy(), name)
                columns.append(pa.array(cents))
            elif name == "TX_DATETIME":
                moment = column.cast(pa.timestamp("ms"), safe=False)
                columns.append(moment.cast(pa.int64()))
            else:
                columns.append(column.cast(pa.int64()))
        except (pa.ArrowInvalid, pa.ArrowNotImplementedError):
            raise FormatError(
                f"{path.name}, row {first}, column {name}: {column.type} is not the book's"
            ) from None
    return pa.RecordBatch.from_arrays(columns, names=piece.schema.names)


def _pieces(file: pq.ParquetFile, path: Path, columns: list[str]) -> Iterator[pa.RecordBatch]:
    """Raises FormatError for damaged bytes, which are no fault of the disk that is written to."""
    try:
        yield from file.iter_batches(batch_size=ROWS, columns=columns)
    except (pa.ArrowException, OSError) as error:
        said = " ".join(str(error).split())  # Arrow's words have line ends among them.
        raise FormatError(f"cannot read {path.name} as Parquet: {said}") from None


def rows(path: Path, key: bytes) -> Iterator[Converted]:
    """The file in pieces. `key` is not needed: there are no card numbers."""
    try:
        file = pq.ParquetFile(path)
    except (pa.ArrowInvalid, OSError) as error:
        raise FormatError(f"cannot read {path.name} as Parquet: {error}") from None
    names = file.schema_arrow.names
    named = PUBLISHED if "TX_DATETIME" in names else {name: name for name in PUBLISHED.values()}
    wanted = [name for name, ours in named.items() if ours in COLUMNS]
    missing_columns(path, names, wanted, "the handbook's stream")
    theirs = {ours: name for name, ours in named.items()}
    first = 1
    for piece in _pieces(file, path, [name for name in named if name in names]):
        required(path, first, piece)
        if named is PUBLISHED:
            piece = _numbers(path, first, piece)
        for name in wanted:
            if not pa.types.is_integer(piece.schema.field(name).type):
                raise FormatError(f"{path.name}, row {first}, column {name}: not an integer")
        amount = piece.column(theirs["amount"]).to_numpy()
        refuse(path, first, amount < 0, theirs["amount"], "negative")
        n = len(piece)
        batch = transactions(
            n,
            {
                "transaction_id": prefixed("hb", piece.column(theirs["transaction_id"])),
                "account_id": prefixed("customer-", piece.column(theirs["customer_id"])),
                "event_time": piece.column(theirs["event_time"]),
                "amount": amount,
                "currency": constant("EUR", n),
                "terminal_id": prefixed("terminal-", piece.column(theirs["terminal_id"])),
            },
        )
        kinds = None
        if theirs["fraud_scenario"] in piece.schema.names:
            kinds = mapped(piece.column(theirs["fraud_scenario"]).cast(pa.string()), SCENARIOS)
        fraud = yes_or_no(path, first, piece, theirs["is_fraud"])
        yield Converted(batch, fraud_labels(batch, fraud, kinds))
        first += n
