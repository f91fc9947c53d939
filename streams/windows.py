"""The Numba pass: apply each event to its account's record, emit its features and its history.

In: columns, an arena that holds their accounts, risk columns. Out: `Work`, and a changed arena.
Does not know Kafka, stores, models or rules. docs/windows.md is the contract; tests/oracle.py is
the same thing written slowly.

For each event, in arrival order:

1. Copy the account's ring in time order into the event's history. The id is among them: a duplicate
   or a conflict, and nothing changes.
2. A late event (older than the newest) sees only the events up to its own time: drop the others.
3. Walk from the newest event to the oldest once, a window's border at a time. Windows are nested,
   so the running totals *are* the window's aggregates when the walk has reached its start.
4. Where an event has left the ring and may lie in a window, add the panes that overlap it.
5. Emit the features, and a digest of all that a scorer will see.
6. Put the event into the ring in time order; what falls out goes to the panes.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Final, Protocol

import numpy as np
from numpy.typing import NDArray

from model.inputs import AUTH_MASK, AUTH_SHIFT, EVENT_WORDS, HISTORY, ScoringBatch
from streams import features
from streams.columns import Columns
from streams.kernels import SOURCES
from streams.kernels.advance import advance_chunk
from streams.kernels.cells import CHUNK, FREE, TRAIL, Before, Cells, Events, Results, before
from streams.kernels.record import Flag, Int, Word, Words, entry, kernel, outline, scramble
from streams.kernels.ring import event_digest
from streams.kernels.traits import describe_chunk
from streams.kernels.update import NEEDED_BLOCKS
from streams.kernels.walk import WINDOWS
from streams.state import Arena

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
    features: float32 [n, F]; history: uint64 [n, 64 or 0, 4]; length: int32 [n]; see ScoringBatch
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


@kernel
def digest_of(
    w0: Word,
    w1: Word,
    w2: Word,
    w3: Word,
    trail: Word,
    length: Int,
    bits: NDArray[np.uint32],
    i: Int,
) -> Word:
    """64 bits over everything that a scorer sees of one event."""
    total = trail * DIGEST_KEYS[_F] + np.uint64(length) * DIGEST_KEYS[_F + 1]
    for at in range(_F):
        total += np.uint64(bits[i, at]) * DIGEST_KEYS[at]
    return scramble(total ^ event_digest(w0 & WITHOUT_RESPONSE, w1, w2, w3))


@outline
def digest_chunk(before: Before, words: Words, begin: Int, many: Int, results: Results) -> None:
    """The digests of `many` events from `begin` on."""
    for at in range(many):
        i = begin + at
        if results.status[i] == APPLIED:
            results.digest[i] = digest_of(
                words[i, 0],
                words[i, 1],
                words[i, 2],
                words[i, 3],
                before.trail[at, TRAIL],
                results.length[i],
                results.bits,
                i,
            )


@outline
def apply_chunks(
    begin: Int, cells: Cells, events: Events, results: Results, before: Before, keep: Flag
) -> Int:
    """Apply events begin.. in order; stops early, at the event returned, when the pool runs low."""
    total = len(events.slots)
    while begin < total:
        many = min(CHUNK, total - begin, cells.tally[FREE] // NEEDED_BLOCKS)
        if many == 0:
            break
        advance_chunk(begin, many, cells, events, results, before, keep)
        describe_chunk(before, events, begin, many, results)
        digest_chunk(before, events.words, begin, many, results)
        begin += many
    return begin


def _entry(sources: str) -> Callable[..., int]:
    @entry
    def apply_rows(
        begin: Int, cells: Cells, events: Events, results: Results, before: Before, keep: Flag
    ) -> Int:
        assert sources
        return apply_chunks(begin, cells, events, results, before, keep)

    return apply_rows


apply_rows = _entry(SOURCES)


def apply(columns: Columns, arena: Arena, risk: Risk | None, *, history: bool = True) -> Work:
    """Apply a micro-batch to its accounts, which the arena must hold.

    With `history` False the histories have no rows, for scorers that do not look at them: at 2 KB
    an event even zeros are dear. All else is the same.
    """
    n = len(columns.row)
    if risk is None:
        table = np.full((n, features.RISK_COUNT), features.UNKNOWN, features.DTYPE)
        versions = [NO_RISK] * n
    else:
        table, versions = risk.lookup(columns)
        assert table.shape == (n, features.RISK_COUNT) and len(versions) == n
    values = np.empty((n, features.COUNT), features.DTYPE)
    results = Results(
        status=np.zeros(n, np.uint8),
        late=np.zeros(n, np.bool_),
        edge=np.zeros(n, np.bool_),
        features=values,
        bits=values.view(np.uint32),
        history=np.empty((n, HISTORY if history else 0, EVENT_WORDS), np.uint64),
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
    scratch = before(WINDOWS)
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
