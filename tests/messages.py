"""Messages for tests: one full valid document, a rule, batches, hypothesis strategies."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import orjson
from hypothesis import strategies as st

from model.inputs import AUTH_RESPONSES, CHANNELS, DIRECTIONS, ENTRY_MODES, EVENT_TYPES
from streams.batch import Batch, Headers
from streams.columns import Columns
from streams.decode import decode

BROKER_TIME = 1_700_000_000_000
MAX_FUTURE_MS = 86_400_000


def rule_file(rule_id: str) -> str:
    """A file of one rule: payments of 500.00 and more are reviewed."""
    return f"""
[[rule]]
rule_id = "{rule_id}"
version = 1
outcome = "review"
all = [ {{ field = "amount", op = "ge", value = 50000 }} ]
"""


FULL: dict[str, Any] = {
    "schema_version": 1,
    "transaction_id": "tx-1",
    "account_id": "acct-1",
    "event_time": 1_699_999_999_000,
    "amount": 1_250,
    "currency": "EUR",
    "event_type": "authorization",
    "direction": "debit",
    "channel": "card_present",
    "entry_mode": "chip",
    "card_id": "card-1",
    "merchant_id": "m-1",
    "terminal_id": "t-1",
    "mcc": "5411",
    "counterparty_account_id": "acct-2",
    "merchant_country": "FR",
    "billing_country": "DE",
    "ip_country": "GB",
    "latitude": 48.85837,
    "longitude": 2.294481,
    "device_id": "d-1",
    "ip_hash": "9f86d081884c7d659a2feaa0c55ad015a3bf4f1b2b0b822cd15d6c15b0f00a08",
    "email_hash": "60303ae22b998861bce3b28f33eec1be758a213c86c93c076dbe9f558c11c752",
    "auth_response": "approved",
    "observed_time": 1_699_999_999_500,
    "original_transaction_id": "tx-0",
    "tenant_id": "bank-1",
    "ext": {"shop": "42", "note": ""},
}
"""A valid message with every field of the schema."""

SMALL = {
    name: FULL[name]
    for name in (
        "schema_version",
        "transaction_id",
        "account_id",
        "event_time",
        "amount",
        "currency",
    )
}
"""A valid message with the required fields only."""


def batch_of(
    values: Sequence[bytes | None],
    keys: Sequence[bytes | None],
    *,
    times: Sequence[int] | None = None,
    headers: list[Headers] | None = None,
) -> Batch:
    n = len(values)
    times = [BROKER_TIME] * n if times is None else times
    return Batch(
        topic="transactions",
        partition=3,
        offsets=np.arange(100, 100 + n, dtype=np.int64),
        timestamps=np.array(times, np.int64),
        keys=list(keys),
        values=list(values),
        headers=headers,
        next_offset=100 + n,
    )


def decode_all(values: Sequence[bytes | None], keys: Sequence[bytes | None]) -> Columns:
    return decode(batch_of(values, keys), MAX_FUTURE_MS)


def decode_one(
    value: bytes | None, key: bytes | None = b"acct-1", *, time: int = BROKER_TIME
) -> Columns:
    return decode(batch_of([value], [key], times=[time]), MAX_FUTURE_MS)


def message(**changes: Any) -> bytes:
    """FULL with changes, as JSON; a value of ... takes the field away."""
    document = {**FULL, **changes}
    return orjson.dumps({name: value for name, value in document.items() if value is not ...})


_ids = st.text(st.characters(codec="utf-8"), min_size=1, max_size=66)
_tokens = st.from_regex(r"[a-z]{1,3}-[a-z0-9]{1,8}", fullmatch=True)
_fields: dict[str, st.SearchStrategy[Any]] = {
    "transaction_id": _tokens,
    "account_id": st.sampled_from(["acct-1", "acct-2", "acct-é"]),
    "event_time": st.integers(BROKER_TIME - 10**9, BROKER_TIME),
    "amount": st.integers(0, 10**7),
    "currency": st.sampled_from(["EUR", "USD", "JPY"]),
    "event_type": st.sampled_from(EVENT_TYPES),
    "direction": st.sampled_from(DIRECTIONS),
    "channel": st.sampled_from(CHANNELS),
    "entry_mode": st.sampled_from([*ENTRY_MODES, "fax"]),
    "merchant_id": _tokens,
    "terminal_id": _tokens,
    "counterparty_account_id": _tokens,
    "mcc": st.sampled_from(["5411", "0001", "9999"]),
    "merchant_country": st.sampled_from(["FR", "DE", "ZW"]),
    "billing_country": st.sampled_from(["FR", "XK"]),
    "ip_country": st.just("US"),
    "device_id": _tokens,
    "auth_response": st.sampled_from(AUTH_RESPONSES),
    "tenant_id": _tokens,
    "ext": st.dictionaries(_tokens, st.text("abc é", max_size=9), max_size=3),
}
_required = ("transaction_id", "account_id", "event_time", "amount", "currency")


@st.composite
def valid_documents(draw: st.DrawFn) -> dict[str, Any]:
    """Documents that the schema accepts."""
    names = [*_required, *draw(st.sets(st.sampled_from([*_fields][5:])))]
    document = {"schema_version": 1, **{name: draw(_fields[name]) for name in names}}
    if draw(st.booleans()):
        document["latitude"] = draw(st.floats(-90, 90))
        document["longitude"] = draw(st.floats(-180, 180))
    if draw(st.booleans()):
        document["observed_time"] = draw(st.integers(BROKER_TIME, BROKER_TIME + 10**9))
    return document


_odd = st.one_of(
    st.none(),
    st.booleans(),
    st.integers(-(2**63), 2**64 - 1),
    st.sampled_from([0, -1, 1, 2**53, 10**15, 10**15 - 1, 4_102_444_800_000, 4_102_444_800_001]),
    st.floats(allow_nan=False, allow_infinity=False),
    st.sampled_from([-0.0, 1e308, 1.0, 90, -90.0, 180, 180.5]),
    _ids,
    st.sampled_from(
        ["", "\0", "a\x7fb", "\u202e", "eur", "UK", "54", "٥٤١١", "x" * 129, "e\u0301"]
    ),
    st.lists(st.integers(), max_size=2),
    st.dictionaries(_ids, st.one_of(_ids, st.integers(), st.none()), max_size=3),
)


@st.composite
def odd_documents(draw: st.DrawFn) -> dict[str, Any]:
    """Documents with up to three fields that are changed, taken away or made up."""
    document = draw(valid_documents())
    for _ in range(draw(st.integers(0, 3))):
        name = draw(st.one_of(st.sampled_from(sorted(FULL)), _ids))
        if draw(st.booleans()):
            document[name] = draw(_odd)
        else:
            document.pop(name, None)
    return document
