"""The windows of one event, in a single walk over its history.

In: an account's events up to t, right-aligned. Out: the aggregates of the six windows and their
features. Does not know panes, headers or the rest of the feature list.

Windows are nested, so going from the newest event to the oldest the running totals are the
aggregates of a window at the moment the walk passes its start. Distinct counting uses two tables
that are never cleared: an entry counts only when it carries this event's epoch.
"""

from __future__ import annotations

import math

import numpy as np
from numpy.typing import NDArray

from model import inputs
from model.inputs import HISTORY
from streams.features import AGGREGATES, WINDOWS_MS
from streams.kernels.panes import country_bit, place_bit
from streams.kernels.record import kernel, multiply, variance_numerator

Words = NDArray[np.uint64]

LENGTHS = np.array(list(WINDOWS_MS.values()), dtype=np.int64)
WINDOWS = len(LENGTHS)
"""Shortest first: window w has pane row WINDOWS - 1 - w."""
TOTALS = 10
"""count, sum, squares high, squares low, min, max, places, countries, place bits, country bits."""
PLACE_TABLE = 256
COUNTRY_TABLE = 1024

NOTHING = np.uint64(0xFFFFFFFFFFFFFFFF)
"""The minimum of no amounts."""

_S20 = np.uint64(inputs.TIME_SHIFT)
_S14 = np.uint64(inputs.AMOUNT_SHIFT)
_COUNTS = np.uint64(inputs.COUNTS_SHIFT)
_PLACE = np.uint64(inputs.PLACE_SHIFT)
_COUNTRY = np.uint64(inputs.COUNTRY_SHIFT)
_COUNTRY_MASK = np.uint64(inputs.COUNTRY_MASK)
_ZERO, _ONE, _32 = np.uint64(0), np.uint64(1), np.uint64(32)

assert (np.diff(LENGTHS) > 0).all() and len(AGGREGATES) == 8


@kernel
def is_new(table: Words, mask: int, key: np.uint64, epoch: np.uint64) -> bool:
    """Enter a 32-bit key in a table of size mask + 1. True if this epoch had not seen it."""
    at = np.int64(key) & mask
    entry = (epoch << _32) | key
    while table[at] >> _32 == epoch:
        if table[at] == entry:
            return False
        at = (at + 1) & mask
    table[at] = entry
    return True


@kernel
def close(w: int, running: Words, aggregates: Words) -> None:
    """The running totals are those of window w."""
    for word in range(TOTALS):
        aggregates[w, word] = running[word]


@kernel
def walk(
    view: Words,
    first: int,
    t: int,
    places: Words,
    countries: Words,
    epoch: np.uint64,
    running: Words,
    aggregates: Words,
) -> None:
    """Aggregates of all windows [t - W, t] over the events first.. of a history."""
    for word in range(TOTALS):
        running[word] = _ZERO
    running[4] = NOTHING
    w = 0
    for j in range(HISTORY - 1, first - 1, -1):
        time = np.int64(view[j, 0] >> _S20)
        while w < WINDOWS and time < t - LENGTHS[w]:
            close(w, running, aggregates)
            w += 1
        if w == WINDOWS:
            break
        if (view[j, 0] >> _COUNTS) & _ONE == _ZERO:
            continue
        amount = view[j, 1] >> _S14
        high, low = multiply(amount, amount)
        running[0] += _ONE
        running[1] += amount
        running[3] += low
        running[2] += high + (_ONE if running[3] < low else _ZERO)
        running[4] = min(running[4], amount)
        running[5] = max(running[5], amount)
        place = view[j, 3] >> _PLACE
        if place != _ZERO and is_new(places, PLACE_TABLE - 1, place, epoch):
            running[6] += _ONE
            running[8] |= place_bit(view[j, 3])
        country = (view[j, 3] >> _COUNTRY) & _COUNTRY_MASK
        if country != _ZERO and is_new(countries, COUNTRY_TABLE - 1, country, epoch):
            running[7] += _ONE
            running[9] |= country_bit(view[j, 3])
    while w < WINDOWS:
        close(w, running, aggregates)
        w += 1


@kernel
def emit(aggregates: Words, out: NDArray[np.float32]) -> None:
    """The window features, in the order of the list."""
    for w in range(WINDOWS):
        at = w * 8
        count = aggregates[w, 0]
        out[at] = np.float64(count)
        out[at + 1] = np.float64(aggregates[w, 1])
        if count == _ZERO:
            for empty in range(at + 2, at + 6):
                out[empty] = -1.0
        else:
            out[at + 2] = np.float64(aggregates[w, 1]) / np.float64(count)
            spread = variance_numerator(count, aggregates[w, 1], aggregates[w, 2], aggregates[w, 3])
            out[at + 3] = math.sqrt(spread) / np.float64(count)
            out[at + 4] = np.float64(aggregates[w, 4])
            out[at + 5] = np.float64(aggregates[w, 5])
        out[at + 6] = np.float64(aggregates[w, 6])
        out[at + 7] = np.float64(aggregates[w, 7])
