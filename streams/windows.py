"""The Numba pass: apply each event to its account's record, emit its features and its history.

In: columns, an arena that holds their accounts, risk columns. Out: `Work`, and a changed arena.
Does not know Kafka, stores, models or rules. docs/windows.md is the contract; tests/oracle.py is
the same thing written slowly.

For each event, in arrival order:

1. Copy the account's ring in time order into the event's history. The id is among them: a duplicate
   or a conflict, and nothing changes.
2. A late event (older than the newest) sees only the events up to its own time: drop the others.
3. Walk from the newest event to the oldest once. Windows are nested, so the running totals *are*
   the window's aggregates at the moment the walk passes its start.
4. Where an event has left the ring and may lie in a window, add the panes that overlap it.
5. Emit the features, and a digest of all that a scorer will see.
6. Put the event into the ring in time order; what falls out goes to the panes.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final, NamedTuple, Protocol

import numpy as np
from numpy.typing import NDArray

from model.inputs import (
    AMOUNT_SHIFT,
    AUTH_MASK,
    AUTH_SHIFT,
    COUNTRY_MASK,
    COUNTRY_SHIFT,
    COUNTS_SHIFT,
    EVENT_WORDS,
    HISTORY,
    TIME_SHIFT,
    ScoringBatch,
)
from streams import features
from streams.columns import Columns
from streams.kernels import ring, traits
from streams.kernels.cells import FREE, Cells
from streams.kernels.panes import take_from_row
from streams.kernels.record import NEWEST, OVERFLOWED, entry, kernel, scramble
from streams.kernels.update import NEEDED_BLOCKS, insert
from streams.kernels.walk import COUNTRY_TABLE, LENGTHS, PLACE_TABLE, TOTALS, WINDOWS, emit, walk
from streams.state import Arena

Words = NDArray[np.uint64]

APPLIED: Final = 0
DUPLICATE: Final = 1
ID_CONFLICT: Final = 2
NO_RISK: Final = "none"
"""The risk version of an event for which there is no snapshot."""


class Risk(Protocol):
    """What is asked of `risk.RiskView`."""

    def lookup(self, columns: Columns) -> tuple[NDArray[np.float32], list[str]]:
        """Risk columns float32 [n, RISK_COUNT] and the snapshot version of each event."""
        ...


@dataclass(frozen=True, slots=True)
class Work:
    """n events with all that a scorer and the decision need.

    status:   uint8 [n], APPLIED, DUPLICATE or ID_CONFLICT; the rest is zero unless APPLIED
    late:     bool [n], older than the newest event of the account
    edge:     bool [n], a window used panes: it may be wrong by what lies in one pane at its edge
    features: float32 [n, F]; history: uint64 [n, 64, 4]; length: int32 [n]; see ScoringBatch
    digest:   uint64 [n], over the event without its response, length, history and features
    """

    columns: Columns
    status: NDArray[np.uint8]
    late: NDArray[np.bool_]
    edge: NDArray[np.bool_]
    features: NDArray[np.float32]
    history: NDArray[np.uint64]
    length: NDArray[np.int32]
    digest: NDArray[np.uint64]
    risk_versions: list[str]


class Events(NamedTuple):
    """The columns that the kernel reads."""

    words: NDArray[np.uint64]
    slots: NDArray[np.int32]
    latitude: NDArray[np.int32]
    longitude: NDArray[np.int32]
    billing: NDArray[np.uint16]
    ip: NDArray[np.uint16]
    risk: NDArray[np.float32]


class Results(NamedTuple):
    """The arrays that the kernel writes; `bits` is the memory of `features` as integers."""

    status: NDArray[np.uint8]
    late: NDArray[np.bool_]
    edge: NDArray[np.bool_]
    features: NDArray[np.float32]
    bits: NDArray[np.uint32]
    history: NDArray[np.uint64]
    length: NDArray[np.int32]
    digest: NDArray[np.uint64]


class Scratch(NamedTuple):
    """Memory of the kernel for one call."""

    past: NDArray[np.uint64]
    spare: NDArray[np.uint64]
    places: NDArray[np.uint64]
    countries: NDArray[np.uint64]
    running: NDArray[np.uint64]
    aggregates: NDArray[np.uint64]


def _keys(count: int) -> NDArray[np.uint64]:
    """Odd multipliers, by splitmix64."""
    keys, state = [], 0
    for _ in range(count):
        state = (state + 0x9E3779B97F4A7C15) % 2**64
        z = ((state ^ (state >> 30)) * 0xBF58476D1CE4E5B9) % 2**64
        z = ((z ^ (z >> 27)) * 0x94D049BB133111EB) % 2**64
        keys.append((z ^ (z >> 31)) | 1)
    return np.array(keys, np.uint64)


DIGEST_KEYS: Final = _keys(features.COUNT + 2)
"""Multipliers of the feature bits, then of the trail and of the length."""
WITHOUT_RESPONSE: Final = np.uint64(2**64 - 1 - (AUTH_MASK << AUTH_SHIFT))
"""Keeps all of an event's word 0 but its auth_response."""

_F = features.COUNT
_RISK_AT = features.RISK_AT
_ZERO, _ONE = np.uint64(0), np.uint64(1)
_S20 = np.uint64(TIME_SHIFT)
_S14 = np.uint64(AMOUNT_SHIFT)
_COUNTS = np.uint64(COUNTS_SHIFT)
_COUNTRY = np.uint64(COUNTRY_SHIFT)
_COUNTRY_MASK = np.uint64(COUNTRY_MASK)


@kernel
def digest_of(event: Words, trail: np.uint64, length: int, bits: NDArray[np.uint32]) -> np.uint64:
    """64 bits over everything that a scorer sees of one event."""
    keys = DIGEST_KEYS
    total = trail * keys[_F] + np.uint64(length) * keys[_F + 1]
    for at in range(_F):
        total += np.uint64(bits[at]) * keys[at]
    own = ring.event_digest(event[0] & WITHOUT_RESPONSE, event[1], event[2], event[3])
    return scramble(total ^ own)


@kernel
def later_than(view: Words, first: int, kept: int) -> tuple[int, np.uint64]:
    """Counting events behind the first `kept` of a history: how many, and their sum."""
    count, total = 0, _ZERO
    for j in range(first + kept, HISTORY):
        if (view[j, 0] >> _COUNTS) & _ONE == _ONE:
            count += 1
            total += view[j, 1] >> _S14
    return count, total


@kernel
def add_panes(cells: Cells, slot: int, t: int, late: bool, oldest: int, aggregates: Words) -> bool:
    """Complete the windows that reach behind the ring's oldest event. True if one may be inexact.

    Every event that has left the ring is at most as late as the ring's oldest, so a window that
    starts after it is complete. In order, no pane that a window needs has been reset; a late event
    may want one that was, so it counts as inexact even where no pane holds anything.
    """
    edge = False
    rows = ring.unpack_state(cells.heads[slot, 0])[3]
    for w in range(WINDOWS):
        if oldest < t - LENGTHS[w]:
            continue
        edge |= late
        row = WINDOWS - 1 - w
        if row < rows:
            edge |= take_from_row(cells.blocks, cells.index[slot], row, t, aggregates[w])
    return edge


@kernel
def describe(
    event: Words,
    head: Words,
    view: Words,
    first: int,
    newer: int,
    newer_sum: np.uint64,
    aggregates: Words,
    out: NDArray[np.float32],
) -> None:
    """The features that need no more than the history, the header and the windows."""
    t = np.int64(event[0] >> _S20)
    last = np.int64(view[HISTORY - 1, 0] >> _S20) if first < HISTORY else -1
    emit(aggregates, out)
    traits.tempo(t, head, aggregates, last, newer, newer_sum, out)
    traits.amounts(event[1] >> _S14, aggregates[WINDOWS - 1], out)
    traits.novelty(event, view, first, out)
    traits.itself(event, out)


@kernel
def one_event(
    i: int,
    cells: Cells,
    events: Events,
    results: Results,
    scratch: Scratch,
    keep: bool,
    epoch: np.uint64,
) -> None:
    """Steps 1 to 6 for event i."""
    event, slot, out = events.words[i], events.slots[i], results.features[i]
    view = results.history[i] if keep else scratch.past
    head = cells.heads[slot]
    flags, count, start, _ = ring.unpack_state(head[0])
    first = HISTORY - count
    ring.gather(cells.blocks, cells.index[slot], start, count, view)
    same = ring.find_same(view, first, event[2])
    results.status[i] = same
    if same != 0:
        view[:, :] = 0
        out[:] = 0.0
        return
    t = np.int64(event[0] >> _S20)
    oldest = np.int64(view[first, 0] >> _S20) if count > 0 else 0
    late = t < np.int64(head[NEWEST])
    trail, newer, newer_sum, kept = cells.trail[slot], 0, _ZERO, count
    if late:
        kept = ring.events_until(view, first, t)
        newer, newer_sum = later_than(view, first, kept)
        ring.keep_oldest(view, count, kept)
        first = HISTORY - kept
        trail = ring.trail_of(view, first)
    walk(
        view,
        first,
        t,
        scratch.places,
        scratch.countries,
        epoch,
        scratch.running,
        scratch.aggregates,
    )
    edge = False
    if flags & OVERFLOWED != 0:
        edge = add_panes(cells, slot, t, late, oldest, scratch.aggregates)
    describe(event, head, view, first, newer, newer_sum, scratch.aggregates, out)
    country = np.int64((event[3] >> _COUNTRY) & _COUNTRY_MASK)
    lat, lon = np.int64(events.latitude[i]), np.int64(events.longitude[i])
    traits.place(
        t, country, np.int64(events.billing[i]), np.int64(events.ip[i]), lat, lon, flags, head, out
    )
    for at in range(_RISK_AT, _F):
        out[at] = events.risk[i, at - _RISK_AT]
    results.late[i], results.edge[i], results.length[i] = late, edge, kept
    results.digest[i] = digest_of(event, trail, kept, results.bits[i])
    insert(cells, slot, event, kept, lat, lon, scratch.spare)


@entry
def apply_rows(
    begin: int, cells: Cells, events: Events, results: Results, scratch: Scratch, keep: bool
) -> int:
    """Apply events begin.. in order; stops early, at the event returned, when the pool runs low."""
    for i in range(begin, len(events.slots)):
        if cells.tally[FREE] < NEEDED_BLOCKS:
            return i
        one_event(i, cells, events, results, scratch, keep, np.uint64(i + 1))
    return len(events.slots)


def apply(columns: Columns, arena: Arena, risk: Risk | None, *, history: bool = True) -> Work:
    """Apply a micro-batch to its accounts, which the arena must hold.

    With `history` False the histories are left zero, for scorers that do not look at them; all
    else is the same.
    """
    n = len(columns.row)
    if risk is None:
        table = np.full((n, features.RISK_COUNT), features.UNKNOWN, features.DTYPE)
        versions = [NO_RISK] * n
    else:
        table, versions = risk.lookup(columns)
        assert table.shape == (n, features.RISK_COUNT) and len(versions) == n
    values = np.empty((n, features.COUNT), features.DTYPE)
    shape = (n, HISTORY, EVENT_WORDS)
    results = Results(
        status=np.zeros(n, np.uint8),
        late=np.zeros(n, np.bool_),
        edge=np.zeros(n, np.bool_),
        features=values,
        bits=values.view(np.uint32),
        history=np.empty(shape, np.uint64) if history else np.zeros(shape, np.uint64),
        length=np.zeros(n, np.int32),
        digest=np.zeros(n, np.uint64),
    )
    events = Events(
        words=np.ascontiguousarray(columns.words),
        slots=arena.slots(columns.account_id),
        latitude=columns.latitude,
        longitude=columns.longitude,
        billing=columns.billing_country,
        ip=columns.ip_country,
        risk=np.ascontiguousarray(table, np.float32),
    )
    scratch = Scratch(
        past=np.zeros((HISTORY, EVENT_WORDS), np.uint64),
        spare=np.zeros((HISTORY, EVENT_WORDS), np.uint64),
        places=np.zeros(PLACE_TABLE, np.uint64),
        countries=np.zeros(COUNTRY_TABLE, np.uint64),
        running=np.zeros(TOTALS, np.uint64),
        aggregates=np.zeros((WINDOWS, TOTALS), np.uint64),
    )
    done = apply_rows(0, arena.cells, events, results, scratch, history)
    while done < n:
        arena.make_room_for_blocks(NEEDED_BLOCKS)
        done = apply_rows(done, arena.cells, events, results, scratch, history)
    return Work(
        columns=columns,
        status=results.status,
        late=results.late,
        edge=results.edge,
        features=values,
        history=results.history,
        length=results.length,
        digest=results.digest,
        risk_versions=versions,
    )


def scoring_batch(work: Work, rows: NDArray[np.intp] | None = None) -> ScoringBatch:
    """What a model may see of the chosen rows (all by default): the response is taken out."""
    pick = slice(None) if rows is None else rows
    current = np.array(work.columns.words[pick], np.uint64, order="C")
    current[:, 0] &= WITHOUT_RESPONSE
    return ScoringBatch(
        current=current,
        history=work.history[pick],
        length=work.length[pick],
        features=work.features[pick],
    )
