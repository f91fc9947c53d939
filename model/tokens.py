"""Event words to integer codes: the only place where a model reads the bits of an event.

In: u64 event words (layout in `model/inputs.py`), float32 features and their knots. Out: table
row numbers and interpolation weights. Does not know what the tables hold, nor any weight.

Every code is made by integers only, so it is the same on every machine, and each is *local*: it
depends on an event and the two events before it in the same account (or on a pair of events).
That is what lets keys and values be computed once a row in training, and folded at export. The
functions are compiled and used as they are by training, by the CPU kernel and by the GPU path.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from itertools import accumulate
from typing import Any, Final

import numpy as np
from numba import njit
from numpy.typing import NDArray

from model.inputs import (
    AMOUNT_SHIFT,
    AUTH_MASK,
    AUTH_SHIFT,
    CHANNEL_MASK,
    CHANNEL_SHIFT,
    COUNTRY_MASK,
    COUNTRY_SHIFT,
    DEVICE_MASK,
    DIRECTION_SHIFT,
    ENTRY_MASK,
    ENTRY_SHIFT,
    EVENT_WORDS,
    HISTORY,
    MCC_MASK,
    PLACE_SHIFT,
    TIME_SHIFT,
)

FIELDS: Final = (
    "kind", "way", "auth", "amount", "mcc", "country", "place", "hour", "gap", "match",
)  # fmt: skip
"""Code columns of an event, in order."""


def _offsets(sizes: Sequence[int]) -> tuple[int, ...]:
    """Where each of the sizes begins when they follow one another."""
    return tuple(accumulate(sizes[:-1], initial=0))


SIZES: Final = (64, 64, 8, 256, 512, 680, 512, 168, 128, 16)
OFFSETS: Final = _offsets(SIZES)
ROWS: Final = int(sum(SIZES))
AUTH: Final = FIELDS.index("auth")
ORDERED: Final = ("amount", "hour", "gap")
"""Fields whose neighbouring codes mean neighbouring things."""

RELATION_SIZES: Final = (16, 64, 32)
"""Code columns of a pair (event being scored, past event): same, since, ratio."""
RELATION_OFFSETS: Final = _offsets(RELATION_SIZES)
RELATION_ROWS: Final = sum(RELATION_SIZES)

REACH: Final = HISTORY - 4
"""Past events attended to. The four oldest of a full ring only lend their fields to those after
them: the convolution reaches back two events and the codes of each of these two more, and what came
before the ring is gone. So every event attended to has the codes that it had in training."""

UNKNOWN: Final = np.float32(-1.0)

_KIND_SHIFT: Final = DIRECTION_SHIFT  # event_type (3) and direction (2) stand side by side
_HOUR_MS: Final = 3_600_000
_DAY_MS: Final = 86_400_000


@njit(inline="always")
def _step(value: Any, mantissa: int) -> Any:
    """A logarithmic bucket: the exponent and the `mantissa` highest bits after the leading one."""
    if value < (1 << mantissa):
        return max(value, 0)
    exponent = math.frexp(float(value))[1] - 1
    return ((exponent - mantissa) << mantissa) + (value >> (exponent - mantissa))


@njit(inline="always")
def amount_code(word1: Any) -> Any:
    """Eight buckets an octave."""
    return min(_step(np.int64(word1 >> np.uint64(AMOUNT_SHIFT)), 3), 255)


@njit(inline="always")
def encode_event(rows: NDArray[np.uint64], at: int, before: int, out: Any) -> None:
    """Codes of row `at`, of whose account `before` earlier rows stand directly above it."""
    w0, w1, w3 = rows[at, 0], rows[at, 1], rows[at, 3]
    time = np.int64(w0 >> np.uint64(TIME_SHIFT))
    low = np.int64(w0 & np.uint64(0xFFFFF))
    out[0] = ((low >> _KIND_SHIFT) << 1) | ((low >> 5) & 1)
    out[1] = (((low >> CHANNEL_SHIFT) & CHANNEL_MASK) << 3) | ((low >> ENTRY_SHIFT) & ENTRY_MASK)
    out[2] = (low >> AUTH_SHIFT) & AUTH_MASK
    out[3] = amount_code(w1)
    mcc = np.int64(w1 & np.uint64(MCC_MASK))
    out[4] = mcc % 509 + 1 if mcc > 0 else 0
    place = np.int64(w3 >> np.uint64(PLACE_SHIFT))
    country = np.int64((w3 >> np.uint64(COUNTRY_SHIFT)) & np.uint64(COUNTRY_MASK))
    device = np.int64(w3 & np.uint64(DEVICE_MASK))
    out[5] = min(country, 679)
    out[6] = place % 511 + 1 if place > 0 else 0
    day = time // _DAY_MS
    out[7] = ((day + 3) % 7) * 24 + (time - day * _DAY_MS) // _HOUR_MS
    gap: Any = 0
    match: Any = 0
    if before >= 1:
        earlier = np.int64(rows[at - 1, 0] >> np.uint64(TIME_SHIFT))
        gap = 1 + min(_step((time - earlier) >> 7, 2), 126)
        last = rows[at - 1, 3]
        match = np.int64(place == np.int64(last >> np.uint64(PLACE_SHIFT)))
        match |= np.int64(device == np.int64(last & np.uint64(DEVICE_MASK))) << 1
        other = np.int64((last >> np.uint64(COUNTRY_SHIFT)) & np.uint64(COUNTRY_MASK))
        match |= np.int64(country == other) << 2
    if before >= 2:
        match |= np.int64(place == np.int64(rows[at - 2, 3] >> np.uint64(PLACE_SHIFT))) << 3
    out[8] = gap
    out[9] = match


@njit(inline="always")
def relate(w0: Any, w1: Any, w3: Any, past: NDArray[np.uint64], out: Any) -> None:
    """Codes of the pair (scored event of words w0, w1, w3; row `past` of its history)."""
    there = past[3]
    same = np.int64((w3 >> np.uint64(PLACE_SHIFT)) == (there >> np.uint64(PLACE_SHIFT)))
    country, device = np.uint64(COUNTRY_MASK << COUNTRY_SHIFT), np.uint64(DEVICE_MASK)
    same |= np.int64((w3 & device) == (there & device)) << 1
    same |= np.int64((w3 & country) == (there & country)) << 2
    same |= np.int64((w1 & np.uint64(MCC_MASK)) == (past[1] & np.uint64(MCC_MASK))) << 3
    shift = np.uint64(TIME_SHIFT)
    apart: Any = np.int64(w0 >> shift) - np.int64(past[0] >> shift)
    since = max(apart, np.int64(0)) >> 7
    ratio = (amount_code(w1) - amount_code(past[1])) >> 2
    out[0] = same
    out[1] = min(_step(since, 1), 63)
    out[2] = min(max(ratio, -16), 15) + 16


@njit(cache=True, nogil=True)
def encode_stream(words: NDArray[np.uint64], place: NDArray[np.int32]) -> NDArray[np.int16]:
    """Codes of rows sorted by (account, time); `place` is each row's number in its account."""
    n = len(words)
    out = np.empty((n, 10), np.int16)
    for i in range(n):
        encode_event(words, i, place[i], out[i])
    return out


@njit(cache=True, nogil=True)
def relate_chunk(
    words: NDArray[np.uint64],
    place: NDArray[np.int32],
    first: NDArray[np.int64],
    count: int,
    reach: int = REACH,
) -> NDArray[np.int16]:
    """Pair codes [chunks, count, reach, 3] of the rows from each `first`; column c is r = reach-c.

    Pairs outside the account have code 0; the caller masks them.
    """
    out = np.zeros((len(first), count, reach, 3), np.int16)
    for b in range(len(first)):
        for t in range(count):
            i = first[b] + t
            if i >= len(words):
                continue
            for r in range(1, min(reach, place[i]) + 1):
                relate(words[i, 0], words[i, 1], words[i, 3], words[i - r], out[b, t, reach - r])
    return out


@njit(inline="always")
def encode_feature(x: Any, knots: NDArray[np.float32]) -> tuple[Any, Any]:
    """Row and weight of the next row for one value. Row 0 is "unknown", row k+1 is knot k.

    Knots rise strictly up to the first infinite one (fewer distinct values than knots).
    """
    if x == UNKNOWN:
        return 0, np.float32(0.0)
    low: Any = 0
    for k in range(1, len(knots)):
        low += np.int64(x >= knots[k])
    if low == 0 and x <= knots[0]:
        return 1, np.float32(0.0)
    if low == len(knots) - 1 or knots[low + 1] == np.float32(np.inf):
        return 1 + low, np.float32(0.0)
    return 1 + low, np.float32((x - knots[low]) / (knots[low + 1] - knots[low]))


@njit(cache=True, nogil=True)
def encode_features(
    x: NDArray[np.float32], knots: NDArray[np.float32]
) -> tuple[NDArray[np.uint8], NDArray[np.float32]]:
    """Row numbers [n, F] and weights [n, F] of feature rows."""
    n, count = x.shape
    row = np.empty((n, count), np.uint8)
    weight = np.empty((n, count), np.float32)
    for i in range(n):
        for f in range(count):
            row[i, f], weight[i, f] = encode_feature(x[i, f], knots[f])
    return row, weight


def quantile_knots(x: NDArray[np.float32], count: int) -> NDArray[np.float32]:
    """Knots [F, count]: distinct quantiles of the known values, then infinities.

    Tails carry the frauds, so a third of the knots stands in the top and bottom 2 %; the outermost
    are the least and the greatest value seen, beyond which a feature says no more.
    """
    tail = [0.0, 0.0001, 0.0005, 0.002, 0.008, 0.02]
    middle = np.linspace(0.02, 0.98, count - 2 * len(tail) + 2)[1:-1]
    at = np.concatenate([tail, middle, [1 - q for q in reversed(tail)]])
    knots = np.full((x.shape[1], count), np.inf, np.float32)
    for f in range(x.shape[1]):
        known = x[:, f][x[:, f] != UNKNOWN]
        if len(known):
            distinct = np.unique(np.quantile(known, at).astype(np.float32))
            knots[f, : len(distinct)] = distinct
        else:
            knots[f, 0] = 0.0
    return knots


assert EVENT_WORDS == 4
