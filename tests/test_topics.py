"""Topics on a real broker: made with the schema's settings, again and again the same."""

from __future__ import annotations

from concurrent.futures import Future
from typing import Any

import pytest
from confluent_kafka import KafkaError, KafkaException, Producer, TopicCollection
from confluent_kafka.admin import (
    AdminClient,
    AlterConfigOpType,
    ConfigEntry,
    ConfigResource,
    NewTopic,
)

from streams import topics
from streams.errors import BrokerError
from streams.schema import DAY_MS, TOPICS
from streams.settings import Settings, load


@pytest.fixture
def settings(kafka: str, topic_prefix: str) -> Settings:
    return load(flags=[f"kafka.bootstrap={kafka}", f"kafka.topic_prefix={topic_prefix}"])


@pytest.fixture
def admin(kafka: str) -> AdminClient:
    return AdminClient({"bootstrap.servers": kafka})


def config_on(admin: AdminClient, topic: str) -> dict[str, str]:
    asked = ConfigResource(ConfigResource.Type.TOPIC, topic)
    entries = admin.describe_configs([asked])[asked].result()
    return {name: entry.value for name, entry in entries.items()}


def test_creates_what_the_schema_says_once(settings: Settings, admin: AdminClient) -> None:
    first = topics.create(settings, 3)
    assert first == {settings.topic(spec.name): "created" for spec in TOPICS}
    on_broker = admin.list_topics().topics
    for spec in TOPICS:
        name = settings.topic(spec.name)
        assert len(on_broker[name].partitions) == (1 if spec.name == "rules" else 3)
        config = config_on(admin, name)
        assert config["retention.ms"] == str(spec.retention_ms)
        assert config["cleanup.policy"] == spec.cleanup
        assert config["message.timestamp.type"] == "LogAppendTime"
    assert set(topics.create(settings, 3).values()) == {"exists"}
    assert set(topics.create(settings).values()) == {"exists"}


@pytest.fixture
def stuck(monkeypatch: pytest.MonkeyPatch) -> None:
    """The first client that is asked for something a controller does gets no answer, ever.

    So does librdkafka's after metadata without brokers: a broker that comes out of a pause tells
    them for some milliseconds, once in 30 times, which is too seldom for a test.
    """
    victims: list[AdminClient] = []
    really = {name: getattr(AdminClient, name) for name in ("create_topics", "describe_topics")}

    def answered(verb: str, client: AdminClient, asked: Any, names: list[str], how: Any) -> Any:
        if not victims:
            victims.append(client)
        if victims[0] is not client:
            return really[verb](client, asked, **how)
        unanswered: Future[None] = Future()
        unanswered.set_exception(KafkaException(KafkaError(KafkaError._TIMED_OUT)))
        return dict.fromkeys(names, unanswered)

    def create_topics(client: AdminClient, asked: list[NewTopic], **how: Any) -> Any:
        return answered("create_topics", client, asked, [each.topic for each in asked], how)

    def describe_topics(client: AdminClient, asked: TopicCollection, **how: Any) -> Any:
        return answered("describe_topics", client, asked, asked.topic_names, how)

    monkeypatch.setattr(AdminClient, "create_topics", create_topics)
    monkeypatch.setattr(AdminClient, "describe_topics", describe_topics)


@pytest.mark.usefixtures("stuck")
def test_a_client_that_finds_no_controller_is_replaced(
    settings: Settings, admin: AdminClient
) -> None:
    assert set(topics.create(settings, 2).values()) == {"created"}
    assert {settings.topic(spec.name) for spec in TOPICS} <= set(admin.list_topics().topics)


def test_a_topic_is_described_by_the_next_client(
    settings: Settings, request: pytest.FixtureRequest
) -> None:
    topics.create(settings, 2)
    request.getfixturevalue("stuck")
    assert topics.describe(settings, "transactions")[1] == 2


def test_it_waits_until_the_broker_shows_what_it_made(
    kafka: str,
    topic_prefix: str,
    admin: AdminClient,
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
) -> None:
    """Under load a broker knew of no such topic for a moment, and who asked next was told to make
    it. That moment is made longer here."""
    before = admin.list_topics()
    really, looks = AdminClient.list_topics, list[int]()

    def behind(client: AdminClient, *asked: Any, **how: Any) -> Any:
        looks.append(1)
        return before if len(looks) < 4 else really(client, *asked, **how)

    flags = [f"kafka.bootstrap={kafka}", f"kafka.topic_prefix={topic_prefix}"]
    monkeypatch.setattr(AdminClient, "list_topics", behind)
    topics.create(load(flags=flags), 2)
    assert len(looks) >= 4 and not caplog.records
    looks.clear()
    monkeypatch.setattr(topics, "OPERATION_TIMEOUT_S", 0.0)
    topics.create(load(flags=[*flags[:1], flags[1] + "slow-"]), 2)
    assert "not shown by the broker" in caplog.text


@pytest.mark.usefixtures("stuck")
def test_a_broker_without_a_controller_is_told_in_the_end(
    settings: Settings, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(topics, "PATIENCE_S", 0.0)
    with pytest.raises(BrokerError, match=r"cannot make topics: .*[Tt]imed out"):
        topics.create(settings, 2)


def test_brings_changed_settings_back(settings: Settings, admin: AdminClient) -> None:
    topics.create(settings, 1)
    name = settings.topic("alerts")
    resource = ConfigResource(ConfigResource.Type.TOPIC, name)
    resource.add_incremental_config(
        ConfigEntry("retention.ms", "1000", incremental_operation=AlterConfigOpType.SET)
    )
    admin.incremental_alter_configs([resource])[resource].result()
    outcome = topics.create(settings)
    assert [topic for topic, what in outcome.items() if what == "changed"] == [name]
    assert config_on(admin, name)["retention.ms"] == str(365 * DAY_MS)


def test_refuses_another_partition_count(settings: Settings) -> None:
    topics.create(settings, 2)
    with pytest.raises(BrokerError, match="has 2 partitions, not 4"):
        topics.create(settings, 4)


def test_a_dead_letter_may_be_larger_than_its_source(
    settings: Settings, admin: AdminClient
) -> None:
    """The original bytes and the headers together must fit wherever the original did."""
    topics.create(settings, 1)
    source = int(config_on(admin, settings.topic("transactions"))["max.message.bytes"])
    producer = Producer(
        {"bootstrap.servers": settings.kafka.bootstrap, "message.max.bytes": 2 * source}
    )
    faults: list[object] = []
    producer.produce(
        settings.topic("transactions.dlq"),
        b"x" * (source - 100),
        headers={"detail": "y" * 1_000},
        on_delivery=lambda error, _message: faults.append(error),
    )
    assert producer.flush(10) == 0
    assert faults == [None]


def test_more_copies_than_brokers_is_the_brokers_word(kafka: str, topic_prefix: str) -> None:
    flags = [f"kafka.bootstrap={kafka}", f"kafka.topic_prefix={topic_prefix}"]
    settings = load(flags=[*flags, "topics.replication=3"])
    with pytest.raises(BrokerError, match="replication factor"):
        topics.create(settings)


def test_fewer_copies_than_asked_for_are_told(
    settings: Settings, caplog: pytest.LogCaptureFixture
) -> None:
    """Topics made with the default keep their one copy when the setting is raised later."""
    topics.create(settings, 1)
    assert not caplog.records
    more = settings.topics.model_copy(update={"replication": 3})
    topics.create(settings.model_copy(update={"topics": more}))
    assert f"topics.replication is 3, and {settings.topic('transactions')} (1)" in caplog.text
    assert "kafka-reassign-partitions.sh" in caplog.text


def test_a_partition_count_that_was_raised_in_the_settings_is_told_to_change_nothing(
    kafka: str, topic_prefix: str, caplog: pytest.LogCaptureFixture
) -> None:
    flags = [f"kafka.bootstrap={kafka}", f"kafka.topic_prefix={topic_prefix}"]
    topics.create(load(flags=flags), 1)
    topics.create(load(flags=flags))
    topics.create(load(flags=[*flags, "topics.partitions=1"]))
    assert not caplog.records
    assert set(topics.create(load(flags=[*flags, "topics.partitions=2"])).values()) == {"exists"}
    assert f"topics.partitions is 2, and {topic_prefix}transactions (1), " in caplog.text
    assert f"{topic_prefix}rules" not in caplog.text
    assert "infra/runbook.md" in caplog.text


def test_what_must_be_in_sync_goes_by_the_copies_that_a_topic_has(
    settings: Settings, admin: AdminClient
) -> None:
    """With `min.insync.replicas=2`, a topic of two copies takes no write while a broker is away."""
    topics.create(settings, 1)
    more = settings.topics.model_copy(update={"replication": 3})
    again = topics.create(settings.model_copy(update={"topics": more}))
    assert set(again.values()) == {"exists"}
    assert config_on(admin, settings.topic("transactions"))["min.insync.replicas"] == "1"
