"""Faust, taught to read one micro-batch of all partitions instead of one message at a time.

In: what aiokafka fetched. Out: one Faust event per fetch, carrying of each partition a `Batch` and
the range of offsets it covers; acknowledgements of whole ranges. Does not know what a message
means, nor where the offset to start from is kept (`Ownership` answers that).

This file and `fetch.py` are the only ones that touch Faust's insides, so they work with one version
of it:

- `MicroBatchScheduler` (a documented setting) puts the ranges of several partitions into one
  event; stock Faust pays two asyncio tasks for every message, and would for every range. Faust
  files the event under its first partition. It drops events only when the group rebalances, and
  then all partitions are taken away and begin anew, so an event of several is lost for none.
- `FetchThread` lowers the broker's wait (Faust fixes it at 1,500 ms), reads committed messages
  only, and turns what a partition fetched into `Fetched`: a batch and the range [begin, next).
  A range begins where the one before ended or where a seek went, so ranges leave no gap even where
  offsets do (control records, compaction), and a lost batch shows as a missing range.
  It takes a broker's record batch apart at once (`chunks.py`): aiokafka's object for each record
  costs more than all of that.
- `RangeConsumer` acks ranges, commits to Kafka the end of their contiguous prefix, refuses acks of
  an older generation, and starts from the offset that `Ownership` names. Offsets committed to
  Kafka serve people and lag monitors; nothing here reads from them.

A seek starts a new *epoch* of a partition. What was fetched before it still carries the old epoch;
whoever reads the events drops those.
"""

from __future__ import annotations

import itertools
from collections.abc import Iterable, Iterator, Mapping, Sequence
from functools import partial
from typing import Any

import faust
from faust.app.base import BootStrategy
from faust.transport.consumer import ensure_TP
from faust.transport.drivers import aiokafka as driver
from faust.types import TP, AppT, ConsumerMessage, Message
from faust.types.transports import SchedulingStrategyT
from faust.types.tuples import ack_lock
from mode.utils.futures import notify

from streams.connect import faust_broker
from streams.errors import ConfigError
from streams.live.fetch import FetchThread
from streams.live.ranges import Fetched, LogRange, Ownership, Reach
from streams.settings import Settings

FAUST_VERSION = "0.15.3"
MAX_POLL_INTERVAL_S = 10 * 365 * 86_400.0
"""Never: after so long in one round aiokafka leaves the group, and comes back only when somebody
fetches, which Faust forbids then. A full Redis stops rounds for as long as it lasts, and of a round
that hangs the watchdog knows."""
COMMIT_INTERVAL_S = 2.0
METADATA_AGE_S = 10.0
"""So soon a topic that was given more partitions is noticed, which ends the worker. Until then
accounts that moved are scored without their past; aiokafka's own 300 s are long for that."""

if faust.__version__ != FAUST_VERSION:  # pragma: no cover - the pin in pyproject.toml prevents it
    raise ConfigError(
        f"faust-streaming {faust.__version__} is installed, and the micro-batch consumer is "
        f"written against {FAUST_VERSION}",
        remedy=f"pip install faust-streaming=={FAUST_VERSION}",
    )


class RangeMessage(ConsumerMessage):
    """A Faust message that stands for ranges; it has the place of the first of them."""

    __slots__ = ("left", "ranges")

    def __init__(self, ranges: Sequence[Fetched], generation_id: int) -> None:
        first, tp = ranges[0], ranges[0].tp
        super().__init__(
            tp.topic,
            tp.partition,
            first.begin,
            timestamp=float(first.batch.timestamps[0]) / 1000.0 if len(first.batch) else 0.0,
            timestamp_type=0,
            headers=None,
            key=None,
            value=b"",
            checksum=None,
            tp=tp,
            generation_id=generation_id,
        )
        self.ranges = tuple(ranges)
        self.left: set[int] = set()
        """Which of the ranges, by their places, an ack does not mean."""

    @property
    def events(self) -> int:
        """Kafka messages in it."""
        return sum(len(fetched.batch) for fetched in self.ranges)


class MicroBatchScheduler(SchedulingStrategyT):
    """Ranges of several partitions together. For the setting `ConsumerScheduler`."""

    def __init__(self, limit: int) -> None:
        self._limit = limit

    def iterate(self, records: Mapping[TP, list[Any]]) -> Iterator[tuple[TP, Any]]:
        """The ranges of the partitions in turn, each partition's in order, as many together as have
        at most `limit` messages."""
        turns = itertools.zip_longest(*records.values())
        together: list[Fetched] = []
        total = 0
        for fetched in (each for turn in turns for each in turn if each):
            if together and total + len(fetched.batch) > self._limit:
                yield together[0].tp, together
                together, total = [], 0
            together.append(fetched)
            total += len(fetched.batch)
        if together:
            yield together[0].tp, together


class _NoOffsets(dict[TP, int | None]):
    """Faust's note of the last offset read, switched off: epochs do its work.

    Faust drops what is below that note, and writes the note after it handed a message on; a seek
    back in between would have everything that follows dropped, for ever.
    """

    def __getitem__(self, key: TP) -> int | None:
        return None

    def __setitem__(self, key: TP, value: int | None) -> None: ...


class RangeConsumer(driver.Consumer):
    """Faust's consumer with ranges for messages; see the head of this file."""

    _thread: FetchThread

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self._read_offset = _NoOffsets()
        self._epoch = 0
        self._starts: dict[TP, int] = {}
        self._frontier: dict[TP, int] = {}
        """End of the contiguous acked ranges, per partition owned."""
        self._epochs: dict[TP, int] = {}
        self._ranges: dict[TP, dict[int, int]] = {}
        """Acked ranges beyond the frontier: begin -> next."""

    def _new_consumer_thread(self) -> FetchThread:
        return FetchThread(self, loop=self.loop, beacon=self.beacon)

    @property
    def _ownership(self) -> Ownership:
        return self.transport.ownership  # type: ignore[attr-defined, no-any-return]

    # Assignment: the store says where to start.

    async def on_partitions_assigned(self, assigned: set[TP], generation_id: int = 0) -> None:
        """Claim first; Faust then resumes the flow through `seek_to_committed`."""
        try:
            self._starts = dict(await self._ownership.claim(await self.log_ranges(assigned)))
        except Exception as error:
            # aiokafka would log and swallow it.
            await self.app.crash(error)
            return
        assert self._starts.keys() == assigned
        await super().on_partitions_assigned(assigned, generation_id)

    async def on_partitions_revoked(self, revoked: set[TP]) -> None:
        """Let the batches in flight end and their acks count, then forget the partitions.

        Faust now drops ranges that no round has taken, and may resume the flow too early (its task
        of the rebalance before may still be on its way): what comes after a dropped range must
        find the partition closed.
        """
        for tp in revoked:
            self._starts.pop(tp, None)
        self._ownership.close(sorted(revoked))
        await super().on_partitions_revoked(revoked)
        await self._ownership.release(sorted(revoked))
        self._thread.forget(revoked)
        for tp in revoked:
            self._frontier.pop(tp, None)
            self._epochs.pop(tp, None)
            self._ranges.pop(tp, None)

    async def seek_to_committed(self) -> Mapping[TP, int]:
        """Go to the offsets just claimed. Kafka's committed offsets play no part.

        Faust also calls this when it stopped fetching for a rebalance; nothing is claimed then, or
        a claim follows, so there is nowhere to go.
        """
        starts, self._starts = self._starts, {}
        await self.place(starts)
        return starts

    async def place(self, positions: Mapping[TP, int]) -> None:
        """Seek, begin a new epoch, and forget acks of the one before."""
        self._epoch += 1
        for tp, offset in positions.items():
            self._frontier[tp] = offset
            self._epochs[tp] = self._epoch
            self._ranges[tp] = {}
        await self._ownership.placed(positions, self._epoch)
        await self._thread.place(positions, self._epoch)

    async def _seek(self, partition: TP, offset: int) -> None:
        await self.place({ensure_TP(partition): offset})

    # From fetched records to events.

    def _to_message(self, tp: TP, record: Any) -> RangeMessage:
        return RangeMessage(record, self.app.consumer_generation_id)

    async def _add_gap(self, tp: TP, offset_from: int, offset_to: int) -> None:
        """Nothing: gaps live inside ranges."""

    def on_buffer_full(self, tp: TP) -> None:
        """Nothing: a full queue blocks the fetcher, and it goes on when there is room.

        Faust would stop fetching the partition, and look again after a second.
        """

    def on_buffer_drop(self, tp: TP) -> None:
        """Nothing: see `on_buffer_full`."""

    # Acks.

    def ack(self, message: Message) -> bool:
        """Mark ranges as done; False where none counts: for a repeat, and in an older generation
        or epoch."""
        with ack_lock:
            if message.acked:
                return False
            message.acked = True
            self._unacked_messages.discard(message)
            notify(self._waiting_for_ack)
            assert isinstance(message, RangeMessage)
            if message.generation_id != self.app.consumer_generation_id:
                return False
            done = [
                fetched
                for place, fetched in enumerate(message.ranges)
                if place not in message.left and self._epochs.get(fetched.tp) == fetched.epoch
            ]
            for fetched in done:
                self._ranges[fetched.tp][fetched.begin] = fetched.batch.next_offset
            self._n_acked += len(done)
            return bool(done)

    def release(self, message: Message) -> None:
        """Let go of a message without counting it as done: it will be read again."""
        with ack_lock:
            message.acked = True
            self._unacked_messages.discard(message)
            notify(self._waiting_for_ack)

    def _filter_tps_with_pending_acks(self, topics: Any = None) -> Iterator[TP]:
        return (tp for tp in self._ranges if topics is None or tp in topics or tp.topic in topics)

    def _new_offset(self, tp: TP) -> int | None:
        """The end of the contiguous prefix of acked ranges, None while it has not moved."""
        ranges, end = self._ranges[tp], self._frontier[tp]
        while end in ranges:
            end = ranges.pop(end)
        if end == self._frontier[tp]:
            return None
        self._frontier[tp] = end
        return end

    # What the service asks.

    async def log_ranges(self, partitions: Iterable[TP]) -> dict[TP, LogRange]:
        """Where the logs begin and end, and what the group committed."""
        return await self._thread.log_ranges(partitions)

    def reach(self) -> dict[TP, Reach]:
        """How far reading came, per partition owned."""
        return self._thread.reach()


class MicroBatchTransport(driver.Transport):
    """Faust's aiokafka transport with the consumer above."""

    Consumer = RangeConsumer

    def __init__(self, app: AppT, ownership: Ownership, settings: Settings) -> None:
        super().__init__(app.conf.broker_consumer, app)
        self.ownership = ownership
        self.fetch_max_wait_ms = settings.kafka.fetch_max_wait_ms
        self.retry_s = settings.worker.retry_s


class _ConsumeOnly(BootStrategy):
    """No web server, and no producer: the outbox has its own."""

    enable_web = False
    enable_kafka_producer = False


class MicroBatchApp(faust.App):
    """A Faust app that only consumes, and writes nothing to disk."""

    BootStrategy = _ConsumeOnly

    def _create_directories(self) -> None:
        """Nothing: tables would need them, and there are none."""


def make_app(settings: Settings, ownership: Ownership) -> MicroBatchApp:
    """The app, ready for an agent on the transactions topic. Connects to nothing yet."""
    urls, credentials = faust_broker(settings)
    session_s = settings.kafka.session_timeout_ms / 1000
    app = MicroBatchApp(
        settings.kafka.group,
        broker=urls,
        broker_credentials=credentials,
        broker_session_timeout=session_s,
        broker_heartbeat_interval=session_s / 5,
        broker_max_poll_records=settings.worker.batch_events,
        broker_max_poll_interval=MAX_POLL_INTERVAL_S,
        broker_commit_interval=COMMIT_INTERVAL_S,
        # Past the first claim this only answers aiokafka's own start; `_fetch_records` raises where
        # a reset would skip or repeat anything.
        consumer_auto_offset_reset="earliest",
        consumer_metadata_max_age_ms=int(METADATA_AGE_S * 1000),
        ConsumerScheduler=partial(MicroBatchScheduler, settings.worker.batch_events),
        stream_buffer_maxsize=settings.worker.buffer_batches,
        stream_wait_empty=True,
        topic_allow_declare=False,
        topic_disable_leader=True,
        autodiscover=False,
        cython_optimizations=True,
    )
    app.transport = MicroBatchTransport(app, ownership, settings)
    return app
