"""The windows of one event, in a single walk over its history.

In: a ring, its trail, what panes add. Out: the aggregates of the six windows, and their features.
Does not know headers or the rest of the feature list.

Windows are nested, so going from the newest event to the oldest the running totals are the
aggregates of a window at the moment the walk passes its start; distinct places and countries since
there are bits of the trail. What panes hold (panes.py) is added at the end, where there is any.
"""

from __future__ import annotations

import math

import numpy as np

from model import inputs
from model.inputs import HISTORY
from streams.features import AGGREGATES, WINDOWS_MS
from streams.kernels.cells import (
    DECLINED_1H,
    DECLINED_24H,
    LAST_COUNTRY,
    LAST_PLACE,
    Before,
)
from streams.kernels.panes import country_bit, place_bit
from streams.kernels.record import (
    Floats,
    Int,
    Ints,
    Word,
    Words,
    kernel,
    multiply,
    outline,
    variance_numerator,
)
from streams.kernels.ring import ONE, ZERO, amount_of, at_place, bits_from, counts, popcount

LENGTHS = np.array(list(WINDOWS_MS.values()), dtype=np.int64)
WINDOWS = len(LENGTHS)
"""Shortest first: window w has pane row WINDOWS - 1 - w."""
HOUR_WINDOW, DAY_WINDOW = 2, 3
"""Windows in which declined payments are counted."""

_TIME = np.uint64(inputs.TIME_SHIFT)
_2_TO_32 = np.uint64(2**32)

assert (np.diff(LENGTHS) > 0).all() and len(AGGREGATES) == 8
assert list(WINDOWS_MS)[HOUR_WINDOW : DAY_WINDOW + 1] == ["1h", "24h"]


@kernel
def walk(
    before: Before,
    at: Int,
    blocks: Words,
    chain: Ints,
    slot: Int,
    head: Int,
    kept: Int,
    t: Int,
    declined: Word,
) -> None:
    """Aggregates of all windows [t - W, t] over the first `kept` events of a ring.

    `declined`: the rows of declined payments.
    """
    lasts, last_countries = before.trail[at, LAST_PLACE], before.trail[at, LAST_COUNTRY]
    count, total, big, small, least, most = ZERO, ZERO, ZERO, ZERO, ~ZERO, ZERO
    place, left = (head + kept - 1) & (HISTORY - 1), kept
    for w in range(WINDOWS):
        start = np.uint64(t - LENGTHS[w]) << _TIME
        inside = True
        while inside and left > 0:
            # The events of one block, so that nothing in the inner loop depends on which it is.
            block, first = chain[slot, place >> 4], place & 15
            e, end = first, max(first - left, -1)
            while e > end:
                w0, w1 = blocks[block, np.uint64(e)], blocks[block, np.uint64(16 + e)]
                if w0 < start:
                    inside = False
                    break
                e -= 1
                if not counts(w0):
                    continue
                amount = amount_of(w1)
                low = amount * amount
                if amount >= _2_TO_32:
                    high, low = multiply(amount, amount)
                    big += high
                count += ONE
                total += amount
                small += low
                big += ONE if small < low else ZERO
                least = min(least, amount)
                most = max(most, amount)
            left -= first - e
            place = (place - (first - e)) & (HISTORY - 1)
        before.windows[at, w, 0] = count
        before.windows[at, w, 1] = total
        before.windows[at, w, 2] = big
        before.windows[at, w, 3] = small
        before.windows[at, w, 4] = least
        before.windows[at, w, 5] = most
        before.windows[at, w, 6] = bits_from(lasts, HISTORY - kept + left)
        before.windows[at, w, 7] = bits_from(last_countries, HISTORY - kept + left)
        if w == HOUR_WINDOW:
            before.notes[at, DECLINED_1H] = bits_from(declined, HISTORY - kept + left)
        if w == DAY_WINDOW:
            before.notes[at, DECLINED_24H] = bits_from(declined, HISTORY - kept + left)


@outline
def add_panes(
    before: Before, at: Int, w: Int, blocks: Words, chain: Ints, slot: Int, head: Int, kept: Int
) -> None:
    """Add to window w what `before.panes` holds; all `kept` events of the ring are in the window.

    Bits that the ring's events set already are not counted again: a distinct count is never too
    high by them, and too low where two places share a bit.
    """
    panes, windows = before.panes, before.windows
    places, countries = ZERO, ZERO
    for i in range(kept):
        block, e = at_place(chain, slot, (head + i) & (HISTORY - 1))
        if counts(blocks[block, e]):
            places |= place_bit(blocks[block, 48 + e])
            countries |= country_bit(blocks[block, 48 + e])
    small = windows[at, w, 3] + panes[3]
    windows[at, w, 0] += panes[0]
    windows[at, w, 1] += panes[1]
    windows[at, w, 2] += panes[2] + (ONE if small < panes[3] else ZERO)
    windows[at, w, 3] = small
    windows[at, w, 4] = min(windows[at, w, 4], panes[4])
    windows[at, w, 5] = max(windows[at, w, 5], panes[5])
    windows[at, w, 6] += popcount(panes[6] & ~places)
    windows[at, w, 7] += popcount(panes[7] & ~countries)


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
