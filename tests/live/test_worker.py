"""Whole workers as processes, on the real broker and the real Redis."""

from __future__ import annotations

import asyncio
import contextlib
import logging
import os
import shutil
import signal
import subprocess
import sys
import time
import urllib.request
from pathlib import Path
from types import SimpleNamespace
from typing import cast

import pytest
import redis
from confluent_kafka import Producer, TopicPartition
from confluent_kafka.admin import AdminClient, NewPartitions

from model import bundle as bundles
from streams.connect import confluent_config
from streams.dev import kafka as kafka_server
from streams.dev import process
from streams.errors import BrokerError, FraudstreamError
from streams.live import app
from streams.live.quiet import CHATTY
from streams.live.risk_process import RiskProcess
from streams.settings import load
from tests.certificates import Certificates
from tests.conftest import PASSWORD, USER
from tests.live.reading import publish, settings_for
from tests.live.workers import Team, check_scores, names_scored, payments, scored, team


def test_two_workers_share_the_work_and_leave_in_order(
    kafka: str, redis_url: str, topic_prefix: str, tmp_path: Path
) -> None:
    # Nobody dies here: no session may end because a machine is slow.
    settings = settings_for(kafka, topic_prefix, "kafka.session_timeout_ms=60000", partitions=4)
    port = process.free_port()
    with team(settings, redis_url, tmp_path) as workers:
        one = workers.start(f"metrics.port={port}")
        two = workers.start()
        one.ready(), two.ready()
        other = workers.start(f"metrics.port={port}")
        assert other.ended() == 2
        assert f"metrics.port {port}" in other.said() and "Traceback" not in other.said()
        publish(settings, payments(400, 4))
        one.until(lambda: scored(settings) >= 400)

        def metrics() -> dict[str, float]:
            with urllib.request.urlopen(f"http://127.0.0.1:{port}/metrics", timeout=60) as answer:
                lines = answer.read().decode().splitlines()
            pairs = (line.rsplit(" ", 1) for line in lines if not line.startswith("#"))
            return {name: float(value) for name, value in pairs}

        assert metrics()["fraudstream_partitions"] == 2
        # An alarm asks whether it rose: a series that is born at 1 has not.
        assert metrics()['fraudstream_dead_letters_total{reason="quarantined"}'] == 0
        # Counted after the delivery that `scored` saw.
        one.until(lambda: metrics()["fraudstream_transactions_scored_total"] > 0)
        assert metrics()["fraudstream_transactions_scored_total"] < 400

        def lag() -> list[float]:
            return [value for name, value in metrics().items() if "lag_messages{" in name]

        # Of the two that it holds: it had all four before the other one came.
        one.until(lambda: lag() == [0, 0])
        for worker in (two, one):
            code, took_s = worker.stop()
            assert code == 0, worker.said()
            assert took_s < 30, "as long as Kubernetes waits by default"
        # Nothing is left over: another worker finds nothing to resend and nothing to redo.
        with redis.Redis.from_url(redis_url) as client:
            assert client.keys("*:out") == []
            decides = {client.hget(key, "decides") for key in client.keys("*:part")}
        told = "review {decide.review:g}, block {decide.block:g}, rules none"
        assert decides == {told.format(decide=settings.decide).encode()}
        three = workers.start().ready()
        time.sleep(1)
        assert three.stop()[0] == 0
        said = "".join(worker.said() for worker in workers.workers)
        assert "is rebalancing" not in said and "FetchThread" not in said, "no failures"
    copies = check_scores(settings, 400)
    assert set(copies.values()) == {1}


def test_what_a_log_ends_in_without_messages_may_be_taken_by_retention(
    kafka: str, redis_url: str, topic_prefix: str, tmp_path: Path
) -> None:
    """The mark of a transaction, or what was aborted: the next worker took it for unread."""
    settings = settings_for(kafka, topic_prefix, partitions=1)
    topic = settings.topic("transactions")
    producer = Producer(confluent_config(settings, {"transactional.id": topic_prefix}))
    producer.init_transactions()
    with team(settings, redis_url, tmp_path) as workers, redis.Redis.from_url(redis_url) as client:
        one = workers.start().ready()
        for number, end in enumerate((producer.commit_transaction, producer.abort_transaction)):
            producer.begin_transaction()
            for _, key, value in payments(3, 1, begin=3 * number):
                producer.produce(topic, value, key, partition=0)
            producer.flush()
            end()
            one.until(lambda: scored(settings) >= 3)
        one.until(lambda: [client.hget(key, "offset") for key in client.keys("*:part")] == [b"8"])
        assert one.stop()[0] == 0
        admin = AdminClient(confluent_config(settings))
        for future in admin.delete_records([TopicPartition(topic, 0, 8)]).values():
            assert future.result().low_watermark == 8
        two = workers.start().ready()
        publish(settings, payments(3, 1, begin=6))
        two.until(lambda: scored(settings) >= 6)
        assert two.stop()[0] == 0
    assert len(names_scored(settings)) == 6


def test_a_killed_worker_loses_nothing_and_its_partitions_move(
    kafka: str, redis_url: str, topic_prefix: str, tmp_path: Path
) -> None:
    settings = settings_for(kafka, topic_prefix, partitions=4)
    with team(settings, redis_url, tmp_path) as workers:
        one, two = workers.start("worker.batch_events=16"), workers.start()
        one.ready(), two.ready()
        publish(settings, payments(300, 4))
        one.until(lambda: scored(settings) > 50)
        two.signal(signal.SIGKILL)
        killed = time.monotonic()
        publish(settings, payments(300, 4, begin=300))
        # What the dead one had delivered may come twice: names are counted, not messages.
        one.until(lambda: scored(settings) >= 600 and len(names_scored(settings)) == 600)
        assert time.monotonic() - killed < settings.kafka.session_timeout_ms / 1000 + 60
    check_scores(settings, 600)


def test_a_frozen_worker_wakes_up_fenced(
    kafka: str, redis_url: str, topic_prefix: str, tmp_path: Path
) -> None:
    settings = settings_for(kafka, topic_prefix, partitions=2)
    with team(settings, redis_url, tmp_path) as workers:
        frozen = workers.start("worker.failpoint=settled:1:stop").ready()
        publish(settings, payments(50, 2))
        frozen.until(frozen.frozen)
        partner = workers.start().ready()
        partner.until(lambda: scored(settings) >= 50)
        frozen.signal(signal.SIGCONT)
        # Refused at its commit, or already when the group takes its partitions away.
        refused = ("giving the partition up", "not let go in order")
        frozen.until(lambda: any(words in frozen.said() for words in refused))
        # It lives on, and takes part again.
        publish(settings, payments(50, 2, begin=50))
        partner.until(lambda: scored(settings) >= 100)
        assert frozen.stop()[0] == 0 and partner.stop()[0] == 0
        said = frozen.said() + partner.said()
    # The refused round published nothing. A slow machine may lose a session on top of it, and then
    # the next owner says that it sent what it found in the outbox again.
    assert set(check_scores(settings, 100).values()) == {1} or "outbox entries again" in said


def test_partitions_added_to_the_topic_end_a_running_worker_soon(
    kafka: str, redis_url: str, topic_prefix: str, tmp_path: Path
) -> None:
    settings = settings_for(kafka, topic_prefix, partitions=2)
    with team(settings, redis_url, tmp_path) as workers:
        worker = workers.start().ready()
        publish(settings, payments(50, 2))
        worker.until(lambda: scored(settings) >= 50)
        more = NewPartitions(settings.topic("transactions"), 3)
        admin = AdminClient(confluent_config(settings))
        admin.create_partitions([more])[more.topic].result()
        assert worker.ended(patience_s=120) == 1
        assert "made with 2 partitions, but the topic has 3" in worker.said()
        assert "fraudstream rebuild" in worker.said()


def test_a_bad_bundle_or_rules_file_is_refused_before_the_risk_builder_is_started(
    kafka: str,
    redis_url: str,
    topic_prefix: str,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """It was started first, and had seconds of imports on the way to be ended for nothing."""
    settings = settings_for(kafka, topic_prefix)
    shutil.copytree(bundles.shipped(), tmp_path / "bad")
    weights = tmp_path / "bad" / bundles.WEIGHTS
    content = bytearray(weights.read_bytes())
    content[-1] ^= 1
    weights.write_bytes(content)
    (tmp_path / "rules.toml").write_text("[[rule")
    start, started = RiskProcess._start, []

    def noted(process: RiskProcess) -> None:
        started.append(process)
        start(process)

    monkeypatch.setattr(RiskProcess, "_start", noted)
    monkeypatch.setattr(app, "quiet", lambda _: None)  # which would last
    flags = [f"kafka.bootstrap={kafka}", f"kafka.topic_prefix={topic_prefix}"]
    flags += [f"redis.url={redis_url}", f"kafka.group={settings.kafka.group}"]
    for wrong, told in (
        (f"model.bundle={tmp_path / 'bad'}", r"do not match their checksum"),
        (f"decide.rules={tmp_path / 'rules.toml'}", "rules file is not TOML"),
    ):
        with pytest.raises(FraudstreamError, match=told):
            app.run(load(flags=[*flags, "model.bundle=stub", wrong]))
        assert started == []


@pytest.mark.parametrize("number", [signal.SIGHUP, signal.SIGINT, signal.SIGTERM])
def test_a_stop_asked_for_again_and_again_is_an_orderly_one(
    kafka: str, redis_url: str, topic_prefix: str, tmp_path: Path, number: signal.Signals
) -> None:
    """A closed terminal was a death, and so was a second Ctrl-C towards the end of the stop."""
    settings = settings_for(kafka, topic_prefix, partitions=1)
    with team(settings, redis_url, tmp_path) as workers:
        worker = workers.start().ready()
        deadline = time.monotonic() + 120
        while worker.process.is_alive() and time.monotonic() < deadline:
            with contextlib.suppress(ProcessLookupError):  # it has just ended
                worker.signal(number)
            time.sleep(0.005)
        assert worker.ended() == 0, worker.said()
        assert worker.said().endswith("stopped\n")
        with redis.Redis.from_url(redis_url) as client:
            assert client.keys("*:deaths") == []


STOPPED_IN_A_CALLBACK = """
import ctypes, signal
from streams.live import app
from streams.live.quiet import CHATTY

@ctypes.CFUNCTYPE(None)
def compiled():
    signal.raise_signal(signal.SIGTERM)

app.warm = lambda *_: compiled()
from streams.cli import main
main()
"""
"""Numba calls Python from C for all that it compiles, and what is raised there Python drops."""


def test_a_stop_while_it_compiles_is_not_lost(
    kafka: str, redis_url: str, topic_prefix: str, tmp_path: Path
) -> None:
    """It became ready and went on: a signal in a callback from C was forgotten."""
    settings = settings_for(kafka, topic_prefix, partitions=1)
    flags = [part for flag in Team(settings, redis_url, tmp_path).flags for part in ("--set", flag)]
    command = [sys.executable, "-c", STOPPED_IN_A_CALLBACK, "worker", *flags]
    done = subprocess.run(command, capture_output=True, text=True, timeout=120)
    assert (done.returncode, done.stderr.count("Exception ignored")) == (0, 1), done.stderr
    assert done.stderr.endswith("stopped\n") and "ready" not in done.stderr


def test_what_broke_first_is_told_though_the_stop_is_cancelled() -> None:
    """Faust's thread, where it ends by the same fault, cancels the stop that waits for it."""
    cause = BrokerError("Kafka did not confirm what was sent in 60 s")

    async def nothing() -> None: ...

    async def cancelled() -> None:
        raise asyncio.CancelledError

    parts = SimpleNamespace(
        app=SimpleNamespace(start=nothing, stop=cancelled, crashed=True),
        intake=SimpleNamespace(close_all=lambda: None, leave=nothing),
        outbox=SimpleNamespace(close=lambda: None),
        patience=SimpleNamespace(stop=lambda: None),
        risk=None,
        watchdog_s=30.0,
        stalled=None,
        failed=cause,
    )
    levels = {name: logging.getLogger(name).level for name in CHATTY}
    try:
        assert asyncio.run(app.serve(cast(app.Worker, parts))) is cause
    finally:
        for name, level in levels.items():
            logging.getLogger(name).setLevel(level)


def test_a_worker_stops_though_kafka_hangs(
    broker: kafka_server.Broker, kafka: str, redis_url: str, topic_prefix: str, tmp_path: Path
) -> None:
    settings = settings_for(kafka, topic_prefix, partitions=1)
    with team(settings, redis_url, tmp_path) as workers:
        worker = workers.start().ready()
        os.kill(broker.child.pid, signal.SIGSTOP)
        try:
            time.sleep(3)  # it waits for an answer by now
            code, took_s = worker.stop()
        finally:
            os.kill(broker.child.pid, signal.SIGCONT)
        assert code == 0 and "Traceback" not in worker.said(), worker.said()
        assert took_s < 25, "the watchdog would take 30 s, and call it a crash"


def test_a_worker_stops_though_kafka_is_gone(
    redis_url: str, topic_prefix: str, tmp_path: Path
) -> None:
    """Its last fetch pauses before the next try; aiokafka's stop ended there with a traceback, and
    the worker waited for the end of a thread that had ended."""
    broker = kafka_server.start(tmp_path / "kafka", die_with_parent=True)
    try:
        settings = settings_for(broker.bootstrap, topic_prefix, partitions=1)
        with team(settings, redis_url, tmp_path) as workers:
            worker = workers.start().ready()
            process.stop(broker.child, 0)
            worker.until(lambda: "Failed fetch messages" in worker.said())
            time.sleep(1)  # it tries again and again by now
            code, _ = worker.stop()
            assert code == 0 and "Traceback" not in worker.said(), worker.said()
            assert "did not stop" not in worker.said(), worker.said()
    finally:
        process.stop(broker.child, 0)


def test_an_empty_redis_is_refused_when_the_group_has_worked(
    kafka: str, redis_url: str, topic_prefix: str, tmp_path: Path
) -> None:
    settings = settings_for(kafka, topic_prefix, partitions=1)
    publish(settings, payments(20, 1))
    with team(settings, redis_url, tmp_path) as workers:
        worker = workers.start().ready()
        worker.until(lambda: scored(settings) >= 20)
        assert worker.stop()[0] == 0
        with redis.Redis.from_url(redis_url) as client:
            client.flushall()
        refused = workers.start()
        assert refused.ended() == 1
        assert "fraudstream rebuild" in refused.said() and "Traceback" not in refused.said()
    assert scored(settings) == 20


def test_sasl_over_tls_lets_a_worker_work_and_a_wrong_password_ends_it(
    broker: kafka_server.Broker,
    kafka: str,
    tls_files: Certificates,
    redis_url: str,
    topic_prefix: str,
    tmp_path: Path,
) -> None:
    settings = settings_for(kafka, topic_prefix, partitions=1)
    publish(settings, payments(20, 1))
    secure = [
        f"kafka.bootstrap={broker.secure_bootstrap}",
        "kafka.security_protocol=SASL_SSL",
        f"kafka.sasl_username={USER}",
        f"kafka.ssl_ca={tls_files.ca}",
    ]
    with team(settings, redis_url, tmp_path) as workers:
        worker = workers.start(*secure, f"kafka.sasl_password={PASSWORD}").ready()
        worker.until(lambda: scored(settings) >= 20)
        assert worker.stop()[0] == 0
        wrong = workers.start(*secure, "kafka.sasl_password=wrong-Pa55word")
        assert wrong.ended() == 1
        assert "refuses user" in wrong.said() and "wrong-Pa55word" not in wrong.said()
