"""The tokens of JSON inside kernels: white space, plain strings, numbers, figures of any base.

In: bytes, and where in them. Out: where a token ends, and what it is. Does not know the schema.
Every function judges only by places from its `at` to before its end. -1 means: not that.

Bytes in the code: 34 `"`, 45 `-`, 46 `.`, 48 `0`, 57 `9`, 92 a backslash, 127 DEL.
"""

from __future__ import annotations

from typing import Any, Final

import numpy as np
from llvmlite import ir
from numba.core import types
from numpy.typing import NDArray

from streams.kernels.lanes import Typed, written
from streams.kernels.record import Flag, Int, kernel, outline

Bytes = NDArray[np.uint8]

TOGETHER: Final = 16
"""Bytes of a string that are looked at together."""
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


def _loaded(context: Any, builder: Any, kind: Any, given: Any, wanted: Any) -> Any:
    """What lies at a place of an array of bytes, as a value of the wanted type."""
    array = context.make_array(kind)(context, builder, given[0])
    place = builder.bitcast(builder.gep(array.data, [given[1]]), wanted.as_pointer())
    return builder.load(place, align=1)


@written
def eight_bytes(_: Any, data: Any, at: Any) -> Typed:
    """The 8 bytes data[at : at + 8], the first one lowest."""

    def write(context: Any, builder: Any, signature: Any, given: Any) -> Any:
        return _loaded(context, builder, signature.args[0], given, ir.IntType(64))

    return types.uint64(data, types.int64), write


@written
def _marked(_: Any, data: Any, at: Any) -> Typed:
    """Which of the TOGETHER bytes from `at` on end a string or are not plain ASCII: a bit each, the
    first one lowest."""

    def write(context: Any, builder: Any, signature: Any, given: Any) -> Any:
        kind = ir.VectorType(ir.IntType(8), TOGETHER)

        def all_of(byte: int) -> Any:
            return ir.Constant(kind, [byte] * TOGETHER)

        found = _loaded(context, builder, signature.args[0], given, kind)
        # Less 32, what was below 32 is large: a byte has no sign.
        marks = builder.icmp_unsigned(">=", builder.sub(found, all_of(32)), all_of(127 - 32))
        for byte in (34, 92):
            marks = builder.or_(marks, builder.icmp_unsigned("==", found, all_of(byte)))
        bits = builder.bitcast(marks, ir.IntType(TOGETHER))
        return builder.zext(bits, ir.IntType(64))

    return types.uint64(data, types.int64), write


@written
def _low_zeros(_: Any, word: Any) -> Typed:
    """How many of the lowest bits are 0; the word is not 0."""

    def write(_context: Any, builder: Any, _signature: Any, args: Any) -> Any:
        return builder.cttz(args[0], ir.Constant(ir.IntType(1), 1))

    return types.int64(types.uint64), write


@kernel
def text_end(data: Bytes, at: Int, high: Int, letters: NDArray[np.int32]) -> Int:
    """Where the quote is that ends the plain string that begins at `at`; -1 if it is not plain."""
    while at < high:
        if at + TOGETHER <= len(data):
            marks = _marked(data, at)
            if marks == np.uint64(0):
                at += TOGETHER
                continue
            at += _low_zeros(marks)
            if at >= high:
                return -1
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
def same_words(data: Bytes, at: Int, words: NDArray[np.uint64], masks: NDArray[np.uint64]) -> Flag:
    """Whether the bytes from `at` on are those of `words` uint64 [3], as far as `masks` goes. All
    24 are read, so the array has to have them."""
    apart = (eight_bytes(data, at) ^ words[0]) & masks[0]
    apart |= (eight_bytes(data, at + 8) ^ words[1]) & masks[1]
    return apart | (eight_bytes(data, at + 16) ^ words[2]) & masks[2] == np.uint64(0)


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
    for i in range(wanted):
        figure = np.int64(data[at + i]) - lowest
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
