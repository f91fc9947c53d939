"""TabFormer, IBM's synthetic card transactions (card_transaction.v1.csv).

In: that CSV. Out: schema v1. The account is the user, whose cards are card_id. Minutes are the
source's resolution, taken as UTC. Merchant names are 64-bit numbers in the source; they become
letters, because so many digits may look like a card number. A negative amount is a refund.
The file goes user by user and card by card, so it is not in time order.
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from numpy.typing import NDArray

from streams.adapters.formats import Converted
from streams.adapters.reading import (
    NO_DIGITS,
    constant,
    csv_pieces,
    fraud_labels,
    mapped,
    minor_units,
    prefixed,
    refuse,
    required,
    shaped,
    transactions,
    yes_or_no,
)
from streams.schema import MCC_DIGITS

SORTED = False
TYPES = {
    "User": pa.int32(),
    "Card": pa.int32(),
    "Year": pa.int32(),
    "Month": pa.int32(),
    "Day": pa.int32(),
    "Time": pa.string(),
    "Amount": pa.string(),
    "Use Chip": pa.string(),
    "Merchant Name": pa.int64(),
    "Merchant State": pa.string(),
    "MCC": pa.string(),
    "Errors?": pa.string(),
    "Is Fraud?": pa.string(),
}
OPTIONAL = ("Merchant State", "MCC", "Errors?")
CHANNEL = {
    "Swipe Transaction": "card_present",
    "Chip Transaction": "card_present",
    "Online Transaction": "ecommerce",
}
ENTRY = {
    "Swipe Transaction": "magstripe",
    "Chip Transaction": "chip",
    "Online Transaction": "ecommerce",
}
COUNTRY = {
    "Australia": "AU", "Austria": "AT", "Bahamas": "BS", "Bangladesh": "BD", "Belgium": "BE",
    "Belize": "BZ", "Brazil": "BR", "Canada": "CA", "China": "CN", "Colombia": "CO",
    "Costa Rica": "CR", "Croatia": "HR", "Czech Republic": "CZ", "Denmark": "DK",
    "Dominican Republic": "DO", "Egypt": "EG", "Estonia": "EE", "Finland": "FI", "France": "FR",
    "Germany": "DE", "Greece": "GR", "Guatemala": "GT", "Haiti": "HT", "Hong Kong": "HK",
    "Hungary": "HU", "Iceland": "IS", "India": "IN", "Indonesia": "ID", "Ireland": "IE",
    "Israel": "IL", "Italy": "IT", "Jamaica": "JM", "Japan": "JP", "Lebanon": "LB",
    "Luxembourg": "LU", "Malaysia": "MY", "Mexico": "MX", "Monaco": "MC", "Morocco": "MA",
    "Netherlands": "NL", "New Zealand": "NZ", "Nigeria": "NG", "Norway": "NO", "Pakistan": "PK",
    "Peru": "PE", "Philippines": "PH", "Poland": "PL", "Portugal": "PT", "Romania": "RO",
    "Russia": "RU", "Saudi Arabia": "SA", "Singapore": "SG", "Slovakia": "SK", "South Africa": "ZA",
    "South Korea": "KR", "Spain": "ES", "Sweden": "SE", "Switzerland": "CH", "Taiwan": "TW",
    "Thailand": "TH", "Turkey": "TR", "Ukraine": "UA", "United Arab Emirates": "AE",
    "United Kingdom": "GB", "Vatican City": "VA", "Vietnam": "VN",
}  # fmt: skip
"""The names found most; any other foreign name leaves the country out."""
MINUTE_MS = 60_000


def _time(path: Path, first: int, piece: pa.RecordBatch) -> NDArray[np.int64]:
    """Milliseconds from the date's columns and HH:MM."""
    year, month, day = (piece.column(name).to_numpy() for name in ("Year", "Month", "Day"))
    for name, values, low, high in (
        ("Year", year, 1970, 2100),
        ("Month", month, 1, 12),
        ("Day", day, 1, 31),
    ):
        refuse(path, first, (values < low) | (values > high), name, "out of range")
    clock = piece.column("Time")
    shaped(path, first, clock, r"^([01]\d|2[0-3]):[0-5]\d$", "Time", "not HH:MM")
    hours = pc.utf8_slice_codeunits(clock, 0, 2).cast(pa.int64()).to_numpy()
    minutes = pc.utf8_slice_codeunits(clock, 3, 5).cast(pa.int64()).to_numpy()
    months = (year.astype(np.int64) - 1970) * 12 + month - 1
    start = months.astype("datetime64[M]").astype("datetime64[D]")
    days = start.astype(np.int64) + day - 1
    length = (start.astype("datetime64[M]") + 1).astype("datetime64[D]").astype(np.int64)
    refuse(path, first, days >= length, "Day", "not in that month")
    moment: NDArray[np.int64] = (days * 1_440 + hours * 60 + minutes) * MINUTE_MS
    return moment


def _amount(path: Path, first: int, piece: pa.RecordBatch) -> NDArray[np.int64]:
    """Cents with a sign, from text like $-77.00."""
    text = pc.replace_substring_regex(piece.column("Amount"), r"[$,]", "")
    shaped(path, first, text, r"^-?\d{1,12}(\.\d+)?$", "Amount", "no amount")
    return minor_units(path, first, text.cast(pa.float64()).to_numpy(), "Amount")


def _merchant(names: pa.Array) -> pa.Array:
    coded = names.dictionary_encode()
    found = [
        "m" + f"{number & 0xFFFFFFFFFFFFFFFF:016x}".translate(NO_DIGITS)
        for number in coded.dictionary.to_pylist()
    ]
    return pa.array(found, pa.string()).take(coded.indices)


def _country(states: pa.Array) -> pa.Array:
    """A two-letter state is the United States'; else a country's name; online has none."""
    coded = states.dictionary_encode()
    found = [
        "US" if name is not None and len(name) == 2 else COUNTRY.get(name or "")
        for name in coded.dictionary.to_pylist()
    ]
    return pa.array(found, pa.string()).take(coded.indices)


def _category(path: Path, first: int, piece: pa.RecordBatch) -> pa.Array:
    """MCCs of at least 4 digits. pandas writes 5311.0 where another row of the column is blank."""
    codes = piece.column("MCC")
    given = pc.fill_null(codes, "0")
    shaped(path, first, given, r"^[0-9]+(\.0)?$", "MCC", "not a number")
    digits = pc.replace_substring_regex(codes, r"^0*([0-9]+)(\.0)?$", r"\1")
    return pc.utf8_lpad(digits, MCC_DIGITS, "0")


def rows(path: Path, key: bytes) -> Iterator[Converted]:
    """The file in pieces. `key` is not needed: there are no card numbers."""
    for first, piece in csv_pieces(path, TYPES, "TabFormer"):
        required(path, first, piece, OPTIONAL)
        n = len(piece)
        cents = _amount(path, first, piece)
        use = piece.column("Use Chip")
        channel = mapped(use, CHANNEL)
        unknown = np.asarray(pc.is_null(channel).to_numpy(zero_copy_only=False))
        refuse(path, first, unknown, "Use Chip", "not one of TabFormer's")
        user = prefixed("user-", piece.column("User"))
        card = prefixed("-", piece.column("Card"))
        back = pa.array(cents < 0)
        failed = pc.is_valid(piece.column("Errors?"))
        batch = transactions(
            n,
            {
                "transaction_id": prefixed("tf", pa.array(np.arange(first, first + n))),
                "account_id": user,
                "card_id": pc.binary_join_element_wise(user, card, ""),
                "event_time": _time(path, first, piece),
                "amount": np.abs(cents),
                "currency": constant("USD", n),
                "event_type": pc.if_else(back, "refund", "authorization"),
                "direction": pc.if_else(back, "credit", "debit"),
                "channel": channel,
                "entry_mode": mapped(use, ENTRY),
                "merchant_id": _merchant(piece.column("Merchant Name")),
                "mcc": _category(path, first, piece),
                "merchant_country": _country(piece.column("Merchant State")),
                "billing_country": constant("US", n),
                "auth_response": pc.if_else(failed, "declined", "approved"),
            },
        )
        fraud = yes_or_no(path, first, piece, "Is Fraud?", "Yes", "No")
        yield Converted(batch, fraud_labels(batch, fraud))
