"""Panes: what is kept of events that have left an account's ring.

In: one gone event, or a window that reaches behind the ring. Out: changed pane words, or what the
panes add to the window. Does not know the ring, account names or features.

How it works, in steps:

1. Pane row r belongs to one window (30 d first, then shorter) and cuts time into panes of
   WIDTHS[r] ms; pane number id = event_time // width lies in slot id % 32 of the row.
2. A window of W ms touches at most W / width + 1 < 32 panes, so slots do not collide within one.
3. A gone event enters the rows whose window it may still touch: time > newest - W - width. That
   sum falls from row to row, so those rows are a prefix and rows are added in one order only.
4. A slot with an older id is reset; one with a newer id is kept and the event is dropped there.
5. A window takes every pane that overlaps [t - W, t]: whole panes, so up to one width too much.

Pane words: id (32) | count (32); sum; squares high; squares low; min; max; 64-bit sets of places
and of countries.
"""

from __future__ import annotations

import numpy as np

from streams.features import WINDOWS_MS
from streams.kernels.cells import TOTALS
from streams.kernels.lanes import multiply
from streams.kernels.record import (
    PANE_ROWS,
    PANE_WORDS,
    PANES,
    PANES_AT,
    Flag,
    Int,
    Ints,
    Word,
    Words,
    kernel,
    mix,
    outline,
)
from streams.kernels.ring import ONE, ZERO, amount_of, country_of, place_of, time_of

SPANS = np.array(sorted(WINDOWS_MS.values(), reverse=True), dtype=np.int64)
"""Window length of each pane row, longest first."""
WIDTHS = np.array([86_400_000, 21_600_000, 3_600_000, 120_000, 10_000, 2_000], dtype=np.int64)
"""Pane width of each pane row."""

BLOCK_WORDS = 64
"""u64 words of a block of the arena's pool: 16 ring events, or 8 panes."""
RING_BLOCKS = 4
ROW_BLOCKS = 4
INDEX_WORDS = RING_BLOCKS + PANE_ROWS * ROW_BLOCKS

_32 = np.uint64(32)
_LOW = np.uint64(0xFFFFFFFF)
_63 = np.uint64(63)

assert len(SPANS) == PANE_ROWS and (SPANS // WIDTHS + 1 < PANES).all()
assert (np.diff(SPANS + WIDTHS) < 0).all() and TOTALS == PANE_WORDS


@kernel
def rows_wanted(time: Int, newest: Int) -> Int:
    """How many rows, from the first, an event of this time still matters to."""
    rows = 0
    while rows < PANE_ROWS and time > newest - SPANS[rows] - WIDTHS[rows]:
        rows += 1
    return rows


@kernel
def place_bit(w3: Word) -> Word:
    """The bit of an event's place in a 64-bit set; 0 when it has none."""
    return ONE << (place_of(w3) & _63) if place_of(w3) != ZERO else ZERO


@kernel
def country_bit(w3: Word) -> Word:
    """The bit of an event's country in a 64-bit set; 0 when it has none."""
    return ONE << (country_of(w3) & _63) if country_of(w3) != ZERO else ZERO


@outline
def add_to_row(
    blocks: Words, chain: Ints, slot: Int, row: Int, w0: Word, w1: Word, w3: Word
) -> tuple[Int, Word]:
    """Add one event to one pane row. Returns (slot or -1 if dropped, change of the checksum)."""
    number = np.uint64(time_of(w0) // WIDTHS[row])
    pane = np.int64(number % np.uint64(PANES))
    block = chain[slot, RING_BLOCKS + row * ROW_BLOCKS + (pane >> 3)]
    first = (pane & 7) * PANE_WORDS
    position = PANES_AT + (row * PANES + pane) * PANE_WORDS
    head = blocks[block, first]
    if head != ZERO and head >> _32 > number:
        return -1, ZERO
    change = ZERO
    for word in range(PANE_WORDS):
        change ^= mix(blocks[block, first + word], position + word)
    amount = amount_of(w1)
    high, low = multiply(amount, amount)
    if head == ZERO or head >> _32 < number:
        blocks[block, first] = (number << _32) | ONE
        blocks[block, first + 1] = amount
        blocks[block, first + 2] = high
        blocks[block, first + 3] = low
        blocks[block, first + 4] = amount
        blocks[block, first + 5] = amount
        blocks[block, first + 6] = place_bit(w3)
        blocks[block, first + 7] = country_bit(w3)
    else:
        total = blocks[block, first + 3] + low
        carry = ONE if total < low else ZERO
        blocks[block, first] += ONE
        blocks[block, first + 1] += amount
        blocks[block, first + 2] += high + carry
        blocks[block, first + 3] = total
        blocks[block, first + 4] = min(blocks[block, first + 4], amount)
        blocks[block, first + 5] = max(blocks[block, first + 5], amount)
        blocks[block, first + 6] |= place_bit(w3)
        blocks[block, first + 7] |= country_bit(w3)
    for word in range(PANE_WORDS):
        change ^= mix(blocks[block, first + word], position + word)
    return pane, change


@outline
def take_from_row(blocks: Words, chain: Ints, slot: Int, row: Int, t: Int, panes: Words) -> Flag:
    """What the panes of a row that overlap [t - W, t] hold. True if any did."""
    width = WIDTHS[row]
    low = np.uint64(max(t - SPANS[row], np.int64(0)) // width)
    high = np.uint64(t // width)
    count, total, big, small, least, most = ZERO, ZERO, ZERO, ZERO, ~ZERO, ZERO
    places, countries = ZERO, ZERO
    for pane in range(PANES):
        block = chain[slot, RING_BLOCKS + row * ROW_BLOCKS + (pane >> 3)]
        first = (pane & 7) * PANE_WORDS
        head = blocks[block, first]
        if head == ZERO or head >> _32 < low or head >> _32 > high:
            continue
        count += head & _LOW
        total += blocks[block, first + 1]
        small += blocks[block, first + 3]
        big += blocks[block, first + 2] + (ONE if small < blocks[block, first + 3] else ZERO)
        least = min(least, blocks[block, first + 4])
        most = max(most, blocks[block, first + 5])
        places |= blocks[block, first + 6]
        countries |= blocks[block, first + 7]
    panes[0] = count
    panes[1] = total
    panes[2] = big
    panes[3] = small
    panes[4] = least
    panes[5] = most
    panes[6] = places
    panes[7] = countries
    return count != ZERO
