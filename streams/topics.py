"""The topics of schema v1 on a broker: made where missing, brought to their settings where not.

In: Settings (address, prefix, replication). Out: what was done with each topic.
Does not delete anything, and never changes a partition count: accounts would move between
partitions, away from their state.
"""

from __future__ import annotations

from collections.abc import Iterable
from concurrent.futures import Future
from typing import TYPE_CHECKING, Any, Final, Literal

from streams.connect import check_kafka, confluent_config
from streams.errors import BrokerError
from streams.schema import TOPICS, TopicSpec
from streams.settings import Settings

if TYPE_CHECKING:
    from confluent_kafka.admin import AdminClient

Outcome = Literal["created", "exists", "changed"]

TIMEOUT_S: Final = 30.0
MAX_DEAD_LETTER_BYTES: Final = 2 * 1_048_588
"""A dead letter holds the original bytes and headers: its limit is above that of its source."""


def partitions_of(spec: TopicSpec, partitions: int) -> int:
    """Topics keyed by account share the count; the rules are few and their order matters."""
    return 1 if spec.key == "rule_id" else partitions


def config_of(spec: TopicSpec, replication: int) -> dict[str, str]:
    """Topic settings. LogAppendTime: latency is measured from it, and an old recording that is
    published today is not deleted today by its retention."""
    config = {
        "retention.ms": str(spec.retention_ms),
        "cleanup.policy": spec.cleanup,
        "message.timestamp.type": "LogAppendTime",
    }
    if spec.name == "transactions.dlq":
        config["max.message.bytes"] = str(MAX_DEAD_LETTER_BYTES)
    if replication > 2:
        config["min.insync.replicas"] = "2"
    return config


def create(settings: Settings, partitions: int | None = None) -> dict[str, Outcome]:
    """Make every topic of the schema. Idempotent.

    Raises BrokerError when the broker refuses, or when `partitions` is given and a topic that
    exists has another count.
    """
    from confluent_kafka.admin import AdminClient

    check_kafka(settings)
    client = AdminClient(confluent_config(settings))
    existing = client.list_topics(timeout=TIMEOUT_S).topics
    wanted = partitions or settings.topics.partitions
    new, old = [], []
    for spec in TOPICS:
        name = settings.topic(spec.name)
        if name not in existing:
            new.append(spec)
            continue
        old.append(spec)
        have = len(existing[name].partitions)
        if partitions is not None and have != partitions_of(spec, partitions):
            raise BrokerError(
                f"topic {name} has {have} partitions, not {partitions_of(spec, partitions)}",
                topic=name,
                remedy="Leave --partitions away, or make a new set with another topic_prefix: "
                "in place, accounts would move away from their state",
            )
    outcome: dict[str, Outcome] = dict.fromkeys((settings.topic(s.name) for s in TOPICS), "exists")
    for name in _create(client, settings, new, wanted):
        outcome[name] = "created"
    for name in _bring_in_line(client, settings, old):
        outcome[name] = "changed"
    return outcome


def _create(
    client: AdminClient, settings: Settings, specs: Iterable[TopicSpec], partitions: int
) -> list[str]:
    """Make the topics that are missing; another command may have been faster."""
    from confluent_kafka import KafkaError, KafkaException
    from confluent_kafka.admin import NewTopic

    replication = settings.topics.replication
    wanted = [
        NewTopic(
            settings.topic(spec.name),
            num_partitions=partitions_of(spec, partitions),
            replication_factor=replication,
            config=config_of(spec, replication),
        )
        for spec in specs
    ]
    if not wanted:
        return []
    made: dict[str, Future[None]] = client.create_topics(wanted, operation_timeout=TIMEOUT_S)
    names = []
    for name, future in made.items():
        try:
            future.result()
        except KafkaException as error:
            if error.args[0].code() != KafkaError.TOPIC_ALREADY_EXISTS:
                raise BrokerError(
                    f"cannot make the topic: {error.args[0].str()}", topic=name
                ) from None
        else:
            names.append(name)
    return names


def describe(settings: Settings, name: str) -> tuple[str, int]:
    """Kafka's id of a topic of the schema (a topic made again has another) and its partition count.

    Raises BrokerError.
    """
    from confluent_kafka import KafkaException, TopicCollection
    from confluent_kafka.admin import AdminClient

    full = settings.topic(name)
    client = AdminClient(confluent_config(settings))
    try:
        asked = client.describe_topics(TopicCollection([full]), request_timeout=TIMEOUT_S)
        found = asked[full].result()
    except KafkaException as error:
        raise BrokerError(
            f"cannot describe the topic: {error.args[0].str()}",
            topic=full,
            remedy="`fraudstream topics create` makes the topics",
        ) from None
    return str(found.topic_id), len(found.partitions)


def _bring_in_line(
    client: AdminClient, settings: Settings, specs: Iterable[TopicSpec]
) -> list[str]:
    """Set what differs from the schema on topics that exist."""
    from confluent_kafka import KafkaException
    from confluent_kafka.admin import AlterConfigOpType, ConfigEntry, ConfigResource

    wanted = {
        settings.topic(spec.name): config_of(spec, settings.topics.replication) for spec in specs
    }
    if not wanted:
        return []
    asked = [ConfigResource(ConfigResource.Type.TOPIC, name) for name in wanted]
    changed: list[str] = []
    try:
        for resource, future in client.describe_configs(asked).items():
            have: dict[str, Any] = future.result(timeout=TIMEOUT_S)
            for name, value in wanted[resource.name].items():
                if name not in have or have[name].value != value:
                    resource.add_incremental_config(
                        ConfigEntry(name, value, incremental_operation=AlterConfigOpType.SET)
                    )
            if resource.incremental_configs:
                for done in client.incremental_alter_configs([resource]).values():
                    done.result(timeout=TIMEOUT_S)
                changed.append(resource.name)
    except KafkaException as error:
        raise BrokerError(f"cannot set topic settings: {error.args[0].str()}") from None
    return changed
