"""The windows of one event, in a single walk over its history.

In: a ring, its trail, what panes add. Out: the aggregates of the six windows, and their features.
Does not know headers or the rest of the feature list.

Windows are nested, so each adds to the one before it only the events that lie between their two
starts, sixteen at a time (lanes.py); the running totals are its aggregates. Distinct places and
countries since its start are bits of the trail. What panes hold (panes.py) is added at the end,
where there is any.
"""

from __future__ import annotations

import math
from typing import Any

import numpy as np

from model import inputs
from model.inputs import HISTORY
from streams.features import AGGREGATES, WINDOWS_MS
from streams.kernels.cells import (
    DECLINED_1H,
    DECLINED_24H,
    LAST_COUNTRY,
    LAST_PLACE,
    TOTALS,
    Before,
)
from streams.kernels.lanes import at_least, eight_reals, multiply, natural, popcount, totals
from streams.kernels.panes import country_bit, place_bit
from streams.kernels.record import (
    Floats,
    Int,
    Ints,
    Word,
    Words,
    kernel,
    outline,
    variance_numerator,
)
from streams.kernels.ring import (
    ONE,
    ZERO,
    amount_of,
    at_place,
    bits_from,
    counts,
    first_places,
    turned,
)

LENGTHS = np.array(list(WINDOWS_MS.values()), dtype=np.int64)
WINDOWS = len(LENGTHS)
"""Shortest first: window w has pane row WINDOWS - 1 - w."""
HOUR_WINDOW, DAY_WINDOW = 2, 3
"""Windows in which declined payments are counted."""

_TIME = np.uint64(inputs.TIME_SHIFT)
_AMOUNT = np.uint64(inputs.AMOUNT_SHIFT)
_2_TO_29 = np.uint64(2**29)
"""64 squares of amounts below this add up to less than 2^64."""

assert (np.diff(LENGTHS) > 0).all() and len(AGGREGATES) == TOTALS == 8
assert list(WINDOWS_MS)[HOUR_WINDOW : DAY_WINDOW + 1] == ["1h", "24h"]


@outline
def squares(blocks: Words, four: Any, events: Word) -> tuple[Word, Word]:
    """The 128-bit sum of the squared amounts of a set of a ring's places, as (high, low)."""
    big, small = ZERO, ZERO
    for place in range(HISTORY):
        if (events >> np.uint64(place)) & ONE == ONE:
            amount = amount_of(blocks[four[place >> 4], 16 + (place & 15)])
            high, low = multiply(amount, amount)
            small += low
            big += high + (ONE if small < low else ZERO)
    return big, small


@kernel
def walk(
    before: Before,
    at: Int,
    blocks: Words,
    four: Any,
    head: Int,
    kept: Int,
    t: Int,
    declined: Word,
    counting: Word,
) -> None:
    """Aggregates of all windows [t - W, t] over the first `kept` events of a ring.

    `declined`: the rows of declined payments; `counting`: the places of events that count.
    """
    lasts, last_countries = before.trail[at, LAST_PLACE], before.trail[at, LAST_COUNTRY]
    count, total, big, small, least, most = ZERO, ZERO, ZERO, ZERO, ~ZERO, ZERO
    inside, all_kept = ZERO, ZERO
    newest: Word = ZERO
    if kept > 0:
        all_kept = turned(first_places(kept), head)
        place = (head + kept - 1) & (HISTORY - 1)
        newest = blocks[four[place >> 4], place & 15]
    for w in range(WINDOWS):
        start = np.uint64(t - LENGTHS[w]) << _TIME
        if inside != all_kept and newest >= start:
            reached = at_least(blocks, four, 0, start) & all_kept
            fresh = reached & ~inside & counting
            inside = reached
            count += popcount(fresh)
            if fresh != ZERO:
                amount, low, smallest, largest = totals(blocks, four, 1, _AMOUNT, fresh)
                high = ZERO
                if largest >= _2_TO_29:
                    high, low = squares(blocks, four, fresh)
                total += amount
                small += low
                big += high + (ONE if small < low else ZERO)
                least = min(least, smallest)
                most = max(most, largest)
        behind = HISTORY - np.int64(popcount(inside))
        before.windows[at, w, 0] = count
        before.windows[at, w, 1] = total
        before.windows[at, w, 2] = big
        before.windows[at, w, 3] = small
        before.windows[at, w, 4] = least
        before.windows[at, w, 5] = most
        before.windows[at, w, 6] = bits_from(lasts, behind)
        before.windows[at, w, 7] = bits_from(last_countries, behind)
        if w == HOUR_WINDOW:
            before.notes[at, DECLINED_1H] = bits_from(declined, behind)
        if w == DAY_WINDOW:
            before.notes[at, DECLINED_24H] = bits_from(declined, behind)


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
    at, to = natural(at), natural(i) * features.shape[1]
    count, total, big, small = ZERO, ZERO, ZERO, ZERO
    mean, deviation = -1.0, -1.0
    for w in range(WINDOWS):
        n, s = before.windows[at, w, 0], before.windows[at, w, 1]
        high, low = before.windows[at, w, 2], before.windows[at, w, 3]
        # Most windows hold what the next shorter one holds.
        if n != count or s != total or high != big or low != small:
            count, total, big, small = n, s, high, low
            mean, deviation = -1.0, -1.0
            if count != ZERO:
                payments = np.float64(count)
                mean = np.float64(total) / payments
                deviation = math.sqrt(variance_numerator(count, total, big, small)) / payments
        words = (at * WINDOWS + w) * TOTALS
        eight_reals(before.windows, words, mean, deviation, features, to + w * len(AGGREGATES))
