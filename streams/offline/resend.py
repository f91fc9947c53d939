"""Send a recording to a topic again: the same keys, bytes, partitions and order, at a pace.

In: a recording, a confluent-kafka configuration, erased accounts. Out: messages on Kafka, or an
error. Does not know what the messages mean. Partitions go out side by side in the order of their
append times; a topic with another number of partitions gets them by key, by the rule of all
publishers, which keeps an account together. What an erased account did before its erasure is left
out.
"""

from __future__ import annotations

import heapq
import time
from collections.abc import Callable, Iterator, Mapping
from functools import partial
from operator import itemgetter
from typing import Any

from confluent_kafka import KafkaError, KafkaException, Message, Producer

from streams.errors import BrokerError
from streams.offline.erased import cut_of
from streams.offline.recording import Manifest, Recording
from streams.offline.source import Source

BATCH = 2_048
FLUSH_S = 120.0
SENDABLE_BYTES = 1_000_000_000
"""The most that the client takes as a limit: what is too large for the topic, its broker says."""
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
    """Remembers the first message that the broker did not take, by its place in the recording."""

    def __init__(self, topic: str) -> None:
        self._topic = topic
        self._failed: tuple[KafkaError, int, int] | None = None

    def __call__(
        self, partition: int, offset: int, error: KafkaError | None, message: Message
    ) -> None:
        if error is not None and self._failed is None:
            self._failed = (error, partition, offset)

    def check(self) -> None:
        """Raises BrokerError when a message was not taken."""
        if self._failed is not None:
            raise self.refusal(*self._failed)

    def refusal(self, error: KafkaError, partition: int, offset: int) -> BrokerError:
        """What is said of a message that was not taken."""
        return BrokerError(
            f"a recorded message was not delivered: {error.str()}",
            topic=self._topic,
            partition=partition,
            offset=offset,
            remedy="Partition and offset are those in the recording. Others, before it and after "
            "it, may be on the topic already: mend the cause, and send all of it to a new topic",
        )


def resend(
    config: dict[str, Any],
    source: Source,
    topic: str,
    speed: float,
    *,
    forgotten: Mapping[bytes, int],
    progress: Progress = lambda done, total: None,
) -> tuple[int, int]:
    """Send everything but what is of an erased account; `speed` times the recorded pace, 0 without
    waiting. Returns how many messages were sent, and how many left out.

    `source`: a recording, of which that is sent which it held when it was opened.
    `forgotten`: by the digest of an account, the offset before which it is erased.
    Raises BrokerError when the topic is not there or a message is not delivered.
    """
    recording, manifest = Recording(source.location()), source.manifest()
    total = manifest.rows("transactions")
    producer = Producer(
        config
        | {
            "enable.idempotence": True,
            "linger.ms": 5,
            "compression.type": "lz4",
            # The Java clients' choice: all publishers agree on an account's partition.
            "partitioner": "murmur2_random",
            "message.max.bytes": SENDABLE_BYTES,
        }
    )
    shards = manifest.partitions("transactions")
    try:
        metadata = producer.list_topics(topic, timeout=30).topics[topic]
    except KafkaException as error:
        raise BrokerError(f"cannot reach the broker: {error.args[0].str()}") from error
    if metadata.error is not None:
        made = f"make it first; with {len(shards)} partitions messages keep theirs"
        absent = metadata.error.code() == KafkaError.UNKNOWN_TOPIC_OR_PART
        raise BrokerError(
            f"no topic to send to: {metadata.error.str()}",
            topic=topic,
            remedy=made if absent else None,
        )
    same = shards == sorted(metadata.partitions)
    deliveries, sent, left_out = _Deliveries(topic), 0, 0
    begun, first = time.monotonic(), None
    rows = [_rows(recording, manifest, shard) for shard in shards]
    for row in heapq.merge(*rows, key=itemgetter(0, 1, 2)):
        if _erased(row, forgotten):
            left_out += 1
            continue
        at = row[0]
        first = at if first is None else first
        if speed:
            _wait(producer, begun + (at - first) / 1_000 / speed)
        _produce(producer, topic, row, deliveries, same=same)
        deliveries.check()
        sent += 1
        if sent % BATCH == 0:
            progress(sent + left_out, total)
    if producer.flush(FLUSH_S):
        raise BrokerError(f"messages were not delivered within {FLUSH_S:.0f} s", topic=topic)
    deliveries.check()
    progress(sent + left_out, total)
    return sent, left_out


def _erased(row: _Row, forgotten: Mapping[bytes, int]) -> bool:
    _, _, offset, key, _, _ = row
    if key is None or not forgotten:
        return False
    return offset < cut_of(forgotten, key.decode("utf-8", "replace"))


def _wait(producer: Producer, until: float) -> None:
    while (left := until - time.monotonic()) > 0:
        producer.poll(min(left, 0.1))


def _produce(
    producer: Producer, topic: str, row: _Row, deliveries: _Deliveries, *, same: bool
) -> None:
    """Hand one message over, waiting while the producer's queue is full. Raises BrokerError."""
    _, shard, offset, key, value, headers = row
    while True:
        try:
            producer.produce(
                topic,
                value=value,
                key=key,
                partition=shard if same else -1,
                headers=headers,  # type: ignore[arg-type]
                on_delivery=partial(deliveries, shard, offset),
            )
        except BufferError:
            producer.poll(0.1)
        except KafkaException as error:
            raise deliveries.refusal(error.args[0], shard, offset) from error
        else:
            producer.poll(0)
            return
