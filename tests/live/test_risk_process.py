"""The child that builds risk snapshots: how often it is started again, and what is said of it.

What it builds, and that another one goes on after a kill, is in test_risk_agent.py.
"""

from __future__ import annotations

import logging
import threading

import pytest

from streams.errors import StoreFull
from streams.live import risk_lock, risk_process
from streams.live.risk_process import RiskProcess
from streams.live.risk_store import RiskStore
from streams.settings import Settings


class Naps(threading.Event):
    """Waits that take no time; `slept` are their lengths. Set after the last of so many."""

    def __init__(self, count: int) -> None:
        super().__init__()
        self.slept: list[float] = []
        self._count = count

    def wait(self, timeout: float | None = None) -> bool:
        self.slept.append(timeout or 0.0)
        return len(self.slept) >= self._count


class Killed:
    """A child that was killed as soon as it ran."""

    exitcode = -9

    def join(self) -> None:
        """It is over."""


def test_a_child_that_dies_at_once_is_started_less_and_less_often(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    process = RiskProcess(Settings())
    naps = process._stopping = Naps(20)
    starts: list[int] = []
    monkeypatch.setattr(process, "_child", Killed())
    monkeypatch.setattr(process, "_start", lambda: starts.append(len(naps.slept)))
    process._keep()
    pauses = [first + rest for first, rest in zip(naps.slept[::2], naps.slept[1::2], strict=True)]
    assert pauses == [1, 2, 4, 8, 16, 32, 60, 60, 60, 60]
    assert len(starts) == 9, "it was not started once more after the stop"
    assert "ended (-9); starting it again. It was killed: is there memory" in caplog.text
    # One that lived long is started again at once.
    monkeypatch.setattr(risk_process, "SELDOM_S", -1.0)
    naps = process._stopping = Naps(6)
    process._keep()
    assert naps.slept == [1, 0, 1, 0, 1, 0]


def test_a_redis_that_is_full_for_long_is_told_once(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    class Full(RiskStore):
        """A store that has no room even for the lock."""

        tries = 0

        def take(self) -> int | None:
            """Be the builder."""
            self.tries += 1
            raise StoreFull("Redis is at maxmemory", partition=-1, remedy="Raise maxmemory")

    store = Full.__new__(Full)
    # The filter is of the module's life; another test may have said the same a moment ago.
    for each in risk_lock._logger.filters:
        monkeypatch.setattr(each, "_said", {})
    with caplog.at_level(logging.INFO):
        risk_lock.serve(Settings(), store, lambda pause: store.tries == 50)
    assert caplog.messages == [
        "risk snapshots: Redis is at maxmemory. Raise maxmemory; trying again"
    ]
