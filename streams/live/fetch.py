"""The thread that talks to the brokers: Faust's, fetching ranges.

In: seeks. Out: what each partition has, as `Fetched` ranges; what the logs hold.
Does not know what becomes of a range. Runs in the consumer thread's own event loop, and so do
seeks: that is why a range's begin can be trusted.
"""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Awaitable, Iterable, Mapping
from contextlib import suppress
from typing import Any, Final

import aiokafka
from aiokafka.consumer.fetcher import FetchResult
from aiokafka.errors import ConsumerStoppedError, KafkaConnectionError, KafkaError
from faust.transport.consumer import ensure_TP
from faust.transport.drivers import aiokafka as driver
from faust.types import TP
from mode.threads import WorkerThread

from streams.errors import BrokerError, FraudstreamError
from streams.live.chunks import Chunk, by_chunks, sliced, to_batch
from streams.live.loose import install
from streams.live.ranges import Fetched, LogRange, Reach
from streams.live.rights import rights_told, telling
from streams.schema import MAX_UNPACKED_BYTES
from streams.store.checks import REBUILD

STOP_S: Final = 1.0
CONNECT_PAUSE_S: Final = 0.5
"""From one try to reach a broker, at the start, to the next."""
DRAIN_BYTES: Final = MAX_UNPACKED_BYTES
"""What is unpacked at once, but for the batch that goes beyond it. The rest stays packed with
aiokafka: a megabyte on the wire may be thousands of batches, each of which is within its limit."""
COLLECT_BYTES: Final = 65_536
COLLECT_MS: Final = 14
"""A broker that just had something holds the next fetch back until it has so much, or for so long.
What is drained is asked for again at once; without a pause it would hand out messages by ones and
twos, and both sides would need for that the time in which a round ends. At the broker messages wait
together; here they would be as old as the answer that brought them. After a fetch that found
nothing it answers at the first message again."""
DRAIN_GAP_S: Final = 0.004
"""From one drain that found something to the next, so that several brokers' answers come
together."""
QUIET_S: Final = 2.0
"""So long nothing came before a range is made of offsets that hold no message."""
ENDS_EVERY_S: Final = 5.0
"""Where nobody takes what was fetched, no fetch tells how far the logs have grown: then the brokers
are asked so often. A Redis that is full for hours lets the lag grow by millions."""


async def _drained(fetcher: Any, partitions: set[TP]) -> dict[Any, list[Chunk]]:
    """What aiokafka holds of these partitions, chunk by chunk up to DRAIN_BYTES. Awaits nothing."""
    found: dict[Any, list[Chunk]] = {}
    room = DRAIN_BYTES
    while room > 0:
        if found and any(type(each) is not FetchResult for each in fetcher._records.values()):
            break  # an error would be raised, and what was found is not to be lost
        some = await fetcher.fetched_records(partitions, timeout=0, max_records=1)
        if not some:
            break
        for tp, chunks in some.items():
            found.setdefault(tp, []).extend(chunks)
            room -= sum(chunk.weight() for chunk in chunks)
    return found


def _ask_for(fetcher: Any, size: int, wait_ms: int) -> None:
    """What the fetches to come ask for: an answer when there are so many bytes, or after the wait
    with what there is."""
    fetcher._fetch_min_bytes, fetcher._fetch_max_wait_ms = size, wait_ms


async def _unless_stopped(answer: Awaitable[None]) -> None:
    """Wait for an answer to a rebalance, as aiokafka's own task does.

    A stop cancels the answer where it is on its way. That must not end the task: the consumer's
    stop waits for it, would end of it, too, and leave neither the group nor the brokers.
    """
    try:
        await answer
    except asyncio.CancelledError:
        task = asyncio.current_task()
        if task is None or task.cancelling():
            raise


async def _end_fetches(fetcher: Any) -> None:
    """Cancel what is fetched, and wait until it has ended.

    aiokafka's own stop does so, too, and is cut off by a fetch that pauses between two tries of a
    broker that is away: the cancellation comes back to it as if it were meant for the stop.
    """
    fetcher._fetch_task.cancel()  # first: it makes the others
    await asyncio.wait({fetcher._fetch_task})
    fetches, fetcher._pending_tasks = fetcher._pending_tasks, set()
    for fetch in fetches:
        fetch.cancel()
    if fetches:
        await asyncio.wait(fetches)


def fetching() -> bool:
    """Whether a thread of this process still talks to the brokers, a moment after its stop."""
    for thread in threading.enumerate():
        if isinstance(thread, WorkerThread):
            thread.join(STOP_S)
            return thread.is_alive()
    return False


class FetchThread(driver.AIOKafkaConsumerThread):
    """The thread that talks to the brokers. Cursors belong to it: seeks run in it, too."""

    def __post_init__(self) -> None:
        super().__post_init__()
        self._cursor: dict[TP, tuple[int, int]] = {}
        """Epoch and begin of the next range, per partition."""
        self._drain_from = 0.0
        """When, by the loop's clock, the next drain may be."""
        self._patient: asyncio.TimerHandle | None = None
        """Ends the request for fetches that are held back."""
        self._asked = 0.0
        """When, by the loop's clock, somebody last wanted records."""
        self._ends: dict[TP, int] = {}
        """Where the logs end, as far as it was asked since."""

    def _create_worker_consumer(self, transport: Any) -> aiokafka.AIOKafkaConsumer:
        consumer = super()._create_worker_consumer(transport)
        # Both are handed to aiokafka's fetcher when it starts; it has not started yet.
        assert consumer._fetch_max_wait_ms == 1500 and consumer._isolation_level  # as in 0.15.3
        consumer._fetch_max_wait_ms = transport.fetch_max_wait_ms
        consumer._isolation_level = "read_committed"
        consumer.commit = telling(consumer.commit)
        install()
        return consumer

    async def _fetch_records(
        self,
        consumer: aiokafka.AIOKafkaConsumer,
        active_partitions: set[TP],
        timeout: float | None = None,
        max_records: int | None = None,
    ) -> dict[TP, list[Fetched]]:
        """What is there now, or after at most `timeout`; `max_records` bounds a range, not a call.

        This is aiokafka's `fetched_records` with a step put in: whatever arrived is turned to yield
        chunks before it is drained. It is drained with a timeout of 0, which awaits nothing.
        """
        await asyncio.sleep(self._drain_from - self.thread_loop.time())
        self._asked, self._ends = self.thread_loop.time(), {}
        fetcher = consumer._fetcher
        if consumer._closed or fetcher._closed:
            raise ConsumerStoppedError()
        deadline = self.thread_loop.time() + (timeout or 0.0)
        with rights_told(), fetcher._subscriptions.fetch_context():
            while True:
                if fetcher._subscriptions.reassignment_in_progress:
                    await fetcher._subscriptions.wait_for_assignment()
                if not self.consumer.flow_active:
                    # Faust drops what it is given now, and a range that is taken counts as read.
                    return {}
                for result in fetcher._records.values():
                    if type(result) is FetchResult:
                        by_chunks(result._partition_records)
                chunks = await _drained(fetcher, active_partitions)
                if chunks:
                    self._drain_from = self.thread_loop.time() + DRAIN_GAP_S
                    self._collect(fetcher)
                left = deadline - self.thread_loop.time()
                if chunks:
                    return self._ranges(consumer, chunks, max_records)
                if left <= 0:
                    return self._without_messages(consumer, active_partitions)
                waiter = fetcher._create_fetch_waiter()
                done, _ = await asyncio.wait([waiter], timeout=left)
                if not done or fetcher._closed:
                    waiter.cancel()
                    return self._without_messages(consumer, active_partitions)
                waiter.result()  # raises when the group or the topic is forbidden

    def _collect(self, fetcher: Any) -> None:
        """Have the next fetch held back. aiokafka makes it when this drain is told, which is at
        once, so the one after it is an ordinary one unless it finds something."""
        if self._patient is not None:
            self._patient.cancel()
        wait_ms = self.transport.fetch_max_wait_ms  # type: ignore[attr-defined]
        _ask_for(fetcher, COLLECT_BYTES, min(wait_ms, COLLECT_MS))
        self._patient = self.thread_loop.call_later(
            COLLECT_MS / 2_000, _ask_for, fetcher, 1, wait_ms
        )

    def _ranges(
        self,
        consumer: aiokafka.AIOKafkaConsumer,
        found: Mapping[Any, list[Chunk]],
        limit: int | None,
    ) -> dict[TP, list[Fetched]]:
        """Chunks to ranges, at the cursors.

        No await lies between aiokafka's move of its positions and this, and seeks run in this very
        loop: nobody can have sought in between.
        """
        fetched: dict[TP, list[Fetched]] = {}
        assignment = consumer._subscription.subscription.assignment
        for aiotp, chunks in found.items():
            tp = ensure_TP(aiotp)
            if tp not in self._cursor:
                continue  # revoked, or fetched before the first seek: will be read again
            epoch, begin = self._cursor[tp]
            end = assignment.state_value(aiotp).position
            if chunks[0].offsets[0] < begin:
                # aiokafka resets to the earliest offset when its own is beyond the log's end.
                raise BrokerError(
                    "the log ends before the state: the topic lost its end (an unclean leader"
                    " election) or was made again",
                    topic=tp.topic,
                    partition=tp.partition,
                    offset=begin,
                    remedy=REBUILD,
                )
            self._cursor[tp] = (epoch, end)
            fetched[tp] = list(sliced(to_batch(tp, chunks, end), begin, epoch, limit))
        return fetched

    def _without_messages(
        self, consumer: aiokafka.AIOKafkaConsumer, partitions: set[TP]
    ) -> dict[TP, list[Fetched]]:
        """Ranges of what a quiet log ends in that is no message: the marks that end transactions,
        and what was aborted. The state must come past them: retention, which takes them in time,
        would seem to have taken what was not read."""
        fetched: dict[TP, list[Fetched]] = {}
        if self.thread_loop.time() - self._drain_from < QUIET_S:
            return fetched
        for tp, (epoch, begin, state) in self._placed(consumer).items():
            end = state.position
            if tp in partitions and end > begin:
                self._cursor[tp] = (epoch, end)
                fetched[tp] = [Fetched(to_batch(tp, (), end), begin, epoch)]
        return fetched

    def set_shutdown(self) -> None:
        """Tell that the thread has ended, while somebody waits: a stop that took too long was left,
        and its loop is closed."""
        if not self.parent_loop.is_closed():
            super().set_shutdown()

    async def on_start(self) -> None:
        """Connect. A broker may have gone since the worker's start looked for it, which may be a
        minute ago. Raises BrokerError when it is away for `retry_s`."""
        patience_s = self.transport.retry_s  # type: ignore[attr-defined]
        deadline = self.thread_loop.time() + patience_s
        while True:
            try:
                await super().on_start()
                self.add_future(self._watch_ends())
                return
            except KafkaConnectionError:
                # It stays in its place until the next one: Faust asks it for its partitions.
                await self._ensure_consumer().stop()
                if self.should_stop or self.thread_loop.time() > deadline:
                    raise BrokerError(
                        f"Kafka went away as the worker started, for {patience_s:.0f} s",
                        remedy="Start it again, then the worker",
                    ) from None
            await self.sleep(CONNECT_PAUSE_S)

    async def _watch_ends(self) -> None:
        """Keep the ends of the logs known while nobody takes what was fetched."""
        while not self.should_stop:
            await self.sleep(ENDS_EVERY_S)
            asked = self._asked
            if self.thread_loop.time() - asked < ENDS_EVERY_S:
                continue
            wanted = [aiokafka.TopicPartition(tp.topic, tp.partition) for tp in self._cursor]
            with suppress(KafkaError):  # the brokers are away, too: asked again
                ends = await self._ensure_consumer().end_offsets(wanted)
                if asked == self._asked:
                    self._ends = {ensure_TP(tp): end for tp, end in ends.items()}

    def on_crash(self, msg: str, *fmt: Any, **kwargs: Any) -> None:
        """Print what ended the thread, unless it is told to the user without a traceback."""
        if not any(isinstance(each, FraudstreamError) for each in fmt):
            super().on_crash(msg, *fmt, **kwargs)

    def _start_thread(self) -> None:
        with suppress(FraudstreamError):  # it crashed the app, which tells
            super()._start_thread()

    def _stopped_set(self) -> None:
        """Tell the thread to end, unless it ended by itself."""
        if not self.thread_loop.is_closed():
            super()._stopped_set()

    async def on_thread_stop(self) -> None:
        """See `_end_fetches`."""
        fetcher = self._consumer and self._consumer._fetcher
        if fetcher is not None:
            await _end_fetches(fetcher)
        await super().on_thread_stop()

    async def on_partitions_revoked(self, revoked: set[TP]) -> None:
        """See `_unless_stopped`."""
        await _unless_stopped(super().on_partitions_revoked(revoked))

    async def on_partitions_assigned(self, assigned: set[TP], generation_id: int = 0) -> None:
        """See `_unless_stopped`."""
        await _unless_stopped(super().on_partitions_assigned(assigned, generation_id))

    def verify_event_path(self, now: float, tp: TP) -> None:
        """Nothing: the watchdog knows a worker that stands still. Faust takes for one what had
        nothing to read for five minutes, and names settings that are not there."""

    async def place(self, positions: Mapping[TP, int], epoch: int) -> None:
        """Seek. From now on ranges of these partitions begin there and carry `epoch`."""
        await self.call_thread(self._place, positions, epoch)

    async def _place(self, positions: Mapping[TP, int], epoch: int) -> None:
        consumer = self._ensure_consumer()
        assigned = consumer.assignment()
        for tp, offset in positions.items():
            aiotp = aiokafka.TopicPartition(tp.topic, tp.partition)
            if aiotp in assigned:  # else it was revoked while this call was on its way
                consumer.seek(aiotp, offset)
                self._cursor[tp] = (epoch, offset)

    def forget(self, partitions: Iterable[TP]) -> None:
        """Drop cursors: nothing fetched for these partitions is handed on until placed again."""
        for tp in partitions:
            self._cursor.pop(tp, None)

    async def log_ranges(self, partitions: Iterable[TP]) -> dict[TP, LogRange]:
        """Ask the brokers for first and next offset and the group's commit."""
        found: dict[TP, LogRange] = await self.call_thread(self._log_ranges, set(partitions))
        return found

    async def _log_ranges(self, partitions: set[TP]) -> dict[TP, LogRange]:
        if not partitions:
            return {}
        consumer = self._ensure_consumer()
        wanted = [aiokafka.TopicPartition(tp.topic, tp.partition) for tp in partitions]
        with rights_told():
            starts = await consumer.beginning_offsets(wanted)
            ends = await consumer.end_offsets(wanted)
            return {
                ensure_TP(tp): LogRange(starts[tp], ends[tp], await consumer.committed(tp))
                for tp in wanted
            }

    def reach(self) -> dict[TP, Reach]:
        """How far reading came, per partition placed; from any thread."""
        found: dict[TP, Reach] = {}
        for tp, (_, fetched, state) in self._placed(self._ensure_consumer()).items():
            end = max(state.position, state.lso or 0, self._ends.get(tp, 0))
            found[tp] = Reach(fetched, state.position, end)
        return found

    def _placed(self, consumer: aiokafka.AIOKafkaConsumer) -> dict[TP, tuple[int, int, Any]]:
        """Of each partition placed that has a position: epoch, end of its last range, aiokafka's
        state. From any thread."""
        subscription = consumer._subscription.subscription
        assignment = subscription.assignment if subscription is not None else None
        found: dict[TP, tuple[int, int, Any]] = {}
        for tp, (epoch, fetched) in list(self._cursor.items()):
            aiotp = aiokafka.TopicPartition(tp.topic, tp.partition)
            if assignment is None or aiotp not in assignment.tps:
                continue
            state = assignment.state_value(aiotp)
            if state.has_valid_position:
                found[tp] = (epoch, fetched, state)
        return found
