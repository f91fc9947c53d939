"""How the service is: lag, outbox, owner's claims, model in use.

In: settings. Out: `Status`, from the broker's offsets and Redis alone: no worker is asked, so it
answers when none runs. Does not know how the store or the worker use what it reads.
"""

from __future__ import annotations

import contextlib
import time
from collections.abc import Iterator, Mapping
from dataclasses import asdict, dataclass, replace
from typing import TYPE_CHECKING, Any

import redis
from confluent_kafka import Consumer, KafkaError, KafkaException, TopicPartition

from streams.clients.outage import PASSING, answered, limits
from streams.connect import (
    check_kafka,
    check_redis,
    confluent_config,
    patiently,
    redis_client,
    topic_remedy,
)
from streams.errors import BrokerError
from streams.findings import plural
from streams.schema import TOPICS
from streams.settings import Settings
from streams.store import generations, keys, scripts

if TYPE_CHECKING:
    from confluent_kafka.admin import PartitionMetadata

TIMEOUT_S = 15.0
NEW_TOPIC_S = 1.0
"""How long a topic that was just made may be unknown to a broker."""
LOOK_S = 5.0
"""So long it is looked whether what was not applied holds a message at all."""


@dataclass(frozen=True, slots=True)
class PartitionStatus:
    """One partition: messages not yet applied, batches in the outbox (Kafka may have some of them
    already), claims so far."""

    partition: int
    end: int
    applied: int | None
    lag: int
    outbox: int
    claims: int
    erasures: int
    model: str
    decides: str


@dataclass(frozen=True, slots=True)
class Status:
    """The whole service. `problems` is empty when all is well; each says what to look at.

    `notes` are no failures: a fresh service has committed nothing yet.
    """

    topic: str
    lag: int
    outbox: int
    generation: int
    rebuilding: bool
    redis_used_bytes: int
    partitions: list[PartitionStatus]
    notes: list[str]
    problems: list[str]

    def as_json(self) -> dict[str, Any]:
        """For `--json`."""
        committed = any(each.applied is not None for each in self.partitions)
        return asdict(self) | {"committed": committed, "healthy": not self.problems}


@dataclass(frozen=True, slots=True)
class _Log:
    """A partition's first and next offset, and what the group has committed to Kafka."""

    low: int
    high: int
    committed: int | None


@dataclass(frozen=True, slots=True)
class _Stored:
    """What Redis holds of a partition: its hash, and how many batches wait in the outbox."""

    fields: Mapping[str, str]
    outbox: int


@contextlib.contextmanager
def _asking(settings: Settings, topic: str) -> Iterator[Consumer]:
    """A consumer of the workers' own group, which it asks about and does not join.

    Raises BrokerError where an answer is an error.
    """
    changes = {
        "group.id": settings.kafka.group,
        "enable.auto.commit": False,
        "enable.partition.eof": True,
        "queued.min.messages": 1,
    }
    consumer = Consumer(confluent_config(settings, changes))
    try:
        yield consumer
    except KafkaException as error:
        raise BrokerError(f"cannot read the offsets: {error.args[0].str()}", topic=topic) from error
    finally:
        consumer.close()


def _layout(consumer: Consumer, topic: str) -> dict[int, PartitionMetadata]:
    """The topic's partitions. Raises BrokerError where there are none, KafkaException."""
    metadata = consumer.list_topics(topic, timeout=TIMEOUT_S).topics[topic]
    if metadata.error is not None:
        raise BrokerError(
            f"no topic to look at: {metadata.error.str()}",
            topic=topic,
            remedy=topic_remedy(metadata.error),
        )
    return {number: metadata.partitions[number] for number in sorted(metadata.partitions)}


def _missing(consumer: Consumer, settings: Settings) -> list[str]:
    """The service's topics that are not there. Raises KafkaException."""

    def missing(name: str) -> bool:
        # One that this user may not see has another error, and is not missing.
        error = consumer.list_topics(name, timeout=TIMEOUT_S).topics[name].error
        return error is not None and error.code() == KafkaError.UNKNOWN_TOPIC_OR_PART

    found = [name for spec in TOPICS if missing(name := settings.topic(spec.name))]
    if found:
        time.sleep(NEW_TOPIC_S)
    return [name for name in found if missing(name)]


def _committed(consumer: Consumer, places: list[TopicPartition]) -> dict[int, int]:
    """The group's offsets by partition, where it has any. Raises KafkaException."""
    found = answered(consumer.committed(places, timeout=TIMEOUT_S))
    return {each.partition: each.offset for each in found if each.offset >= 0}


def _without_messages(consumer: Consumer, topic: str, begins: Mapping[int, int]) -> set[int]:
    """The partitions that hold no message from their offset on: what lies there was aborted by its
    sender. No worker gets to see it, so none can apply it. What does not answer is not among them.
    """
    asked, found = set(begins), set()
    consumer.assign([TopicPartition(topic, one, begin) for one, begin in begins.items()])
    deadline = time.monotonic() + LOOK_S
    while asked and time.monotonic() < deadline:
        message = consumer.poll(0.1)
        if message is None:
            continue
        error, partition = message.error(), message.partition()
        if error is None:
            asked.discard(partition)
        elif error.code() != KafkaError._PARTITION_EOF:
            break
        elif partition in asked:
            asked.discard(partition)
            found.add(partition)
    consumer.unassign()
    return found


def _stored(client: redis.Redis, settings: Settings, generation: int, partition: int) -> _Stored:
    names = keys.of(settings.redis.namespace, generation, partition)
    with scripts.named_failures(partition):
        stored: Any = client.hgetall(names.part)
        waiting: Any = client.hlen(names.outbox)
    return _Stored({name.decode(): value.decode() for name, value in stored.items()}, int(waiting))


def _partition(partition: int, stored: _Stored, log: _Log) -> PartitionStatus:
    fields = stored.fields
    applied = int(fields["offset"]) if fields.get("offset") else None
    return PartitionStatus(
        partition=partition,
        end=log.high,
        applied=applied,
        lag=max(0, log.high - max(log.low, applied or 0)),
        outbox=stored.outbox,
        claims=int(fields.get("token", 0)),
        erasures=int(fields.get("erasures", 0)),
        model=fields.get("model", ""),
        decides=fields.get("decides", ""),
    )


def _problems(
    found: list[PartitionStatus],
    logs: dict[int, _Log],
    made_for: int | None,
    missing: list[str],
) -> list[str]:
    """`made_for`: the partition count that the state was made for, None before any.
    `missing`: topics that are not there."""
    problems = []
    if missing:
        problems.append(
            f"workers cannot go on without {', '.join(missing)}, which Kafka does not have: "
            "run `fraudstream topics create`"
        )
    if made_for is not None and made_for != len(logs):
        problems.append(
            f"the topic has {len(logs)} partitions, and the state was made for {made_for}: "
            "accounts may be in other partitions now, and workers refuse to start; "
            "run `fraudstream rebuild`"
        )
    for each in found:
        log = logs[each.partition]
        if each.applied is None:
            if log.committed:
                problems.append(
                    f"partition {each.partition}: Redis has no state, and Kafka says that it was "
                    f"at offset {log.committed}; run `fraudstream rebuild`"
                )
        elif not log.low <= each.applied <= log.high:
            problems.append(
                f"partition {each.partition}: the state is at offset {each.applied}, the log holds "
                f"{log.low} to {log.high}; run `fraudstream rebuild`"
            )
    return problems + _unlike(found)


def _refusal(client: redis.Redis) -> str:
    """What a Redis says that cannot write its file; INFO does not tell whether that stops it."""
    try:
        client.ping()
    except redis.exceptions.ResponseError as error:
        if not scripts.unwritable(error):
            raise
        return str(error)
    return ""


def _store_problems(info: Mapping[str, Any], refusal: str) -> list[str]:
    """Why workers can write nothing now, though Redis answers: they wait, and it looks like lag."""
    problems = []
    if refusal:
        problems.append(
            f"Redis cannot write its file, and workers wait ({refusal}):"
            f" {scripts.to_write_again(refusal)}"
        )
    if info.get("role") != "master":
        problems.append(
            f"this Redis is a replica, and workers can write nothing to it. {scripts.PRIMARY}"
        )
    if limit := scripts.full_at(info):
        problems.append(
            f"Redis is at maxmemory ({limit / 2**20:,.1f} MiB), and workers wait: raise it, and"
            " they go on by themselves"
        )
    return problems


def _unlike(found: list[PartitionStatus]) -> list[str]:
    """One problem where workers score by different models, one where they decide by different
    thresholds or rules files."""

    def told(what: Mapping[int, str]) -> str:
        where: dict[str, list[str]] = {}
        for partition, each in what.items():
            if each:
                where.setdefault(each, []).append(str(partition))
        each_where = (f"{each} in {', '.join(numbers)}" for each, numbers in where.items())
        return "; ".join(each_where) if len(where) > 1 else ""

    problems = []
    if models := told({each.partition: each.model for each in found}):
        problems.append(
            f"several models at work ({models}): give all workers the same, or wait until the last"
            " one has it"
        )
    if decides := told({each.partition: each.decides for each in found}):
        problems.append(
            f"partitions are decided by different settings ({decides}): give all workers the same"
        )
    return problems


def _notes(found: list[PartitionStatus], layout: Mapping[int, PartitionMetadata]) -> list[str]:
    notes = []
    behind = [str(number) for number, one in layout.items() if len(one.isrs) < len(one.replicas)]
    if behind:
        notes.append(
            f"not all copies are in sync of {plural(len(behind), 'partition')}"
            f" ({', '.join(behind)}): a broker is away, or on its way back"
        )
    if any(each.applied is not None for each in found):
        return notes
    waiting = sum(each.lag for each in found)
    told = f", and {waiting:,} transactions wait: is a worker running?" if waiting else ""
    return [*notes, f"nothing committed yet{told}"]


def status(settings: Settings) -> Status:
    """Look at the broker and Redis. Raises BrokerError or StoreError when one does not answer."""
    check_kafka(settings)
    client, topic = redis_client(settings), settings.topic("transactions")
    try:
        check_redis(settings, client, to_read=True)
        with _asking(settings, topic) as consumer:
            layout = _layout(consumer, topic)
            missing = _missing(consumer, settings)
            # Workers go on meanwhile: Redis is never behind what was committed to Kafka before,
            # and never ahead of a log that is looked at afterwards.
            places = [TopicPartition(topic, partition) for partition in layout]
            committed = patiently(lambda: _committed(consumer, places), PASSING, TIMEOUT_S)
            now = generations.read(client, settings.redis.namespace)
            stored = {one: _stored(client, settings, now.current, one) for one in layout}
            with scripts.named_failures(-1):
                info: Any = client.info()
                refusal = _refusal(client)
            logs = {one: _Log(*limits(consumer, topic, one), committed.get(one)) for one in layout}
            found = [_partition(one, stored[one], log) for one, log in logs.items()]
            begins = {one.partition: one.end - one.lag for one in found if one.lag}
            nothing = _without_messages(consumer, topic, begins)
            found = [replace(one, lag=0) if one.partition in nothing else one for one in found]
    finally:
        client.close()
    problems = _store_problems(info, refusal) + _problems(found, logs, now.partitions, missing)
    return Status(
        topic=topic,
        lag=sum(each.lag for each in found),
        outbox=sum(each.outbox for each in found),
        generation=now.current,
        rebuilding=now.building is not None,
        redis_used_bytes=int(info["used_memory"]),
        partitions=found,
        notes=[] if problems else _notes(found, layout),
        problems=problems,
    )


def text(found: Status) -> str:
    """For a person at a terminal."""
    lines = [
        f"{found.topic}: lag {found.lag:,}, outbox {found.outbox:,}, "
        f"Redis {found.redis_used_bytes / 2**20:,.1f} MiB"
        + (", rebuild under way (or broken off: run it again)" if found.rebuilding else ""),
        "partition        end    applied        lag  outbox  claims  model",
    ]
    lines += [
        f"{one.partition:9} {one.end:10,} {'-' if one.applied is None else f'{one.applied:,}':>10} "
        f"{one.lag:10,} {one.outbox:7,} {one.claims:7,}  {one.model}"
        for one in found.partitions
    ]
    lines += found.notes
    return "\n".join([*lines, *(f"problem: {problem}" for problem in found.problems)])
