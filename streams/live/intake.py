"""Between Faust and the rounds: which events are taken, in what order, and what becomes of them.

In: Faust events and changes of assignment. Out: rounds, acks, claims, seeks. Runs in the event
loop; whatever touches store, arenas or model goes to the worker's one thread.
Does not know what a round does, only how it may end for a partition.

A partition's *cursor* is where its next range must begin. A range of an older epoch was read before
a seek and is dropped; one of the right epoch that begins elsewhere means that a range was lost,
which must not happen, so it ends the process.
"""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import AsyncGenerator, AsyncIterator, Callable, Mapping, Sequence, Set
from concurrent.futures import Executor
from contextlib import aclosing
from dataclasses import replace
from typing import Any, Final, Protocol, TypeVar

from faust.types import TP

from streams.batch import Batch
from streams.errors import (
    BrokerError,
    Conflict,
    Fenced,
    FraudstreamError,
    LogShort,
    Overtaken,
    PartitionError,
)
from streams.live.chunks import sliced
from streams.live.failpoint import Failpoint
from streams.live.microbatch import RangeConsumer, RangeMessage
from streams.live.partitions import Partitions
from streams.live.patience import Stopped
from streams.live.ranges import Fetched, LogRange
from streams.metrics import Metrics
from streams.store.checks import REBUILD

HANDOVERS: Final = 4
"""Turns of the event loop in which Faust's stream hands over an event that is in its queue."""

ENDS_WAIT_S, ENDS_PAUSE_S = 10.0, 0.5
"""How long a broker is asked again whose log ends before the state."""

T = TypeVar("T")

_logger = logging.getLogger(__name__)

Run = Callable[[Sequence[Sequence[Batch]]], Mapping[int, PartitionError | None]]
"""A round over the consecutive batches of each partition, in the worker's thread."""


class Crash(Protocol):
    """How the process is told to end."""

    async def __call__(self, reason: BaseException) -> None: ...


class Intake:
    """The agent's coroutine, and the answers to Faust's rebalances."""

    def __init__(
        self,
        partitions: Partitions,
        run: Run,
        thread: Executor,
        *,
        round_events: int,
        failpoint: Failpoint,
        metrics: Metrics,
        crash: Crash,
        consumer: Callable[[], RangeConsumer],
    ) -> None:
        self._partitions = partitions
        self._run = run
        self._thread = thread
        self._round_events = round_events
        self._failpoint = failpoint
        self._metrics = metrics
        self._crash = crash
        self._consumer = consumer
        self._cursors: dict[TP, tuple[int, int]] = {}
        """Epoch, and where the next range begins."""
        self._closed: set[TP] = set()
        """Partitions that are being taken away: not to be claimed again from here."""
        self._applied: dict[TP, int] = {}
        """First offset not applied, per partition."""
        self._open: dict[int, RangeMessage] = {}
        """Messages taken from the stream and neither acked nor released, by identity."""
        self.given_up: dict[TP, float] = {}
        """Partitions given up to a newer owner and still assigned, and since when (monotonic)."""
        self.assigned = False
        """Whether the group gave this worker its share, be it nothing."""
        self.in_thread = 0
        """Calls that the worker's thread has not finished."""
        self.rounds = 0
        """Rounds ended, for whoever watches for progress."""

    def lag(self) -> dict[int, int]:
        """Messages in the log that are not applied, per partition."""
        reach = self._consumer().reach()
        return {
            tp.partition: reach[tp].lag(applied)
            for tp, applied in self._applied.items()
            if tp in reach
        }

    # What the consumer asks (`microbatch.Ownership`).

    async def claim(
        self, log: Mapping[TP, LogRange], closing: Set[TP] = frozenset()
    ) -> Mapping[TP, int]:
        """Take partitions over; answer where to read each from.

        A log that ends before the state has lost its end, or its broker has only just come back
        and does not know it yet: it is asked again for ENDS_WAIT_S before that is believed.
        Partitions that come into `closing` meanwhile are left alone.
        """
        names = {tp.partition: tp for tp in log}
        deadline = time.monotonic() + ENDS_WAIT_S
        while True:
            known = {tp.partition: self._witnessed(tp, each) for tp, each in log.items()}
            try:
                found = await self._in_thread(self._partitions.claim, known)
                break
            except LogShort:
                if time.monotonic() > deadline:
                    raise
            await asyncio.sleep(ENDS_PAUSE_S)
            log = await self._consumer().log_ranges(log)
            log = {tp: log[tp] for tp in log.keys() - closing}
        for tp in log:
            self.given_up.pop(tp, None)
            if tp.partition not in self._partitions.held:
                self.given_up[tp] = time.monotonic()
        self.assigned = True
        return {names[partition]: offset for partition, offset in found.items()}

    def _witnessed(self, tp: TP, log: LogRange) -> LogRange:
        """What this worker itself applied bears witness before the group has committed it."""
        own = self._applied.get(tp)
        if own is None:
            return log
        return replace(log, committed=own if log.committed is None else max(own, log.committed))

    async def placed(self, positions: Mapping[TP, int], epoch: int) -> None:
        """From now on ranges of these partitions carry `epoch`, and the first begins here."""
        for tp, offset in positions.items():
            self._closed.discard(tp)
            if tp not in self.given_up:
                self._cursors[tp] = (epoch, offset)
                self._applied[tp] = offset

    def close(self, partitions: Sequence[TP]) -> None:
        """Admit nothing more of these partitions."""
        self._closed.update(partitions)
        for tp in partitions:
            self._cursors.pop(tp, None)

    def close_all(self) -> None:
        """Admit nothing more: the worker stops, and Faust drops ranges on its way out."""
        self.close(list(self._cursors))

    async def release(self, partitions: Sequence[TP]) -> None:
        """Forget revoked partitions."""
        for tp in partitions:
            self._cursors.pop(tp, None)
            self._applied.pop(tp, None)
            self.given_up.pop(tp, None)
            await self._in_thread(self._partitions.release, tp.partition)

    async def leave(self) -> None:
        """Let go of all partitions, in order; the worker stops. Some may have been claimed a moment
        ago, in a rebalance that is not through."""
        self._applied.clear()
        await self._in_thread(self._partitions.release_all)

    async def _in_thread(self, call: Callable[..., T], *given: Any) -> T:
        self.in_thread += 1
        running = asyncio.get_running_loop().run_in_executor(self._thread, call, *given)
        running.add_done_callback(self._out_of_thread)
        return await running

    def _out_of_thread(self, _done: asyncio.Future[Any]) -> None:
        self.in_thread -= 1

    # The agent.

    async def work(self, stream: Any) -> None:
        """Run rounds until the stream ends. An error ends the process: nothing is skipped."""
        try:
            async with aclosing(self._ready(aiter(stream.noack().events()))) as ready:
                async for events in ready:
                    await self._round(events)
        except Stopped:
            _logger.info("stopped while waiting for the store; the batch will be read again")
        except asyncio.CancelledError:
            raise
        except BaseException as error:
            self._partitions.broken = not isinstance(error, FraudstreamError)
            await self._crash(error)
        finally:
            # Faust waits for what was taken before it lets go of a partition.
            for message in list(self._open.values()):
                self._let_go(message)

    async def _ready(self, events: AsyncIterator[Any]) -> AsyncGenerator[list[Any], None]:
        """All that is ready now, up to the events of one round; waits for the first only."""
        upcoming = asyncio.ensure_future(anext(events))
        try:
            while True:
                found = [await upcoming]
                total = self._take(found[0]).events
                upcoming = asyncio.ensure_future(anext(events))
                while await _handed_over(upcoming):
                    size = self._take(upcoming.result()).events
                    if total + size > self._round_events:
                        break
                    total += size
                    found.append(upcoming.result())
                    upcoming = asyncio.ensure_future(anext(events))
                yield found
        except StopAsyncIteration:
            return
        finally:
            if not upcoming.cancel() and upcoming.exception() is None:
                self._take(upcoming.result())

    def _take(self, event: Any) -> RangeMessage:
        message = event.message
        assert isinstance(message, RangeMessage)
        self._open[id(message)] = message
        return message

    def _let_go(self, message: RangeMessage) -> None:
        self._open.pop(id(message), None)
        self._consumer().release(message)

    async def _round(self, events: Sequence[Any]) -> None:
        admitted: dict[TP, list[tuple[RangeMessage, int]]] = {}
        for event in events:
            for place, fetched in enumerate(event.message.ranges):
                if await self._admit(fetched):
                    admitted.setdefault(fetched.tp, []).append((event.message, place))
                else:
                    self._metrics.stale.inc()
                    event.message.left.add(place)
        conflicts = await self._moved_on(admitted)
        for event in events:
            if len(event.message.left) == len(event.message.ranges):
                self._let_go(event.message)
            else:
                self._open.pop(id(event.message), None)
                event.ack()
        if not admitted:
            return
        self._failpoint.passed("acked")
        self.rounds += 1
        if conflicts:
            await self._claim_again(conflicts)

    async def _moved_on(
        self, admitted: Mapping[TP, Sequence[tuple[RangeMessage, int]]]
    ) -> list[TP]:
        """Run what was admitted, as places in messages; mark there what is not done.

        Returns the partitions in conflict. Raises what ends the process.
        """
        ranges = {tp: [m.ranges[place] for m, place in each] for tp, each in admitted.items()}
        results = await self._run_all(ranges)
        conflicts = []
        for tp, each in admitted.items():
            error = results[tp.partition]
            if error is None:
                self._applied[tp] = ranges[tp][-1].batch.next_offset
                continue
            if isinstance(error, Fenced):
                self._give_up(tp, error)
            elif isinstance(error, Conflict):
                _logger.warning("%s; reading the state again", error)
                if not isinstance(error, Overtaken):
                    self._metrics.conflicts.inc()
                conflicts.append(tp)
            else:
                raise error
            for message, place in each:
                message.left.add(place)
        return conflicts

    async def _run_all(
        self, admitted: Mapping[TP, Sequence[Fetched]]
    ) -> dict[int, PartitionError | None]:
        """One round of everything; several where a partition needs smaller ones."""
        left = {tp.partition: self._portions(tp, ranges) for tp, ranges in admitted.items()}
        results: dict[int, PartitionError | None] = {}
        while left:
            some = await self._in_thread(self._run, [portions[0] for portions in left.values()])
            results.update(some)
            left = {
                partition: portions[1:]
                for partition, portions in left.items()
                if some[partition] is None and len(portions) > 1
            }
        return results

    def _portions(self, tp: TP, ranges: Sequence[Fetched]) -> list[list[Batch]]:
        limit = self._partitions.limit(tp.partition)
        if limit is None:
            return [[fetched.batch for fetched in ranges]]
        return [
            [part.batch]
            for fetched in ranges
            for part in sliced(fetched.batch, fetched.begin, fetched.epoch, limit)
        ]

    async def _admit(self, fetched: Fetched) -> bool:
        """Whether this range is the partition's next one. Raises when one before it is missing."""
        tp = fetched.tp
        epoch, begin = self._cursors.get(tp, (-1, -1))
        if fetched.epoch != epoch:
            return False
        if fetched.begin != begin:
            raise BrokerError(
                f"a range is missing: read {fetched.begin}, expected {begin}",
                topic=tp.topic,
                partition=tp.partition,
                offset=begin,
            )
        if fetched.batch.first > begin:
            # Control records and compaction leave holes; retention takes what was not read.
            start = (await self._consumer().earliest_offsets(tp))[tp]
            if start > begin:
                raise BrokerError(
                    f"offsets {begin} to {start - 1} were deleted before they were read",
                    topic=tp.topic,
                    partition=tp.partition,
                    remedy=REBUILD,
                )
        self._cursors[tp] = (epoch, fetched.batch.next_offset)
        return True

    def _give_up(self, tp: TP, error: Fenced) -> None:
        _logger.warning("%s; giving the partition up", error)
        self._metrics.fenced.inc()
        self._cursors.pop(tp, None)
        self._partitions.drop(tp.partition)
        self.given_up[tp] = time.monotonic()

    async def _claim_again(self, partitions: Sequence[TP]) -> None:
        """Memory was wrong: claim, and read again from where the store is."""
        for tp in partitions:
            self._cursors.pop(tp, None)
            await self._in_thread(self._partitions.disown, tp.partition)
        consumer = self._consumer()
        log = await consumer.log_ranges(partitions)
        starts = await self.claim({tp: log[tp] for tp in log.keys() - self._closed}, self._closed)
        # Whoever is closed by now is released next, behind the claim.
        await consumer.place({tp: starts[tp] for tp in starts.keys() - self._closed})


async def _handed_over(upcoming: asyncio.Future[Any]) -> bool:
    for _ in range(HANDOVERS):
        if upcoming.done():
            break
        await asyncio.sleep(0)
    return upcoming.done() and upcoming.exception() is None
