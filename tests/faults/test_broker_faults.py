"""The broker dies and comes back; one of three does; a log loses its tail."""

from __future__ import annotations

import logging
import threading
import time
from pathlib import Path

import pytest
from confluent_kafka import KafkaException

from streams import Publisher, Subscriber
from streams.dev import kafka as kafka_server
from streams.dev import process
from streams.logs import Seldom
from tests.faults import broker_faults
from tests.faults.cluster import SESSION
from tests.faults.conftest import Booked
from tests.live.reading import ends, publish, settings_for

PATIENCE_S = 120.0


def test_the_broker_killed(booked: Booked) -> None:
    booked("F9", "kill -9 of the only broker", broker_faults.killed, times=2)


def test_one_of_three_brokers_killed(booked: Booked) -> None:
    booked("F9", "kill -9 of one of three brokers", broker_faults.one_of_three_killed, times=2)


def test_an_unclean_election(booked: Booked) -> None:
    booked("F9", "unclean election: refused, rebuilt", broker_faults.unclean, runs=2)


def test_a_broker_that_forgot_its_watermarks_never_tells_a_wrong_end(tmp_path: Path) -> None:
    """Killed before it wrote down how far its logs count, it still says where they end, or
    nothing: what a worker compares with its state on a restart is not a passing zero."""
    broker = kafka_server.start(tmp_path, extra=SESSION, die_with_parent=True)
    try:
        settings = settings_for(broker.bootstrap, "w-", partitions=2)
        publish(settings, [(number % 2, b"k", b"%d" % number) for number in range(40)])
        process.stop(broker.child, 0)
        (tmp_path / "data" / "replication-offset-checkpoint").unlink(missing_ok=True)
        broker = kafka_server.launch(tmp_path, extra=SESSION, die_with_parent=True)
        answers: list[dict[int, int]] = []
        deadline = time.monotonic() + PATIENCE_S
        while len(answers) < 20 and time.monotonic() < deadline:
            try:
                told = ends(settings, "transactions")
            except KafkaException:
                continue
            if told:  # a broker that just starts may not know the topic yet
                answers.append(told)
        assert answers[-1] == {0: 20, 1: 20}
        assert all(each.items() <= answers[-1].items() for each in answers), answers
    finally:
        process.stop(broker.child, 0)


def test_who_publishes_or_reads_is_told_that_the_broker_is_away(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    """And what is only queued does not pass for sent."""
    caplog.set_level(logging.WARNING)
    broker = kafka_server.start(tmp_path, extra=SESSION, die_with_parent=True)
    try:
        settings = settings_for(broker.bootstrap, "a-", partitions=2)
        publish(settings, [(0, b"k", b"{}")])
        topic = settings.topic("transactions")
        idle = threading.Event()
        idle.set()
        with (
            Publisher(settings=settings) as out,
            Subscriber("transactions", settings=settings, start="earliest") as reader,
        ):
            assert next(reader.messages()).value() == b"{}"
            process.stop(broker.child, 0)
            out.send_encoded(topic, [b"k"] * 3, [b"1", b"2", b"3"])
            for read in (False, True):
                _forget_what_was_said()
                caplog.clear()
                deadline = time.monotonic() + PATIENCE_S
                while "Kafka: " not in caplog.text and time.monotonic() < deadline:
                    assert not list(reader.messages(idle)) if read else out.flush(0.2) == 3
                assert "Kafka: " in caplog.text, read
            assert (out.sent, out.delivered) == (3, 0)
            broker = kafka_server.start(tmp_path, extra=SESSION, die_with_parent=True)
            left = list(out.flushing())
            assert left[-1] == 0 and left == sorted(left, reverse=True) and out.delivered == 3
            records = iter(reader.messages())
            assert [next(records).value() for _ in range(3)] == [b"1", b"2", b"3"]
    finally:
        process.stop(broker.child, 0)


def _forget_what_was_said() -> None:
    for one in logging.getLogger("streams.clients.outage").filters:
        assert isinstance(one, Seldom)
        one._said.clear()
