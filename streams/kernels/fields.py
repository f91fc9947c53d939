"""What the kernel over messages knows of the schema, and where it puts their values.

In: the schema's fields, limits and code lists. Out: `TABLES`, and the arrays `Taken` and `Follows`.
Does not know how a message is read; `message.py` does.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, Final, NamedTuple

import numpy as np
from numpy.typing import NDArray

from streams.codes import (
    AUTH_RESPONSE_CODES,
    CHANNEL_CODES,
    COUNTRIES,
    CURRENCIES,
    DIRECTION_CODES,
    ENTRY_MODE_CODES,
    EVENT_TYPE_CODES,
    country_code,
)
from streams.columns import NO_POSITION
from streams.schema import MAX_ID_LENGTH, MAX_TEXT_LENGTH, OPTIONAL_FIELDS, REQUIRED_FIELDS

FIELDS: Final = REQUIRED_FIELDS + OPTIONAL_FIELDS
NUMBER: Final[Mapping[str, int]] = {name: number for number, name in enumerate(FIELDS)}

CODED: Final = (
    "event_type",
    "direction",
    "channel",
    "entry_mode",
    "auth_response",
    "mcc",
    "merchant_country",
    "billing_country",
    "ip_country",
    "currency",
)
"""Columns of `Taken.codes`; a currency's code is its place in `CURRENCY_NAMES`."""
HASHED: Final = (
    "transaction_id",
    "merchant_id",
    "terminal_id",
    "counterparty_account_id",
    "device_id",
)
"""Columns of `Taken.hashes`."""
SPANNED: Final = ("account_id", "transaction_id", "tenant_id")
"""Columns of `Taken.spans`."""
WORDS_BYTES: Final = 24
"""A name or a value of an enumeration is at most so long, and from where one begins so many bytes
are looked at: as many lie behind the last message."""
CURRENCY_NAMES: Final = tuple(sorted(CURRENCIES))

LETTERS: Final = (
    (0x00C0, 0x024F),  # Latin with marks
    (0x0386, 0x052F),  # Greek, Cyrillic
    (0x05D0, 0x05EA),  # Hebrew
    (0x0621, 0x064A),  # Arabic
    (0x0904, 0x0939),  # Devanagari
    (0x0E01, 0x0E30),  # Thai
    (0x3041, 0x309F),  # Japanese
    (0x30A1, 0x30FE),
    (0x4E00, 0x9FFF),  # Chinese
    (0xAC00, 0xD7A3),  # Korean
)
"""Code points outside ASCII that are neither bad characters nor anything that a card number could
hide in; a test looks at each. Others may be as good: `streams/validate.py` decides about them."""

ENUMERATIONS: Final[Mapping[str, Mapping[str | None, int]]] = {
    "event_type": EVENT_TYPE_CODES,
    "direction": DIRECTION_CODES,
    "channel": CHANNEL_CODES,
    "entry_mode": ENTRY_MODE_CODES,
    "auth_response": AUTH_RESPONSE_CODES,
}
assert tuple(ENUMERATIONS) == CODED[: len(ENUMERATIONS)]

_NO_TEXTS: Final = (
    *("schema_version", "event_time", "amount", "observed_time"),
    *("latitude", "longitude", "ext"),
)
_LONG_TEXTS: Final = ("device_id", "ip_hash", "email_hash")
_IDS: Final = (
    *("transaction_id", "account_id", "card_id", "merchant_id", "terminal_id"),
    *("counterparty_account_id", "original_transaction_id", "tenant_id"),
)
assert {*CODED, *_NO_TEXTS, *_LONG_TEXTS, *_IDS} == set(FIELDS), "say here what a new field may be"
COUNTRY_FIELDS: Final = ("merchant_country", "billing_country", "ip_country")

NOTHING, ENUMERATION, MCC, COUNTRY, CURRENCY = range(5)
"""What else a text must be: `Tables.form`."""


class Tables(NamedTuple):
    """What the schema says, as arrays.

    names:   uint64 [28, 3], the members' names as words, bytes beyond a name 0
    length:  int8 [28], bytes of each name
    masks:   uint64 [24 + 1, 3], by a number of bytes: all bits of these first bytes
    field:   int8 [256], the field of a name's `mark`, -1 = none
    longest: int32 [28], bytes of its text, 0 = it is no text
    form:    int8 [28]
    code, hash, span: int8 [28], its column in the arrays of `Taken`, -1 = none
    values:  uint64 [k, 3], the values of the enumerations, as `names`
    value_length: int8 [k]
    first:   int32 [5 + 1], the first value of each enumeration, and one end
    country: uint16 [26 * 26], 26*a+b+1 or 0 = no country
    currency: int16 [26 ** 3], its place in CURRENCY_NAMES or -1
    letters: int32 [k, 2], LETTERS
    """

    names: NDArray[np.uint64]
    length: NDArray[np.int8]
    masks: NDArray[np.uint64]
    field: NDArray[np.int8]
    longest: NDArray[np.int32]
    form: NDArray[np.int8]
    code: NDArray[np.int8]
    hash: NDArray[np.int8]
    span: NDArray[np.int8]
    values: NDArray[np.uint64]
    value_length: NDArray[np.int8]
    first: NDArray[np.int32]
    country: NDArray[np.uint16]
    currency: NDArray[np.int16]
    letters: NDArray[np.int32]


class Taken(NamedTuple):
    """The values of n messages; what a message does not give is 0.

    cleared:    bool [n]; the other arrays mean nothing where it is False
    numbers:    int64 [n, 2], event_time and amount
    codes:      uint16 [n, len(CODED)]
    hashes:     uint64 [n, len(HASHED)], xxh3-64, 0 = not given
    spans:      int64 [n, len(SPANNED), 2], begin and end of the text, both 0 = not given
    position:   int32 [n, 2], latitude and longitude in microdegrees, NO_POSITION = not given
    """

    cleared: NDArray[np.bool_]
    numbers: NDArray[np.int64]
    codes: NDArray[np.uint16]
    hashes: NDArray[np.uint64]
    spans: NDArray[np.int64]
    position: NDArray[np.int32]

    def only(self, keep: NDArray[np.bool_]) -> Taken:
        """The rows marked in `keep`."""
        return Taken(
            cleared=self.cleared[keep],
            numbers=self.numbers[keep],
            codes=self.codes[keep],
            hashes=self.hashes[keep],
            spans=self.spans[keep],
            position=self.position[keep],
        )

    def put(self, rows: NDArray[np.int64], other: Taken) -> None:
        """Replace these rows by the rows of another."""
        mine: tuple[NDArray[Any], ...] = self
        for column, others in zip(mine, other, strict=True):
            column[rows] = others


Follows = NDArray[np.int8]
"""int8 [28 + 1], which field came after each the last time, and first of all in the last place. A
producer writes in one order: to ask whether it is that one again is quicker than which one it is.
"""


def no_follows() -> Follows:
    """For a pass over messages of which nothing is known."""
    return np.zeros(len(FIELDS) + 1, np.int8)


def taken(n: int) -> Taken:
    """Memory for n messages."""
    return Taken(
        cleared=np.zeros(n, np.bool_),
        numbers=np.zeros((n, 2), np.int64),
        codes=np.zeros((n, len(CODED)), np.uint16),
        hashes=np.zeros((n, len(HASHED)), np.uint64),
        spans=np.zeros((n, len(SPANNED), 2), np.int64),
        position=np.full((n, 2), NO_POSITION, np.int32),
    )


def mark(first: int, last_but_one: int, length: int) -> int:
    """A number below 256 from a name's bytes, found by trial: another one for each field."""
    return (first + last_but_one + 23 * length) & 255


def _words(texts: Sequence[bytes]) -> NDArray[np.uint64]:
    """The texts as words, uint64 [n, 3], zeros behind each."""
    assert max(map(len, texts)) <= WORDS_BYTES
    padded = b"".join(text.ljust(WORDS_BYTES, b"\0") for text in texts)
    return np.frombuffer(padded, "<u8").reshape(len(texts), -1)


def _lengths(texts: Sequence[bytes]) -> NDArray[np.int8]:
    return np.array([len(text) for text in texts], np.int8)


def _fields() -> NDArray[np.int8]:
    table = np.full(256, -1, np.int8)
    for number, name in enumerate(FIELDS):
        raw = name.encode("ascii")
        place = mark(raw[0], raw[-2], len(raw))
        assert table[place] < 0, "two names have one mark: choose other factors"
        table[place] = number
    return table


def _columns(names: tuple[str, ...]) -> NDArray[np.int8]:
    return np.array([names.index(name) if name in names else -1 for name in FIELDS], np.int8)


def _forms() -> NDArray[np.int8]:
    special = {"mcc": MCC, "currency": CURRENCY, **dict.fromkeys(COUNTRY_FIELDS, COUNTRY)}
    special.update(dict.fromkeys(ENUMERATIONS, ENUMERATION))
    return np.array([special.get(name, NOTHING) for name in FIELDS], np.int8)


def _longest() -> NDArray[np.int32]:
    limits = dict.fromkeys((*CODED, *_IDS), MAX_ID_LENGTH) | dict.fromkeys(_NO_TEXTS, 0)
    limits |= dict.fromkeys(_LONG_TEXTS, MAX_TEXT_LENGTH)
    return np.array([limits[name] for name in FIELDS], np.int32)


def _country() -> NDArray[np.uint16]:
    table = np.zeros(26 * 26, np.uint16)
    for name in COUNTRIES:
        table[country_code(name) - 1] = country_code(name)
    return table


def _currency() -> NDArray[np.int16]:
    table = np.full(26**3, -1, np.int16)
    for place, name in enumerate(CURRENCY_NAMES):
        a, b, c = (ord(letter) - 65 for letter in name)
        table[26 * (26 * a + b) + c] = place
    return table


def _tables() -> Tables:
    names = [name.encode("ascii") for name in FIELDS]
    enumerations = [[name for name in table if name] for table in ENUMERATIONS.values()]
    values = [value.encode("ascii") for each in enumerations for value in each]
    return Tables(
        names=_words(names),
        length=_lengths(names),
        masks=_words([b"\xff" * n for n in range(WORDS_BYTES + 1)]),
        field=_fields(),
        longest=_longest(),
        form=_forms(),
        code=_columns(CODED),
        hash=_columns(HASHED),
        span=_columns(SPANNED),
        values=_words(values),
        value_length=_lengths(values),
        first=np.cumsum([0, *map(len, enumerations)]).astype(np.int32),
        country=_country(),
        currency=_currency(),
        letters=np.array(LETTERS, np.int32),
    )


TABLES: Final = _tables()
