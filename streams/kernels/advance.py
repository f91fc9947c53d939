"""The one step that touches accounts: each event of a chunk meets its account's record, in order.

In: events and the arena. Out: each event's history, what its account was before it (`Before`), its
status; and the record with the event in it. Does not know what features come of it.

The records of a chunk lie all over memory, and each is known only when the one before it (header,
then block number, then block) has arrived. `warm` therefore asks for those of the whole chunk
first, so that the machine fetches many at a time.
"""

from __future__ import annotations

from model.inputs import HISTORY
from streams.kernels.cells import (
    LAST_COUNTRY,
    LAST_PLACE,
    LATER,
    LATER_SUM,
    PANED,
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
from streams.kernels.panes import take_from_row
from streams.kernels.record import (
    HEADER_WORDS,
    NEWEST,
    OVERFLOWED,
    Flag,
    Int,
    Word,
    Words,
    kernel,
    outline,
)
from streams.kernels.ring import (
    ZERO,
    blank,
    compare,
    gather,
    keep_until,
    known,
    time_of,
    trail_of,
    unpack_state,
)
from streams.kernels.update import append, insert_late
from streams.kernels.walk import LENGTHS, WINDOWS


@outline
def warm(cells: Cells, events: Events, begin: Int, many: Int) -> Word:
    """Touch the records of a chunk. The result has no meaning; it keeps the reads in the code."""
    touched = ZERO
    for i in range(begin, begin + many):
        touched ^= cells.heads[events.slots[i], 0]
        touched ^= cells.trail[events.slots[i], 0]
        touched ^= cells.ring_marks[events.slots[i]]
    for i in range(begin, begin + many):
        slot = events.slots[i]
        _, count, _, _ = unpack_state(cells.heads[slot, 0])
        for place in range(0, count, 2):
            touched ^= cells.blocks[cells.chain[slot, place >> 4], (place & 15) * 4]
    return touched


@outline
def look_behind(
    cells: Cells, before: Before, at: Int, slot: Int, t: Int, oldest: Int, late: Flag
) -> Flag:
    """Take from the panes what windows that reach behind the ring need. True if one may be inexact.

    Every event that has left the ring is at most as late as the ring's oldest, so a window that
    starts after that one is complete. In order, no pane that a window needs has been reset; a late
    event may want one that was, so it counts as inexact even where no pane holds anything.
    """
    edge = False
    _, _, _, rows = unpack_state(cells.heads[slot, 0])
    for w in range(WINDOWS):
        before.panes[at, w, 0] = ZERO
        if oldest < t - LENGTHS[w]:
            continue
        edge |= late
        row = WINDOWS - 1 - w
        if row < rows and take_from_row(
            cells.blocks, cells.chain, slot, row, t, before.panes, at, w
        ):
            edge = True
    before.notes[at, PANED] = 1
    return edge


@kernel
def note(
    before: Before, at: Int, past: Words, row: Int, first: Int, w1: Word, w3: Word
) -> tuple[Int, Int]:
    """What the event finds in its history. Returns row + 1 of the last at its place, country."""
    places, countries, devices, amounts, place, country = compare(past, row, first, w1, w3)
    before.notes[at, SEEN_PLACE] = places
    before.notes[at, SEEN_COUNTRY] = countries
    before.notes[at, SEEN_DEVICE] = devices
    before.notes[at, SAME_AMOUNT] = amounts
    return place, country


@kernel
def meet(
    i: Int,
    at: Int,
    cells: Cells,
    events: Events,
    results: Results,
    before: Before,
    past: Words,
    row: Int,
    keep: Flag,
) -> None:
    """One event and its account."""
    slot = events.slots[i]
    w0, w1, w2, w3 = (
        events.words[i, 0],
        events.words[i, 1],
        events.words[i, 2],
        events.words[i, 3],
    )
    flags, count, start, _ = unpack_state(cells.heads[slot, 0])
    first, t = HISTORY - count, time_of(w0)
    gather(cells.blocks, cells.chain, slot, start, count, past, row)
    same = known(past, row, first, w2)
    results.status[i] = same
    if same != 0:
        blank(past, row, HISTORY)
        return
    late = t < cells.heads[slot, NEWEST]
    oldest = time_of(past[row, first, 0]) if count > 0 else 0
    for word in range(HEADER_WORDS):
        before.heads[at, word] = cells.heads[slot, word]
    before.trail[at, TRAIL] = cells.trail[slot, TRAIL]
    before.trail[at, LAST_PLACE] = cells.trail[slot, LAST_PLACE]
    before.trail[at, LAST_COUNTRY] = cells.trail[slot, LAST_COUNTRY]
    before.notes[at, LATER] = 0
    before.notes[at, PANED] = 0
    before.trail[at, LATER_SUM] = ZERO
    if late:
        first, later, total = keep_until(past, row, first, t)
        before.notes[at, LATER], before.trail[at, LATER_SUM] = later, total
        trail, lasts, last_countries = trail_of(past, row, first, before)
        before.trail[at, TRAIL] = trail
        before.trail[at, LAST_PLACE] = lasts
        before.trail[at, LAST_COUNTRY] = last_countries
    if keep:
        blank(past, row, first)
    place, country = note(before, at, past, row, first, w1, w3)
    results.late[i], results.length[i] = late, HISTORY - first
    if flags & OVERFLOWED != 0:
        results.edge[i] = look_behind(cells, before, at, slot, t, oldest, late)
    lat, lon = events.latitude[i], events.longitude[i]
    if late:
        insert_late(cells, before, slot, w0, w1, w2, w3, HISTORY - first, lat, lon)
    else:
        append(cells, slot, w0, w1, w2, w3, place, country, lat, lon)


@outline
def advance_chunk(
    begin: Int,
    many: Int,
    cells: Cells,
    events: Events,
    results: Results,
    before: Before,
    past: Words,
    base: Int,
    keep: Flag,
) -> None:
    """The events of a chunk in order; histories go to rows base.. of `past`."""
    warm(cells, events, begin, many)
    for at in range(many):
        meet(begin + at, at, cells, events, results, before, past, base + at, keep)
