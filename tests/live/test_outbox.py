"""The delivery barrier on a real broker: what `deliver` returned from is there."""

from __future__ import annotations

import asyncio
import os
import signal
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest
from confluent_kafka.admin import AdminClient, AlterConfigOpType, ConfigEntry, ConfigResource

from streams.alerts import NO_SCORES, OutMessage, Rendered
from streams.dev import kafka as kafka_server
from streams.dev import process
from streams.errors import BrokerError
from streams.live.outbox import Outbox
from streams.settings import Settings, load
from tests.live.reading import contents, ends, settings_for


def render(entry: bytes, produced_time_ms: int) -> Rendered:
    """`topic:count`: so many messages, numbered, with the time in them."""
    topic, _, count = entry.decode().partition(":")
    made = []
    for number in range(int(count)):
        headers = (("time", b"%d" % produced_time_ms),) if topic.endswith("dlq") else ()
        key = None if number % 2 else b"key-%d" % number
        made.append(OutMessage(topic, key, b"%d at %d" % (number, produced_time_ms), headers))
    return Rendered(NO_SCORES, made)


@pytest.fixture
def settings(kafka: str, topic_prefix: str) -> Settings:
    return settings_for(kafka, topic_prefix)


def test_delivered_is_delivered_with_key_value_headers_and_one_time(settings: Settings) -> None:
    outbox = Outbox(settings, render, clock_ms=lambda: 1_234)
    try:
        assert outbox.deliver([b"scores:3", b"transactions.dlq:2", b"alerts:1"]) == 6
        assert sum(ends(settings, "scores").values()) == 3
        scores = {(m.key(), m.value()) for m in contents(settings, "scores")}
        expected = {(b"key-0", b"0 at 1234"), (None, b"1 at 1234"), (b"key-2", b"2 at 1234")}
        assert scores == expected
        dead = contents(settings, "transactions.dlq")
        assert [m.headers() for m in dead] == [[("time", b"1234")]] * 2
        assert [m.value() for m in contents(settings, "alerts")] == [b"0 at 1234"]
    finally:
        outbox.close()


def test_nothing_to_deliver_asks_no_broker(
    settings: Settings, monkeypatch: pytest.MonkeyPatch
) -> None:
    outbox = Outbox(settings, render)
    monkeypatch.setattr(outbox._producer, "send", lambda *_: pytest.fail("a broker was asked"))
    assert outbox.deliver([]) == 0 and outbox.deliver([b"scores:0"]) == 0
    outbox.close()


def test_more_than_one_batch_holds(settings: Settings, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("streams.live.records.BATCH_BYTES", 5_000)
    outbox = Outbox(settings, render)
    assert outbox.deliver([b"scores:2500", b"scores:1"]) == 2_501
    outbox.close()
    assert sum(ends(settings, "scores").values()) == 2_501
    keyed = [m.value() for m in contents(settings, "scores") if m.key() is not None]
    assert len(keyed) == 1_251


def test_a_dead_letter_may_be_larger_than_a_message(settings: Settings) -> None:
    def large(entry: bytes, produced_time_ms: int) -> Rendered:
        message = OutMessage("transactions.dlq", None, entry, (("reason", b"too_large"),))
        return Rendered(NO_SCORES, [message])

    outbox = Outbox(settings, large)
    assert outbox.deliver([bytes(1_100_000)]) == 1
    assert sum(ends(settings, "transactions.dlq").values()) == 1
    outbox.close()


def test_a_missing_topic_is_an_error_with_a_remedy(kafka: str) -> None:
    flags = [f"kafka.bootstrap={kafka}", "kafka.topic_prefix=absent-", "worker.retry_s=60"]
    outbox = Outbox(load(flags=flags), render)
    with pytest.raises(BrokerError, match="topics create"):
        outbox.deliver([b"scores:1"])
    outbox.close()


def test_a_topic_that_was_deleted_is_named_with_a_remedy(
    settings: Settings, kafka: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    gone = settings.topic("alerts")
    outbox = Outbox(settings, render)
    outbox.deliver([b"alerts:1", b"scores:1"])
    admin = AdminClient({"bootstrap.servers": kafka})
    admin.delete_topics([gone])[gone].result()
    monkeypatch.setattr(outbox._producer, "_patience_s", 4.0)

    def deliver_for_a_while() -> None:
        """The broker takes messages a little longer after it answered."""
        for _ in range(100):
            outbox.deliver([b"alerts:1", b"scores:1"])
            time.sleep(0.1)

    try:
        with pytest.raises(BrokerError, match=f"{gone}.*topics create"):
            deliver_for_a_while()
    finally:
        outbox.close()


def test_a_topic_that_takes_only_small_messages_is_named_with_a_remedy(
    kafka: str, topic_prefix: str
) -> None:
    settings = settings_for(kafka, topic_prefix)
    small = ConfigEntry("max.message.bytes", "100", incremental_operation=AlterConfigOpType.SET)
    topic = ConfigResource(
        ConfigResource.Type.TOPIC, settings.topic("scores"), incremental_configs=[small]
    )
    admin = AdminClient({"bootstrap.servers": kafka})
    admin.incremental_alter_configs([topic])[topic].result()
    outbox = Outbox(settings, render)
    told = rf"max\.message\.bytes \[topic={settings.topic('scores')}\].*Nothing is lost"

    def deliver_for_a_while() -> None:
        """The broker takes the setting over a little after it answered."""
        for _ in range(100):
            outbox.deliver([b"scores:200"])
            time.sleep(0.1)

    with pytest.raises(BrokerError, match=told):
        deliver_for_a_while()
    outbox.close()


def test_after_a_failure_it_sends_again(kafka: str, topic_prefix: str) -> None:
    flags = [f"kafka.bootstrap={kafka}", f"kafka.topic_prefix={topic_prefix}", "worker.retry_s=60"]
    outbox = Outbox(load(flags=flags), render)
    with pytest.raises(BrokerError, match="topics create"):
        outbox.deliver([b"scores:1"])
    settings = settings_for(kafka, topic_prefix)
    assert outbox.deliver([b"scores:3"]) == 3 and outbox.deliver([b"scores:2"]) == 2
    outbox.close()
    assert sum(ends(settings, "scores").values()) == 5


def test_a_broker_that_is_away_is_an_error_in_time() -> None:
    flags = ["kafka.bootstrap=127.0.0.1:1", "worker.retry_s=1"]
    outbox = Outbox(load(flags=flags), render)
    began = time.monotonic()
    with ThreadPoolExecutor(1) as thread:
        delivering = thread.submit(outbox.deliver, [b"scores:1", b"alerts:1"])
        while not (outbox.waiting or delivering.done()):
            time.sleep(0.001)
        assert not delivering.done(), "it waits, and the watchdog can see that it does"
        assert outbox.waiting == 2, "what the gauge of the outbox shows"
        with pytest.raises(BrokerError, match=r"in 1 s\..*Nothing is lost"):
            delivering.result()
    assert time.monotonic() - began < 30 and outbox.waiting == 0
    outbox.close()


def test_a_delivery_that_does_not_come_to_its_end_is_an_error_in_words(
    settings: Settings, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The thread that sends is held up, past its own deadline."""
    monkeypatch.setattr("streams.live.producer.GRACE_S", -1.8)
    outbox = Outbox(settings, render)
    outbox.deliver([])
    monkeypatch.setattr(outbox._producer, "_patience_s", 2.0)
    monkeypatch.setattr(outbox._producer, "_started", lambda: asyncio.sleep(1))
    with pytest.raises(BrokerError, match="Nothing is lost"):
        outbox.deliver([b"scores:1"])
    outbox.close()


def test_a_broker_that_is_restarted_in_order_is_waited_for(
    tmp_path: Path, topic_prefix: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It says at the end that it leads nothing, which is no reason to end before `retry_s`."""
    monkeypatch.setattr("streams.live.producer.REQUEST_TIMEOUT_S", 1.0)
    broker = kafka_server.start(tmp_path, die_with_parent=True)
    outbox = Outbox(settings_for(broker.bootstrap, topic_prefix), render)
    deliveries = 0

    def deliver_until_it_is_back() -> None:
        nonlocal deliveries
        while not back:
            outbox.deliver([b"scores:20"])
            deliveries += 1

    back = False
    try:
        outbox.deliver([b"scores:20"])
        with ThreadPoolExecutor(1) as thread:
            delivering = thread.submit(deliver_until_it_is_back)
            process.stop(broker.child, 30)
            time.sleep(2)
            broker = kafka_server.start(tmp_path, die_with_parent=True)
            back = True
            delivering.result()
    finally:
        outbox.close()
        process.stop(broker.child, 0)
    assert deliveries


def test_a_broker_that_stands_still_is_waited_for_by_every_batch(
    tmp_path: Path, topic_prefix: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A batch waits for the ones before it of its partition, and did so for ten seconds only."""
    monkeypatch.setattr("streams.live.producer.REQUEST_TIMEOUT_S", 1.0)
    monkeypatch.setattr("streams.live.records.BATCH_BYTES", 200)
    broker = kafka_server.start(tmp_path, die_with_parent=True)
    settings = settings_for(broker.bootstrap, topic_prefix, partitions=1)
    outbox = Outbox(settings, render)
    try:
        outbox.deliver([b"scores:20"])
        os.kill(broker.child.pid, signal.SIGSTOP)
        with ThreadPoolExecutor(1) as thread:
            delivering = thread.submit(outbox.deliver, [b"scores:20"])
            time.sleep(3)
            os.kill(broker.child.pid, signal.SIGCONT)
            assert delivering.result() == 20
        assert ends(settings, "scores") == {0: 40}, "each once"
    finally:
        outbox.close()
        process.stop(broker.child, 0)
