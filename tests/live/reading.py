"""What the tests of the live service share: topics, messages in and out, a reader on Faust.

For tests only.
"""

from __future__ import annotations

import asyncio
import contextlib
import time
from collections.abc import AsyncIterator, Callable, Iterable, Mapping, Sequence
from typing import Any

from confluent_kafka import Consumer, KafkaError, Message, Producer, TopicPartition
from faust.types import TP

from streams.clients.outage import limits
from streams.connect import confluent_config
from streams.live.microbatch import MicroBatchApp, RangeConsumer, RangeMessage, make_app
from streams.live.ranges import Fetched, LogRange
from streams.settings import Settings, load
from streams.topics import create

PATIENCE_S = 120.0


def settings_for(bootstrap: str, prefix: str, *flags: str, partitions: int = 2) -> Settings:
    """Settings with topics of their own, made."""
    settings = load(
        flags=[
            f"kafka.bootstrap={bootstrap}",
            f"kafka.topic_prefix={prefix}",
            f"kafka.group={prefix}group",
            "kafka.session_timeout_ms=6000",
            "model.bundle=stub",
            "risk.enabled=false",
            f"topics.partitions={partitions}",
            *flags,
        ]
    )
    create(settings)
    return settings


def publish(
    settings: Settings,
    messages: Iterable[tuple[int, bytes | None, bytes | None]],
    **config: Any,
) -> None:
    """(partition, key, value) to `transactions`; returns when the broker has them."""
    producer = Producer(confluent_config(settings, {"linger.ms": 5, **config}))
    topic = settings.topic("transactions")
    for partition, key, value in messages:
        producer.produce(topic, value, key, partition=partition)
        producer.poll(0)
    assert producer.flush(PATIENCE_S) == 0


def ends(settings: Settings, name: str) -> dict[int, int]:
    """The end offset of each partition of a topic of the schema."""
    consumer = Consumer(confluent_config(settings, {"group.id": "ends"}))
    topic = settings.topic(name)
    try:
        partitions = consumer.list_topics(topic, timeout=PATIENCE_S).topics[topic].partitions
        return {number: limits(consumer, topic, number)[1] for number in partitions}
    finally:
        consumer.close()


def committed(settings: Settings) -> dict[int, int]:
    """What the group has committed to Kafka, per partition of `transactions`."""
    topic = settings.topic("transactions")
    consumer = Consumer(confluent_config(settings, {"group.id": settings.kafka.group}))
    try:
        wanted = [TopicPartition(topic, number) for number in range(settings.topics.partitions)]
        found = consumer.committed(wanted, timeout=PATIENCE_S)
        return {each.partition: each.offset for each in found if each.offset >= 0}
    finally:
        consumer.close()


def contents(settings: Settings, name: str) -> list[Message]:
    """All that a topic of the schema holds now. Fails when its ends do not come."""
    last = ends(settings, name)
    extra = {"group.id": "contents", "auto.offset.reset": "earliest", "enable.partition.eof": True}
    consumer = Consumer(confluent_config(settings, extra))
    topic, found = settings.topic(name), []
    consumer.assign([TopicPartition(topic, number, 0) for number in last])
    unread = set(last)
    try:
        deadline = time.monotonic() + PATIENCE_S
        while unread:
            assert time.monotonic() < deadline, f"{name}: partitions not read to the end: {unread}"
            for message in consumer.consume(1_000, timeout=0.2):
                error = message.error()
                if error is None:
                    found.append(message)
                elif error.code() == KafkaError._PARTITION_EOF:
                    unread.discard(message.partition())
        return found
    finally:
        consumer.close()


class Shelf:
    """An Ownership that keeps offsets in a dict and notes what it was asked."""

    def __init__(self, starts: Mapping[int, int] | None = None) -> None:
        self.starts = dict(starts or {})
        self.logs: dict[int, LogRange] = {}
        self.epochs: dict[int, int] = {}
        self.closed: list[int] = []
        self.released: list[int] = []

    async def claim(self, log: Mapping[TP, LogRange]) -> Mapping[TP, int]:
        self.logs.update({tp.partition: known for tp, known in log.items()})
        return {tp: self.starts.get(tp.partition, known.start) for tp, known in log.items()}

    async def placed(self, positions: Mapping[TP, int], epoch: int) -> None:
        self.epochs.update({tp.partition: epoch for tp in positions})

    def close(self, partitions: Sequence[TP]) -> None:
        self.closed += [tp.partition for tp in partitions]

    async def release(self, partitions: Sequence[TP]) -> None:
        self.released += [tp.partition for tp in partitions]


class Reader:
    """A running app whose agent keeps what it reads; acks unless told not to."""

    def __init__(self, app: MicroBatchApp, shelf: Shelf) -> None:
        self.app = app
        self.shelf = shelf
        self.messages: list[RangeMessage] = []
        self.ack = True
        self.gate = asyncio.Event()
        self.gate.set()

    @property
    def consumer(self) -> RangeConsumer:
        consumer = self.app.consumer
        assert isinstance(consumer, RangeConsumer)
        return consumer

    async def agent(self, stream: Any) -> None:
        async for event in stream.noack().events():
            await self.gate.wait()
            self.messages.append(event.message)
            if self.ack:
                event.ack()
            else:
                self.consumer.release(event.message)

    def values(self) -> list[bytes | None]:
        return [value for fetched in self.ranges() for value in fetched.batch.values]

    def ranges(self, epoch: int | None = None) -> list[Fetched]:
        """What was read, of one epoch or all."""
        found = [fetched for message in self.messages for fetched in message.ranges]
        return [each for each in found if epoch is None or each.epoch == epoch]

    async def until(self, done: Callable[[], bool]) -> None:
        deadline = time.monotonic() + PATIENCE_S
        while not done():
            assert time.monotonic() < deadline, "nothing happens"
            assert not self.app.crashed, self.app.crash_reason
            await asyncio.sleep(0.01)


@contextlib.asynccontextmanager
async def reading(
    settings: Settings, shelf: Shelf | None = None, *, shut: bool = False
) -> AsyncIterator[Reader]:
    """A started app over the transactions topic, with its partitions assigned.

    `shut`: its agent takes nothing until the gate is opened.
    """
    shelf = shelf or Shelf()
    app = make_app(settings, shelf)
    app.loop = asyncio.get_running_loop()
    reader = Reader(app, shelf)
    if shut:
        reader.gate.clear()
    topic = app.topic(
        settings.topic("transactions"),
        value_type=bytes,
        key_serializer="raw",
        value_serializer="raw",
    )
    app.agent(topic)(reader.agent)
    await app.start()
    try:
        await reader.until(lambda: bool(shelf.epochs))
        yield reader
    finally:
        await app.stop()
