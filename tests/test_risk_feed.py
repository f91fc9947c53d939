"""When days are due, and from where a feed goes on after a restart."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
from hypothesis import given
from hypothesis import strategies as st

from streams.columns import Columns
from streams.risk import Snapshot
from streams.risk_build import RiskBuilder
from streams.risk_feed import NO_PERIOD, RiskFeed
from streams.risk_pace import Pace
from streams.schema import DAY_MS
from tests.test_risk import FIRST, Payment, Verdict, columns_of, labels_of


def at(offset: int, partition: int, *payments: Payment, appended: int = -1) -> Columns:
    """Columns of these payments at these offsets."""
    columns = columns_of(list(payments), appended, partition)
    n = len(payments)
    batch = replace(
        columns.batch,
        offsets=np.arange(offset, offset + n, dtype=np.int64),
        next_offset=offset + n,
    )
    return replace(columns, batch=batch)


def pay(day: int, number: int = 0) -> Payment:
    return Payment("x", f"{day}-{number}", FIRST + day, "m", None, 10)


def days(snapshots: list[Snapshot]) -> list[int]:
    return [snapshot.period - FIRST for snapshot in snapshots]


def test_a_day_is_due_when_every_partition_has_passed_it_or_ended() -> None:
    feed = RiskFeed(Pace(1), {0: 0, 1: 0}, {0: 0})
    assert feed.ready([]) == feed.ready([0, 1]) == NO_PERIOD
    feed.add(at(0, 0, pay(0), pay(3), pay(6)))
    assert feed.ready([]) == NO_PERIOD and feed.ready([1]) == FIRST + 6
    feed.add(at(0, 1, pay(4, 1)))
    assert feed.ready([]) == FIRST + 4 and feed.ready([1]) == FIRST + 6
    assert feed.ready([0]) == FIRST + 4 and feed.ready([0, 1]) == FIRST + 6


def test_snapshots_come_once_in_order_and_empty_days_are_left_out() -> None:
    feed = RiskFeed(Pace(1), {0: 0}, {0: 0})
    feed.add(at(0, 0, pay(0), pay(2), pay(60)))
    assert list(feed.snapshots(NO_PERIOD)) == [] and feed.front is None
    # Day 0 counts from day 2 on, for 30 days; between day 33 and day 62 nothing does.
    assert days(list(feed.snapshots(FIRST + 3))) == [2, 3]
    assert feed.front == FIRST + 3 and list(feed.snapshots(FIRST + 3)) == []
    assert days(list(feed.snapshots(FIRST + 62))) == [*range(4, 34), 62]
    assert feed.front == FIRST + 62


@given(st.lists(st.integers(0, 200), min_size=1, max_size=6), st.integers(0, 3))
def test_of_the_years_between_two_payments_only_periods_that_tell_are_built(
    paid: list[int], delay: int
) -> None:
    """The same snapshots as one a period would give, and one step a snapshot."""
    feed, slow = RiskFeed(Pace(delay), {0: 0}, {0: 0}), RiskBuilder(Pace(delay))
    columns = at(0, 0, *(pay(day, number) for number, day in enumerate(paid)), pay(9_000))
    feed.add(columns)
    slow.add(columns)
    each = [slow.build(FIRST + day) for day in range(260)]
    assert days(list(feed.snapshots(FIRST + 259))) == days([one for one in each if not one.empty])
    assert feed.front == FIRST + 259
    built = []
    make = feed._builder.build
    feed._builder.build = lambda period: built.append(period) or make(period)
    assert days(list(feed.snapshots(FIRST + 8_999))) == []
    assert built == [] and feed.front == FIRST + 8_999


def test_a_feed_gives_what_a_builder_that_knows_all_gives() -> None:
    """Whatever partition is read first; and it remembers only what a later day can count."""
    feed = RiskFeed(Pace(1), {0: 0, 1: 500}, {0: 0, 1: 900})
    new = [pay(day, 1) for day in range(20, 100)]
    old = [pay(day) for day in range(40)]
    verdicts = [
        Verdict("l", "x", p.transaction, "fraud", (p.day + 3) * DAY_MS) for p in (*new, *old)[::3]
    ]
    feed.add(at(0, 0, *new))
    feed.add(at(500, 1, *old))
    feed.add(at(540, 1))
    feed.add_labels(1, labels_of(verdicts), 900, 960)
    knows_all = RiskBuilder(Pace(1))
    knows_all.add(columns_of([*new, *old]))
    knows_all.add_labels(labels_of(verdicts))
    every = [knows_all.build(FIRST + day) for day in range(100)]
    found = list(feed.snapshots(FIRST + 99))
    assert [s.to_bytes() for s in found] == [s.to_bytes() for s in every if not s.empty]
    assert days(found) == [*range(2, 100)] and found[-1].merchants.frauds[-1].tolist() == [10]
    assert feed.reached() == {0: FIRST + 99, 1: FIRST + 39}
    assert len(feed) <= 2 * (1 + 30 + 1)
    # Day 100 counts from day 69 on: nothing of the quiet partition is read again.
    transactions, labels = feed.restart()
    assert transactions == {0: 69 - 20, 1: 540} and labels == {0: 0, 1: 900}
    feed.add(at(80, 0, pay(200)))
    assert list(feed.snapshots(FIRST + 200))
    assert feed.restart() == ({0: 80, 1: 540}, {0: 0, 1: 960})


def test_a_clock_that_runs_ahead_makes_no_day_due() -> None:
    feed = RiskFeed(Pace(1), {0: 0}, {0: 0})
    feed.add(at(0, 0, pay(0), pay(5), appended=(FIRST + 2) * DAY_MS + 7))
    assert feed.newest == FIRST + 2 and feed.ready([0]) == FIRST + 2


def test_a_restart_reads_all_that_counts_and_not_the_rest() -> None:
    pace = Pace(2)
    first = RiskFeed(pace, {0: 100, 1: 500}, {0: 900})
    assert first.restart() == ({0: 100, 1: 500}, {0: 900})
    payments = [pay(day, number) for day in range(80) for number in range(3)]
    cut = 60 * 3
    labels = [
        Verdict("l", p.account, p.transaction, "fraud", (p.day + 4) * DAY_MS) for p in payments[::2]
    ]
    for start in range(0, cut, 10):
        first.add(at(100 + start, 0, *payments[start : start + 10]))
    first.add_labels(0, labels_of(labels[: cut // 4]), 900, 945)
    first.add_labels(0, labels_of(labels[cut // 4 :]), 945, 1_000)
    built = list(first.snapshots(FIRST + 59))
    transactions, label_offsets = first.restart()
    # The oldest day that day 60 can count is 60 - 2 - 30 = 28.
    assert transactions == {0: 100 + 28 * 3, 1: 500} and label_offsets == {0: 900}
    second = RiskFeed(pace, transactions, label_offsets, first.front)
    second.add_labels(0, labels_of(labels), 900, 1_000)
    for start in range(28 * 3, len(payments), 7):
        for feed in (first, second):
            if feed is second or start + 7 > cut:
                part = payments[max(start, cut if feed is first else 0) : start + 7]
                feed.add(at(100 + start, 0, *part))
    one, two = list(first.snapshots(FIRST + 79)), list(second.snapshots(FIRST + 79))
    assert [s.to_bytes() for s in one] == [s.to_bytes() for s in two] and len(one) == 20
    assert days(built)[-1] == 59 and one[0].terminals.ids.size == 0
