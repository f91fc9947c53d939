"""An event enters its account's record.

In: the arena's arrays, a slot, an event that is not a duplicate. Out: the changed record, and the
marks that say which of its bytes changed. Does not know windows, features or account names.

1. The ring has room: the event goes in after all events with a time up to its own; later ones move
   up by one place. (Events come mostly in order, then nothing moves.)
2. The ring is full: the oldest event leaves its place, which is the place that the move needs. The
   event that left goes to the panes. An event older than all 64 goes there directly.
3. Newest, oldest, lifetime totals and last position follow; then the trail; then the marks.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from model.inputs import AMOUNT_SHIFT, COUNTS_SHIFT, EVENT_WORDS, HISTORY, TIME_SHIFT
from streams.columns import NO_POSITION
from streams.kernels.cells import CHANGED, DIRTY, FREE, WHOLE, Cells
from streams.kernels.panes import RING_BLOCKS, ROW_BLOCKS, add_to_row, rows_wanted
from streams.kernels.record import (
    CHECKSUM,
    LIFE_COUNT,
    LIFE_SUM,
    NEWEST,
    OLDEST,
    OVERFLOWED,
    PANE_ROWS,
    POSITION,
    POSITION_TIME,
    POSITIONED,
    kernel,
)
from streams.kernels.ring import (
    BASE,
    BASE_TO_63,
    event_digest,
    gather,
    pack_state,
    put,
    trail_of,
    unpack_state,
)

Words = NDArray[np.uint64]

NEEDED_BLOCKS = 1 + PANE_ROWS * ROW_BLOCKS
"""The most blocks that one event can take from the pool."""

_ZERO, _ONE, _32 = np.uint64(0), np.uint64(1), np.uint64(32)
_S20 = np.uint64(TIME_SHIFT)
_S14 = np.uint64(AMOUNT_SHIFT)
_COUNTS = np.uint64(COUNTS_SHIFT)
_LOW = np.uint64(0xFFFFFFFF)
_CLEAN = np.uint8(0)


@kernel
def mark(cells: Cells, slot: int, state: int) -> None:
    """The record differs from the store, in part (CHANGED) or as a whole."""
    if cells.state[slot] == _CLEAN:
        cells.dirty[cells.tally[DIRTY]] = slot
        cells.tally[DIRTY] += 1
    cells.state[slot] = max(cells.state[slot], np.uint8(state))


@kernel
def take_block(cells: Cells) -> int:
    """A block from the pool. The caller has made sure that there is one."""
    cells.tally[FREE] -= 1
    return cells.free[cells.tally[FREE]]


@kernel
def to_panes(cells: Cells, slot: int, event: Words, newest: int, rows: int) -> int:
    """Add an event that left the ring to the panes it may still matter to. Returns the rows."""
    if (event[0] >> _COUNTS) & _ONE == _ZERO:
        return rows
    wanted = rows_wanted(np.int64(event[0] >> _S20), newest)
    index = cells.index[slot]
    while rows < wanted:
        for part in range(ROW_BLOCKS):
            block = take_block(cells)
            cells.blocks[block, :] = 0
            index[RING_BLOCKS + rows * ROW_BLOCKS + part] = block
        rows += 1
        mark(cells, slot, WHOLE)
    for row in range(wanted):
        pane, change = add_to_row(cells.blocks, index, row, event)
        if pane >= 0:
            cells.heads[slot, CHECKSUM] ^= change
            cells.pane_marks[slot, row] |= np.uint32(1) << np.uint32(pane)
    return rows


@kernel
def move_up(cells: Cells, slot: int, head: int, count: int, kept: int, buffer: Words) -> None:
    """Move the events from `kept` on up by one place, to make room for a late one."""
    index = cells.index[slot]
    for i in range(count - 1, kept - 1, -1):
        source = (head + i) & (HISTORY - 1)
        target = (head + i + 1) & (HISTORY - 1)
        at = (source & 15) * EVENT_WORDS
        for word in range(EVENT_WORDS):
            buffer[word] = cells.blocks[index[source >> 4], at + word]
        fresh = count < HISTORY and i == count - 1
        cells.heads[slot, CHECKSUM] ^= put(cells.blocks, index, target, buffer, fresh)
        cells.ring_marks[slot] |= _ONE << np.uint64(target)


@kernel
def totals(head: Words, event: Words, t: int, lat: int, lon: int, newest: int, flags: int) -> int:
    """Newest, oldest, lifetime and position of a header. Returns the flags."""
    head[NEWEST] = np.uint64(newest)
    first = head[LIFE_COUNT] == _ZERO and head[OLDEST] == _ZERO
    head[OLDEST] = np.uint64(t) if first else min(head[OLDEST], np.uint64(t))
    if (event[0] >> _COUNTS) & _ONE == _ONE:
        head[LIFE_COUNT] += _ONE
        head[LIFE_SUM] += event[1] >> _S14
    if lat != NO_POSITION and np.int64(head[POSITION_TIME]) <= t:
        head[POSITION] = ((np.uint64(lat) & _LOW) << _32) | (np.uint64(lon) & _LOW)
        head[POSITION_TIME] = np.uint64(t)
        flags |= POSITIONED
    return flags


@kernel
def insert(
    cells: Cells, slot: int, event: Words, kept: int, lat: int, lon: int, scratch: Words
) -> None:
    """Put an event into its account's record; `kept` of its ring's events come before it."""
    head = cells.heads[slot]
    index = cells.index[slot]
    flags, count, start, rows = unpack_state(head[0])
    t = np.int64(event[0] >> _S20)
    newest = max(np.int64(head[NEWEST]), t)
    trail = cells.trail[slot]
    mark(cells, slot, WHOLE if count == 0 else CHANGED)
    if count == HISTORY and kept == 0:
        flags |= OVERFLOWED
        rows = to_panes(cells, slot, event, newest, rows)
    else:
        in_order = kept == count
        next_start, next_count, fresh = start, count + 1, kept == count
        if count == HISTORY:
            oldest = scratch[0]
            at = (start & 15) * EVENT_WORDS
            for word in range(EVENT_WORDS):
                oldest[word] = cells.blocks[index[start >> 4], at + word]
            flags |= OVERFLOWED
            rows = to_panes(cells, slot, oldest, newest, rows)
            gone = event_digest(oldest[0], oldest[1], oldest[2], oldest[3])
            trail -= gone * BASE_TO_63
            next_start, next_count, fresh = (start + 1) & (HISTORY - 1), HISTORY, False
        elif count & 15 == 0:
            index[count >> 4] = take_block(cells)
        move_up(cells, slot, start, count, kept, scratch[1])
        place = (start + kept) & (HISTORY - 1)
        head[CHECKSUM] ^= put(cells.blocks, index, place, event, fresh)
        cells.ring_marks[slot] |= _ONE << np.uint64(place)
        start, count = next_start, next_count
        if in_order:
            trail = trail * BASE + event_digest(event[0], event[1], event[2], event[3])
        else:
            gather(cells.blocks, index, start, count, scratch)
            trail = trail_of(scratch, HISTORY - count)
        cells.trail[slot] = trail
    flags = totals(head, event, t, lat, lon, newest, flags)
    head[0] = pack_state(flags, count, start, rows)
