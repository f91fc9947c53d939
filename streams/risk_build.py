"""Builds the risk snapshots, day by day, from transactions and labels in any order.

In: columns of accepted transactions, columns of labels. Out: the `Snapshot` of a day. Does not know
where the messages come from, nor when a day is due (`risk_feed.py`).

Kept in memory, for the days that a snapshot still to come can count:

1. Each transaction once: its key, day, merchant, terminal, and its newest label so far.
2. For each event day and entity: transactions, frauds and amount, as arrays by entity number.
   A snapshot is the sum of 1, 7 and 30 of them, so late transactions and labels cost one addition.
3. Labels that lie in the future of the last snapshot, or whose transaction has not come yet.

A repeated transaction (same account and id) counts once, the first in its partition. A label older
than the day of its transaction does not count: nobody could know. So labels older than the first
day that is kept can be dropped.
"""

from __future__ import annotations

from dataclasses import dataclass, fields
from typing import Final

import numpy as np
from numpy.typing import NDArray

from streams.columns import Columns
from streams.features import RISK_COURSE, RISK_DAYS
from streams.kernels.numbering import Numbering
from streams.labels import FRAUD, Labels, in_order, joined, transaction_keys
from streams.risk import NOTHING, Snapshot, Totals
from streams.schema import DAY_MS

LONGEST: Final = max(RISK_DAYS)
AMOUNT_LIMIT: Final = 10**12
"""An amount counts at most so many minor units: sums over 9 million such payments fit 63 bits."""
MERCHANT, TERMINAL = range(2)
NEVER: Final = np.iinfo(np.int64).min


@dataclass(slots=True)
class Rows:
    """One row a transaction. `time`, `rank`, `fraud`: its newest label applied; NEVER for none."""

    key: NDArray[np.uint64]
    day: NDArray[np.int32]
    merchant: NDArray[np.int32]
    terminal: NDArray[np.int32]
    time: NDArray[np.int64]
    rank: NDArray[np.uint64]
    fraud: NDArray[np.bool_]

    @classmethod
    def empty(cls, capacity: int) -> Rows:
        """Room for so many."""
        return cls(
            key=np.zeros(capacity, np.uint64),
            day=np.zeros(capacity, np.int32),
            merchant=np.zeros(capacity, np.int32),
            terminal=np.zeros(capacity, np.int32),
            time=np.zeros(capacity, np.int64),
            rank=np.zeros(capacity, np.uint64),
            fraud=np.zeros(capacity, np.bool_),
        )

    def moved(self, rows: NDArray[np.int64] | slice, capacity: int) -> Rows:
        """These rows at the start of new arrays."""
        fresh = Rows.empty(capacity)
        for field in fields(Rows):
            kept = getattr(self, field.name)[rows]
            getattr(fresh, field.name)[: len(kept)] = kept
        return fresh


@dataclass(slots=True)
class DaySums:
    """One event day of merchants or terminals, by entity number."""

    transactions: NDArray[np.int64]
    frauds: NDArray[np.int64]
    amounts: NDArray[np.int64]

    def arrays(self) -> tuple[NDArray[np.int64], NDArray[np.int64], NDArray[np.int64]]:
        """All three."""
        return self.transactions, self.frauds, self.amounts


def _sized(array: NDArray[np.int64], size: int) -> NDArray[np.int64]:
    """The array cut or filled with zeros to this size."""
    sized = np.zeros(size, np.int64)
    sized[: len(array)] = array[:size]
    return sized


class Entities:
    """Merchants or terminals: numbers for their ids, and the sums of each day."""

    def __init__(self) -> None:
        self.numbers = Numbering()
        self.days: dict[int, DaySums] = {}

    def _day(self, day: int) -> DaySums:
        need = self.numbers.count
        sums = self.days.get(day)
        if sums is None:
            sums = self.days[day] = DaySums(*(np.zeros(need, np.int64) for _ in range(3)))
        elif len(sums.transactions) < need:
            size = max(need, 2 * len(sums.transactions))
            sums = self.days[day] = DaySums(*(_sized(array, size) for array in sums.arrays()))
        return sums

    def add(
        self, days: NDArray[np.int32], numbers: NDArray[np.int32], amounts: NDArray[np.int64]
    ) -> None:
        """Count transactions; number -1 is nobody."""
        for day in np.unique(days).tolist():
            rows = (days == day) & (numbers >= 0)
            sums = self._day(day)
            np.add.at(sums.transactions, numbers[rows], 1)
            np.add.at(sums.amounts, numbers[rows], amounts[rows])

    def add_frauds(
        self, days: NDArray[np.int32], numbers: NDArray[np.int32], change: NDArray[np.int64]
    ) -> None:
        """Frauds that became known (+1) or were taken back (-1)."""
        for day in np.unique(days).tolist():
            rows = (days == day) & (numbers >= 0)
            np.add.at(self._day(day).frauds, numbers[rows], change[rows])

    def totals(self, end: int, now: int) -> Totals:
        """Sums over the windows of days that end before `end`, by ascending id, as of day `now`."""
        size = self.numbers.count
        windows = np.zeros((3, len(RISK_DAYS), size), np.int64)
        for day, sums in self.days.items():
            inside = [w for w, length in enumerate(RISK_DAYS) if end - length <= day < end]
            for which, array in enumerate(sums.arrays()) if inside else ():
                # The windows are nested: a day in a short one is in the longer ones too.
                windows[which, inside[0], : len(array)] += array[:size]
        windows = np.cumsum(windows, axis=1)
        present = np.flatnonzero(windows[0, -1] > 0)
        ids = self.numbers.keys()[present]
        order = np.argsort(ids)
        chosen = np.ascontiguousarray(windows[:, :, present[order]])
        course = np.ascontiguousarray(self._course(end, now)[:, present[order]])
        return Totals(ids[order], chosen[0], chosen[1], chosen[2], course)

    def _course(self, end: int, now: int) -> NDArray[np.int64]:
        """Of the longest window, the rows of RISK_COURSE by number; 0 where no fraud is known.

        A day of fraud counts whole as part of the time from first to last fraud: days are all that
        is known of the order.
        """
        size = self.numbers.count
        course = np.zeros((len(RISK_COURSE), size), np.int64)
        first, last, before, amid, after = course
        good = np.zeros(size, np.int64)
        until = np.zeros(size, np.int64)
        for day in sorted(day for day in self.days if end - LONGEST <= day < end):
            sums = self.days[day]
            struck = np.flatnonzero(sums.frauds[:size])
            fresh = struck[first[struck] == 0]
            first[fresh] = now - day
            before[fresh] = good[fresh]
            last[struck] = now - day
            clean = sums.transactions - sums.frauds
            good[: len(clean)] += clean[:size]
            until[struck] = good[struck]
        amid[:] = until - before
        after[:] = np.where(first > 0, good - until, 0)
        return course

    def renumbered(self, used: NDArray[np.int64]) -> Entities:
        """Only these numbers, which become 0, 1, 2 and so on."""
        fresh = Entities()
        fresh.numbers.add(self.numbers.keys()[used])
        for day, sums in self.days.items():
            fresh.days[day] = DaySums(
                *(_sized(array, self.numbers.count)[used] for array in sums.arrays())
            )
        return fresh


class RiskBuilder:
    """The state. Snapshots are built for ascending days."""

    def __init__(self, delay: int) -> None:
        self.delay = delay
        self.first = int(np.iinfo(np.int32).min)
        """Transactions of earlier days are no longer kept, nor taken."""
        self._numbers = Numbering()
        self._rows = Rows.empty(1_024)
        self._entities = (Entities(), Entities())
        self._labels: list[Labels] = []

    def __len__(self) -> int:
        return self._numbers.count

    def add(self, columns: Columns) -> None:
        """Count the accepted transactions of a batch."""
        days = (columns.event_time // DAY_MS).astype(np.int32)
        keys = transaction_keys(columns.account_id, columns.transaction_id)
        self.add_rows(keys, days, columns.merchant, columns.terminal, columns.amount)

    def add_rows(
        self,
        keys: NDArray[np.uint64],
        days: NDArray[np.int32],
        merchants: NDArray[np.uint64],
        terminals: NDArray[np.uint64],
        amounts: NDArray[np.int64],
    ) -> None:
        """The same from bare columns."""
        before = self._numbers.count
        taken = np.flatnonzero(days >= self.first)
        numbers = self._numbers.add(keys[taken])
        # New keys are numbered in order, so a row is new where its number is a new maximum.
        highest = np.maximum.accumulate(np.concatenate(([before - 1], numbers)))[:-1]
        new = taken[numbers > highest]
        after = self._numbers.count
        assert len(new) == after - before
        if after > len(self._rows.key):
            self._rows = self._rows.moved(slice(0, before), max(after, 2 * len(self._rows.key)))
        span = slice(before, after)
        self._rows.key[span] = keys[new]
        self._rows.day[span] = days[new]
        self._rows.time[span] = NEVER
        counted = np.minimum(amounts[new], AMOUNT_LIMIT)
        for which, ids in ((MERCHANT, merchants), (TERMINAL, terminals)):
            entities = self._entities[which]
            numbered = entities.numbers.add(ids[new])
            self._column(which)[span] = numbered
            entities.add(days[new], numbered, counted)

    def _column(self, which: int) -> NDArray[np.int32]:
        return self._rows.merchant if which == MERCHANT else self._rows.terminal

    def add_labels(self, labels: Labels) -> None:
        """Labels count from the first snapshot after their time."""
        if len(labels):
            self._labels.append(labels)

    def build(self, day: int) -> Snapshot:
        """The snapshot of a day, from what was added so far."""
        end = day - self.delay
        if not any(end - LONGEST <= each < end for each in self._entities[MERCHANT].days):
            return Snapshot(day, self.delay, NOTHING, NOTHING)
        self._apply_labels(day * DAY_MS)
        totals = [entities.totals(end, day) for entities in self._entities]
        return Snapshot(day, self.delay, totals[MERCHANT], totals[TERMINAL])

    def _apply_labels(self, moment: int) -> None:
        """Take up the labels of before `moment` whose transactions are known."""
        if not self._labels:
            return
        waiting = self._labels[0] if len(self._labels) == 1 else joined(self._labels)
        ready = waiting.time < moment
        ready[ready] = self._numbers.find(waiting.key[ready]) >= 0
        left = waiting.take(~ready)
        self._labels = [left] if len(left) else []
        chosen = in_order(waiting.take(ready))
        last = np.ones(len(chosen), np.bool_)
        last[:-1] = chosen.key[1:] != chosen.key[:-1]
        self._take_up(chosen.take(last))

    def _take_up(self, labels: Labels) -> None:
        """The newest label of each transaction; older than the one it has, it changes nothing."""
        at = self._numbers.find(labels.key)
        time, rank = self._rows.time[at], self._rows.rank[at]
        newer = (labels.time > time) | ((labels.time == time) & (labels.rank > rank))
        newer &= labels.time >= self._rows.day[at].astype(np.int64) * DAY_MS
        labels, at = labels.take(newer), at[newer]
        fraud = labels.verdict == FRAUD
        change = fraud.astype(np.int64) - self._rows.fraud[at]
        self._rows.time[at], self._rows.rank[at] = labels.time, labels.rank
        self._rows.fraud[at] = fraud
        moved = change != 0
        at, change = at[moved], change[moved]
        for which, entities in enumerate(self._entities):
            entities.add_frauds(self._rows.day[at], self._column(which)[at], change)

    def forget_before(self, day: int) -> None:
        """Snapshots before `day` will not be built: let go of the days that no later one counts."""
        first = day - self.delay - LONGEST
        if first <= self.first:
            return
        self.first = first
        for entities in self._entities:
            for old in [each for each in entities.days if each < first]:
                del entities.days[old]
        waiting = joined(self._labels)
        kept = waiting.take(waiting.time >= first * DAY_MS)
        self._labels = [kept] if len(kept) else []
        rows = self._numbers.count
        live = self._rows.day[:rows] >= first
        # Moving costs as much as the rows that stay: wait until as many can go.
        if 2 * np.count_nonzero(live) <= rows:
            self._compact(np.flatnonzero(live))

    def _compact(self, kept: NDArray[np.int64]) -> None:
        self._rows = self._rows.moved(kept, max(1_024, 2 * len(kept)))
        self._numbers = Numbering()
        self._numbers.add(self._rows.key[: len(kept)])
        fresh = []
        for which, entities in enumerate(self._entities):
            column = self._column(which)[: len(kept)]
            used = np.unique(column[column >= 0])
            place = np.full(entities.numbers.count + 1, -1, np.int32)
            place[used] = np.arange(len(used), dtype=np.int32)
            self._column(which)[: len(kept)] = place[column]
            fresh.append(entities.renumbered(used.astype(np.int64)))
        self._entities = (fresh[MERCHANT], fresh[TERMINAL])
