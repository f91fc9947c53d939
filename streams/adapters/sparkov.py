"""Sparkov, the simulated card transactions published on Kaggle as fraudTrain.csv, fraudTest.csv.

In: that CSV. Out: schema v1. cc_num has the form of a card number, so the account is a keyed token
of it; names, addresses, birth days and jobs are not read. The merchant's name (less its constant
prefix "fraud_") is its id. trans_date_trans_time is taken as UTC (unix_time is seven years off).
A category has no MCC of its own: CATEGORY_MCC is our choice.
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from streams.adapters.formats import Converted
from streams.adapters.reading import (
    NO_DIGITS,
    constant,
    csv_pieces,
    fraud_labels,
    mapped,
    minor_units,
    refuse,
    required,
    shaped,
    tokens,
    transactions,
    yes_or_no,
)

SORTED = True
TYPES = {
    "trans_date_trans_time": pa.timestamp("s"),
    "cc_num": pa.string(),
    "merchant": pa.string(),
    "category": pa.string(),
    "amt": pa.float64(),
    "trans_num": pa.string(),
    "merch_lat": pa.float64(),
    "merch_long": pa.float64(),
    "is_fraud": pa.int8(),
}
CATEGORY_MCC = {
    "entertainment": "7832",
    "food_dining": "5812",
    "gas_transport": "5541",
    "grocery_net": "5499",
    "grocery_pos": "5411",
    "health_fitness": "7997",
    "home": "5712",
    "kids_pets": "5995",
    "misc_net": "5969",
    "misc_pos": "5999",
    "personal_care": "7298",
    "shopping_net": "5964",
    "shopping_pos": "5311",
    "travel": "4722",
}
ONLINE = {name: "ecommerce" if name.endswith("_net") else "card_present" for name in CATEGORY_MCC}
LONGEST = 64


def _short(names: pa.Array) -> pa.Array:
    return pc.utf8_slice_codeunits(pc.replace_substring_regex(names, "^fraud_", ""), 0, LONGEST)


def _letters(ids: pa.Array) -> pa.Array:
    """Hexadecimal ids without digits, so that none is taken for a card number."""
    return pa.array([text.translate(NO_DIGITS) for text in ids.to_pylist()], pa.string())


def rows(path: Path, key: bytes) -> Iterator[Converted]:
    """The file in pieces; `key` makes the account tokens."""
    for first, piece in csv_pieces(path, TYPES, "Sparkov"):
        required(path, first, piece)
        n = len(piece)
        # 4.99235E+18 is what a spreadsheet leaves of a card number: many cards would be one.
        shaped(path, first, piece.column("cc_num"), r"^\d+$", "cc_num", "not digits alone")
        amount = minor_units(path, first, piece.column("amt").to_numpy(), "amt")
        refuse(path, first, amount < 0, "amt", "negative")
        for name, limit in (("merch_lat", 90), ("merch_long", 180)):
            bad = ~(np.abs(piece.column(name).to_numpy()) <= limit)
            refuse(path, first, bad, name, "not a position")
        category = piece.column("category")
        mcc = mapped(category, CATEGORY_MCC)
        unknown = np.asarray(pc.is_null(mcc).to_numpy(zero_copy_only=False))
        refuse(path, first, unknown, "category", "not one of Sparkov's")
        batch = transactions(
            n,
            {
                "transaction_id": _letters(piece.column("trans_num")),
                "account_id": tokens(piece.column("cc_num"), key, "card-"),
                "event_time": pc.multiply(
                    piece.column("trans_date_trans_time").cast(pa.int64()), 1_000
                ),
                "amount": amount,
                "currency": constant("USD", n),
                "event_type": constant("authorization", n),
                "channel": mapped(category, ONLINE),
                "merchant_id": _short(piece.column("merchant")),
                "mcc": mcc,
                "merchant_country": constant("US", n),
                "billing_country": constant("US", n),
                "latitude": piece.column("merch_lat"),
                "longitude": piece.column("merch_long"),
            },
        )
        fraud = yes_or_no(path, first, piece, "is_fraud")
        yield Converted(batch, fraud_labels(batch, fraud))
