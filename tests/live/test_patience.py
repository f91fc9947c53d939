"""Waiting for a store: what is repeated, for how long, and what ends it."""

from __future__ import annotations

import os
import threading
import time
from pathlib import Path

import pytest
import redis
from redis.backoff import NoBackoff
from redis.retry import Retry

from streams.dev import process
from streams.dev import redis as redis_server
from streams.errors import Conflict, StoreFull, StoreLost
from streams.live.patience import Patience, Stopped
from streams.metrics import Metrics
from streams.store import Identity
from streams.store.redis import RedisStore


class Store:
    """Fails as told, then answers."""

    def __init__(self, *faults: Exception) -> None:
        self.faults = list(faults)
        self.calls: list[tuple[int, str]] = []

    def commit(self, number: int, *, name: str) -> str:
        self.calls.append((number, name))
        if self.faults:
            raise self.faults.pop(0)
        return "done"


def waits(metrics: Metrics, cause: str) -> float:
    value = metrics.registry.get_sample_value("fraudstream_store_waits_total", {"cause": cause})
    return value or 0.0


def test_the_same_call_is_repeated_until_it_answers(caplog: pytest.LogCaptureFixture) -> None:
    metrics = Metrics()
    patience = Patience(60, metrics)
    store = Store(StoreLost("no answer"), StoreFull("full", partition=1), StoreLost("no answer"))
    assert patience(store.commit, 7, name="x") == "done"
    assert store.calls == [(7, "x")] * 4
    assert waits(metrics, "lost") == 2 and waits(metrics, "full") == 1
    assert not patience.waiting
    said = [record.getMessage() for record in caplog.records]
    # What there is to do changes with the cause.
    assert said == [
        "waiting for the store (lost): no answer",
        "waiting for the store (full): full [partition=1]",
        "waiting for the store (lost): no answer",
        "the store answers again",
    ]
    store.faults = [StoreLost("no answer")] * 2
    assert patience(store.commit, 8, name="x") == "done"
    assert [record.getMessage() for record in caplog.records[4:]] == [said[0], said[3]]


def test_a_lost_store_is_given_up_in_time() -> None:
    patience = Patience(0.2, Metrics())
    store = Store(*[StoreLost("no answer")] * 100)
    began = time.monotonic()
    with pytest.raises(StoreLost):
        patience(store.commit, 1, name="x")
    assert 0.2 <= time.monotonic() - began < 60, "a hundred failures would take three minutes"
    assert len(store.calls) > 1


def test_a_full_store_is_never_given_up() -> None:
    patience = Patience(0, Metrics())
    store = Store(*[StoreFull("full", partition=0)] * 4)
    assert patience(store.commit, 1, name="x") == "done"


def test_a_redis_that_loads_its_file_is_never_given_up(tmp_path: Path) -> None:
    kept = {"enable-debug-command": "local", "loading-process-events-interval-bytes": "1024"}
    server = redis_server.start(tmp_path, extra=kept, die_with_parent=True)
    try:
        alone = Retry(NoBackoff(), 0)
        with (
            redis.Redis(port=server.port, retry=alone) as client,
            redis.Redis(port=server.port) as other,
        ):
            for number in range(100):
                client.set(f"k{number}", os.urandom(1_000))
            client.config_set("key-load-delay", 10_000)
            loading = threading.Thread(target=other.execute_command, args=("DEBUG", "RELOAD"))
            loading.start()
            while loading.is_alive() and _answers(client):
                time.sleep(0.001)
            metrics = Metrics()
            claim = Patience(0, metrics)(RedisStore(client).acquire, 0, Identity("topic", 1))
            loading.join()
        assert claim.token == 1
        assert waits(metrics, "loading") > 0 and waits(metrics, "lost") == 0
    finally:
        process.stop(server.child, 0)


def _answers(client: redis.Redis) -> bool:
    try:
        return bool(client.ping())
    except redis.exceptions.BusyLoadingError:
        return False


def test_other_errors_pass_at_once() -> None:
    store = Store(Conflict("moved", partition=0))
    with pytest.raises(Conflict):
        Patience(60, Metrics())(store.commit, 1, name="x")
    assert len(store.calls) == 1


def test_stopping_ends_a_wait_and_says_so() -> None:
    patience = Patience(60, Metrics())
    store = Store(*[StoreFull("full", partition=0)] * 1_000)
    seen: list[bool] = []

    def stop() -> None:
        deadline = time.monotonic() + 60
        while not patience.waiting and time.monotonic() < deadline:
            time.sleep(0.01)
        seen.append(patience.waiting)
        patience.stop()

    thread = threading.Thread(target=stop, daemon=True)
    thread.start()
    with pytest.raises(Stopped):
        patience(store.commit, 1, name="x")
    thread.join()
    assert seen == [True], "the watchdog must know that this is no standstill"
    assert not patience.waiting
