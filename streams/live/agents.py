"""The agent: what several partitions have ready goes through the pipeline as one round.

In: micro-batches that `intake.py` collected. Out: commits in the store and messages on Kafka.
Does not know Faust, how the store commits, or what a score means.

Everything here happens in the worker's one thread, so that the event loop and the consumer's
heartbeats go on while Numba, the model and Redis are busy. A round is all or nothing per partition:

    read -> load -> advance -> score -> settle -> commit -> deliver -> (trim), then the loop acks

A message is never skipped. A commit refused means that memory is wrong: `Conflict` drops the
partition's arena, claims again and seeks; `Fenced` gives the partition up. A store that is full or
away is waited for. Everything else ends the process, and the next one starts from the store.
"""

from __future__ import annotations

import logging
import time
from collections import defaultdict
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Final, Protocol

import numpy as np
from numpy.typing import NDArray

from model.inputs import AnyScorer
from streams.alerts import rendered
from streams.batch import Batch, headers_of
from streams.columns import Columns, refused
from streams.errors import Conflict, Fenced, PartitionError, StoreFull
from streams.live.failpoint import Failpoint
from streams.live.outbox import Outbox
from streams.live.partitions import Held, Partitions
from streams.live.patience import Patience
from streams.live.records import packed
from streams.metrics import Metrics
from streams.pipeline import Outcome, Policy, Work, advance, read, read_all, score, settle
from streams.risk import RiskView
from streams.schema import Reject
from streams.state import Arena
from streams.store import Commit, Store

TRIM_ENTRIES: Final = 16
"""Delivered entries of a partition left in the store's outbox until one call drops them all: a
trim costs a disk sync, and a repeat after a crash costs a few messages that readers drop."""
TRIM_BYTES: Final = 1_048_576
"""The same in bytes of entries."""

ASK_EVERY_S: Final = 10.0
"""A partition whose accounts are all in memory asks the store so often for none: that a rebuild
put other keys in use, without coming to retire these, is told by a load alone."""

_logger = logging.getLogger(__name__)


class RiskSource(Protocol):
    """Where a round's risk snapshots come from."""

    def view(self, columns: Sequence[Columns]) -> tuple[RiskView, int]:
        """Snapshots for these events, and how many of them must do with an older one.

        May wait, a bounded time. Raises StoreLost; may be asked again.
        """
        ...


def joined(batches: Sequence[Batch]) -> Batch:
    """Consecutive batches of one partition as one."""
    if len(batches) == 1:
        return batches[0]
    return Batch(
        topic=batches[0].topic,
        partition=batches[0].partition,
        offsets=np.concatenate([b.offsets for b in batches]),
        timestamps=np.concatenate([b.timestamps for b in batches]),
        keys=[key for b in batches for key in b.keys],
        values=[value for b in batches for value in b.values],
        headers=headers_of(batches),
        next_offset=batches[-1].next_offset,
    )


def warm(scorer: AnyScorer, policy: Policy) -> None:
    """Take two made-up transactions the whole pure way, so that everything is compiled and loaded.

    Done before a partition is claimed: the first compilation takes longer than a session lasts.
    """
    value = (
        b'{"schema_version":1,"transaction_id":"t","account_id":"a","event_time":1735689600000,'
        b'"amount":1,"currency":"EUR"}'
    )
    times = np.full(2, 1_735_689_600_000, np.int64)
    batch = Batch("", 0, np.arange(2), times, [b"a", b"a"], [value, value[:-1]], None, 2)
    arena = Arena(0, 1)
    for _ in range(2):
        columns = read(batch, {}, 0)
        arena.fill([(account, None) for account in arena.missing(columns.account_id)])
        work = advance(columns, arena, None, history=True)
        outcome = settle(work, score(scorer, [work])[0], policy)
        assert outcome.entry is not None
        packed([rendered(outcome.entry, 0)], defaultdict(lambda: 1), 0)
        record = arena.writes()
        arena.settled()
    again = Arena(0, 1)
    again.fill([("a", arena.record("a"))])
    assert len(record) <= 1


class Round:
    """One round, in the worker's thread."""

    def __init__(
        self,
        partitions: Partitions,
        store: Store,
        outbox: Outbox,
        scorer: AnyScorer,
        policy: Callable[[], Policy],
        risk: RiskSource | None,
        *,
        max_future_ms: int,
        patience: Patience,
        failpoint: Failpoint,
        metrics: Metrics,
    ) -> None:
        self._partitions = partitions
        self._store = store
        self._outbox = outbox
        self._scorer = scorer
        self._policy = policy
        self._risk = risk
        self._max_future_ms = max_future_ms
        self._patience = patience
        self._failpoint = failpoint
        self._metrics = metrics

    @contextmanager
    def _stage(self, name: str) -> Iterator[None]:
        began = time.perf_counter()
        yield
        self._metrics.stages.labels(name).observe(time.perf_counter() - began)

    def run(self, ready: Sequence[Sequence[Batch]]) -> dict[int, PartitionError | None]:
        """Move partitions on by the consecutive batches of each.

        Returns what stood in the way, per partition: Fenced or Conflict. Raises what ends the
        process. Every partition must be held.
        """
        with self._stage("round"):
            batches = [joined(each) for each in ready]
            self._metrics.fill.observe(sum(map(len, batches)))
            return self._run(batches)

    def _run(self, batches: Sequence[Batch]) -> dict[int, PartitionError | None]:
        passed = self._failpoint.passed
        held = [self._partitions.held[batch.partition] for batch in batches]
        passed("fetched")
        unread = [
            len(batch) > 0 and self._partitions.careful(each, batch.first, len(batch))
            for batch, each in zip(batches, held, strict=True)
        ]
        self._failpoint.reading(
            batch for batch, left in zip(batches, unread, strict=True) if not left
        )
        with self._stage("decode"):
            columns = self._read(batches, held, unread)
        passed("decoded")
        with self._stage("load"):
            refused = self._load_all(held, columns)
        held = [each for each in held if each.claim.partition not in refused]
        columns = [column for column in columns if column.batch.partition not in refused]
        passed("loaded")
        view = self._snapshots(columns)
        with self._stage("advance"):
            history = self._scorer.needs_history
            works = [
                advance(column, each.arena, view, history=history)
                for each, column in zip(held, columns, strict=True)
            ]
        passed("advanced")
        with self._stage("score"):
            scores = score(self._scorer, works)
        passed("scored")
        with self._stage("settle"):
            policy = self._policy()
            outcomes = [settle(w, s, policy) for w, s in zip(works, scores, strict=True)]
        passed("settled")
        with self._stage("commit"):
            results = self._commit(held, works, outcomes)
        passed("committed")
        with self._stage("deliver"):
            self._deliver(held, outcomes, results)
        passed("delivered")
        with self._stage("trim"):
            self._trim(held, results)
        passed("trimmed")
        self._account(works, outcomes, results)
        return results | refused

    def _read(
        self, batches: Sequence[Batch], held: Sequence[Held], unread: Sequence[bool]
    ) -> list[Columns]:
        mine = [(b, each) for b, each, left in zip(batches, held, unread, strict=True) if not left]
        found = iter(
            read_all(
                [batch for batch, _ in mine],
                [each.forgotten for _, each in mine],
                self._max_future_ms,
            )
        )
        return [
            self._put_aside(batch) if left else next(found)
            for batch, left in zip(batches, unread, strict=True)
        ]

    @staticmethod
    def _put_aside(batch: Batch) -> Columns:
        _logger.error(
            "quarantined: every worker that handled this message died (partition %d offset %d)",
            batch.partition,
            batch.offsets[0],
        )
        return refused(batch, Reject.QUARANTINED, "every worker that handled it died")

    def _load_all(
        self, held: Sequence[Held], columns: Sequence[Columns]
    ) -> dict[int, PartitionError | None]:
        """Fill every arena; the partitions that are no longer ours, or not where we saw them."""
        now = time.monotonic()
        asking: list[tuple[Held, list[str]]] = []
        for each, column in zip(held, columns, strict=True):
            missing = each.arena.missing(column.account_id)
            if missing or now - each.asked > ASK_EVERY_S:
                asking.append((each, missing))
            self._metrics.arena_misses.inc(len(missing))
            self._metrics.arena_hits.inc(len(set(column.account_id)) - len(missing))
            self._partitions.look_ahead(each)
        if not asking:
            return {}
        asked = [(each.claim, missing, each.applied) for each, missing in asking]
        answers = self._patience(self._store.load_all, asked)
        refused: dict[int, PartitionError | None] = {}
        for (each, missing), answer in zip(asking, answers, strict=True):
            if isinstance(answer, PartitionError):
                refused[each.claim.partition] = answer
                continue
            each.arena.fill(list(zip(missing, answer, strict=True)))
            each.asked = now
        return refused

    def _snapshots(self, columns: Sequence[Columns]) -> RiskView | None:
        if self._risk is None or not any(map(len, columns)):
            return None
        with self._stage("risk"):
            view, stale = self._patience(self._risk.view, columns)
        self._metrics.risk_stale.inc(stale)
        return view

    def _commit(
        self, held: Sequence[Held], works: Sequence[Work], outcomes: Sequence[Outcome]
    ) -> dict[int, PartitionError | None]:
        """Commit every partition; wait while the store is full, and then for those alone."""
        left = {
            each.claim.partition: (each, self._step(each, work, outcome))
            for each, work, outcome in zip(held, works, outcomes, strict=True)
        }
        results: dict[int, PartitionError | None] = {}

        def attempt() -> None:
            steps = list(left.values())
            answers = self._store.commit_all([(each.claim, step) for each, step in steps])
            full: StoreFull | None = None
            for (each, step), error in zip(steps, answers, strict=True):
                if isinstance(error, StoreFull):
                    full = error
                    continue
                if error is None:
                    each.arena.settled()
                    each.applied = step.next
                results[each.claim.partition] = error
                del left[each.claim.partition]
            if full is not None:
                raise full

        self._patience(attempt)
        return results

    @staticmethod
    def _step(held: Held, work: Work, outcome: Outcome) -> Commit:
        batch = work.columns.batch
        return Commit(
            expected=held.applied,
            next=batch.next_offset,
            writes=held.arena.writes(),
            erased=[(name, int(batch.offsets[row])) for row, name in work.columns.tombstones],
            entry=outcome.entry,
        )

    def _deliver(
        self,
        held: Sequence[Held],
        outcomes: Sequence[Outcome],
        results: Mapping[int, PartitionError | None],
    ) -> None:
        done = [
            (each, outcome.entry)
            for each, outcome in zip(held, outcomes, strict=True)
            if results[each.claim.partition] is None and outcome.entry is not None
        ]
        self._outbox.deliver([entry for _, entry in done])
        for each, entry in done:
            assert each.applied is not None
            each.sent.append(each.applied)
            each.sent_bytes += len(entry)

    def _trim(self, held: Sequence[Held], results: dict[int, PartitionError | None]) -> None:
        """Trim the longest outbox, if it is long enough, and those that hold much.

        Each trim is a disk sync, and partitions come of age together: all at once would be felt.
        """
        due = [
            each
            for each in held
            if results[each.claim.partition] is None
            and (len(each.sent) >= TRIM_ENTRIES or each.sent_bytes >= TRIM_BYTES)
        ]
        due.sort(key=lambda each: (each.sent_bytes >= TRIM_BYTES, len(each.sent)), reverse=True)
        for place, each in enumerate(due):
            if place == 0 or each.sent_bytes >= TRIM_BYTES:
                try:
                    self._partitions.trim(each)
                except (Fenced, Conflict) as error:
                    results[each.claim.partition] = error

    def _account(
        self,
        works: Sequence[Work],
        outcomes: Sequence[Outcome],
        results: Mapping[int, PartitionError | None],
    ) -> None:
        now_ms = time.time_ns() // 1_000_000
        for work, outcome in zip(works, outcomes, strict=True):
            batch = work.columns.batch
            if results[batch.partition] is None:
                self._metrics.count(outcome.counts)
                oldest: NDArray[np.int64] = batch.timestamps[:1]
                if len(oldest) and oldest[0] >= 0:
                    self._metrics.latency.observe(max(now_ms - int(oldest[0]), 0) / 1000)
