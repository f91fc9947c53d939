"""PaySim, the simulated mobile money log (PS_..._log.csv).

In: that CSV. Out: schema v1. The source counts hours from nowhere: hour 1 is put at
2016-01-01T00:00Z, and events of one hour keep the order of the file. It names no currency: USD is
put in. Names of receivers that begin with M are merchants. Balances are not read: a fraud leaves
its trace in them in this simulation, which no live stream would show.
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from streams.adapters.formats import Converted
from streams.adapters.reading import (
    constant,
    csv_pieces,
    fraud_labels,
    mapped,
    minor_units,
    prefixed,
    refuse,
    required,
    transactions,
    yes_or_no,
)

SORTED = True
START_MS = 1_451_606_400_000
HOUR_MS = 3_600_000
TYPES = {
    "step": pa.int32(),
    "type": pa.string(),
    "amount": pa.float64(),
    "nameOrig": pa.string(),
    "nameDest": pa.string(),
    "isFraud": pa.int8(),
}
EVENT_TYPE = {
    "CASH_IN": "transfer",
    "CASH_OUT": "transfer",
    "DEBIT": "transfer",
    "PAYMENT": "authorization",
    "TRANSFER": "transfer",
}
CHANNEL = {
    "CASH_IN": "other",
    "CASH_OUT": "other",
    "DEBIT": "direct_debit",
    "PAYMENT": "wallet",
    "TRANSFER": "transfer",
}
DIRECTION = {name: "credit" if name == "CASH_IN" else "debit" for name in CHANNEL}


def rows(path: Path, key: bytes) -> Iterator[Converted]:
    """The file in pieces. `key` is not needed: there are no card numbers."""
    for first, piece in csv_pieces(path, TYPES, "PaySim"):
        required(path, first, piece)
        n = len(piece)
        amount = minor_units(path, first, piece.column("amount").to_numpy(), "amount")
        refuse(path, first, amount < 0, "amount", "negative")
        step = piece.column("step").to_numpy()
        refuse(path, first, step < 1, "step", "below 1")
        kind = piece.column("type")
        event_type = mapped(kind, EVENT_TYPE)
        unknown = np.asarray(pc.is_null(event_type).to_numpy(zero_copy_only=False))
        refuse(path, first, unknown, "type", "not one of PaySim's")
        receiver = piece.column("nameDest")
        merchant = pc.starts_with(receiver, "M")
        nobody = pa.scalar(None, pa.string())
        batch = transactions(
            n,
            {
                "transaction_id": prefixed("ps", pa.array(np.arange(first, first + n))),
                "account_id": piece.column("nameOrig"),
                "event_time": START_MS + (step.astype(np.int64) - 1) * HOUR_MS,
                "amount": amount,
                "currency": constant("USD", n),
                "event_type": event_type,
                "direction": mapped(kind, DIRECTION),
                "channel": mapped(kind, CHANNEL),
                "merchant_id": pc.if_else(merchant, receiver, nobody),
                "counterparty_account_id": pc.if_else(merchant, nobody, receiver),
            },
        )
        fraud = yes_or_no(path, first, piece, "isFraud")
        yield Converted(batch, fraud_labels(batch, fraud))
