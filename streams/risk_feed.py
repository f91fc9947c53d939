"""When a period's snapshot is due: progress of each partition, and the builder behind it.

In: batches of transactions and labels as their partitions are read. Out: snapshots, in order of
periods, each once. Does not know Kafka: the caller says which partitions are read to their end.

The snapshot of period P is due when a transaction of P or later has been seen and each partition
of transactions has either shown a period >= P or been read to the end it had then. Labels have no
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
from streams.risk import Snapshot
from streams.risk_build import RiskBuilder
from streams.risk_pace import Pace

NO_PERIOD: Final = -1
"""Before every event: MIN_EVENT_TIME_MS is in the year 2000."""


class Progress:
    """One partition: the newest period seen, and the first offset of each period."""

    def __init__(self, start: int) -> None:
        self.reached = NO_PERIOD
        self.next = start
        self._first: dict[int, int] = {}

    def note(self, periods: NDArray[np.int64], offsets: NDArray[np.int64]) -> None:
        """Messages of these periods at these ascending offsets."""
        unique, at = np.unique(periods, return_index=True)
        for period, index in zip(unique.tolist(), at.tolist(), strict=True):
            self._first.setdefault(period, int(offsets[index]))

    def restart(self, first: int) -> int:
        """The offset from which all messages of period `first` and later can be read again."""
        self._first = {period: offset for period, offset in self._first.items() if period >= first}
        return min(self._first.values(), default=self.next)


class RiskFeed:
    """The builder and how far each partition is. `front`: the newest period decided."""

    def __init__(
        self,
        pace: Pace,
        transactions: Mapping[int, int],
        labels: Mapping[int, int],
        front: int | None = None,
    ) -> None:
        """`transactions` and `labels`: the offset at which each partition's reading starts."""
        self.pace = pace
        self.front = front
        self.newest = NO_PERIOD
        self._builder = RiskBuilder(pace)
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
        periods = self.pace.of_times(columns.event_time)
        progress.note(periods, columns.batch.offsets[columns.row])
        progress.reached = max(progress.reached, int(self.pace.of_events(columns).max()))
        self.newest = max(self.newest, progress.reached)
        oldest = int(periods.min())
        self._oldest = oldest if self._oldest is None else min(self._oldest, oldest)

    def add_labels(
        self, partition: int, labels: Labels, first_offset: int, next_offset: int
    ) -> None:
        """Labels of one partition, read from `first_offset` up to `next_offset`."""
        progress = self._labels[partition]
        progress.next = next_offset
        self._builder.add_labels(labels)
        if len(labels):
            periods = np.unique(self.pace.of_times(labels.time))
            progress.note(periods, np.full(len(periods), first_offset, np.int64))

    def reached(self) -> dict[int, int]:
        """The newest period that each partition of transactions has shown, NO_PERIOD for none."""
        return {partition: each.reached for partition, each in self._transactions.items()}

    def ready(self, at_end: Iterable[int]) -> int:
        """The newest period due if these partitions, and all of labels, are at their end."""
        ended = set(at_end)
        behind = [p.reached for n, p in self._transactions.items() if n not in ended]
        return min([self.newest, *behind])

    def snapshots(self, until: int) -> Iterator[Snapshot]:
        """The snapshots of the periods after the front up to `until`; empty ones are left out.

        The front moves with each; after the last it is `until`.
        """
        if self.newest == NO_PERIOD or self._oldest is None or until <= NO_PERIOD:
            return
        if self.front is None:
            self.front = self._oldest - 1
        while self.front < until:
            # Years may lie between two events: only periods that tell something are built.
            period = self._builder.next_told(self.front + 1)
            if period is None or period > until:
                self.front = until
                return
            self._builder.forget_before(period)
            snapshot = self._builder.build(period)
            self.front = period
            if not snapshot.empty:
                yield snapshot

    def restart(self) -> tuple[dict[int, int], dict[int, int]]:
        """Offsets of transactions and labels from which a feed with this front can go on."""
        first = NO_PERIOD
        if self.front is not None:
            first = self._builder.first_counted(self.front + 1)
        return (
            {partition: each.restart(first) for partition, each in self._transactions.items()},
            {partition: each.restart(first) for partition, each in self._labels.items()},
        )
