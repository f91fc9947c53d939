"""Waiting for a store: what is repeated, for how long, and what ends it."""

from __future__ import annotations

import threading
import time

import pytest

from streams.errors import Conflict, StoreFull, StoreLost
from streams.live.patience import Patience, Stopped
from streams.metrics import Metrics


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
    assert said == ["waiting for the store (lost): no answer", "the store answers again"]
    assert patience(store.commit, 8, name="x") == "done"
    assert len(caplog.records) == 2


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
