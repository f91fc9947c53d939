"""Whole field columns against the schema at once: which rows need a closer look.

In: field columns of parsed messages whose strings are plain (`scan.py` says which are not).
Out: bool [n], True for every row that may break a rule of its fields, and perhaps for some that
do not. Does not know reasons: `validate.py` decides about the rows named here.

A column passes by a few operations in C; only one that fails is gone through value by value.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray

from streams.codes import (
    AUTH_RESPONSE_CODES,
    CHANNEL_CODES,
    COUNTRIES,
    CURRENCIES,
    DIRECTION_CODES,
    EVENT_TYPE_CODES,
    MCC_CODES,
)
from streams.schema import (
    MAX_AMOUNT_MINOR,
    MAX_EVENT_TIME_MS,
    MAX_EXT_FIELDS,
    MAX_ID_LENGTH,
    MAX_TEXT_LENGTH,
    MIN_EVENT_TIME_MS,
    REQUIRED_FIELDS,
    SCHEMA_VERSION,
)
from streams.validate import CHECKS
from streams.words import Fields

Clear = Callable[[Sequence[Any]], bool]
"""True only if every value of the column is surely valid; None is, in an optional field."""

_NONE: Final = type(None)


def _given(column: Sequence[Any], types: set[type]) -> Sequence[Any]:
    return [value for value in column if value is not None] if _NONE in types else column


def _text(limit: int, *, required: bool = False) -> Clear:
    def clear(column: Sequence[Any]) -> bool:
        given = column
        try:
            "".join(column)  # the quickest test that all are strings
        except TypeError:
            given = [value for value in column if value is not None]
            if required or set(map(type, given)) != {str}:
                return not (required or given)
        lengths = set(map(len, given))
        return 0 not in lengths and max(lengths) <= limit

    return clear


def _integer(low: int, high: int, *, required: bool = False) -> Clear:
    allowed = {int} if required else {int, _NONE}

    def clear(column: Sequence[Any]) -> bool:
        types = set(map(type, column))
        if not types <= allowed:
            return False
        given = _given(column, types)
        return not given or (low <= min(given) and max(given) <= high)

    return clear


def _member(members: frozenset[str | None]) -> Clear:
    def clear(column: Sequence[Any]) -> bool:
        try:
            return members.issuperset(column)
        except TypeError:  # a list or object among the values
            return False

    return clear


def _degrees(limit: int) -> Clear:
    def clear(column: Sequence[Any]) -> bool:
        types = set(map(type, column))
        if not types <= {int, float, _NONE}:
            return False
        given = _given(column, types)
        return not given or (-limit <= min(given) and max(given) <= limit)

    return clear


def _ext(column: Sequence[Any]) -> bool:
    if not set(map(type, column)) <= {dict, _NONE}:
        return False
    given = [value for value in column if value]
    if not given:
        return True
    contents = [content for value in given for content in value.values()]
    return (
        max(map(len, given)) <= MAX_EXT_FIELDS
        and _NAMES([name for value in given for name in value])
        and set(map(type, contents)) == {str}
        and max(map(len, contents)) <= MAX_TEXT_LENGTH
    )


def _codes(table: Mapping[str | None, int]) -> Clear:
    return _member(frozenset(table))


_NAMES: Final = _text(MAX_ID_LENGTH)
_ID: Final = _NAMES
_LONG: Final = _text(MAX_TEXT_LENGTH)
_COUNTRY: Final = _member(frozenset([None, *COUNTRIES]))

_CLEAR: Final[Mapping[str, Clear]] = {
    "schema_version": _integer(SCHEMA_VERSION, SCHEMA_VERSION, required=True),
    "transaction_id": _text(MAX_ID_LENGTH, required=True),
    "account_id": _text(MAX_ID_LENGTH, required=True),
    "event_time": _integer(MIN_EVENT_TIME_MS, MAX_EVENT_TIME_MS, required=True),
    "amount": _integer(0, MAX_AMOUNT_MINOR, required=True),
    "currency": _member(frozenset(CURRENCIES)),
    "event_type": _codes(EVENT_TYPE_CODES),
    "direction": _codes(DIRECTION_CODES),
    "channel": _codes(CHANNEL_CODES),
    "entry_mode": _ID,
    "card_id": _ID,
    "merchant_id": _ID,
    "terminal_id": _ID,
    "mcc": _codes(MCC_CODES),
    "counterparty_account_id": _ID,
    "merchant_country": _COUNTRY,
    "billing_country": _COUNTRY,
    "ip_country": _COUNTRY,
    "latitude": _degrees(90),
    "longitude": _degrees(180),
    "device_id": _LONG,
    "ip_hash": _LONG,
    "email_hash": _LONG,
    "auth_response": _codes(AUTH_RESPONSE_CODES),
    "observed_time": _integer(MIN_EVENT_TIME_MS, MAX_EVENT_TIME_MS),
    "original_transaction_id": _ID,
    "tenant_id": _ID,
    "ext": _ext,
}

assert _CLEAR.keys() == CHECKS.keys()


def _suspects_in(name: str, column: Sequence[Any]) -> list[bool]:
    check, required = CHECKS[name], name in REQUIRED_FIELDS
    return [required if value is None else check(value) is not None for value in column]


def _half_positions(fields: Fields, n: int) -> NDArray[np.bool_]:
    """Rows that give one of latitude and longitude only."""
    latitude, longitude = fields.get("latitude"), fields.get("longitude")
    if latitude is None and longitude is None:
        return np.zeros(n, np.bool_)
    nothing = [None] * n
    pairs = zip(latitude or nothing, longitude or nothing, strict=True)
    half = [a is not b and (a is None or b is None) for a, b in pairs]
    return np.array(half, np.bool_)


def screen(fields: Fields, n: int) -> NDArray[np.bool_]:
    """The rows that may break a rule of the schema. `fields` has known fields only."""
    suspect = np.zeros(n, np.bool_)
    for name, column in fields.items():
        if not _CLEAR[name](column):
            suspect |= np.array(_suspects_in(name, column))
    return suspect | _half_positions(fields, n)
