"""How the service is: lag, outbox, owner's claims, model in use, risk snapshots.

In: settings. Out: `Status`, from the broker's offsets and Redis alone: no worker is asked, so it
answers when none runs. Does not know how the store or the worker use what it reads.
"""

from __future__ import annotations

import time
from dataclasses import asdict, dataclass
from typing import Any

import redis
from confluent_kafka import Consumer, KafkaError, KafkaException, TopicPartition

from streams.connect import check_kafka, check_redis, confluent_config, redis_client
from streams.errors import BrokerError
from streams.settings import Settings
from streams.store import generations, keys

TIMEOUT_S = 15.0


@dataclass(frozen=True, slots=True)
class PartitionStatus:
    """One partition: messages not yet applied, batches not yet published, claims so far."""

    partition: int
    end: int
    applied: int | None
    lag: int
    outbox: int
    claims: int
    erasures: int
    model: str


@dataclass(frozen=True, slots=True)
class Status:
    """The whole service. `problems` is empty when all is well; each says what to look at."""

    topic: str
    lag: int
    outbox: int
    generation: int
    rebuilding: bool
    redis_used_bytes: int
    partitions: list[PartitionStatus]
    problems: list[str]

    def as_json(self) -> dict[str, Any]:
        """For `--json`."""
        return asdict(self) | {"healthy": not self.problems}


def _ends(settings: Settings, topic: str) -> dict[int, tuple[int, int]]:
    """First and next offset of each partition. Raises BrokerError."""
    consumer = Consumer(confluent_config(settings, {"group.id": f"{settings.kafka.group}-status"}))
    try:
        metadata = consumer.list_topics(topic, timeout=TIMEOUT_S).topics[topic]
        if metadata.error is not None:
            raise BrokerError(
                f"no topic to look at: {metadata.error.str()}",
                topic=topic,
                remedy="make the topics with `fraudstream topics create`",
            )
        return {
            partition: _watermarks(consumer, TopicPartition(topic, partition))
            for partition in sorted(metadata.partitions)
        }
    except KafkaException as error:
        raise BrokerError(f"cannot read the offsets: {error.args[0].str()}", topic=topic) from error
    finally:
        consumer.close()


def _watermarks(consumer: Consumer, partition: TopicPartition) -> tuple[int, int]:
    """Offsets of one partition; a new or moved partition has no leader for a moment."""
    until = time.monotonic() + TIMEOUT_S
    while True:
        try:
            return consumer.get_watermark_offsets(partition, timeout=TIMEOUT_S)
        except KafkaException as error:
            passing = error.args[0].code() == KafkaError.NOT_LEADER_FOR_PARTITION
            if not passing or time.monotonic() > until:
                raise
            time.sleep(0.2)


def _partition(
    client: redis.Redis, settings: Settings, generation: int, partition: int, ends: tuple[int, int]
) -> PartitionStatus:
    names = keys.of(settings.redis.namespace, generation, partition)
    stored: Any = client.hgetall(names.part)
    fields = {name.decode(): value.decode() for name, value in stored.items()}
    applied = int(fields["offset"]) if fields.get("offset") else None
    low, high = ends
    waiting: Any = client.hlen(names.outbox)
    return PartitionStatus(
        partition=partition,
        end=high,
        applied=applied,
        lag=max(0, high - max(low, applied or 0)),
        outbox=int(waiting),
        claims=int(fields.get("token", 0)),
        erasures=int(fields.get("erasures", 0)),
        model=fields.get("model", ""),
    )


def _problems(found: list[PartitionStatus], ends: dict[int, tuple[int, int]]) -> list[str]:
    problems = []
    if all(each.applied is None for each in found):
        problems.append("no worker has committed anything yet: is one running?")
    for each in found:
        low, high = ends[each.partition]
        if each.applied is not None and not low <= each.applied <= high:
            problems.append(
                f"partition {each.partition}: the state is at offset {each.applied}, the log holds "
                f"{low} to {high}; run `fraudstream rebuild`"
            )
    models = sorted({each.model for each in found if each.model})
    if len(models) > 1:
        problems.append(f"several models at work: {', '.join(models)}")
    return problems


def status(settings: Settings) -> Status:
    """Look at the broker and Redis. Raises BrokerError or StoreError when one does not answer."""
    check_kafka(settings)
    client = redis_client(settings)
    try:
        check_redis(settings, client)
        topic = settings.topic("transactions")
        ends = _ends(settings, topic)
        now = generations.read(client, settings.redis.namespace)
        found = [
            _partition(client, settings, now.current, partition, ends[partition])
            for partition in ends
        ]
        memory: Any = client.info("memory")
    finally:
        client.close()
    return Status(
        topic=topic,
        lag=sum(each.lag for each in found),
        outbox=sum(each.outbox for each in found),
        generation=now.current,
        rebuilding=now.building is not None,
        redis_used_bytes=int(memory["used_memory"]),
        partitions=found,
        problems=_problems(found, ends),
    )


def text(found: Status) -> str:
    """For a person at a terminal."""
    lines = [
        f"{found.topic}: lag {found.lag:,}, outbox {found.outbox:,}, "
        f"Redis {found.redis_used_bytes / 2**20:,.1f} MiB"
        + (", rebuild under way" if found.rebuilding else ""),
        "partition        end    applied        lag  outbox  claims  model",
    ]
    lines += [
        f"{one.partition:9} {one.end:10,} {one.applied if one.applied is not None else '-':>10} "
        f"{one.lag:10,} {one.outbox:7,} {one.claims:7,}  {one.model}"
        for one in found.partitions
    ]
    return "\n".join([*lines, *(f"problem: {problem}" for problem in found.problems)])
