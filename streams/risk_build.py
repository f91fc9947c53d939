"""Builds the risk snapshots, one a period, from transactions and labels in any order.

In: columns of accepted transactions, columns of labels. Out: the `Snapshot` of a period.
Does not know where the messages come from, nor when one is due (`risk_feed.py`).

Kept in memory, for the periods that a snapshot still to come can count:

1. Each transaction once: its key, period, merchant, terminal, and its newest label so far.
2. For each period and entity: transactions, frauds and amount, as arrays by entity number.
   A snapshot is the sum of 1, 7 and 30 days of them, so late transactions and labels cost one
   addition.
3. Labels that lie in the future of the last snapshot, or whose transaction has not come yet.

A repeated transaction (same account and id) counts once, the first in its partition. A label older
than the period of its transaction does not count: nobody could know. So labels older than the
first period that is kept can be dropped.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, fields
from typing import Final

import numpy as np
from numpy.typing import NDArray

from streams.columns import Columns
from streams.features import RISK_COURSE, RISK_DAYS
from streams.kernels.numbering import Numbering
from streams.labels import FRAUD, Labels, in_order, joined, transaction_keys
from streams.risk import NOTHING, Snapshot, Totals
from streams.risk_pace import Pace

AMOUNT_LIMIT: Final = 10**12
"""An amount counts at most so many minor units: sums over 9 million such payments fit 63 bits."""
MERCHANT, TERMINAL = range(2)
NEVER: Final = np.iinfo(np.int64).min


@dataclass(slots=True)
class Rows:
    """One row a transaction. `time`, `rank`, `fraud`: its newest label applied; NEVER for none."""

    key: NDArray[np.uint64]
    period: NDArray[np.int32]
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
            period=np.zeros(capacity, np.int32),
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
class Sums:
    """One period of merchants or terminals, by entity number."""

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
    """Merchants or terminals: numbers for their ids, and the sums of each period."""

    def __init__(self) -> None:
        self.numbers = Numbering()
        self.periods: dict[int, Sums] = {}

    def _of(self, period: int) -> Sums:
        need = self.numbers.count
        sums = self.periods.get(period)
        if sums is None:
            sums = self.periods[period] = Sums(*(np.zeros(need, np.int64) for _ in range(3)))
        elif len(sums.transactions) < need:
            size = max(need, 2 * len(sums.transactions))
            sums = self.periods[period] = Sums(*(_sized(array, size) for array in sums.arrays()))
        return sums

    def add(
        self, periods: NDArray[np.int32], numbers: NDArray[np.int32], amounts: NDArray[np.int64]
    ) -> None:
        """Count transactions; number -1 is nobody."""
        for period in np.unique(periods).tolist():
            rows = (periods == period) & (numbers >= 0)
            sums = self._of(period)
            np.add.at(sums.transactions, numbers[rows], 1)
            np.add.at(sums.amounts, numbers[rows], amounts[rows])

    def add_frauds(
        self, periods: NDArray[np.int32], numbers: NDArray[np.int32], change: NDArray[np.int64]
    ) -> None:
        """Frauds that became known (+1) or were taken back (-1)."""
        for period in np.unique(periods).tolist():
            rows = (periods == period) & (numbers >= 0)
            np.add.at(self._of(period).frauds, numbers[rows], change[rows])

    def totals(self, spans: Sequence[int], end: int, now: int) -> Totals:
        """Sums over the last so many periods before `end`, by ascending id, as of period `now`."""
        size = self.numbers.count
        windows = np.zeros((3, len(spans), size), np.int64)
        for period, sums in self.periods.items():
            inside = [w for w, length in enumerate(spans) if end - length <= period < end]
            for which, array in enumerate(sums.arrays()) if inside else ():
                # The windows are nested: a period in a short one is in the longer ones too.
                windows[which, inside[0], : len(array)] += array[:size]
        windows = np.cumsum(windows, axis=1)
        present = np.flatnonzero(windows[0, -1] > 0)
        ids = self.numbers.keys()[present]
        order = np.argsort(ids)
        chosen = np.ascontiguousarray(windows[:, :, present[order]])
        course = np.ascontiguousarray(self._course(end - spans[-1], end, now)[:, present[order]])
        return Totals(ids[order], chosen[0], chosen[1], chosen[2], course)

    def _course(self, begin: int, end: int, now: int) -> NDArray[np.int64]:
        """From `begin` to before `end`, the rows of RISK_COURSE by number; 0 where no fraud is (in
        the last: no good payment).

        A period of fraud counts whole as part of the time from first to last fraud: periods are all
        that is known of the order.
        """
        size = self.numbers.count
        course = np.zeros((len(RISK_COURSE), size), np.int64)
        first, last, before, amid, after, safe = course
        good = np.zeros(size, np.int64)
        until = np.zeros(size, np.int64)
        for period in sorted(period for period in self.periods if begin <= period < end):
            sums = self.periods[period]
            struck = np.flatnonzero(sums.frauds[:size])
            fresh = struck[first[struck] == 0]
            first[fresh] = now - period
            before[fresh] = good[fresh]
            last[struck] = now - period
            clean = (sums.transactions - sums.frauds)[:size]
            good[: len(clean)] += clean
            safe[: len(clean)][(clean > 0) & (first[: len(clean)] == 0)] = now - period
            until[struck] = good[struck]
        amid[:] = until - before
        after[:] = np.where(first > 0, good - until, 0)
        return course

    def renumbered(self, used: NDArray[np.int64]) -> Entities:
        """Only these numbers, which become 0, 1, 2 and so on."""
        fresh = Entities()
        fresh.numbers.add(self.numbers.keys()[used])
        for period, sums in self.periods.items():
            fresh.periods[period] = Sums(
                *(_sized(array, self.numbers.count)[used] for array in sums.arrays())
            )
        return fresh


class RiskBuilder:
    """The state. Snapshots are built for ascending periods."""

    def __init__(self, pace: Pace) -> None:
        self.pace = pace
        self._spans = [pace.periods(days) for days in RISK_DAYS]
        self.first = int(np.iinfo(np.int32).min)
        """Transactions of earlier periods are no longer kept, nor taken."""
        self._numbers = Numbering()
        self._rows = Rows.empty(1_024)
        self._entities = (Entities(), Entities())
        self._labels: list[Labels] = []

    def __len__(self) -> int:
        return self._numbers.count

    def add(self, columns: Columns) -> None:
        """Count the accepted transactions of a batch."""
        periods = self.pace.of_times(columns.event_time).astype(np.int32)
        keys = transaction_keys(columns.account_id, columns.transaction_id)
        self.add_rows(keys, periods, columns.merchant, columns.terminal, columns.amount)

    def add_rows(
        self,
        keys: NDArray[np.uint64],
        periods: NDArray[np.int32],
        merchants: NDArray[np.uint64],
        terminals: NDArray[np.uint64],
        amounts: NDArray[np.int64],
    ) -> None:
        """The same from bare columns."""
        before = self._numbers.count
        taken = np.flatnonzero(periods >= self.first)
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
        self._rows.period[span] = periods[new]
        self._rows.time[span] = NEVER
        counted = np.minimum(amounts[new], AMOUNT_LIMIT)
        for which, ids in ((MERCHANT, merchants), (TERMINAL, terminals)):
            entities = self._entities[which]
            numbered = entities.numbers.add(ids[new])
            self._column(which)[span] = numbered
            entities.add(periods[new], numbered, counted)

    def _column(self, which: int) -> NDArray[np.int32]:
        return self._rows.merchant if which == MERCHANT else self._rows.terminal

    def add_labels(self, labels: Labels) -> None:
        """Labels count from the first snapshot after their time."""
        if len(labels):
            self._labels.append(labels)

    def build(self, period: int) -> Snapshot:
        """The snapshot of a period, from what was added so far."""
        if self.next_told(period) != period:
            return Snapshot(period, self.pace, NOTHING, NOTHING)
        self._apply_labels(period * self.pace.ms)
        end = self.pace.counted_until(period)
        totals = [entities.totals(self._spans, end, period) for entities in self._entities]
        return Snapshot(period, self.pace, totals[MERCHANT], totals[TERMINAL])

    def first_counted(self, period: int) -> int:
        """The oldest period that the snapshot of `period` counts."""
        return self.pace.counted_until(period) - self._spans[-1]

    def next_told(self, period: int) -> int | None:
        """The first period from this one on whose snapshot counts anything; None, if none does."""
        delay, span = self.pace.periods(self.pace.delay), self._spans[-1]
        first = (
            max(period, each + delay + 1)
            for each in self._entities[MERCHANT].periods
            if each + delay + span >= period
        )
        return min(first, default=None)

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
        newer &= labels.time >= self._rows.period[at].astype(np.int64) * self.pace.ms
        labels, at = labels.take(newer), at[newer]
        fraud = labels.verdict == FRAUD
        change = fraud.astype(np.int64) - self._rows.fraud[at]
        self._rows.time[at], self._rows.rank[at] = labels.time, labels.rank
        self._rows.fraud[at] = fraud
        moved = change != 0
        at, change = at[moved], change[moved]
        for which, entities in enumerate(self._entities):
            entities.add_frauds(self._rows.period[at], self._column(which)[at], change)

    def forget_before(self, period: int) -> None:
        """No snapshot before that of `period` will be built: let go of what no later one counts."""
        first = self.first_counted(period)
        if first <= self.first:
            return
        self.first = first
        for entities in self._entities:
            for old in [each for each in entities.periods if each < first]:
                del entities.periods[old]
        waiting = joined(self._labels)
        kept = waiting.take(waiting.time >= first * self.pace.ms)
        self._labels = [kept] if len(kept) else []
        rows = self._numbers.count
        live = self._rows.period[:rows] >= first
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
