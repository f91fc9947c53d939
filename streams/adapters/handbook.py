"""The simulated stream of the Fraud Detection Handbook (ULB), joined to one Parquet file.

In: transaction_id, event_time (ms UTC), customer_id, terminal_id, amount (cents), is_fraud, and if
there, fraud_scenario. Out: schema v1. The source names no currency: EUR is put in, as its authors'.
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
SCENARIOS = {"1": "large_amount", "2": "compromised_terminal", "3": "compromised_customer"}


def rows(path: Path, key: bytes) -> Iterator[Converted]:
    """The file in pieces. `key` is not needed: there are no card numbers."""
    try:
        file = pq.ParquetFile(path)
    except (pa.ArrowInvalid, OSError) as error:
        raise FormatError(f"cannot read {path.name} as Parquet: {error}") from None
    names = file.schema_arrow.names
    missing_columns(path, names, COLUMNS, "the handbook's stream")
    extra = [name for name in ("fraud_scenario",) if name in names]
    first = 1
    for piece in file.iter_batches(batch_size=ROWS, columns=[*COLUMNS, *extra]):
        required(path, first, piece)
        for name in COLUMNS:
            if not pa.types.is_integer(piece.schema.field(name).type):
                raise FormatError(f"{path.name}, row {first}, column {name}: not an integer")
        amount = piece.column("amount").to_numpy()
        refuse(path, first, amount < 0, "amount", "negative")
        n = len(piece)
        batch = transactions(
            n,
            {
                "transaction_id": prefixed("hb", piece.column("transaction_id")),
                "account_id": prefixed("customer-", piece.column("customer_id")),
                "event_time": piece.column("event_time"),
                "amount": amount,
                "currency": constant("EUR", n),
                "terminal_id": prefixed("terminal-", piece.column("terminal_id")),
            },
        )
        kinds = mapped(piece.column(extra[0]).cast(pa.string()), SCENARIOS) if extra else None
        fraud = yes_or_no(path, first, piece, "is_fraud")
        yield Converted(batch, fraud_labels(batch, fraud, kinds))
        first += n
