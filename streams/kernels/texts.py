"""Texts put together from columns: scores as JSON.

In: bytes with their spans, numbers. Out: the bytes of each row, one after another.
Does not know what a text says.

Bytes in the code: 34 `"`, 44 `,`, 48 `0`; 87 is `a` less ten.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, Final, NamedTuple

import numpy as np
from numba.core import cgutils, types
from numpy.typing import NDArray

from streams.kernels import SOURCES
from streams.kernels.lanes import Typed, written
from streams.kernels.lexical import Bytes
from streams.kernels.record import Int, entry, kernel

Spans = NDArray[np.int64]
"""int64 [n, 2]: begin and end in some bytes."""

MOST_DIGITS: Final = 19
"""Of an int64."""
HEX_DIGITS: Final = 16


class Pieces(NamedTuple):
    """The columns of score texts; see `score_texts`."""

    fixed: Bytes
    at: NDArray[np.int64]
    ids: Bytes
    id_spans: Spans
    accounts: Bytes
    account_spans: Spans
    times: NDArray[np.int64]
    scores: Bytes
    codes: NDArray[np.uint8]
    digests: NDArray[np.uint64]
    versions: NDArray[np.uint16]
    offsets: NDArray[np.int64]


CODES: Final = 8
"""Codes of a row: a decision below 4, and 4 more when the event came late."""
START, ACCOUNT, TIME, SCORE, END, MIDDLES = range(6)
"""Texts in `Pieces.fixed` that are the same in every row; then one a code, then one a version."""


@written
def _copy(_: Any, out: Any, at: Any, data: Any, low: Any, count: Any) -> Typed:
    """out[at : at + count] = data[low : low + count], by `memcpy`: a loop over bytes takes ten
    times as long, as Numba cannot know that the two do not overlap."""

    def write(context: Any, builder: Any, signature: Any, args: Any) -> Any:
        place, source = (
            builder.gep(context.make_array(kind)(context, builder, array).data, [index])
            for kind, array, index in zip(
                (signature.args[0], signature.args[2]), args[::2], args[1::2], strict=False
            )
        )
        copy: Any = cgutils.raw_memcpy
        copy(builder, place, source, args[4], 1)
        return context.get_dummy_value()

    return types.void(out, types.int64, data, types.int64, types.int64), write


@kernel
def put(out: Bytes, at: Int, data: Bytes, low: Int, high: Int) -> Int:
    """Copy data[low:high]; where it ends in `out`."""
    _copy(out, at, data, low, high - low)
    return at + high - low


@kernel
def _put_number(out: Bytes, at: Int, number: Int) -> Int:
    """The decimal digits of a number >= 0; where they end."""
    digits, left = 1, number // 10
    while left > 0:
        digits += 1
        left //= 10
    for i in range(digits):
        rest = number // 10
        out[at + digits - 1 - i] = 48 + number - 10 * rest
        number = rest
    return at + digits


@kernel
def _put_hex(out: Bytes, at: Int, word: Int) -> Int:
    """16 hex digits, the highest first."""
    for i in range(HEX_DIGITS):
        digit = np.int64(word >> np.uint64(60 - 4 * i)) & 15
        out[at + i] = 48 + digit if digit < 10 else 87 + digit
    return at + HEX_DIGITS


def _entries(sources: str) -> tuple[Callable[..., int], Callable[..., int], Callable[..., None]]:
    """See `streams.kernels` for `sources`."""

    @entry
    def string_spans(packed: Bytes, spans: Spans) -> Int:
        """Where the strings of a JSON list without white space or backslashes are, less their
        quotes. Returns how many were found, at most as many as `spans` takes."""
        assert sources
        at, found = 1, 0
        while found < len(spans) and at < len(packed) and packed[at] == 34:
            begin = at + 1
            at = begin
            while at < len(packed) and packed[at] != 34:
                at += 1
            spans[found, 0], spans[found, 1] = begin, at
            found += 1
            at += 2
        return found

    @entry
    def put_apart(data: Bytes, spans: Spans, out: Bytes) -> Int:
        """The texts of these spans one after another, a byte 0 between them; where they end."""
        assert sources
        at = 0
        for i in range(len(spans)):
            if i > 0:
                out[at] = 0
                at += 1
            at = put(out, at, data, spans[i, 0], spans[i, 1])
        return at

    @entry
    def score_texts(pieces: Pieces, out: Bytes, bounds: NDArray[np.int64]) -> None:
        """The text of each row in `out`; row i is out[bounds[i] : bounds[i + 1]].

        `pieces.scores` is the JSON list of the scores.
        """
        assert sources
        fixed, place, scores = pieces.fixed, pieces.at, pieces.scores
        last = MIDDLES + CODES
        at, score = 0, 1
        bounds[0] = 0
        for i in range(len(pieces.offsets)):
            at = put(out, at, fixed, place[START], place[START + 1])
            at = put(out, at, pieces.ids, pieces.id_spans[i, 0], pieces.id_spans[i, 1])
            at = put(out, at, fixed, place[ACCOUNT], place[ACCOUNT + 1])
            spans = pieces.account_spans
            at = put(out, at, pieces.accounts, spans[i, 0], spans[i, 1])
            at = put(out, at, fixed, place[TIME], place[TIME + 1])
            at = _put_number(out, at, pieces.times[i])
            at = put(out, at, fixed, place[SCORE], place[SCORE + 1])
            stop = score
            while stop < len(scores) - 1 and scores[stop] != 44:
                stop += 1
            at = put(out, at, scores, score, stop)
            score = stop + 1
            code = MIDDLES + np.int64(pieces.codes[i])
            at = put(out, at, fixed, place[code], place[code + 1])
            at = _put_hex(out, at, pieces.digests[i])
            version = last + np.int64(pieces.versions[i])
            at = put(out, at, fixed, place[version], place[version + 1])
            at = _put_number(out, at, pieces.offsets[i])
            at = put(out, at, fixed, place[END], place[END + 1])
            bounds[i + 1] = at

    return string_spans, put_apart, score_texts


string_spans, put_apart, score_texts = _entries(SOURCES)
