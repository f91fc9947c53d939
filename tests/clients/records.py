"""Records for the tests of the clients: transactions, scores, alerts, and raw messages on Kafka."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

import orjson
from confluent_kafka import Consumer, Message, Producer, TopicPartition

from streams import topics
from streams.clients.outage import limits
from streams.sections import KafkaSettings
from streams.settings import Settings

VERSIONS = {"model": "m1", "features": "f1", "rules": "r0", "risk": "none", "code": "1"}


def settings(bootstrap: str, prefix: str, partitions: int = 2) -> Settings:
    """Settings for this prefix, its topics made."""
    found = Settings(kafka=KafkaSettings(bootstrap=bootstrap, topic_prefix=prefix))
    topics.create(found, partitions)
    return found


def transaction(number: int, account: str = "a1") -> dict[str, Any]:
    return {
        "schema_version": 1, "transaction_id": f"t{number}", "account_id": account,
        "event_time": 1_735_689_600_000 + number, "amount": 100 + number, "currency": "EUR",
    }  # fmt: skip


def score(number: int, decision: str = "approve", **more: Any) -> dict[str, Any]:
    return {
        "schema_version": 1, "transaction_id": f"t{number}", "account_id": f"a{number % 7}",
        "event_time": 1_735_689_600_000 + number, "score": number / 1_000, "decision": decision,
        "mode": "full", "late": False, "feature_digest": f"{number:016x}", "versions": VERSIONS,
        "source": {"topic": "transactions", "partition": 0, "offset": number},
        "produced_time": 1_735_689_700_000, **more,
    }  # fmt: skip


def alert(number: int, decision: str = "block", **more: Any) -> dict[str, Any]:
    own = {
        "alert_id": f"{number:032x}", "amount": 123_456, "currency": "EUR", "threshold": 0.8,
        "risk_level": "high", "rules": [{"rule_id": "big", "version": 1, "outcome": "review"}],
        "reasons": [{"code": "rate", "text": "4 payments in 60 s; usual: 1 in 2 days"}],
    }  # fmt: skip
    return score(number, decision, **own) | more


def put(
    bootstrap: str,
    topic: str,
    values: Iterable[dict[str, Any] | bytes | None],
    partition: int = 0,
    headers: list[tuple[str, str | bytes | None]] | None = None,
    key: bytes = b"k",
) -> None:
    """Values to one partition, as they are."""
    producer = Producer({"bootstrap.servers": bootstrap})
    for value in values:
        data = orjson.dumps(value) if isinstance(value, dict) else value
        producer.produce(topic, data, key, partition=partition, headers=headers)
    assert producer.flush(120) == 0


def everything(bootstrap: str, topic: str, partitions: int = 2) -> list[Message]:
    """All messages of a topic, partition by partition."""
    consumer = Consumer({"bootstrap.servers": bootstrap, "group.id": "tests", "log_level": 0})
    found: list[Message] = []
    for number in range(partitions):
        place = TopicPartition(topic, number, 0)
        _, end = limits(consumer, topic, number)
        consumer.assign([place])
        got = 0
        while got < end:
            messages = consumer.consume(end - got, 1.0)
            got += len(messages)
            found += messages
    consumer.close()
    return found
