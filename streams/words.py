"""Values of accepted messages to arrays: the event words, hashes, codes and positions.

In: parsed messages that passed every test, and the arrays of `kernels/fields.py`. Out: the same
arrays filled, and columns made of them. Does not know how messages are read or refused;
`model/inputs.py` says what each bit means.
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
from streams.codes import COUNTRY_CODES, DIRECTION_CODES, EVENT_TYPE_CODES, MCC_CODES
from streams.columns import NO_POSITION
from streams.kernels.fields import (
    CODED,
    COUNTRY_FIELDS,
    CURRENCY_NAMES,
    ENUMERATIONS,
    HASHED,
    Taken,
)

Words = NDArray[np.uint64]

_COUNTED_TYPES: Final = ("authorization", "capture", "transfer")
_COUNTED: Final = np.isin(np.arange(8), [0, *(EVENT_TYPE_CODES[name] for name in _COUNTED_TYPES)])
_CREDIT: Final = np.uint64(DIRECTION_CODES["credit"])
_DEGREE: Final = 1e6
_CURRENCY_CODES: Final = {name: code for code, name in enumerate(CURRENCY_NAMES)}
_TABLES: Final[Mapping[str, Mapping[Any, int]]] = {
    **ENUMERATIONS,
    "mcc": MCC_CODES,
    **dict.fromkeys(COUNTRY_FIELDS, COUNTRY_CODES),
    "currency": _CURRENCY_CODES,
}
assert tuple(_TABLES) == CODED


def take(document: Mapping[str, Any], i: int, out: Taken) -> None:
    """Put the values of one valid message into row i, as the kernel does for those it clears."""
    out.numbers[i] = document["event_time"], document["amount"]
    # Only entry_mode is free text.
    out.codes[i] = [table.get(document.get(name), OTHER_CODE) for name, table in _TABLES.items()]
    out.hashes[i] = [hashed(document.get(name)) for name in HASHED]
    out.position[i] = [microdegrees(document.get(name)) for name in ("latitude", "longitude")]


def hashed(text: str | None) -> int:
    """xxh3-64 of a text, 1 for one that comes out 0; 0 for none."""
    return 0 if text is None else max(xxh3_64_intdigest(text.encode()), 1)


def microdegrees(degrees: float | None) -> int:
    """Rounded half to even; NO_POSITION for none."""
    return NO_POSITION if degrees is None else round(degrees * _DEGREE)


def codes(values: Taken, name: str) -> Words:
    """The codes of one field, uint64 [n]; 0 where not given."""
    column: Words = values.codes[:, CODED.index(name)].astype(np.uint64)
    return column


def hashes(values: Taken, name: str) -> Words:
    """The hashes of one field, uint64 [n]; 0 where not given."""
    return values.hashes[:, HASHED.index(name)]


def currencies(values: Taken) -> list[str]:
    """The currency of each message."""
    column = values.codes[:, CODED.index("currency")].tolist()
    return list(map(CURRENCY_NAMES.__getitem__, column))


def _place(values: Taken) -> Words:
    """Hash of the place: the first given of merchant, terminal and counterparty."""
    merchant, terminal = hashes(values, "merchant_id"), hashes(values, "terminal_id")
    other = hashes(values, "counterparty_account_id")
    place: Words = np.where(merchant, merchant, np.where(terminal, terminal, other))
    return place


def _head(values: Taken) -> Words:
    """Word 0: time, enumerations, counts."""
    event_type, direction = codes(values, "event_type"), codes(values, "direction")
    counts = _COUNTED[event_type.astype(np.int64)] & (direction != _CREDIT)
    word: Words = values.numbers[:, 0].astype(np.uint64) << np.uint64(TIME_SHIFT)
    word |= event_type << np.uint64(TYPE_SHIFT)
    word |= direction << np.uint64(DIRECTION_SHIFT)
    word |= codes(values, "channel") << np.uint64(CHANNEL_SHIFT)
    word |= codes(values, "entry_mode") << np.uint64(ENTRY_SHIFT)
    word |= codes(values, "auth_response") << np.uint64(AUTH_SHIFT)
    word |= counts.astype(np.uint64) << np.uint64(COUNTS_SHIFT)
    return word


def pack(values: Taken, raw: Sequence[bytes]) -> Words:
    """The event words, uint64 [n, 4], of n messages with these raw bytes."""
    n = len(raw)
    words = np.empty((n, EVENT_WORDS), np.uint64)
    words[:, 0] = _head(values)
    words[:, 1] = values.numbers[:, 1].astype(np.uint64) << np.uint64(AMOUNT_SHIFT)
    words[:, 1] |= codes(values, "mcc")
    identity = np.maximum(hashes(values, "transaction_id") >> np.uint64(ID_SHIFT), np.uint64(1))
    content = np.fromiter(map(xxh3_64_intdigest, raw), np.uint64, n) >> np.uint64(48)
    words[:, 2] = identity << np.uint64(ID_SHIFT) | content
    words[:, 3] = _top(_place(values), 32) << np.uint64(PLACE_SHIFT)
    words[:, 3] |= codes(values, "merchant_country") << np.uint64(COUNTRY_SHIFT)
    words[:, 3] |= _top(hashes(values, "device_id"), DEVICE_MASK.bit_length())
    return words


def _top(hashed: Words, bits: int) -> Words:
    """The top bits of a hash; 0 stays 0 and nothing else becomes 0."""
    top: Words = hashed >> np.uint64(64 - bits)
    return np.where((top == 0) & (hashed != 0), np.uint64(1), top)
