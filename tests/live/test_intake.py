"""Which events make a round, which are dropped, and how a round's answers end."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import numpy as np
import pytest
from faust.types import TP

from streams.batch import Batch
from streams.errors import BrokerError, Conflict, Fenced, Overtaken, PartitionError, StoreError
from streams.live.failpoint import Failpoint
from streams.live.intake import Intake
from streams.live.microbatch import RangeMessage
from streams.live.patience import Stopped
from streams.live.ranges import Fetched, LogRange, Reach
from streams.metrics import Metrics

TP0, TP1 = TP("transactions", 0), TP("transactions", 1)
LOGS = {tp: LogRange(0, 1_000, None) for tp in (TP0, TP1)}

Answer = Mapping[int, PartitionError | None] | BaseException


class Event:
    """What Faust's stream yields."""

    def __init__(self, tp: TP, begin: int, end: int, epoch: int = 1, first: int | None = None):
        offsets = np.arange(begin if first is None else first, end, dtype=np.int64)
        n = len(offsets)
        values: list[bytes | None] = [b"%d" % offset for offset in offsets]
        batch = Batch(tp.topic, tp.partition, offsets, offsets, [b"k"] * n, values, None, end)
        self.message = RangeMessage([Fetched(batch, begin, epoch)], 1)
        self.acked = False

    def __add__(self, other: Event) -> Event:
        """Both as one event."""
        self.message = RangeMessage(self.message.ranges + other.message.ranges, 1)
        return self

    def ack(self) -> bool:
        self.acked = True
        return True


class Stream:
    """A stream over a queue; ends at None."""

    def __init__(self) -> None:
        self.queue: asyncio.Queue[Event | None] = asyncio.Queue()

    def noack(self) -> Stream:
        return self

    async def events(self) -> AsyncIterator[Event]:
        while (event := await self.queue.get()) is not None:
            await asyncio.sleep(0)
            yield event


class Consumer:
    """The parts of RangeConsumer that the intake calls."""

    def __init__(self) -> None:
        self.released: list[RangeMessage] = []
        self.placed: list[dict[TP, int]] = []
        self.earliest = 0

    def release(self, message: RangeMessage) -> None:
        self.released.append(message)

    async def log_ranges(self, partitions: Sequence[TP]) -> dict[TP, LogRange]:
        return {tp: LOGS[tp] for tp in partitions}

    async def place(self, positions: Mapping[TP, int]) -> None:
        self.placed.append(dict(positions))

    async def earliest_offsets(self, *partitions: TP) -> dict[TP, int]:
        return dict.fromkeys(partitions, self.earliest)

    def reach(self) -> dict[TP, Reach]:
        return {TP0: Reach(30, 30, 100), TP1: Reach(0, 0, 7)}


class Shares:
    """The parts of Partitions that the intake calls."""

    def __init__(self) -> None:
        self.claims: list[set[int]] = []
        self.dropped: list[int] = []
        self.released: list[int] = []
        self.stored = 0
        self.held = {0, 1}
        self.limits: dict[int, int] = {}
        self.broken = False

    def claim(self, logs: Mapping[int, LogRange]) -> dict[int, int]:
        self.claims.append(set(logs))
        return dict.fromkeys(logs, self.stored)

    def limit(self, partition: int) -> int | None:
        return self.limits.get(partition)

    def disown(self, partition: int) -> None:
        self.dropped.append(partition)

    def drop(self, partition: int) -> None:
        self.dropped.append(partition)

    def release(self, partition: int) -> None:
        self.released.append(partition)

    def release_all(self) -> None:
        self.released += sorted(self.held)


class Case:
    """An intake with both partitions claimed from offset 0 in epoch 1."""

    def __init__(self, answer: Callable[[int], Answer] | None = None) -> None:
        self.stream, self.consumer, self.shares = Stream(), Consumer(), Shares()
        self.rounds: list[list[list[bytes | None]]] = []
        self.crashes: list[BaseException] = []
        self.metrics = Metrics()
        self.answer = answer
        self.intake = Intake(
            self.shares,  # type: ignore[arg-type]
            self.run,
            ThreadPoolExecutor(1),
            round_events=100,
            failpoint=Failpoint(None),
            metrics=self.metrics,
            crash=self.crash,
            consumer=lambda: self.consumer,  # type: ignore[arg-type, return-value]
        )

    def run(self, ready: Sequence[Sequence[Batch]]) -> Mapping[int, PartitionError | None]:
        self.rounds.append([[value for b in each for value in b.values] for each in ready])
        partitions = [each[0].partition for each in ready]
        answer = self.answer(len(self.rounds)) if self.answer else {}
        if isinstance(answer, BaseException):
            raise answer
        return {partition: answer.get(partition) for partition in partitions}

    async def crash(self, reason: BaseException) -> None:
        self.crashes.append(reason)

    async def through(self, *events: Event) -> None:
        """Claim, then feed these events and let the agent end."""
        await self.intake.claim(LOGS)
        await self.intake.placed({TP0: 0, TP1: 0}, 1)
        for event in (*events, None):
            self.stream.queue.put_nowait(event)
        await asyncio.wait_for(self.intake.work(self.stream), 120)

    def metric(self, name: str) -> float:
        return self.metrics.registry.get_sample_value(f"fraudstream_{name}") or 0.0


def drive(case: Case, *events: Event) -> Case:
    asyncio.run(case.through(*events))
    assert not case.intake._open, "Faust would wait for them in every rebalance"
    return case


def test_what_several_partitions_have_ready_is_one_round() -> None:
    events = [Event(TP0, 0, 2), Event(TP1, 0, 1), Event(TP0, 2, 3)]
    case = drive(Case(), *events)
    assert case.rounds == [[[b"0", b"1", b"2"], [b"0"]]]
    assert all(event.acked for event in events) and case.intake.rounds == 1
    assert case.consumer.released == []


def test_ranges_of_one_event_end_each_by_its_own_partition() -> None:
    """An ack must not mean what was read before a seek, or what a newer owner refused."""
    case = Case(lambda number: {0: Fenced("newer owner", partition=0)} if number == 2 else {})
    stale = Event(TP0, 500, 510, epoch=0) + Event(TP0, 0, 1) + Event(TP1, 0, 3)
    fenced = Event(TP0, 1, 60) + Event(TP1, 3, 4) + Event(TP1, 4, 90)
    behind = Event(TP0, 60, 61) + Event(TP1, 90, 91)
    drive(case, stale, fenced, behind)
    assert [[len(part) for part in each] for each in case.rounds] == [[1, 3], [59, 87], [1]]
    assert [each.message.left for each in (stale, fenced, behind)] == [{0}, {0}, {0}]
    assert stale.acked and fenced.acked and behind.acked and case.consumer.released == []
    assert case.metric("stale_batches_total") == 2 and case.intake.rounds == 3


def test_a_round_is_bounded() -> None:
    events = [Event(TP0, 0, 60), Event(TP0, 60, 90), Event(TP1, 0, 11), Event(TP1, 11, 500)]
    case = drive(Case(), *events)
    sizes = [sum(map(len, each)) for each in case.rounds]
    assert sizes == [90, 11, 489], "one batch may be larger, two may not"
    assert all(event.acked for event in events)


def test_a_partition_that_needs_care_goes_in_small_portions() -> None:
    case = Case()
    case.shares.limits[0] = 2
    one, two, other = Event(TP0, 0, 3), Event(TP0, 3, 5), Event(TP1, 0, 4)
    drive(case, one, other, two)
    assert case.rounds == [
        [[b"0", b"1"], [b"0", b"1", b"2", b"3"]],
        [[b"2"]],
        [[b"3", b"4"]],
    ]
    assert one.acked and two.acked and other.acked


def test_a_portion_refused_leaves_the_rest_of_its_partition() -> None:
    case = Case(lambda number: {0: Fenced("newer", partition=0)} if number == 2 else {})
    case.shares.limits[0] = 1
    event = Event(TP0, 0, 4)
    drive(case, event)
    assert case.rounds == [[[b"0"]], [[b"1"]]] and not event.acked
    assert case.shares.dropped == [0]


def test_ranges_read_before_a_seek_are_dropped() -> None:
    stale = Event(TP0, 500, 510, epoch=0)
    case = drive(Case(), stale, Event(TP0, 0, 1))
    assert case.rounds == [[[b"0"]]]
    assert case.consumer.released == [stale.message] and not stale.acked
    assert case.metric("stale_batches_total") == 1


def test_a_partition_being_revoked_takes_nothing_more() -> None:
    """A range after one that Faust dropped is no sign of a loss: both are read again."""

    async def check() -> Case:
        case = Case()
        await case.intake.claim(LOGS)
        await case.intake.placed({TP0: 0, TP1: 0}, 1)
        case.intake.close([TP0])
        for event in (Event(TP0, 3, 5), Event(TP1, 0, 1), None):
            case.stream.queue.put_nowait(event)
        await case.intake.work(case.stream)
        await case.intake.release([TP0])
        await case.intake.placed({TP0: 0}, 2)
        case.stream.queue.put_nowait(Event(TP0, 0, 2, epoch=2))
        case.stream.queue.put_nowait(None)
        await case.intake.work(case.stream)
        return case

    case = asyncio.run(check())
    assert case.crashes == [] and case.metric("stale_batches_total") == 1
    assert case.rounds == [[[b"0"]], [[b"0", b"1"]]]


def test_a_missing_range_ends_the_process() -> None:
    late = Event(TP0, 7, 9)
    case = drive(Case(), late, Event(TP0, 9, 10))
    assert case.rounds == [] and not late.acked
    assert isinstance(case.crashes[0], BrokerError) and "missing" in str(case.crashes[0])
    assert len(case.consumer.released) == 2, "nothing stays open after a crash"


def test_a_hole_before_the_first_message_is_asked_about() -> None:
    control = Event(TP0, 0, 12, first=10)
    assert drive(Case(), control).rounds == [[[b"10", b"11"]]]
    case = Case()
    case.consumer.earliest = 10
    drive(case, Event(TP0, 0, 12, first=10))
    assert case.rounds == []
    assert "deleted before they were read" in str(case.crashes[0])


def test_a_fenced_partition_is_given_up_and_the_others_go_on() -> None:
    fenced = Event(TP0, 0, 1)
    other, more = Event(TP1, 0, 1), Event(TP1, 1, 2)
    answers = {1: {0: Fenced("newer owner", partition=0)}}

    async def check() -> Case:
        case = Case(lambda number: answers.get(number, {}))
        await case.intake.claim(LOGS)
        await case.intake.placed({TP0: 0, TP1: 0}, 1)
        working = asyncio.ensure_future(case.intake.work(case.stream))
        for event in (fenced, other):
            case.stream.queue.put_nowait(event)
        while case.intake.rounds < 1:
            await asyncio.sleep(0.001)
        for later in (Event(TP0, 1, 2), more, None):
            case.stream.queue.put_nowait(later)
        await working
        return case

    case = asyncio.run(check())
    assert not fenced.acked and other.acked and more.acked
    assert case.shares.dropped == [0] and TP0 in case.intake.given_up
    assert case.rounds[1] == [[b"1"]], "the rest of a partition given up is dropped"
    assert case.crashes == [] and case.metric("fenced_total") == 1
    asyncio.run(case.intake.release([TP0]))
    assert case.intake.given_up == {}


def test_a_conflict_claims_again_and_seeks() -> None:
    event, behind = Event(TP0, 0, 1), Event(TP0, 1, 2)
    case = Case(lambda number: {0: Conflict("moved", partition=0)} if number == 1 else {})
    case.shares.stored = 40
    drive(case, event, behind)
    assert not event.acked and not behind.acked
    assert case.shares.dropped == [0] and case.shares.claims == [{0, 1}, {0}]
    assert case.consumer.placed == [{TP0: 40}], "and the seek begins a new epoch"
    assert case.metric("conflicts_total") == 1 and case.crashes == []


def test_an_erasure_is_read_again_and_counts_as_no_conflict() -> None:
    """A script that forgets many accounts must wake nobody (`FraudstreamConflicts`)."""
    case = Case(lambda number: {0: Overtaken("erased", partition=0)} if number == 1 else {})
    drive(case, Event(TP0, 0, 1), Event(TP0, 1, 2))
    assert case.shares.claims == [{0, 1}, {0}]
    assert case.metric("conflicts_total") == 0 and case.crashes == []


@pytest.mark.parametrize("moment", ["before", "during"])
def test_a_conflict_in_a_partition_being_revoked_is_left_to_its_next_owner(moment: str) -> None:
    async def check() -> Case:
        case = Case(lambda number: {0: Conflict("moved", partition=0)} if number == 1 else {})
        consumer, shares = case.consumer, case.shares
        log_ranges, claim = consumer.log_ranges, shares.claim

        async def asked(partitions: Sequence[TP]) -> dict[TP, LogRange]:
            if moment == "before":
                case.intake.close([TP0])
            return await log_ranges(partitions)

        def claimed(logs: Mapping[int, LogRange]) -> dict[int, int]:
            if moment == "during" and shares.claims:
                case.intake.close([TP0])
            return claim(logs)

        consumer.log_ranges, shares.claim = asked, claimed  # type: ignore[method-assign]
        await case.through(Event(TP0, 0, 1))
        await case.intake.release([TP0])
        return case

    case = asyncio.run(check())
    assert case.shares.claims[1:] == [set() if moment == "before" else {0}]
    assert case.consumer.placed == [{}] and case.crashes == []
    assert case.shares.released == [0], "behind the claim"


def test_any_other_error_ends_the_process_and_skips_nothing() -> None:
    error = StoreError("no")
    event = Event(TP0, 0, 1)
    case = drive(Case(lambda number: error), event, Event(TP0, 1, 2))
    assert case.crashes == [error] and not event.acked
    assert len(case.rounds) == 1


def test_stopping_in_a_wait_leaves_the_batch_for_the_next_worker() -> None:
    event = Event(TP0, 0, 1)
    case = drive(Case(lambda number: Stopped()), event)
    assert case.crashes == [] and not event.acked
    assert case.consumer.released == [event.message]


def test_lag_is_what_is_not_applied() -> None:
    case = drive(Case(), Event(TP0, 0, 30))
    assert case.intake.lag() == {0: 70, 1: 7}


def test_leaving_lets_every_partition_go() -> None:
    async def check() -> Case:
        case = Case()
        await case.through(Event(TP0, 0, 1))
        await case.intake.leave()
        return case

    case = asyncio.run(check())
    assert case.shares.released == [0, 1] and case.intake.lag() == {}


def test_events_of_a_stream_that_breaks_are_let_go() -> None:
    class Broken(Stream):
        async def events(self) -> AsyncIterator[Any]:
            yield Event(TP0, 0, 1)
            raise OSError("the stream broke")

    async def check() -> Case:
        case = Case()
        case.stream = Broken()
        await case.through()
        return case

    case = asyncio.run(check())
    assert isinstance(case.crashes[0], OSError)
    assert case.rounds == [[[b"0"]]]
