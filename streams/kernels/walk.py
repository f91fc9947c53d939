"""The windows of one event, in a single walk over its history.

In: histories, their trails, what panes add. Out: the aggregates of the six windows, and their
features. Does not know the arena, headers or the rest of the feature list.

Windows are nested, so going from the newest event to the oldest the running totals are the
aggregates of a window at the moment the walk passes its start; distinct places and countries since
there are bits of the trail. What panes add (panes.py) is added at the end, where there is any.
"""

from __future__ import annotations

import math

import numpy as np
from numpy.typing import NDArray

from model import inputs
from model.inputs import AUTH_RESPONSES, HISTORY
from streams.features import AGGREGATES, WINDOWS_MS
from streams.kernels.cells import (
    DECLINED_1H,
    DECLINED_24H,
    LAST_COUNTRY,
    LAST_PLACE,
    PANED,
    Before,
)
from streams.kernels.panes import country_bit, place_bit
from streams.kernels.record import (
    Floats,
    Int,
    Ints,
    Words,
    kernel,
    multiply,
    outline,
    variance_numerator,
)
from streams.kernels.ring import ONE, ZERO, amount_of, bits_from, counts, popcount, time_of

LENGTHS = np.array(list(WINDOWS_MS.values()), dtype=np.int64)
WINDOWS = len(LENGTHS)
"""Shortest first: window w has pane row WINDOWS - 1 - w."""
HOUR_WINDOW, DAY_WINDOW = 2, 3
"""Windows in which declined payments are counted."""

_AUTH_SHIFT = np.uint64(inputs.AUTH_SHIFT)
_AUTH_MASK = np.uint64(inputs.AUTH_MASK)
_DECLINED = np.uint64(AUTH_RESPONSES.index("declined") + 1)
_2_TO_32 = np.uint64(2**32)

assert (np.diff(LENGTHS) > 0).all() and len(AGGREGATES) == 8
assert list(WINDOWS_MS)[HOUR_WINDOW : DAY_WINDOW + 1] == ["1h", "24h"]


@kernel
def walk(before: Before, at: Int, past: Words, row: Int, first: Int, t: Int) -> None:
    """Aggregates of all windows [t - W, t] over the events first.. of a history."""
    lasts, last_countries = before.trail[at, LAST_PLACE], before.trail[at, LAST_COUNTRY]
    count, total, big, small, least, most = ZERO, ZERO, ZERO, ZERO, ~ZERO, ZERO
    declined, j = 0, HISTORY - 1
    for w in range(WINDOWS):
        start = t - LENGTHS[w]
        while j >= first and time_of(past[row, j, 0]) >= start:
            w0 = past[row, j, 0]
            if counts(w0):
                amount = amount_of(past[row, j, 1])
                if amount < _2_TO_32:
                    low = amount * amount
                else:
                    high, low = multiply(amount, amount)
                    big += high
                count += ONE
                total += amount
                small += low
                big += ONE if small < low else ZERO
                least = min(least, amount)
                most = max(most, amount)
                declined += (w0 >> _AUTH_SHIFT) & _AUTH_MASK == _DECLINED
            j -= 1
        before.windows[at, w, 0] = count
        before.windows[at, w, 1] = total
        before.windows[at, w, 2] = big
        before.windows[at, w, 3] = small
        before.windows[at, w, 4] = least
        before.windows[at, w, 5] = most
        before.windows[at, w, 6] = bits_from(lasts, j + 1)
        before.windows[at, w, 7] = bits_from(last_countries, j + 1)
        if w == HOUR_WINDOW:
            before.notes[at, DECLINED_1H] = declined
        if w == DAY_WINDOW:
            before.notes[at, DECLINED_24H] = declined


@outline
def add_panes(before: Before, at: Int, past: Words, row: Int, first: Int, t: Int) -> None:
    """Add to the windows what the panes hold of them.

    Bits that the ring's events set already are not counted again: a distinct count is never too
    high by them, and too low where two places share a bit.
    """
    for w in range(WINDOWS):
        if before.panes[at, w, 0] == ZERO:
            continue
        places, countries = ZERO, ZERO
        for j in range(first, HISTORY):
            if counts(past[row, j, 0]) and time_of(past[row, j, 0]) >= t - LENGTHS[w]:
                places |= place_bit(past[row, j, 3])
                countries |= country_bit(past[row, j, 3])
        small = before.windows[at, w, 3] + before.panes[at, w, 3]
        carry = ONE if small < before.panes[at, w, 3] else ZERO
        before.windows[at, w, 0] += before.panes[at, w, 0]
        before.windows[at, w, 1] += before.panes[at, w, 1]
        before.windows[at, w, 2] += before.panes[at, w, 2] + carry
        before.windows[at, w, 3] = small
        before.windows[at, w, 4] = min(before.windows[at, w, 4], before.panes[at, w, 4])
        before.windows[at, w, 5] = max(before.windows[at, w, 5], before.panes[at, w, 5])
        before.windows[at, w, 6] += popcount(before.panes[at, w, 6] & ~places)
        before.windows[at, w, 7] += popcount(before.panes[at, w, 7] & ~countries)


@kernel
def emit(before: Before, at: Int, features: Floats, i: Int) -> None:
    """The window features, in the order of the list."""
    for w in range(WINDOWS):
        first = w * len(AGGREGATES)
        count, total = before.windows[at, w, 0], before.windows[at, w, 1]
        features[i, first] = np.float64(count)
        features[i, first + 1] = np.float64(total)
        features[i, first + 6] = np.float64(before.windows[at, w, 6])
        features[i, first + 7] = np.float64(before.windows[at, w, 7])
        if count == ZERO:
            for empty in range(first + 2, first + 6):
                features[i, empty] = -1.0
        else:
            n = np.float64(count)
            big, small = before.windows[at, w, 2], before.windows[at, w, 3]
            features[i, first + 2] = np.float64(total) / n
            features[i, first + 3] = math.sqrt(variance_numerator(count, total, big, small)) / n
            features[i, first + 4] = np.float64(before.windows[at, w, 4])
            features[i, first + 5] = np.float64(before.windows[at, w, 5])


@outline
def walk_chunk(
    before: Before,
    words: Words,
    begin: Int,
    many: Int,
    status: NDArray[np.uint8],
    length: Ints,
    past: Words,
    base: Int,
    features: Floats,
) -> None:
    """The windows of `many` events from `begin` on; histories are rows base.. of `past`."""
    for at in range(many):
        i = begin + at
        if status[i] != 0:
            continue
        first, t = HISTORY - length[i], time_of(words[i, 0])
        walk(before, at, past, base + at, first, t)
        if before.notes[at, PANED] != 0:
            add_panes(before, at, past, base + at, first, t)
        emit(before, at, features, i)
