"""When a day's snapshot is due: progress of each partition, and the builder behind it.

In: batches of transactions and labels as their partitions are read. Out: snapshots, in order of
days, each once. Does not know Kafka: the caller says which partitions are read to their end.

The snapshot of day D is due when a transaction of day D or later has been seen and each partition
of transactions has either shown a day >= D or been read to the end it had then. Labels have no
order to rely on: their partitions must be read to the end they had then.

The feed remembers from which offset each partition must be read again to go on after a restart:
the smallest one that a snapshot still to come can count.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from typing import Final

import numpy as np
from numpy.typing import NDArray

from streams.columns import Columns
from streams.labels import Labels
from streams.risk import Snapshot, event_days
from streams.risk_build import LONGEST, RiskBuilder
from streams.schema import DAY_MS

NO_DAY: Final = -1
"""Before every event: MIN_EVENT_TIME_MS is in the year 2000."""


class Progress:
    """One partition: the newest day seen, and the first offset of each day."""

    def __init__(self, start: int) -> None:
        self.reached = NO_DAY
        self.next = start
        self._first: dict[int, int] = {}

    def note(self, days: NDArray[np.int64], offsets: NDArray[np.int64]) -> None:
        """Messages of these days at these ascending offsets."""
        unique, at = np.unique(days, return_index=True)
        for day, index in zip(unique.tolist(), at.tolist(), strict=True):
            self._first.setdefault(day, int(offsets[index]))

    def restart(self, first: int) -> int:
        """The offset from which all messages of day `first` and later can be read again."""
        self._first = {day: offset for day, offset in self._first.items() if day >= first}
        return min(self._first.values(), default=self.next)


class RiskFeed:
    """The builder and how far each partition is. `front`: the newest day decided, None before."""

    def __init__(
        self,
        delay: int,
        transactions: Mapping[int, int],
        labels: Mapping[int, int],
        front: int | None = None,
    ) -> None:
        """`transactions` and `labels`: the offset at which each partition's reading starts."""
        self.front = front
        self.newest = NO_DAY
        self._builder = RiskBuilder(delay)
        self._transactions = {p: Progress(start) for p, start in transactions.items()}
        self._labels = {p: Progress(start) for p, start in labels.items()}
        self._oldest: int | None = None
        if front is not None:
            self._builder.forget_before(front + 1)

    def __len__(self) -> int:
        """Transactions in memory."""
        return len(self._builder)

    def add(self, columns: Columns) -> None:
        """A decoded batch of one partition, in offset order."""
        progress = self._transactions[columns.batch.partition]
        progress.next = columns.batch.next_offset
        if not len(columns):
            return
        self._builder.add(columns)
        days = columns.event_time // DAY_MS
        progress.note(days, columns.batch.offsets[columns.row])
        progress.reached = max(progress.reached, int(event_days(columns).max()))
        self.newest = max(self.newest, progress.reached)
        oldest = int(days.min())
        self._oldest = oldest if self._oldest is None else min(self._oldest, oldest)

    def add_labels(
        self, partition: int, labels: Labels, first_offset: int, next_offset: int
    ) -> None:
        """Labels of one partition, read from `first_offset` up to `next_offset`."""
        progress = self._labels[partition]
        progress.next = next_offset
        self._builder.add_labels(labels)
        if len(labels):
            days = np.unique(labels.time // DAY_MS)
            progress.note(days, np.full(len(days), first_offset, np.int64))

    def reached(self) -> dict[int, int]:
        """The newest day that each partition of transactions has shown, NO_DAY for none."""
        return {partition: each.reached for partition, each in self._transactions.items()}

    def ready(self, at_end: Iterable[int]) -> int:
        """The newest day that is due if these partitions are at their end (and all of labels)."""
        ended = set(at_end)
        behind = [p.reached for n, p in self._transactions.items() if n not in ended]
        return min([self.newest, *behind])

    def snapshots(self, until: int) -> Iterator[Snapshot]:
        """The snapshots of the days after the front up to `until`; empty ones are left out.

        The front moves with each; after the last it is `until`.
        """
        if self.newest == NO_DAY or self._oldest is None or until <= NO_DAY:
            return
        if self.front is None:
            self.front = self._oldest - 1
        while self.front < until:
            day = self.front + 1
            self._builder.forget_before(day)
            snapshot = self._builder.build(day)
            self.front = day
            if not snapshot.empty:
                yield snapshot

    def restart(self) -> tuple[dict[int, int], dict[int, int]]:
        """Offsets of transactions and labels from which a feed with this front can go on."""
        first = NO_DAY
        if self.front is not None:
            first = self.front + 1 - self._builder.delay - LONGEST
        return (
            {partition: each.restart(first) for partition, each in self._transactions.items()},
            {partition: each.restart(first) for partition, each in self._labels.items()},
        )
