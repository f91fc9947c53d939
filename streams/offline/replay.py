"""One shard through the pipeline, in this process.

In: batches, risk snapshots, judges. Out: what the pipeline made of each batch.
Does not know where the batches come from nor what is done with the result; knows no Kafka or Redis.
It calls `pipeline.py` exactly as the live worker does; that, and one account living in one shard
only, is why live and replay agree bit for bit.

The first judge is the champion. All see the same features from one pass; each has its own scores,
decisions and alerts.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Protocol

import numpy as np

from streams.assembly import Judge
from streams.batch import Batch
from streams.columns import Columns
from streams.entry import Entry, unpack
from streams.pipeline import Work, advance, read, score, settle
from streams.risk import RiskView
from streams.state import Arena
from streams.store import WHOLE, Claim, Commit, Identity, Store, Writes
from streams.store.memory import MemoryStore
from streams.writes import NO_WRITES

BATCH_EVENTS = 4_096
PAGE = 4_096
"""Accounts of a snapshot taken up in one step."""
ARENA_BYTES = 256 * 2**20
REPLAY = Identity("replay", 1)


class RiskFor(Protocol):
    """Gives the risk snapshots that a batch is looked up in."""

    def view(self, columns: Columns) -> RiskView | None:
        """The snapshots for the days of these events; None for no risk at all."""
        ...


@dataclass(frozen=True, slots=True)
class Step:
    """One batch after the pipeline: its work, and per judge the entry (None when it is empty)."""

    work: Work
    entries: list[Entry | None]
    counts: list[dict[str, int]]


class Shard:
    """The state of one shard and the judges over it."""

    def __init__(
        self,
        number: int,
        judges: Sequence[Judge],
        risk: RiskFor | None,
        *,
        max_future_ms: int,
        forgotten: Mapping[bytes, int],
        history: bool = False,
        arena_bytes: int = ARENA_BYTES,
        store: Store | None = None,
        identity: Identity = REPLAY,
    ) -> None:
        self._judges = judges
        self._risk = risk
        self._max_future_ms = max_future_ms
        self._forgotten = dict(forgotten)
        self._arena = Arena(number, arena_bytes)
        self._given = store is not None
        self._store = MemoryStore() if store is None else store
        self._claim: Claim = self._store.acquire(number, identity)
        self._step: int | None = None
        """Where the store stands, in steps of our own. Offsets of the log would not do: a page of
        accounts is a step, and there may be more of these than messages before them."""
        self._moved = False
        self._erased: list[tuple[str, int]] = []
        self._start = 0
        self._history = history or any(judge.scorer.needs_history for judge in judges)

    def step(self, batch: Batch) -> Step:
        """Move the state on by one batch; every judge scores and settles it."""
        columns = read(batch, self._forgotten, self._max_future_ms)
        missing = self._arena.missing(columns.account_id)
        records = self._store.load(self._claim, missing, self._step)
        self._arena.fill(list(zip(missing, records, strict=True)))
        risk = None if self._risk is None else self._risk.view(columns)
        work = advance(columns, self._arena, risk, history=self._history)
        entries: list[Entry | None] = []
        counts: list[dict[str, int]] = []
        for judge in self._judges:
            outcome = settle(work, score(judge.scorer, [work])[0], judge.policy_now())
            entries.append(None if outcome.entry is None else unpack(outcome.entry))
            counts.append(outcome.counts)
        self._keep(batch, columns)
        return Step(work, entries, counts)

    def _keep(self, batch: Batch, columns: Columns) -> None:
        """Move on. A given store is written after each batch. Nobody else reads our own, so it
        gets records only when the arena has little room left, and with erasures."""
        self._moved = True
        self._erased += [(account, int(batch.offsets[row])) for row, account in columns.tombstones]
        if self._given or self._erased or self._arena.crowded:
            self._flush()

    def _flush(self) -> None:
        """The store holds what the arena holds."""
        if not self._moved:
            return
        for writes in list(self._arena.pages()) or [NO_WRITES]:
            self._commit(writes)
        self._moved = False
        self._arena.settled()

    def _commit(self, writes: Writes) -> None:
        """One step of the store: a page of accounts, and the erasures before it."""
        after = 1 if self._step is None else self._step + 1
        self._store.commit(self._claim, Commit(self._step, after, writes, self._erased))
        self._step, self._erased = after, []

    def start_from(self, records: Iterator[tuple[str, bytes]], offset: int) -> None:
        """Begin with the state of a snapshot; messages before `offset` are in it already."""
        assert self._step is None and not self._moved, "the shard has moved already"
        whole = [(account, [(WHOLE, record)]) for account, record in records]
        for at in range(0, len(whole), PAGE):
            self._commit(Writes.of(whole[at : at + PAGE]))
        self._start = offset

    def steps(self, batches: Iterator[Batch]) -> Iterator[Step]:
        """All batches in order, from the snapshot's offset on if there is one."""
        for batch in batches:
            if batch.next_offset > self._start:
                yield self.step(since(batch, self._start))

    def record(self, account: str) -> bytes | None:
        """The account's record as the store holds it."""
        self._flush()
        return self._store.load(self._claim, [account], self._step)[0]


def since(batch: Batch, offset: int) -> Batch:
    """The messages of the batch from `offset` on."""
    at = int(np.searchsorted(batch.offsets, offset))
    if at == 0:
        return batch
    return Batch(
        topic=batch.topic,
        partition=batch.partition,
        offsets=batch.offsets[at:],
        timestamps=batch.timestamps[at:],
        keys=batch.keys[at:],
        values=batch.values[at:],
        headers=None if batch.headers is None else batch.headers[at:],
        next_offset=batch.next_offset,
    )
