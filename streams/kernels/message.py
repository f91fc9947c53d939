"""One pass over the bytes of messages: which are surely valid transactions, and their values.

In: the raw bytes and keys of messages, the latest event_time allowed for each. Out, for every
message: is it cleared; and if so its values in `Taken`.
Does not know the reasons of a refusal: what is not cleared here, `streams/validate.py` decides.

Cleared is only what the schema allows, in its plain form: one JSON object of known members, each
given once; strings of printable ASCII and of `LETTERS` without a backslash; numbers without an
exponent, and of at most 15 digits if they have a fraction; white space wherever JSON allows it; no
card number. A cleared message is valid; one that is not cleared may be.

The grammar is that of RFC 8259. A number with a fraction is m / 10^k with m < 2^53 and k <= 22,
both exact in float64, so one division gives the nearest float64, as every correct parser does
(Clinger, "How to read floating point numbers accurately", 1990).

A card number is looked for in each string by itself. That finds what a search of the whole message
finds: no row of digits goes on past a quote, and all numbers outside of strings are exempt
(`cards.py`, 3a).

Bytes in the code: 34 `"`, 44 `,`, 48 `0`, 58 `:`, 65 `A`, 110 `n`, 123 `{`, 125 `}`.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray

from model.inputs import OTHER_CODE
from streams.cards import MIN_PAN, holds_pan
from streams.kernels import SOURCES
from streams.kernels.fields import (
    CODED,
    COUNTRY,
    ENUMERATION,
    FIELDS,
    MCC,
    NUMBER,
    SPANNED,
    WORDS_BYTES,
    Follows,
    Tables,
    Taken,
    mark,
)
from streams.kernels.lexical import (
    MOST_FRACTION_DIGITS,
    Bytes,
    figures,
    past_space,
    read_number,
    same_bytes,
    same_words,
    text_end,
)
from streams.kernels.record import Flag, Int, Real, entry, kernel, outline
from streams.kernels.xxh3 import xxh3
from streams.schema import (
    MAX_AMOUNT_MINOR,
    MAX_EVENT_TIME_MS,
    MAX_EXT_FIELDS,
    MAX_ID_LENGTH,
    MAX_MESSAGE_BYTES,
    MAX_TEXT_LENGTH,
    MIN_EVENT_TIME_MS,
    REQUIRED_FIELDS,
    SCHEMA_VERSION,
)

_VERSION: Final = NUMBER["schema_version"]
_TIME, _AMOUNT = NUMBER["event_time"], NUMBER["amount"]
_OBSERVED, _EXT = NUMBER["observed_time"], NUMBER["ext"]
_LATITUDE, _LONGITUDE = NUMBER["latitude"], NUMBER["longitude"]
_ENTRY_MODE, _ACCOUNT = CODED.index("entry_mode"), SPANNED.index("account_id")
_REQUIRED: Final = sum(1 << NUMBER[name] for name in REQUIRED_FIELDS)
_POWERS: Final = np.array([10.0**k for k in range(MOST_FRACTION_DIGITS + 1)])

_BEGIN: Final = len(FIELDS)
"""Stands for the beginning of a message in `Follows`."""

_mark: Any = kernel(mark)


@kernel
def _field(data: Bytes, at: Int, stop: Int, tables: Tables) -> Int:
    """The number of the field of this name, -1 if there is none."""
    if stop - at < 2:
        return -1
    field = np.int64(tables.field[_mark(np.int64(data[at]), np.int64(data[stop - 2]), stop - at)])
    if field < 0 or tables.length[field] != stop - at:
        return -1
    return field if same_words(data, at, tables.names[field], tables.masks[stop - at]) else -1


@kernel
def _foreseen(data: Bytes, at: Int, high: Int, field: Int, tables: Tables) -> Int:
    """This field if its name stands at `at`, else -1."""
    length = np.int64(tables.length[field])
    if at + length >= high or data[at + length] != 34:
        return -1
    return field if same_words(data, at, tables.names[field], tables.masks[length]) else -1


@kernel
def _enumerated(data: Bytes, at: Int, stop: Int, column: Int, tables: Tables) -> Int:
    """The code of an enumeration's value; -1 if it is none."""
    first, last = tables.first[column], tables.first[column + 1]
    masks = tables.masks[min(stop - at, WORDS_BYTES)]
    for k in range(first, last):
        same = tables.value_length[k] == stop - at
        if same and same_words(data, at, tables.values[k], masks):
            return k - first + 1
    return OTHER_CODE if column == _ENTRY_MODE else -1


@kernel
def _code(data: Bytes, at: Int, stop: Int, field: Int, tables: Tables) -> Int:
    """The code of a field's text; -1 if the schema does not list it."""
    form = tables.form[field]
    if form == ENUMERATION:
        return _enumerated(data, at, stop, np.int64(tables.code[field]), tables)
    if form == MCC:
        return figures(data, at, stop, 4, 48, 10)
    if form == COUNTRY:
        place = figures(data, at, stop, 2, 65, 26)
        code = np.int64(tables.country[place]) if place >= 0 else 0
        return code if code > 0 else -1
    place = figures(data, at, stop, 3, 65, 26)  # a currency
    return np.int64(tables.currency[place]) if place >= 0 else -1


@kernel
def _take_text(
    data: Bytes, at: Int, stop: Int, i: Int, field: Int, tables: Tables, out: Taken
) -> Flag:
    """Put the text data[at:stop] of message i where it belongs. False if it is not surely valid:
    the schema counts characters, and there are never more of them than bytes."""
    if stop == at or stop - at > tables.longest[field]:
        return False
    if stop - at >= MIN_PAN and holds_pan(data, at, stop):
        return False
    column = np.int64(tables.code[field])
    if column >= 0:
        code = _code(data, at, stop, field, tables)
        if code < 0:
            return False
        out.codes[i, column] = code
        return True
    column = np.int64(tables.hash[field])
    if column >= 0:
        hashed = xxh3(data, at, stop)
        out.hashes[i, column] = hashed if hashed != np.uint64(0) else np.uint64(1)
    column = np.int64(tables.span[field])
    if column >= 0:
        out.spans[i, column, 0] = at
        out.spans[i, column, 1] = stop
    return True


@kernel
def _take_number(data: Bytes, at: Int, high: Int, i: Int, field: Int, out: Taken) -> Int:
    """Put the number at `at` where it belongs; its end, -1 if it is not valid."""
    stop, mantissa, decimals, negative = read_number(data, at, high)
    if stop < 0:
        return -1
    if field in (_LATITUDE, _LONGITUDE):
        value: Real = np.float64(mantissa)
        if decimals > 0:
            value /= _POWERS[decimals]
        value = -value if negative else value
        column, limit = (0, 90) if field == _LATITUDE else (1, 180)
        if not -limit <= value <= limit:
            return -1
        out.position[i, column] = np.int32(np.rint(value * 1e6))
        return stop
    if decimals >= 0 or negative:
        return -1
    valid = False
    if field == _TIME:
        out.numbers[i, 0] = mantissa
        valid = MIN_EVENT_TIME_MS <= mantissa <= MAX_EVENT_TIME_MS
    elif field == _AMOUNT:
        out.numbers[i, 1] = mantissa
        valid = mantissa <= MAX_AMOUNT_MINOR
    elif field == _VERSION:
        valid = mantissa == SCHEMA_VERSION
    elif field == _OBSERVED:
        valid = MIN_EVENT_TIME_MS <= mantissa <= MAX_EVENT_TIME_MS
    return stop if valid else -1


@kernel
def _past_pair(data: Bytes, at: Int, high: Int, tables: Tables) -> tuple[Int, Int, Int]:
    """Of a member `"name":"text"` of ext at `at`: its end or -1, where the name begins and ends."""
    if at >= high or data[at] != 34:
        return -1, 0, 0
    end = text_end(data, at + 1, high, tables.letters)
    if end <= at + 1 or end - at - 1 > MAX_ID_LENGTH:
        return -1, 0, 0
    colon = past_space(data, end + 1, high)
    if colon >= high or data[colon] != 58:
        return -1, 0, 0
    begin = past_space(data, colon + 1, high)
    if begin >= high or data[begin] != 34:
        return -1, 0, 0
    stop = text_end(data, begin + 1, high, tables.letters)
    if stop < 0 or stop - begin - 1 > MAX_TEXT_LENGTH:
        return -1, 0, 0
    return stop + 1, at + 1, end


@kernel
def _named_before(data: Bytes, low: Int, at: Int, name: Int, end: Int, tables: Tables) -> Flag:
    """Whether a member of ext between `low` and `at` has the name data[name:end]."""
    here = past_space(data, low, at)
    while here < at:
        stop, begin, last = _past_pair(data, here, at, tables)
        if same_bytes(data, name, end, data, begin, last):
            return True
        here = past_space(data, past_space(data, stop, at) + 1, at)
    return False


@outline
def _past_ext(data: Bytes, at: Int, high: Int, tables: Tables) -> Int:
    """The end of the object at `at` of ext, -1 if it is not valid."""
    low = at + 1
    at = past_space(data, low, high)
    if at < high and data[at] == 125:
        return at + 1
    members = 0
    while members < MAX_EXT_FIELDS:
        stop, name, end = _past_pair(data, at, high, tables)
        if stop < 0 or _named_before(data, low, at, name, end, tables):
            return -1
        members += 1
        at = past_space(data, stop, high)
        if at < high and data[at] == 125:
            return -1 if holds_pan(data, low, at) else at + 1
        if at >= high or data[at] != 44:
            return -1
        at = past_space(data, at + 1, high)
    return -1


@kernel
def _is_null(data: Bytes, at: Int, high: Int) -> Flag:
    return at + 4 <= high and data[at + 1] == 117 and data[at + 2] == 108 and data[at + 3] == 108


@kernel
def _take_value(
    data: Bytes, at: Int, high: Int, i: Int, field: Int, tables: Tables, out: Taken
) -> Int:
    """Put the text, number or object at `at` where it belongs; its end, -1 if it is not cleared."""
    if data[at] == 34:
        stop = text_end(data, at + 1, high, tables.letters)
        if stop < 0 or not _take_text(data, at + 1, stop, i, field, tables, out):
            return -1
        return stop + 1
    if data[at] == 123:
        return _past_ext(data, at, high, tables) if field == _EXT else -1
    return _take_number(data, at, high, i, field, out)


@kernel
def _read(
    data: Bytes, low: Int, high: Int, i: Int, tables: Tables, follows: Follows, out: Taken
) -> Int:
    """The fields that message i gives, one bit each; -1 if it is not cleared."""
    at = past_space(data, low, high)
    if at >= high or data[at] != 123:
        return -1
    seen, given, before = 0, 0, _BEGIN
    while True:
        at = past_space(data, at + 1, high)
        if at >= high or data[at] != 34:
            return -1
        field = _foreseen(data, at + 1, high, np.int64(follows[before]), tables)
        if field >= 0:
            stop = at + 1 + np.int64(tables.length[field])
        else:
            stop = text_end(data, at + 1, high, tables.letters)
            field = _field(data, at + 1, stop, tables) if stop > 0 else -1
            if field < 0:
                return -1
            follows[before] = field
        if seen >> field & 1:
            return -1
        before = field
        seen |= 1 << field
        at = past_space(data, stop + 1, high)
        if at >= high or data[at] != 58:
            return -1
        at = past_space(data, at + 1, high)
        if at >= high:
            return -1
        if data[at] == 110:
            if not _is_null(data, at, high):
                return -1
            at += 4
        else:
            at = _take_value(data, at, high, i, field, tables, out)
            if at < 0:
                return -1
            given |= 1 << field
        at = past_space(data, at, high)
        if at >= high:
            return -1
        if data[at] == 125:
            break
        if data[at] != 44:
            return -1
    return given if past_space(data, at + 1, high) == high else -1


def _entry(sources: str) -> Callable[..., None]:
    """See `streams.kernels` for `sources`."""

    @entry
    def clear(
        data: Bytes,
        bounds: NDArray[np.int64],
        keys: Bytes,
        key_bounds: NDArray[np.int64],
        latest: NDArray[np.int64],
        tables: Tables,
        follows: Follows,
        out: Taken,
    ) -> None:
        """Read the n messages data[bounds[i]:bounds[i+1]] with the keys keys[key_bounds[i]:...].

        WORDS_BYTES bytes lie behind the last message, whatever they are. `latest` int64 [n] is the
        last event_time allowed; `follows` comes from `no_follows()`, `out` from `taken(n)`.
        """
        assert sources and bounds[-1] + WORDS_BYTES <= len(data)
        for i in range(len(latest)):
            low, high = bounds[i], bounds[i + 1]
            given = -1
            if high - low <= MAX_MESSAGE_BYTES:
                given = _read(data, low, high, i, tables, follows, out)
            if given < 0 or given & _REQUIRED != _REQUIRED:
                continue
            if (given >> _LATITUDE & 1) != (given >> _LONGITUDE & 1):
                continue
            begin, end = out.spans[i, _ACCOUNT, 0], out.spans[i, _ACCOUNT, 1]
            keyed = same_bytes(data, begin, end, keys, key_bounds[i], key_bounds[i + 1])
            out.cleared[i] = keyed and out.numbers[i, 0] <= latest[i]

    return clear


clear = _entry(SOURCES)
