"""Questions about a partition whose leader dies while they are asked: the next leader answers."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from confluent_kafka import Consumer, KafkaError, Producer, TopicPartition

from streams import topics
from streams.clients.outage import at_times, limits, passes
from streams.connect import confluent_config
from streams.settings import load
from tests.faults.cluster import three_nodes


def _moment(consumer: Consumer) -> list[int]:
    return [each.offset for each in at_times(consumer, [TopicPartition("transactions", 0, 1)])]


@pytest.mark.parametrize(
    ("ask", "answer"),
    [(lambda consumer: limits(consumer, "transactions", 0), (0, 3)), (_moment, [0])],
    ids=["limits", "times"],
)
def test_the_next_leader_answers(
    tmp_path: Path, ask: Callable[[Consumer], Any], answer: object
) -> None:
    """librdkafka drops a broker that the others no longer name, and what waits for it with it."""
    with three_nodes(tmp_path) as cluster:
        flags = [f"kafka.bootstrap={cluster.bootstrap}", "topics.replication=3"]
        settings = load(flags=flags)
        topics.create(settings, 1)
        out = Producer(confluent_config(settings))
        for value in (b"1", b"2", b"3"):
            out.produce("transactions", value)
        assert out.flush(30) == 0
        asking = Consumer(confluent_config(settings, {"group.id": "asking"}))
        try:
            assert ask(asking) == answer
            cluster.kill(cluster.leader("transactions", 0))
            assert ask(asking) == answer
        finally:
            asking.close()


def test_errors_that_pass_are_told_by_their_code() -> None:
    """The library's own answer is False for all of them."""
    passing = (
        KafkaError._TRANSPORT,
        KafkaError._TIMED_OUT,
        KafkaError.NOT_LEADER_FOR_PARTITION,
        KafkaError.FENCED_LEADER_EPOCH,
        KafkaError.UNKNOWN_LEADER_EPOCH,
    )
    lasting = (KafkaError.TOPIC_AUTHORIZATION_FAILED, KafkaError.UNKNOWN_TOPIC_OR_PART)
    assert all(passes(KafkaError(code)) for code in passing)
    assert not any(passes(KafkaError(code)) for code in lasting)
    assert not passes(KafkaError(KafkaError._TRANSPORT, "x", True)), "a fatal one"
