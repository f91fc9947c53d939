"""What a builder of risk snapshots bounds: days kept in Redis, and days read ahead into memory.

What it builds from Kafka is in test_risk_agent.py; here the log is played.
"""

from __future__ import annotations

from types import SimpleNamespace
from typing import cast

import pytest
import redis

from streams.live import risk_agent
from streams.live.risk_agent import Builder
from streams.live.risk_lock import Leadership
from streams.live.risk_log import RiskLog
from streams.live.risk_store import RiskStore
from streams.risk_feed import NO_PERIOD, RiskFeed
from streams.sections import RiskSettings
from streams.settings import Settings
from tests.test_risk import FIRST, Payment, columns_of

TWICE_A_DAY = Settings(risk=RiskSettings(enabled=True, delay_days=1, period_hours=12))


def builder_of(store: RiskStore, lead: Leadership, log: object) -> Builder:
    builder = Builder(TWICE_A_DAY, store, lead)
    builder._log.close()
    builder._log = cast(RiskLog, log)
    return builder


def test_snapshots_are_kept_for_so_many_days_and_no_longer(
    redis_url: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Also those that the builder before made: a replay needs them, and Redis is not endless."""
    monkeypatch.setattr(risk_agent, "KEEP_DAYS", 5)
    log = SimpleNamespace(
        about=lambda pace: "these topics",
        open=lambda topic, restart: {0: 0},
        ends=lambda topic: {},
        positions=lambda topic: {},
        assign=lambda topics: None,
    )
    paid = [Payment("a", str(day), FIRST + day, "m", None, 10 + day) for day in range(14)]
    ever: set[str] = set()
    with redis.Redis.from_url(redis_url) as client:
        store = RiskStore(client, "bounds")
        for days in (10, 14):
            token = store.take()
            assert token is not None
            with Leadership(store, token) as lead:
                builder = builder_of(store, lead, log)
                feed = builder._begin(lambda pause: False)
                feed.add(columns_of(paid[:days]))
                front = 2 * (FIRST + days - 1)
                builder._publish(feed, front)
            named = store.named()
            assert sorted(named) == list(range(front - 2 * 5, front + 1))
            assert store.state().front == front
            ever |= set(named.values())
            assert {each for each in ever if store.snapshot(each)} == set(named.values())


def test_a_partition_far_ahead_is_held_until_the_slowest_is_nearer(redis_url: str) -> None:
    """What lies between is in memory. One that is read to its end makes nobody wait."""
    at, ended, held = {0: 0, 1: 0}, set[int](), set[int]()
    log = SimpleNamespace(
        at_end=lambda topic, partition: partition in ended, pause=held.add, resume=held.remove
    )
    client = redis.Redis.from_url(redis_url)
    store = RiskStore(client, "bounds")
    builder = builder_of(store, Leadership(store, 1), log)

    def held_at(slow: int, fast: int, front: int | None = None) -> set[int]:
        at.update({0: slow, 1: fast})
        feed = SimpleNamespace(reached=lambda: at, newest=fast, front=front)
        builder._balance(cast(RiskFeed, feed))
        return held

    assert held_at(1_000, 1_040) == set(), "20 days of two periods"
    assert held_at(1_000, 1_041) == {1}
    assert held_at(1_001, 1_041) == {1}, "not held and let go by turns"
    assert held_at(1_021, 1_041) == set()
    assert held_at(1_000, 2_000) == {1}
    assert held_at(NO_PERIOD, 2_000, front=1_995) == set(), "what is decided is not in memory"
    assert held_at(NO_PERIOD, 3_000) == {1}
    ended.add(0)
    assert held_at(1_000, 3_000) == set()
    client.close()
