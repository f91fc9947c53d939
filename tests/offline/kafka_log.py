"""A topic filled with known messages, and what a plain consumer reads of it. For tests only."""

from __future__ import annotations

import random
import time
from collections.abc import Mapping
from typing import Any

from confluent_kafka import Consumer, KafkaException, Producer, TopicCollection, TopicPartition
from confluent_kafka.admin import AdminClient, NewTopic

from streams.offline.recording import Recording

Row = tuple[int, int, bytes | None, bytes | None, list[tuple[str, bytes | None]]]
"""(offset, time, key, value, headers)."""
Log = dict[int, list[Row]]
BEGIN_MS = 1_700_000_000_000
PATIENCE_S = 120.0


def make_topics(bootstrap: str, partitions: Mapping[str, int], **config: str) -> None:
    """Topics with times set by the publisher, so that a test can choose them."""
    settings = {"message.timestamp.type": "CreateTime", "retention.ms": "-1", **config}
    new = [NewTopic(name, count, 1, config=settings) for name, count in partitions.items()]
    client = AdminClient({"bootstrap.servers": bootstrap})
    for made in client.create_topics(new).values():
        made.result(PATIENCE_S)
    deadline = time.monotonic() + PATIENCE_S
    while not all(_described(client, name) for name in partitions):
        assert time.monotonic() < deadline
        time.sleep(0.05)


def _described(client: AdminClient, name: str) -> bool:
    """Whether the broker knows a topic that it was just told to make."""
    try:
        found = client.describe_topics(TopicCollection([name]))[name].result(PATIENCE_S)
    except KafkaException:
        return False
    return all(partition.leader is not None for partition in found.partitions)


def drop_topics(bootstrap: str, names: list[str]) -> None:
    """Delete topics and wait until the broker says so."""
    client = AdminClient({"bootstrap.servers": bootstrap})
    for gone in client.delete_topics(names).values():
        gone.result(PATIENCE_S)
    deadline = time.monotonic() + PATIENCE_S
    while set(names) & set(client.list_topics(timeout=PATIENCE_S).topics):
        assert time.monotonic() < deadline
        time.sleep(0.05)


def publish(bootstrap: str, topic: str, partition: int, first: int, count: int) -> None:
    """Messages `first`.. of a partition: a second apart, some without key, value or headers."""
    producer = Producer({"bootstrap.servers": bootstrap, "linger.ms": 20})
    chance = random.Random(f"{topic} {partition} {first}")
    for number in range(first, first + count):
        header: list[tuple[str, bytes | None]] = [("trace", chance.randbytes(8)), ("empty", None)]
        producer.produce(
            topic,
            None if number % 13 == 5 else chance.randbytes(chance.randrange(200)),
            None if number % 7 == 3 else b"key-%d" % (number % 10),
            partition,
            headers=header[: number % 3],  # type: ignore[arg-type]
            timestamp=BEGIN_MS + 1_000 * number,
        )
        producer.poll(0)
    assert producer.flush(PATIENCE_S) == 0


def publish_in_transactions(bootstrap: str, topic: str, partition: int) -> None:
    """Two committed transactions and an aborted one: offsets that no reader ever sees."""
    producer = Producer({"bootstrap.servers": bootstrap, "transactional.id": f"{topic}-writer"})
    producer.init_transactions(PATIENCE_S)
    for number, kept in enumerate((True, False, True)):
        producer.begin_transaction()
        for step in range(5):
            producer.produce(topic, b"in transaction %d %d" % (number, step), partition=partition)
        if kept:
            producer.commit_transaction(PATIENCE_S)
        else:
            producer.flush(PATIENCE_S)
            producer.abort_transaction(PATIENCE_S)


def read(bootstrap: str, topic: str, partitions: int) -> Log:
    """All that the topic holds now, by a consumer of its own."""
    config: dict[str, Any] = {"bootstrap.servers": bootstrap, "group.id": "reader"}
    consumer = Consumer(config | {"enable.partition.eof": True, "enable.auto.commit": False})
    found: Log = {number: [] for number in range(partitions)}
    consumer.assign([TopicPartition(topic, number, 0) for number in found])
    open_parts = set(found)
    while open_parts:
        for message in consumer.consume(1_000, 0.3):
            partition = message.partition()
            assert partition is not None
            if message.error() is not None:
                open_parts.discard(partition)
                continue
            place, time_ms = message.offset(), message.timestamp()[1]
            key, value, headers = message.key(), message.value(), list(message.headers() or [])
            found[partition].append((place, time_ms, key, value, headers))  # type: ignore[arg-type]
    consumer.close()
    return found


def recorded(recording: Recording, topic: str) -> Log:
    """The same, from a recording; every row group is checked on the way."""
    manifest = recording.manifest()
    found: Log = {}
    for partition in manifest.partitions(topic):
        rows = [row for table in recording.tables(manifest, topic, partition, []) for row in
                table.to_pylist()]  # fmt: skip
        found[partition] = [
            (
                row["offset"],
                row["timestamp"],
                row["key"],
                row["value"],
                [(pair["name"], pair["value"]) for pair in row["headers"]],
            )
            for row in rows
        ]
    return found
