"""The topics of schema v1 on a broker: made where missing, brought to their settings where not.

In: Settings (address, prefix, replication). Out: what was done with each topic.
Does not delete anything, and never changes a partition count: accounts would move between
partitions, away from their state.
"""

from __future__ import annotations

import logging
import time
from collections.abc import Callable, Iterable, Mapping
from concurrent.futures import Future
from typing import TYPE_CHECKING, Any, Final, Literal, TypeVar

from streams.connect import check_kafka, confluent_config, patiently, topic_remedy
from streams.errors import BrokerError
from streams.schema import TOPICS, TopicSpec
from streams.settings import Settings

if TYPE_CHECKING:
    from confluent_kafka.admin import AdminClient, TopicMetadata

Outcome = Literal["created", "exists", "changed"]

Answer = TypeVar("Answer")

PATIENCE_S: Final = 120.0
"""How long a broker that answers nothing is asked again, by a new client each time."""
REQUEST_TIMEOUT_S: Final = 30.0
OPERATION_TIMEOUT_S: Final = 20.0
"""How long the broker itself may wait for a topic to be made, and we for it to be shown."""
LOOK_EVERY_S: Final = 0.05
MAX_DEAD_LETTER_BYTES: Final = 2 * 1_048_588
"""A dead letter holds the original bytes and headers: its limit is above that of its source."""

_logger = logging.getLogger(__name__)


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
    check_kafka(settings)
    outcome: dict[str, Outcome] = {}
    _ask(settings, "make", lambda client: _make_all(client, settings, partitions, outcome))
    return {name: outcome[name] for name in (settings.topic(spec.name) for spec in TOPICS)}


def _make_all(
    client: AdminClient, settings: Settings, partitions: int | None, outcome: dict[str, Outcome]
) -> None:
    """What `create` does; `outcome` keeps what earlier attempts had done. Raises KafkaException."""
    existing = client.list_topics(timeout=REQUEST_TIMEOUT_S).topics
    wanted = partitions or settings.topics.partitions
    new, old = [], []
    for spec in TOPICS:
        name = settings.topic(spec.name)
        if name not in existing:
            new.append(spec)
            continue
        old.append(spec)
        outcome.setdefault(name, "exists")
        have = len(existing[name].partitions)
        if partitions is not None and have != partitions_of(spec, partitions):
            raise BrokerError(
                f"topic {name} has {have} partitions, not {partitions_of(spec, partitions)}",
                topic=name,
                remedy="Leave --partitions away, or make a new set with another topic_prefix: "
                "in place, accounts would move away from their state",
            )
    _create(client, settings, new, wanted, outcome)
    _see(client, [settings.topic(spec.name) for spec in new])
    copies = {spec: _copies(existing[settings.topic(spec.name)]) for spec in old}
    _bring_in_line(client, settings, copies, outcome)
    _tell_of_few_copies(settings, copies)
    if partitions is None:
        counts = {spec: len(existing[settings.topic(spec.name)].partitions) for spec in old}
        _tell_of_other_counts(settings, counts)


def _copies(topic: TopicMetadata) -> int:
    """Of the partition that has the fewest."""
    return min((len(each.replicas) for each in topic.partitions.values()), default=1)


def _tell_of_few_copies(settings: Settings, copies: Mapping[TopicSpec, int]) -> None:
    """Warn of topics whose partitions have fewer copies than the settings ask for. More copies are
    made by moving partitions, which is for the cluster's operator to begin."""
    wanted = settings.topics.replication
    few = {spec: have for spec, have in copies.items() if have < wanted}
    if few:
        _logger.warning(
            "topics.replication is %d, and %s keep the fewer copies that they were made with; "
            "Kafka's own kafka-reassign-partitions.sh gives them more; run this again after it",
            wanted,
            _listed(settings, few),
        )


def _tell_of_other_counts(settings: Settings, counts: Mapping[TopicSpec, int]) -> None:
    """Warn of topics that have another partition count than the settings say, where they do say:
    who raises the setting and runs this again may think that it was done."""
    wanted = settings.topics.partitions
    if "partitions" not in settings.topics.model_fields_set:
        return
    other = {spec: have for spec, have in counts.items() if have != partitions_of(spec, wanted)}
    if other:
        _logger.warning(
            "topics.partitions is %d, and %s keep the count that they have: accounts would move "
            "away from their state; infra/runbook.md tells how to raise it",
            wanted,
            _listed(settings, other),
        )


def _listed(settings: Settings, numbers: Mapping[TopicSpec, int]) -> str:
    return ", ".join(f"{settings.topic(spec.name)} ({have})" for spec, have in numbers.items())


def _create(
    client: AdminClient,
    settings: Settings,
    specs: Iterable[TopicSpec],
    partitions: int,
    outcome: dict[str, Outcome],
) -> None:
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
        return
    made: dict[str, Future[None]] = client.create_topics(
        wanted, operation_timeout=OPERATION_TIMEOUT_S, request_timeout=REQUEST_TIMEOUT_S
    )
    for name, future in made.items():
        try:
            future.result()
        except KafkaException as error:
            code = error.args[0].code()
            if code == KafkaError.TOPIC_ALREADY_EXISTS:
                outcome.setdefault(name, "exists")
            elif code in _unanswered():
                raise
            else:
                raise BrokerError(
                    f"cannot make the topic: {error.args[0].str()}",
                    topic=name,
                    remedy=_rights(code),
                ) from None
        else:
            outcome[name] = "created"


def _see(client: AdminClient, made: list[str]) -> None:
    """Wait until a broker shows these topics with a leader for each partition. The controller's
    answer comes before: who asks for them at once would be told that there are none."""
    until = time.monotonic() + OPERATION_TIMEOUT_S
    while made:
        shown = client.list_topics(timeout=REQUEST_TIMEOUT_S).topics
        made = [name for name in made if name not in shown or not _led(shown[name])]
        if made and time.monotonic() >= until:
            _logger.warning(
                "made, but not shown by the broker after %.0f s: %s; `fraudstream status` tells "
                "when they are there",
                OPERATION_TIMEOUT_S,
                ", ".join(made),
            )
            return
        if made:
            time.sleep(LOOK_EVERY_S)


def _led(topic: TopicMetadata) -> bool:
    """Whether each partition has a leader."""
    return bool(topic.partitions) and all(each.leader >= 0 for each in topic.partitions.values())


def _ask(settings: Settings, verb: str, question: Callable[[AdminClient], Answer]) -> Answer:
    """The answer to `question`, asked again by a new client while it gets none.

    A broker that was just started, or that its controller took for dead during a pause, names
    for a moment neither itself nor a controller. librdkafka's client then drops the only broker
    it knew, and waits for one in vain until its time is over; a new client finds it at once.

    Raises BrokerError.
    """
    from confluent_kafka import KafkaException
    from confluent_kafka.admin import AdminClient

    def ask() -> Answer:
        return question(AdminClient(confluent_config(settings)))

    try:
        return patiently(ask, _unanswered(), PATIENCE_S)
    except KafkaException as error:
        raise BrokerError(
            f"cannot {verb} topics: {error.args[0].str()}",
            remedy=_rights(error.args[0].code()),
        ) from None


def _rights(code: int) -> str | None:
    """What to do where this user may not ask that."""
    from confluent_kafka import KafkaError

    if code in (KafkaError.TOPIC_AUTHORIZATION_FAILED, KafkaError.CLUSTER_AUTHORIZATION_FAILED):
        return "Make topics as their owner; docs/security.md has the rights"
    return None


def _unanswered() -> set[int]:
    """The errors that mean that nobody answered, and not that the broker said no."""
    from confluent_kafka import KafkaError

    return {
        KafkaError._TIMED_OUT,
        KafkaError._PARTIAL,
        KafkaError._TRANSPORT,
        KafkaError._ALL_BROKERS_DOWN,
        KafkaError._DESTROY_BROKER,
        KafkaError.REQUEST_TIMED_OUT,
        KafkaError.NOT_CONTROLLER,
    }


def describe(settings: Settings, name: str) -> tuple[str, int]:
    """Kafka's id of a topic of the schema (a topic made again has another) and its partition count.

    Raises BrokerError.
    """
    return _ask(settings, "describe", lambda client: _describe(client, settings.topic(name)))


def _describe(client: AdminClient, topic: str) -> tuple[str, int]:
    """What `describe` does. Raises KafkaException when nobody answers."""
    from confluent_kafka import KafkaException, TopicCollection

    asked = client.describe_topics(TopicCollection([topic]), request_timeout=REQUEST_TIMEOUT_S)
    try:
        found = asked[topic].result()
    except KafkaException as error:
        if error.args[0].code() in _unanswered():
            raise
        raise BrokerError(
            f"cannot describe the topic: {error.args[0].str()}",
            topic=topic,
            remedy=topic_remedy(error.args[0]),
        ) from None
    return str(found.topic_id), len(found.partitions)


def named(settings: Settings, topic_id: str) -> str | None:
    """The topic that Kafka gave this id, if it is still there. Raises BrokerError."""

    def ask(client: AdminClient) -> str | None:
        from confluent_kafka import KafkaException, TopicCollection

        names = list(client.list_topics(timeout=REQUEST_TIMEOUT_S).topics)
        asked = client.describe_topics(TopicCollection(names), request_timeout=REQUEST_TIMEOUT_S)
        for name, answer in asked.items():
            try:
                if str(answer.result().topic_id) == topic_id:
                    return name
            except KafkaException as error:
                if error.args[0].code() in _unanswered():
                    raise
        return None

    return _ask(settings, "describe", ask)


def _bring_in_line(
    client: AdminClient,
    settings: Settings,
    copies: Mapping[TopicSpec, int],
    outcome: dict[str, Outcome],
) -> None:
    """Set what differs from the schema on topics that exist. Raises KafkaException."""
    from confluent_kafka.admin import AlterConfigOpType, ConfigEntry, ConfigResource

    # By the copies that a topic has: two in sync of two is a topic that no broker may leave.
    wanted = {
        settings.topic(spec.name): config_of(spec, min(have, settings.topics.replication))
        for spec, have in copies.items()
    }
    if not wanted:
        return
    asked = [ConfigResource(ConfigResource.Type.TOPIC, name) for name in wanted]
    described = client.describe_configs(asked, request_timeout=REQUEST_TIMEOUT_S)
    for resource, future in described.items():
        have: dict[str, Any] = future.result()
        for name, value in wanted[resource.name].items():
            if name not in have or have[name].value != value:
                resource.add_incremental_config(
                    ConfigEntry(name, value, incremental_operation=AlterConfigOpType.SET)
                )
        if resource.incremental_configs:
            altered = client.incremental_alter_configs(
                [resource], request_timeout=REQUEST_TIMEOUT_S
            )
            for done in altered.values():
                done.result()
            outcome[resource.name] = "changed"
