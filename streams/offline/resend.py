"""Send a recording to a topic again: the same keys, bytes, partitions and order, at a pace.

In: a recording, a confluent-kafka configuration. Out: messages on Kafka, or an error.
Does not know what the messages mean. Partitions go out side by side in the order of their append
times; a topic with another number of partitions gets them by key, which keeps an account together.
"""

from __future__ import annotations

import heapq
import time
from collections.abc import Callable, Iterator
from operator import itemgetter
from typing import Any

from confluent_kafka import KafkaError, KafkaException, Message, Producer

from streams.errors import BrokerError
from streams.offline.recording import Manifest, Recording

BATCH = 2_048
FLUSH_S = 120.0
_Row = tuple[int, int, int, bytes | None, bytes | None, list[tuple[str, bytes | None]]]
"""(append time, partition, offset, key, value, headers)."""

Progress = Callable[[int, int], None]


def _rows(recording: Recording, manifest: Manifest, shard: int) -> Iterator[_Row]:
    for table in recording.tables(manifest, "transactions", shard, []):
        for batch in table.to_batches(max_chunksize=BATCH):
            for row in batch.to_pylist():
                headers = [(pair["name"], pair["value"]) for pair in row["headers"] or ()]
                yield (
                    row["timestamp"],
                    shard,
                    row["offset"],
                    row["key"],
                    row["value"],
                    headers,
                )


class _Deliveries:
    """Remembers the first message that the broker did not take."""

    def __init__(self) -> None:
        self.failed: tuple[KafkaError, Message] | None = None

    def __call__(self, error: KafkaError | None, message: Message) -> None:
        if error is not None and self.failed is None:
            self.failed = (error, message)

    def check(self) -> None:
        """Raises BrokerError when a message was not taken."""
        if self.failed is not None:
            error, message = self.failed
            raise BrokerError(
                f"a message was not delivered: {error.str()}",
                topic=message.topic(),
                partition=message.partition(),
                remedy="nothing after it was sent; mend the cause and send again",
            )


def resend(
    config: dict[str, Any],
    path: str,
    topic: str,
    speed: float,
    *,
    progress: Progress = lambda done, total: None,
) -> int:
    """Send everything; `speed` times the recorded pace, 0 without waiting. Returns the number sent.

    Raises BrokerError when the topic is not there or a message is not delivered.
    """
    recording = Recording(path)
    manifest = recording.manifest()
    total = manifest.rows("transactions")
    producer = Producer(
        config | {"enable.idempotence": True, "linger.ms": 5, "compression.type": "lz4"}
    )
    try:
        metadata = producer.list_topics(topic, timeout=30).topics[topic]
    except KafkaException as error:
        raise BrokerError(f"cannot reach the broker: {error.args[0].str()}") from error
    if metadata.error is not None:
        raise BrokerError(f"no topic to send to: {metadata.error.str()}", topic=topic)
    shards = manifest.partitions("transactions")
    same = set(shards) <= set(metadata.partitions)
    deliveries, sent = _Deliveries(), 0
    begun, first = time.monotonic(), None
    rows = [_rows(recording, manifest, shard) for shard in shards]
    for at, shard, _, key, value, headers in heapq.merge(*rows, key=itemgetter(0, 1, 2)):
        first = at if first is None else first
        if speed:
            _wait(producer, begun + (at - first) / 1_000 / speed)
        _produce(producer, topic, shard if same else -1, key, value, headers, deliveries)
        deliveries.check()
        sent += 1
        if sent % BATCH == 0:
            progress(sent, total)
    if producer.flush(FLUSH_S):
        raise BrokerError(f"messages were not delivered within {FLUSH_S:.0f} s", topic=topic)
    deliveries.check()
    progress(sent, total)
    return sent


def _wait(producer: Producer, until: float) -> None:
    while (left := until - time.monotonic()) > 0:
        producer.poll(min(left, 0.1))


def _produce(
    producer: Producer,
    topic: str,
    partition: int,
    key: bytes | None,
    value: bytes | None,
    headers: list[tuple[str, bytes | None]],
    deliveries: _Deliveries,
) -> None:
    """Hand one message over, waiting while the producer's queue is full."""
    while True:
        try:
            producer.produce(
                topic,
                value=value,
                key=key,
                partition=partition,
                headers=headers,  # type: ignore[arg-type]
                on_delivery=deliveries,
            )
        except BufferError:
            producer.poll(0.1)
        else:
            producer.poll(0)
            return
