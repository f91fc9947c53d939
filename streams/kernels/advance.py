"""The one step that touches accounts: each event of a chunk meets its account's record, in order.

In: events and the arena. Out: each event's status, history and windows; what its account was before
it (`Before`); and the record with the event in it. Does not know what features come of it.

The records of a chunk lie all over memory, and each is known only when the one before it (header,
then block number, then block) has arrived. `warm` therefore asks for those of the whole chunk
first, so that the machine fetches many at a time.
"""

from __future__ import annotations

import numpy as np

from model.inputs import HISTORY
from streams.kernels.cells import (
    LAST_COUNTRY,
    LAST_PLACE,
    LAST_TIME,
    LATER,
    LATER_SUM,
    SAME_AMOUNT,
    SEEN_COUNTRY,
    SEEN_DEVICE,
    SEEN_PLACE,
    TRAIL,
    Before,
    Cells,
    Events,
    Results,
)
from streams.kernels.lanes import natural, popcount
from streams.kernels.panes import BLOCK_WORDS, take_from_row
from streams.kernels.record import (
    HEADER_WORDS,
    NEWEST,
    OVERFLOWED,
    Flag,
    Int,
    Word,
    kernel,
    outline,
)
from streams.kernels.ring import (
    ZERO,
    at_place,
    compare,
    copy_history,
    four_of,
    not_later,
    rows_of,
    time_of,
    trail_of,
    unpack_state,
    verdict,
)
from streams.kernels.update import append, insert_late
from streams.kernels.walk import LENGTHS, WINDOWS, add_panes, walk


@outline
def warm(cells: Cells, events: Events, begin: Int, many: Int) -> Word:
    """Touch the records of a chunk. The result has no meaning; it keeps the reads in the code."""
    touched = ZERO
    for i in range(begin, begin + many):
        slot = natural(events.slots[i])
        touched ^= cells.heads[slot, 0] ^ cells.trail[slot, 0] ^ cells.ring_marks[slot]
        touched ^= np.uint64(cells.chain[slot, 0]) ^ np.uint64(cells.state[slot])
    for i in range(begin, begin + many):
        slot = natural(events.slots[i])
        _, count, _, _ = unpack_state(cells.heads[slot, 0])
        for part in range((count + 15) >> 4):
            for word in range(0, BLOCK_WORDS, 8):
                touched ^= cells.blocks[natural(cells.chain[slot, part]), word]
    return touched


@outline
def look_behind(
    cells: Cells, before: Before, at: Int, slot: Int, t: Int, oldest: Int, kept: Int, late: Flag
) -> Flag:
    """Add the panes to windows that reach behind the ring. True if one of them may be inexact.

    Every event that has left the ring is at most as late as the ring's oldest, so a window that
    starts after that one is complete. In order, no pane that a window needs has been reset; a late
    event may want one that was, so it counts as inexact even where no pane holds anything.
    """
    edge = False
    _, _, start, rows = unpack_state(before.heads[at, 0])
    for w in range(WINDOWS):
        if oldest < t - LENGTHS[w]:
            continue
        edge |= late
        row = WINDOWS - 1 - w
        if row < rows and take_from_row(cells.blocks, cells.chain, slot, row, t, before.panes):
            edge = True
            add_panes(before, at, w, cells.blocks, cells.chain, slot, start, kept)
    return edge


@outline
def go_back(
    cells: Cells, before: Before, at: Int, slot: Int, start: Int, count: Int, t: Int
) -> Int:
    """What a late event must see: the account as far as its events go up to t. Returns how many."""
    kept, later, total = not_later(cells.blocks, cells.chain, slot, start, count, t)
    trail, places, countries = trail_of(cells.blocks, cells.chain, slot, start, kept, before)
    before.notes[at, LATER] = later
    before.trail[at, LATER_SUM] = total
    before.trail[at, TRAIL] = trail
    before.trail[at, LAST_PLACE] = places
    before.trail[at, LAST_COUNTRY] = countries
    return kept


@kernel
def remember(cells: Cells, before: Before, at: Int, slot: Int) -> None:
    """The account as it was before the event."""
    for word in range(HEADER_WORDS):
        before.heads[at, word] = cells.heads[slot, word]
    for word in range(3):
        before.trail[at, word] = cells.trail[slot, word]
    before.trail[at, LATER_SUM] = ZERO
    before.notes[at, LATER] = 0


@kernel
def ring_time(cells: Cells, slot: Int, start: Int, i: Int) -> Int:
    """Time of event i of a ring."""
    block, e = at_place(cells.chain, slot, (start + i) & (HISTORY - 1))
    return time_of(cells.blocks[block, e])


@kernel
def meet(
    i: Int, at: Int, cells: Cells, events: Events, results: Results, before: Before, keep: Flag
) -> None:
    """One event and its account."""
    i, at = natural(i), natural(at)
    slot, w0, w1 = natural(events.slots[i]), events.words[i, 0], events.words[i, 1]
    w2, w3 = events.words[i, 2], events.words[i, 3]
    blocks, chain = cells.blocks, cells.chain
    flags, count, start, _ = unpack_state(cells.heads[slot, 0])
    four = four_of(chain, slot, count)
    ids, places, countries, devices, amounts, declined, counting = compare(
        blocks, four, count, w1, w2, w3
    )
    if ids != ZERO:
        results.status[i] = verdict(blocks, chain, slot, ids, w2)
        if keep:
            copy_history(blocks, chain, slot, start, 0, results.history, i)
        return
    t, kept = time_of(w0), count
    late = t < np.int64(cells.heads[slot, NEWEST])
    remember(cells, before, at, slot)
    if late:
        kept = go_back(cells, before, at, slot, start, count, t)
    seen = ~ZERO << np.uint64(HISTORY - kept) if kept > 0 else ZERO
    later = np.uint64(count - kept)
    places = (rows_of(places, start, count) << later) & seen
    countries = (rows_of(countries, start, count) << later) & seen
    before.notes[at, SEEN_PLACE] = popcount(places)
    before.notes[at, SEEN_COUNTRY] = popcount(countries)
    before.notes[at, SEEN_DEVICE] = popcount((rows_of(devices, start, count) << later) & seen)
    before.notes[at, SAME_AMOUNT] = popcount((rows_of(amounts, start, count) << later) & seen)
    before.notes[at, LAST_TIME] = ring_time(cells, slot, start, kept - 1) if kept > 0 else -1
    declined = (rows_of(declined, start, count) << later) & seen
    walk(before, at, blocks, four, start, kept, t, declined, counting)
    if flags & OVERFLOWED != 0:
        oldest = ring_time(cells, slot, start, 0)
        results.edge[i] = look_behind(cells, before, at, slot, t, oldest, kept, late)
    if keep:
        copy_history(blocks, chain, slot, start, kept, results.history, i)
    results.late[i], results.length[i] = late, kept
    lat, lon = events.latitude[i], events.longitude[i]
    if late:
        insert_late(cells, before, slot, w0, w1, w2, w3, kept, lat, lon)
    else:
        append(cells, slot, w0, w1, w2, w3, places, countries, lat, lon)


@outline
def advance_chunk(
    begin: Int,
    many: Int,
    cells: Cells,
    events: Events,
    results: Results,
    before: Before,
    keep: Flag,
) -> None:
    """The events of a chunk in order."""
    warm(cells, events, begin, many)
    for at in range(many):
        meet(begin + at, at, cells, events, results, before, keep)
