"""A worker's look at the snapshots while their builder changes them, on a real Redis.

What a worker sees and how long it waits is in test_risk_agent.py, where snapshots are built.
"""

from __future__ import annotations

import re
import time
from datetime import UTC, datetime

import pytest
import redis

from streams.errors import StoreError
from streams.live.risk_source import RiskSource
from streams.live.risk_store import RiskStore, State
from streams.risk import NO_SNAPSHOT
from streams.risk_pace import Pace
from tests.test_risk import FIRST, Payment, columns_of


def test_a_snapshot_dropped_while_it_is_asked_for_is_asked_for_again(
    redis_url: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    client = redis.Redis.from_url(redis_url)
    store = RiskStore(client, "source")
    token, fetch = store.take(), store.snapshot
    assert token is not None
    store.begin(token, "these topics")
    store.publish(token, FIRST, "d1", b"content")
    dropping = True

    def dropped(digest: str) -> bytes | None:
        nonlocal dropping
        if dropping:
            store.begin(token, "these topics")
        dropping = False
        return fetch(digest)

    monkeypatch.setattr(store, "snapshot", dropped)
    columns = columns_of([Payment("a", "t", FIRST, "m", None, 10)])

    def looked_up() -> list[str]:
        view, _ = RiskSource(store, "these topics", Pace(1), wait_s=0).view([columns])
        return view.lookup(columns)[1]

    assert looked_up() == [NO_SNAPSHOT]
    assert not dropping
    # What is named and not there, twice, is told.
    store.publish(token, FIRST, "d2", b"content")
    monkeypatch.setattr(store, "snapshot", lambda digest: None)
    with pytest.raises(StoreError, match=r"d2 .* is named in Redis, but not there"):
        looked_up()
    client.close()


def test_a_builder_of_other_settings_is_not_waited_for_and_told(
    redis_url: str, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    """Its steps were taken for steps to what this worker needs, and nobody said why none came."""
    client = redis.Redis.from_url(redis_url)
    store = RiskStore(client, "foreign")
    token = store.take()
    assert token is not None
    store.begin(token, "another delay")
    look, steps = store.state, iter(range(1_000_000))

    def gets_on() -> State:
        store.renew(token, next(steps))
        return look()

    monkeypatch.setattr(store, "state", gets_on)
    columns = columns_of([Payment("a", "t", FIRST, "m", None, 10)])
    began = time.monotonic()
    view, stale = RiskSource(store, "this delay", Pace(1), wait_s=0.5).view([columns])
    assert time.monotonic() - began < 4, "ten times risk.wait_s"
    assert stale == 1 and view.lookup(columns)[1] == [NO_SNAPSHOT]
    assert "the same risk.delay_days and risk.period_hours" in caplog.text
    client.close()


@pytest.mark.parametrize("builder", ["away", "stuck", "behind"])
def test_a_wait_in_vain_says_of_which_day_and_why(
    redis_url: str,
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
    builder: str,
) -> None:
    """It told a number of days since 1970, and nothing of what to look at."""
    client = redis.Redis.from_url(redis_url)
    store = RiskStore(client, f"why{builder}")
    token = store.take()
    assert token is not None
    store.begin(token, "these topics")
    store.publish(token, FIRST - 1, None, None)
    look, steps = store.state, iter(range(1_000_000))

    def gets_on() -> State:
        store.renew(token, next(steps))
        return look()

    if builder == "away":
        store.release(token)
    elif builder == "behind":
        monkeypatch.setattr(store, "state", gets_on)
    columns = columns_of([Payment("a", "t", FIRST, "m", None, 10)])
    RiskSource(store, "these topics", Pace(1), wait_s=0.2).view([columns])
    why = {
        "away": "no worker builds them",
        "stuck": "their builder makes no step",
        "behind": "their builder gets on, and is still behind",
    }
    days = [str(datetime.fromtimestamp(n * 86_400, UTC))[:16] for n in (FIRST, FIRST - 1)]
    told = rf"no risk snapshot of {days[0]} after .* s: {why[builder]}.* use that of {days[1]} "
    assert re.search(told, caplog.text), caplog.text
    client.close()
