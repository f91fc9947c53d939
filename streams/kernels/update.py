"""An event enters its account's record.

In: the arena's arrays, a slot, an event that is not a duplicate. Out: the changed record, and the
marks that say which of its bytes changed. Does not know windows, features or account names.

1. The ring has room: the event goes in after all events with a time up to its own; later ones move
   up by one place. (Events come mostly in order, then nothing moves.)
2. The ring is full: the oldest event leaves its place, which is the place that the move needs. The
   event that left goes to the panes. An event older than all 64 goes there directly.
3. The trail follows; newest, oldest, lifetime totals and last position; the marks.
"""

from __future__ import annotations

import numpy as np

from model.inputs import EVENT_WORDS, HISTORY
from streams.columns import NO_POSITION
from streams.kernels.cells import (
    CHANGED,
    DIRTY,
    FREE,
    LAST_COUNTRY,
    LAST_PLACE,
    TRAIL,
    WHOLE,
    Before,
    Cells,
)
from streams.kernels.panes import RING_BLOCKS, ROW_BLOCKS, add_to_row, rows_wanted
from streams.kernels.record import (
    CHECKSUM,
    HEADER_WORDS,
    LIFE_COUNT,
    LIFE_SUM,
    NEWEST,
    OLDEST,
    OVERFLOWED,
    PANE_ROWS,
    POSITION,
    POSITION_TIME,
    POSITIONED,
    Flag,
    Int,
    Word,
    kernel,
    mix,
    outline,
)
from streams.kernels.ring import (
    BASE,
    BASE_TO_63,
    ONE,
    ZERO,
    amount_of,
    at_place,
    country_of,
    counts,
    event_digest,
    pack_state,
    place_of,
    step,
    time_of,
    trail_of,
    unpack_state,
)

NEEDED_BLOCKS = 1 + PANE_ROWS * ROW_BLOCKS
"""The most blocks that one event can take from the pool."""

_32 = np.uint64(32)
_LOW = np.uint64(0xFFFFFFFF)
_PLACES = HISTORY - 1


@kernel
def mark(cells: Cells, slot: Int, state: Int) -> None:
    """The record differs from the store, in part (CHANGED) or as a whole."""
    if cells.state[slot] == 0:
        cells.dirty[cells.tally[DIRTY]] = slot
        cells.tally[DIRTY] += 1
    if cells.state[slot] < state:
        cells.state[slot] = state


@kernel
def take_block(cells: Cells) -> Int:
    """A block from the pool. The caller has made sure that there is one."""
    cells.tally[FREE] -= 1
    return cells.free[cells.tally[FREE]]


@outline
def to_panes(cells: Cells, slot: Int, newest: Int, rows: Int, w0: Word, w1: Word, w3: Word) -> Int:
    """Add an event that left the ring to the panes it may still matter to. Returns the rows."""
    if not counts(w0):
        return rows
    wanted = rows_wanted(time_of(w0), newest)
    while rows < wanted:
        for part in range(ROW_BLOCKS):
            block = take_block(cells)
            cells.blocks[block, :] = ZERO
            cells.chain[slot, RING_BLOCKS + rows * ROW_BLOCKS + part] = block
        rows += 1
        mark(cells, slot, WHOLE)
    for row in range(wanted):
        pane, change = add_to_row(cells.blocks, cells.chain, slot, row, w0, w1, w3)
        if pane >= 0:
            cells.heads[slot, CHECKSUM] ^= change
            cells.pane_marks[slot, row] |= np.uint32(1) << np.uint32(pane)
    return rows


@kernel
def put(
    cells: Cells, slot: Int, place: Int, fresh: Flag, w0: Word, w1: Word, w2: Word, w3: Word
) -> None:
    """Write an event at a place of the ring; `fresh` when there was none."""
    block, e = at_place(cells.chain, slot, place)
    blocks, position = cells.blocks, HEADER_WORDS + place * EVENT_WORDS
    change = mix(w0, position) ^ mix(w1, position + 1)
    change ^= mix(w2, position + 2) ^ mix(w3, position + 3)
    if not fresh:
        change ^= mix(blocks[block, e], position) ^ mix(blocks[block, 16 + e], position + 1)
        change ^= mix(blocks[block, 32 + e], position + 2) ^ mix(
            blocks[block, 48 + e], position + 3
        )
    blocks[block, e] = w0
    blocks[block, 16 + e] = w1
    blocks[block, 32 + e] = w2
    blocks[block, 48 + e] = w3
    cells.heads[slot, CHECKSUM] ^= change
    cells.ring_marks[slot] |= ONE << np.uint64(place)


@kernel
def leave(cells: Cells, slot: Int, start: Int, rows: Int, newest: Int) -> tuple[Int, Word]:
    """The oldest event of a full ring leaves. Returns the pane rows and the event's digest."""
    block, e = at_place(cells.chain, slot, start)
    w0, w1 = cells.blocks[block, e], cells.blocks[block, 16 + e]
    w2, w3 = cells.blocks[block, 32 + e], cells.blocks[block, 48 + e]
    if rows_wanted(time_of(w0), newest) > 0:
        rows = to_panes(cells, slot, newest, rows, w0, w1, w3)
    return rows, event_digest(w0, w1, w2, w3)


@kernel
def follow(
    cells: Cells, slot: Int, w0: Word, w1: Word, newest: Int, flags: Int, lat: Int, lon: Int
) -> Int:
    """Newest, oldest, lifetime and position of a header. Returns the flags."""
    t = np.uint64(time_of(w0))
    cells.heads[slot, NEWEST] = np.uint64(newest)
    oldest = cells.heads[slot, OLDEST]
    cells.heads[slot, OLDEST] = t if oldest == ZERO else min(oldest, t)
    if counts(w0):
        cells.heads[slot, LIFE_COUNT] += ONE
        cells.heads[slot, LIFE_SUM] += amount_of(w1)
    if lat != NO_POSITION and cells.heads[slot, POSITION_TIME] <= t:
        cells.heads[slot, POSITION] = ((np.uint64(lat) & _LOW) << _32) | (np.uint64(lon) & _LOW)
        cells.heads[slot, POSITION_TIME] = t
        flags |= POSITIONED
    return flags


@kernel
def append(
    cells: Cells,
    slot: Int,
    w0: Word,
    w1: Word,
    w2: Word,
    w3: Word,
    places: Word,
    countries: Word,
    lat: Int,
    lon: Int,
) -> None:
    """An event that is not late. `places`, `countries`: history rows of its place and country."""
    flags, count, start, rows = unpack_state(cells.heads[slot, 0])
    newest = time_of(w0)
    trail = cells.trail[slot, TRAIL]
    mark(cells, slot, WHOLE if count == 0 else CHANGED)
    place = (start + count) & _PLACES
    if count == HISTORY:
        flags |= OVERFLOWED
        rows, gone = leave(cells, slot, start, rows, newest)
        trail -= gone * BASE_TO_63
        start = (start + 1) & _PLACES
        put(cells, slot, place, False, w0, w1, w2, w3)
    else:
        if count & 15 == 0:
            cells.chain[slot, count >> 4] = take_block(cells)
        count += 1
        put(cells, slot, place, True, w0, w1, w2, w3)
    cells.trail[slot, TRAIL] = trail * BASE + event_digest(w0, w1, w2, w3)
    is_place = counts(w0) and place_of(w3) != ZERO
    is_country = counts(w0) and country_of(w3) != ZERO
    cells.trail[slot, LAST_PLACE] = step(cells.trail[slot, LAST_PLACE], places, is_place)
    cells.trail[slot, LAST_COUNTRY] = step(cells.trail[slot, LAST_COUNTRY], countries, is_country)
    flags = follow(cells, slot, w0, w1, newest, flags, lat, lon)
    cells.heads[slot, 0] = pack_state(flags, count, start, rows)


@outline
def insert_late(
    cells: Cells,
    before: Before,
    slot: Int,
    w0: Word,
    w1: Word,
    w2: Word,
    w3: Word,
    kept: Int,
    lat: Int,
    lon: Int,
) -> None:
    """A late event; `kept` events of the ring come before it."""
    flags, count, start, rows = unpack_state(cells.heads[slot, 0])
    newest = np.int64(cells.heads[slot, NEWEST])
    mark(cells, slot, CHANGED)
    if count == HISTORY and kept == 0:
        flags |= OVERFLOWED
        rows = to_panes(cells, slot, newest, rows, w0, w1, w3)
    else:
        full = count == HISTORY
        if full:
            flags |= OVERFLOWED
            rows, _ = leave(cells, slot, start, rows, newest)
        elif count & 15 == 0:
            cells.chain[slot, count >> 4] = take_block(cells)
        for i in range(count - 1, kept - 1, -1):
            place = (start + i) & _PLACES
            block, e = at_place(cells.chain, slot, place)
            m0, m1 = cells.blocks[block, e], cells.blocks[block, 16 + e]
            m2, m3 = cells.blocks[block, 32 + e], cells.blocks[block, 48 + e]
            fresh = i == count - 1 and not full
            put(cells, slot, (place + 1) & _PLACES, fresh, m0, m1, m2, m3)
        put(cells, slot, (start + kept) & _PLACES, False, w0, w1, w2, w3)
        if full:
            start = (start + 1) & _PLACES
        else:
            count += 1
        trail, places, countries = trail_of(cells.blocks, cells.chain, slot, start, count, before)
        cells.trail[slot, TRAIL] = trail
        cells.trail[slot, LAST_PLACE] = places
        cells.trail[slot, LAST_COUNTRY] = countries
    flags = follow(cells, slot, w0, w1, newest, flags, lat, lon)
    cells.heads[slot, 0] = pack_state(flags, count, start, rows)
