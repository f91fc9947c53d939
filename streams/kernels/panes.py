"""Panes: what is kept of events that have left an account's ring.

In: one gone event, or a window that reaches behind the ring. Out: changed pane words, or the
window's aggregates with the panes added. Does not know the ring, the arena's accounts or features.

How it works, in steps:

1. Pane row r belongs to one window (30 d first, then shorter) and cuts time into panes of
   WIDTHS[r] ms; pane number id = event_time // width lies in slot id % 32 of the row.
2. A window of W ms touches at most W / width + 2 <= 32 panes, so slots do not collide within one.
3. A gone event enters the rows whose window it may still touch: time > newest - W - width. That
   sum falls from row to row, so those rows are a prefix and rows are added in one order only.
4. A slot with an older id is reset; one with a newer id is kept and the event is dropped there.
5. A window takes every pane that overlaps [t - W, t]: whole panes, so up to one width too much.

Pane words: id (32) | count (32); sum; squares high; squares low; min; max; place bits; country
bits.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from model.inputs import (
    AMOUNT_SHIFT,
    COUNTRY_MASK,
    COUNTRY_SHIFT,
    PLACE_SHIFT,
    TIME_SHIFT,
)
from streams.features import WINDOWS_MS
from streams.kernels.record import PANE_ROWS, PANE_WORDS, PANES, PANES_AT, kernel, mix, multiply

Words = NDArray[np.uint64]

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
_ONE = np.uint64(1)
_63 = np.uint64(63)
_TIME = np.uint64(TIME_SHIFT)
_AMOUNT = np.uint64(AMOUNT_SHIFT)
_PLACE = np.uint64(PLACE_SHIFT)
_COUNTRY = np.uint64(COUNTRY_SHIFT)
_COUNTRY_MASK = np.uint64(COUNTRY_MASK)

assert len(SPANS) == PANE_ROWS and (SPANS // WIDTHS + 2 <= PANES).all()
assert (np.diff(SPANS + WIDTHS) < 0).all()


@kernel
def rows_wanted(time: int, newest: int) -> int:
    """How many rows, from the first, an event of this time still matters to."""
    rows = 0
    while rows < PANE_ROWS and time > newest - SPANS[rows] - WIDTHS[rows]:
        rows += 1
    return rows


@kernel
def place_bit(w3: np.uint64) -> np.uint64:
    """The bit of an event's place in a 64-bit set; 0 when it has none."""
    place = w3 >> _PLACE
    return _ONE << (place & _63) if place != np.uint64(0) else np.uint64(0)


@kernel
def country_bit(w3: np.uint64) -> np.uint64:
    """The bit of an event's country in a 64-bit set; 0 when it has none."""
    country = (w3 >> _COUNTRY) & _COUNTRY_MASK
    return _ONE << (country & _63) if country != np.uint64(0) else np.uint64(0)


@kernel
def add_to_row(blocks: Words, index: NDArray[np.int32], row: int, event: Words) -> tuple[int, int]:
    """Add one event to one pane row. Returns (slot or -1 if dropped, change of the checksum)."""
    time = np.int64(event[0] >> _TIME)
    number = np.uint64(time // WIDTHS[row])
    slot = np.int64(number % np.uint64(PANES))
    block = index[RING_BLOCKS + row * ROW_BLOCKS + (slot >> 3)]
    pane = blocks[block, (slot & 7) * PANE_WORDS : (slot & 7) * PANE_WORDS + PANE_WORDS]
    at = PANES_AT + (row * PANES + slot) * PANE_WORDS
    held = pane[0] >> _32
    if pane[0] != np.uint64(0) and held > number:
        return -1, np.uint64(0)
    change = np.uint64(0)
    for word in range(PANE_WORDS):
        change ^= mix(pane[word], at + word)
    amount = event[1] >> _AMOUNT
    high, low = multiply(amount, amount)
    if pane[0] == np.uint64(0) or held < number:
        pane[0] = (number << _32) | _ONE
        pane[1] = amount
        pane[2] = high
        pane[3] = low
        pane[4] = amount
        pane[5] = amount
        pane[6] = place_bit(event[3])
        pane[7] = country_bit(event[3])
    else:
        pane[0] += _ONE
        pane[1] += amount
        pane[3] += low
        pane[2] += high + (_ONE if pane[3] < low else np.uint64(0))
        pane[4] = min(pane[4], amount)
        pane[5] = max(pane[5], amount)
        pane[6] |= place_bit(event[3])
        pane[7] |= country_bit(event[3])
    for word in range(PANE_WORDS):
        change ^= mix(pane[word], at + word)
    return slot, change


@kernel
def popcount(x: np.uint64) -> np.uint64:
    """Set bits of a word."""
    x = x - ((x >> _ONE) & np.uint64(0x5555555555555555))
    x = (x & np.uint64(0x3333333333333333)) + ((x >> np.uint64(2)) & np.uint64(0x3333333333333333))
    x = (x + (x >> np.uint64(4))) & np.uint64(0x0F0F0F0F0F0F0F0F)
    return (x * np.uint64(0x0101010101010101)) >> np.uint64(56)


@kernel
def take_from_row(
    blocks: Words, index: NDArray[np.int32], row: int, t: int, aggregate: Words
) -> bool:
    """Add the panes of one row that overlap [t - W, t] to a window. True if any held something.

    aggregate: count, sum, squares high, squares low, min, max, places, countries, place bits and
    country bits of the ring's members. Bits that the ring's members set already are not counted
    again, so a distinct count with panes is never too high by them, and at most 64 too low.
    """
    width = WIDTHS[row]
    first = np.uint64(max(t - SPANS[row], np.int64(0)) // width)
    last = np.uint64(t // width)
    places, countries = np.uint64(0), np.uint64(0)
    taken = False
    for slot in range(PANES):
        block = index[RING_BLOCKS + row * ROW_BLOCKS + (slot >> 3)]
        at = (slot & 7) * PANE_WORDS
        head = blocks[block, at]
        number = head >> _32
        if head == np.uint64(0) or number < first or number > last:
            continue
        taken = True
        aggregate[0] += head & _LOW
        aggregate[1] += blocks[block, at + 1]
        aggregate[3] += blocks[block, at + 3]
        carry = _ONE if aggregate[3] < blocks[block, at + 3] else np.uint64(0)
        aggregate[2] += blocks[block, at + 2] + carry
        aggregate[4] = min(aggregate[4], blocks[block, at + 4])
        aggregate[5] = max(aggregate[5], blocks[block, at + 5])
        places |= blocks[block, at + 6]
        countries |= blocks[block, at + 7]
    aggregate[6] += popcount(places & ~aggregate[8])
    aggregate[7] += popcount(countries & ~aggregate[9])
    return taken
