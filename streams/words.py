"""Fields of accepted messages to arrays: the event words, hashes, codes and positions.

In: field columns that passed every test, and the raw bytes. Out: arrays of one length.
Does not know how messages are parsed or refused; `model/inputs.py` says what each bit means.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray
from xxhash import xxh3_64_intdigest

from model.inputs import (
    AMOUNT_SHIFT,
    AUTH_SHIFT,
    CHANNEL_SHIFT,
    COUNTRY_SHIFT,
    COUNTS_SHIFT,
    DEVICE_MASK,
    DIRECTION_SHIFT,
    ENTRY_SHIFT,
    EVENT_WORDS,
    ID_SHIFT,
    OTHER_CODE,
    PLACE_SHIFT,
    TIME_SHIFT,
    TYPE_SHIFT,
)
from streams.codes import (
    AUTH_RESPONSE_CODES,
    CHANNEL_CODES,
    COUNTRY_CODES,
    DIRECTION_CODES,
    ENTRY_MODE_CODES,
    EVENT_TYPE_CODES,
    MCC_CODES,
)
from streams.columns import NO_POSITION

Fields = Mapping[str, Sequence[Any]]
"""One sequence for each field that occurs; all of one length, None where not given."""
Words = NDArray[np.uint64]

_COUNTED_TYPES: Final = ("authorization", "capture", "transfer")
_COUNTED: Final = np.isin(np.arange(8), [0, *(EVENT_TYPE_CODES[name] for name in _COUNTED_TYPES)])
_CREDIT: Final = np.uint64(DIRECTION_CODES["credit"])
_DEGREE: Final = 1e6


def codes(fields: Fields, name: str, table: Mapping[str | None, int], n: int) -> Words:
    """The field's codes, uint64 [n]; 0 where not given."""
    column = fields.get(name)
    if column is None:
        return np.zeros(n, np.uint64)
    return np.fromiter(map(table.__getitem__, column), np.uint64, n)


def countries(fields: Fields, name: str, n: int) -> NDArray[np.uint16]:
    """The field's countries as numbers, uint16 [n]; 0 where not given."""
    return codes(fields, name, COUNTRY_CODES, n).astype(np.uint16)


def _entry_modes(fields: Fields, n: int) -> Words:
    column = fields.get("entry_mode")
    if column is None:
        return np.zeros(n, np.uint64)
    coded = [ENTRY_MODE_CODES.get(mode, OTHER_CODE) for mode in column]
    return np.array(coded, np.uint64)


def hashes(column: Sequence[str]) -> Words:
    """xxh3-64 of each text; one that comes out 0 is 1."""
    raw = np.fromiter(map(xxh3_64_intdigest, map(str.encode, column)), np.uint64, len(column))
    return np.maximum(raw, np.uint64(1))


def _optional_hashes(fields: Fields, name: str, n: int, wanted: NDArray[np.bool_]) -> Words:
    """Hashes of the field where it is given and `wanted`, else 0."""
    column = fields.get(name)
    out = np.zeros(n, np.uint64)
    if column is None:
        return out
    if wanted.all():
        try:
            return hashes(column)
        except TypeError:  # not given everywhere
            pass
    rows = [i for i in np.flatnonzero(wanted).tolist() if column[i] is not None]
    out[rows] = hashes([column[i] for i in rows])
    return out


def places(fields: Fields, n: int) -> tuple[Words, Words, Words]:
    """Hashes of merchant, of terminal, and of the place: the first given of merchant, terminal
    and counterparty."""
    everywhere = np.ones(n, np.bool_)
    merchant = _optional_hashes(fields, "merchant_id", n, everywhere)
    terminal = _optional_hashes(fields, "terminal_id", n, everywhere)
    place = np.where(merchant, merchant, terminal)
    other = _optional_hashes(fields, "counterparty_account_id", n, place == 0)
    return merchant, terminal, np.where(place, place, other)


def integers(column: Sequence[int]) -> NDArray[np.int64]:
    """int64 [n]."""
    return np.fromiter(column, np.int64, len(column))


def microdegrees(fields: Fields, name: str, n: int) -> NDArray[np.int32]:
    """int32 [n], rounded half to even; NO_POSITION where not given."""
    column = fields.get(name)
    if column is None:
        return np.full(n, NO_POSITION, np.int32)
    degrees = np.array(column, np.float64)  # None becomes NaN
    missing = np.isnan(degrees)
    scaled = np.rint(np.where(missing, 0.0, degrees) * _DEGREE).astype(np.int32)
    return np.where(missing, np.int32(NO_POSITION), scaled)


def _head(fields: Fields, event_time: NDArray[np.int64], n: int) -> Words:
    """Word 0: time, enumerations, counts."""
    event_type = codes(fields, "event_type", EVENT_TYPE_CODES, n)
    direction = codes(fields, "direction", DIRECTION_CODES, n)
    counts = _COUNTED[event_type.astype(np.int64)] & (direction != _CREDIT)
    word: Words = event_time.astype(np.uint64) << np.uint64(TIME_SHIFT)
    word |= event_type << np.uint64(TYPE_SHIFT)
    word |= direction << np.uint64(DIRECTION_SHIFT)
    word |= codes(fields, "channel", CHANNEL_CODES, n) << np.uint64(CHANNEL_SHIFT)
    word |= _entry_modes(fields, n) << np.uint64(ENTRY_SHIFT)
    word |= codes(fields, "auth_response", AUTH_RESPONSE_CODES, n) << np.uint64(AUTH_SHIFT)
    word |= counts.astype(np.uint64) << np.uint64(COUNTS_SHIFT)
    return word


def pack(
    fields: Fields,
    values: Sequence[bytes],
    event_time: NDArray[np.int64],
    amount: NDArray[np.int64],
    place: Words,
) -> Words:
    """The event words, uint64 [n, 4]."""
    n = len(values)
    words = np.empty((n, EVENT_WORDS), np.uint64)
    words[:, 0] = _head(fields, event_time, n)
    words[:, 1] = amount.astype(np.uint64) << np.uint64(AMOUNT_SHIFT)
    words[:, 1] |= codes(fields, "mcc", MCC_CODES, n)
    identity = np.maximum(hashes(fields["transaction_id"]) >> np.uint64(ID_SHIFT), np.uint64(1))
    content = np.fromiter(map(xxh3_64_intdigest, values), np.uint64, n) >> np.uint64(48)
    words[:, 2] = identity << np.uint64(ID_SHIFT) | content
    device = _optional_hashes(fields, "device_id", n, np.ones(n, np.bool_))
    words[:, 3] = _top(place, 32) << np.uint64(PLACE_SHIFT)
    words[:, 3] |= codes(fields, "merchant_country", COUNTRY_CODES, n) << np.uint64(COUNTRY_SHIFT)
    words[:, 3] |= _top(device, DEVICE_MASK.bit_length())
    return words


def _top(hashed: Words, bits: int) -> Words:
    """The top bits of a hash; 0 stays 0 and nothing else becomes 0."""
    top: Words = hashed >> np.uint64(64 - bits)
    return np.where((top == 0) & (hashed != 0), np.uint64(1), top)
