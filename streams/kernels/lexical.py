"""The tokens of JSON inside kernels: white space, plain strings, numbers, figures of any base.

In: bytes, and where in them. Out: where a token ends, and what it is. Does not know the schema.
Every function looks only at places from its `at` to before its end. -1 means: not that.

Bytes in the code: 34 `"`, 45 `-`, 46 `.`, 48 `0`, 57 `9`, 92 a backslash, 127 DEL.
"""

from __future__ import annotations

from typing import Any

import numpy as np
from llvmlite import ir
from numba.core import types
from numpy.typing import NDArray

from streams.kernels.lanes import Typed, written
from streams.kernels.record import Flag, Int, Word, kernel, outline

Bytes = NDArray[np.uint8]

MOST_INTEGER_DIGITS, MOST_FRACTION_DIGITS = 18, 15
"""A number has at most so many digits; with a point, at most the second many in all."""


@kernel
def past_space(data: Bytes, at: Int, high: Int) -> Int:
    while at < high and (data[at] == 32 or data[at] == 10 or data[at] == 13 or data[at] == 9):
        at += 1
    return at


@outline
def _past_letter(data: Bytes, at: Int, high: Int, letters: NDArray[np.int32]) -> Int:
    """The end of the UTF-8 character at `at` if it is one of the letters, else -1 (RFC 3629)."""
    lead = np.int64(data[at])
    if 0xC3 <= lead <= 0xDF:
        length, point, least = 2, lead & 31, 0x80
    elif 0xE0 <= lead <= 0xEF:
        length, point, least = 3, lead & 15, 0x800
    else:
        return -1
    if at + length > high:
        return -1
    for i in range(1, length):
        byte = np.int64(data[at + i])
        if byte >> 6 != 2:
            return -1
        point = point << 6 | byte & 63
    for k in range(len(letters)):
        if point >= least and letters[k, 0] <= point <= letters[k, 1]:
            return at + length
    return -1


@written
def _eight_bytes(_: Any, data: Any, at: Any) -> Typed:
    """The 8 bytes data[at : at + 8], the first one lowest."""

    def write(context: Any, builder: Any, signature: Any, args: Any) -> Any:
        array = context.make_array(signature.args[0])(context, builder, args[0])
        place = builder.bitcast(builder.gep(array.data, [args[1]]), ir.IntType(64).as_pointer())
        return builder.load(place, align=1)

    return types.uint64(data, types.int64), write


@written
def _low_zeros(_: Any, word: Any) -> Typed:
    """How many of the lowest bits are 0; the word is not 0."""

    def write(_context: Any, builder: Any, _signature: Any, args: Any) -> Any:
        return builder.cttz(args[0], ir.Constant(ir.IntType(1), 1))

    return types.int64(types.uint64), write


_ONES, _TOPS = np.uint64(0x0101010101010101), np.uint64(0x8080808080808080)
_CONTROLS = np.uint64(32) * _ONES
_QUOTES, _BACKSLASHES, _DELETES = (
    np.uint64(34) * _ONES,
    np.uint64(92) * _ONES,
    np.uint64(127) * _ONES,
)


@kernel
def _zero_bytes(word: Word) -> Word:
    """The top bit of each byte that is 0; above the lowest such byte also of others, perhaps."""
    return (word - _ONES) & ~word & _TOPS


@kernel
def _marked(word: Word) -> Word:
    """The same for bytes that end a string or are not plain ASCII."""
    marks = (word - _CONTROLS) & ~word & _TOPS | word & _TOPS
    marks |= _zero_bytes(word ^ _QUOTES) | _zero_bytes(word ^ _BACKSLASHES)
    return marks | _zero_bytes(word ^ _DELETES)


@kernel
def text_end(data: Bytes, at: Int, high: Int, letters: NDArray[np.int32]) -> Int:
    """Where the quote is that ends the plain string that begins at `at`; -1 if it is not plain.

    Eight bytes are looked at together, as in "Bit Twiddling Hacks" (S. Anderson, 2005), "determine
    if a word has a byte less than n".
    """
    while at < high:
        if at + 8 <= high:
            marks = _marked(_eight_bytes(data, at))
            if marks == np.uint64(0):
                at += 8
                continue
            at += _low_zeros(marks) >> 3
        byte = data[at]
        if byte == 34:
            return at
        if byte < 32 or byte == 92 or byte == 127:
            return -1
        if byte < 127:
            at += 1
            continue
        at = _past_letter(data, at, high, letters)
        if at < 0:
            return -1
    return -1


@kernel
def same_bytes(data: Bytes, at: Int, stop: Int, other: Bytes, begin: Int, end: Int) -> Flag:
    same = stop - at == end - begin
    i = 0
    while same and i < stop - at:
        same = data[at + i] == other[begin + i]
        i += 1
    return same


@kernel
def figures(data: Bytes, at: Int, stop: Int, wanted: Int, lowest: Int, base: Int) -> Int:
    """`wanted` figures of a base as a number, the figure for 0 being the byte `lowest`; -1 if it is
    anything else."""
    if stop - at != wanted:
        return -1
    number: Int = 0
    for i in range(at, stop):
        figure = np.int64(data[i]) - lowest
        if figure < 0 or figure >= base:
            return -1
        number = base * number + figure
    return number


@kernel
def _past_digits(data: Bytes, at: Int, high: Int, number: Int) -> tuple[Int, Int]:
    """The end of the digits at `at`, and the number with them put after it."""
    while at < high and 48 <= data[at] <= 57:
        number = 10 * number + np.int64(data[at]) - 48
        at += 1
    return at, number


@outline
def read_number(data: Bytes, at: Int, high: Int) -> tuple[Int, Int, Int, Flag]:
    """End, digits as one integer, digits after the point (-1 without one), negative. End -1 if the
    number is none, has an exponent or too many digits."""
    negative = data[at] == 45
    begin = at + 1 if negative else at
    # One digit more than allowed is looked at, so that too many are seen to be too many.
    most = min(high, begin + MOST_INTEGER_DIGITS + 1)
    at, mantissa = _past_digits(data, begin, most, 0)
    whole = at - begin
    if whole == 0 or whole > MOST_INTEGER_DIGITS or (whole > 1 and data[begin] == 48):
        return -1, 0, 0, negative
    if at == high or data[at] != 46:
        return at, mantissa, -1, negative
    begin = at + 1
    most = min(high, begin + MOST_FRACTION_DIGITS - whole + 1)
    at, mantissa = _past_digits(data, begin, most, mantissa)
    decimals = at - begin
    if decimals == 0 or whole + decimals > MOST_FRACTION_DIGITS:
        return -1, 0, 0, negative
    return at, mantissa, decimals, negative
