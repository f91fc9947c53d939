"""Rules from the topic, on a real Kafka."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable
from types import SimpleNamespace

import orjson
import pytest
from confluent_kafka import KafkaError, KafkaException, Message, Producer

from model.stub import StubScorer
from streams.assembly import Judge
from streams.connect import confluent_config
from streams.dev.process import free_port
from streams.errors import BrokerError
from streams.features import NAMES
from streams.live import rule_source
from streams.live.app import _policy
from streams.live.rule_source import RuleSource
from streams.rulebook import RuleBook, parse_toml
from streams.settings import Settings, load
from streams.topics import create
from tests.live.reading import contents, settings_for
from tests.messages import rule_file
from tests.test_settle import POLICY

FILE = rule_file("file")


def rule(rule_id: str, version: int = 1) -> bytes:
    condition = {"field": "amount", "op": "gt", "value": 1}
    return orjson.dumps(
        {"rule_id": rule_id, "version": version, "outcome": "block", "any": [condition]}
    )


def send(settings: Settings, *messages: tuple[bytes, bytes | None]) -> None:
    producer = Producer(confluent_config(settings))
    faults: list[KafkaError] = []
    for key, value in messages:
        producer.produce(
            settings.topic("rules"), value, key, on_delivery=lambda e, _: e and faults.append(e)
        )
    assert producer.flush(120) == 0 and not faults


def until(condition: Callable[[], bool]) -> None:
    deadline = time.monotonic() + 120
    while not condition():
        assert time.monotonic() < deadline
        time.sleep(0.02)


def elsewhere(settings: Settings, prefix: str) -> Settings:
    """These settings with topics that nobody made."""
    return settings.model_copy(
        update={"kafka": settings.kafka.model_copy(update={"topic_prefix": prefix})}
    )


def known(source: RuleSource) -> dict[str, int]:
    return {each.rule_id: each.version for each in source.rules().rules}


def test_a_worker_starts_with_all_rules_and_follows(
    kafka: str,
    topic_prefix: str,
    caplog: pytest.LogCaptureFixture,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    settings = settings_for(kafka, topic_prefix)
    book = parse_toml(FILE, NAMES)
    send(settings, (b"a", rule("a")), (b"b", rule("b")), (b"a", rule("a", 2)), (b"b", None))
    send(settings, (b"bad", b"{"), (b"wrong", rule("c")), (b"file", rule("file", 7)))
    with RuleSource(settings, book) as source:
        assert known(source) == {"a": 2, "file": 7}
        policy = _policy(Judge("stub", StubScorer(), POLICY), source.rules)
        first = policy()
        assert first.rules is source.rules() and policy() is first
        send(settings, (b"c", rule("c", 3)), (b"file", None))
        until(lambda: known(source) == {"a": 2, "c": 3, "file": 1})
        assert policy().rules.digest == source.rules().digest != first.rules.digest
        assert policy().thresholds == POLICY.thresholds
        assert policy().mode == "full"
        monkeypatch.setattr(StubScorer, "fell_back", True)
        fallen = policy()
        assert (fallen.mode, fallen.rules) == ("cpu_fallback", source.rules())
        assert policy() is fallen
    said = [each.getMessage() for each in caplog.records if "left out" in each.getMessage()]
    assert len(said) == 2
    for one in contents(settings, "rules"):
        if one.key() in (b"bad", b"wrong"):
            place = f"(partition {one.partition()} offset {one.offset()})"
            assert sum(place in words for words in said) == 1, said
    assert all(each.name != "rules" for each in threading.enumerate()), "nobody reads on"
    with RuleSource(settings, book) as again:
        assert again.rules().digest == source.rules().digest


def test_an_empty_topic_leaves_the_file(kafka: str, topic_prefix: str) -> None:
    settings = settings_for(kafka, topic_prefix)
    with RuleSource(settings, parse_toml(FILE, NAMES)) as source:
        assert known(source) == {"file": 1}
    # And a topic of one message has it at its very start.
    send(settings, (b"only", rule("only")))
    with RuleSource(settings, parse_toml(FILE, NAMES)) as source:
        assert known(source) == {"file": 1, "only": 1}


def test_a_topic_that_is_made_while_a_worker_starts_is_waited_for(
    kafka: str, topic_prefix: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It may be known to the broker that made it, and not yet to the one that answers."""
    settings = elsewhere(settings_for(kafka, topic_prefix), f"later-{topic_prefix}")
    monkeypatch.setattr(rule_source, "TOPIC_PATIENCE_S", 60.0)
    made = threading.Timer(0.5, create, (settings,))
    made.start()
    with RuleSource(settings, parse_toml(FILE, NAMES)) as source:
        assert known(source) == {"file": 1}
    made.join()


def test_after_a_fault_rules_are_followed_again(
    kafka: str, topic_prefix: str, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    settings = settings_for(kafka, topic_prefix)
    monkeypatch.setattr(rule_source, "PAUSE_S", 0.01)
    with RuleSource(settings, parse_toml(FILE, NAMES)) as source:
        read, faults = source._read, [KafkaError(KafkaError.TOPIC_AUTHORIZATION_FAILED)] * 2

        def fails_twice() -> set[int]:
            if faults:
                raise KafkaException(faults.pop())
            return read()

        monkeypatch.setattr(source, "_read", fails_twice)
        until(lambda: caplog.text.count("cannot read the rules") == 2)
        send(settings, (b"a", rule("a")))
        until(lambda: known(source) == {"a": 1, "file": 1})


def test_a_missing_topic_says_what_to_do(kafka: str, topic_prefix: str) -> None:
    settings = settings_for(kafka, topic_prefix)
    other = elsewhere(settings, "no-such-")
    with (
        pytest.raises(BrokerError, match="topics create"),
        RuleSource(other, RuleBook(frozenset(NAMES))),
    ):
        pass


def test_a_broker_that_does_not_answer_ends_the_start(monkeypatch: pytest.MonkeyPatch) -> None:
    """In a bounded time, and nothing of it goes on."""
    monkeypatch.setattr(rule_source, "START_S", 0.3)
    settings = load(flags=[f"kafka.bootstrap=127.0.0.1:{free_port()}"])
    before = threading.active_count()
    with (
        pytest.raises(BrokerError, match="cannot read the rules"),
        RuleSource(settings, RuleBook(frozenset(NAMES))),
    ):
        pass
    assert threading.active_count() == before


def test_rules_that_come_with_a_fault_are_not_lost(
    kafka: str, topic_prefix: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """What a consumer hands out it does not hand out again; the fault is one of those messages."""
    source = RuleSource(settings_for(kafka, topic_prefix), parse_toml(FILE, NAMES))
    with source:
        pass
    where = {"topic": "rules", "partition": 0}
    come = [
        Message(key=b"a", value=rule("a"), offset=0, **where),
        Message(error=KafkaError(KafkaError.TOPIC_AUTHORIZATION_FAILED), **where),
        Message(key=b"b", value=rule("b"), offset=1, **where),
    ]
    monkeypatch.setattr(source, "_consumer", SimpleNamespace(consume=lambda *_: come))
    with pytest.raises(KafkaException):
        source._read()
    assert known(source) == {"a": 1, "b": 1, "file": 1}
    # A fault that passes by itself ends nothing; one may be of no partition.
    come[:] = [
        Message(error=KafkaError(KafkaError._TRANSPORT), **where),
        Message(error=KafkaError(KafkaError._ALL_BROKERS_DOWN)),
        Message(key=b"c", value=rule("c"), offset=2, **where),
    ]
    source._read()
    assert known(source) == {"a": 1, "b": 1, "c": 1, "file": 1}
