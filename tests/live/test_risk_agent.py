"""Risk snapshots built live, on a real Kafka and a real Redis, against one builder in memory."""

from __future__ import annotations

import multiprocessing
import os
import signal
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager

import numpy as np
import orjson
import pytest
import redis

from streams.columns import Columns
from streams.connect import redis_client
from streams.errors import StoreLost
from streams.live import risk_agent
from streams.live.risk_agent import check_topics
from streams.live.risk_lock import Leadership, serve
from streams.live.risk_process import RiskProcess
from streams.live.risk_source import RiskSource
from streams.live.risk_store import NotLeader, RiskStore, packed, unpacked
from streams.risk import NO_SNAPSHOT, digest_of
from streams.risk_feed import RiskFeed
from streams.risk_pace import Pace
from streams.schema import DAY_MS
from streams.settings import Settings
from tests.live.reading import PATIENCE_S, settings_for
from tests.live.risk_world import (
    DAYS,
    DELAY,
    FIRST,
    PARTITIONS,
    Message,
    batches,
    expected,
    send,
    send_as_it_happens,
    world,
)

HOUR_MS = 3_600_000


@pytest.fixture
def settings(kafka: str, topic_prefix: str, redis_url: str) -> Settings:
    return settings_for(
        kafka,
        topic_prefix,
        f"redis.url={redis_url}",
        "risk.enabled=true",
        f"risk.delay_days={DELAY}",
        partitions=PARTITIONS,
    )


@pytest.fixture
def store(settings: Settings) -> Iterator[RiskStore]:
    client = redis_client(settings)
    yield RiskStore(client, settings.redis.namespace)
    client.close()


def paced(settings: Settings, hours: int) -> Settings:
    """These settings with a snapshot every so many hours."""
    risk = settings.risk.model_copy(update={"period_hours": hours})
    return settings.model_copy(update={"risk": risk})


@contextmanager
def building(settings: Settings, store: RiskStore) -> Iterator[None]:
    """An agent in a thread of this process."""
    stop = threading.Event()
    thread = threading.Thread(target=serve, args=(settings, store, stop.wait), daemon=True)
    thread.start()
    try:
        yield
    finally:
        stop.set()
        thread.join(PATIENCE_S)
        assert not thread.is_alive()


def until(condition: Callable[[], bool]) -> None:
    deadline = time.monotonic() + PATIENCE_S
    while not condition():
        assert time.monotonic() < deadline, "it did not happen in time"
        time.sleep(0.02)


class Naps(threading.Event):
    """A clock, and waits on it that take no time: it goes on by as much, and `meanwhile` runs."""

    def __init__(self) -> None:
        super().__init__()
        self.now = 0.0
        self.meanwhile: Callable[[], object] = lambda: None

    def monotonic(self) -> float:
        return self.now

    def wait(self, timeout: float | None = None) -> bool:
        self.now += timeout or 0.0
        self.meanwhile()
        return self.is_set()


def front_is(store: RiskStore, day: int) -> Callable[[], bool]:
    return lambda: store.state().front == day


def check_all(store: RiskStore, wanted: dict[int, str]) -> None:
    assert store.named() == wanted and len(wanted) > 40
    for digest in wanted.values():
        content = store.snapshot(digest)
        assert content is not None and digest_of(content) == digest


@pytest.mark.parametrize("hours", [24, 3])
def test_a_backlog_gives_the_snapshots_of_a_replay(
    settings: Settings, store: RiskStore, hours: int
) -> None:
    messages = world()
    send(settings, messages)
    wanted = expected(messages, hours)
    with building(paced(settings, hours), store):
        until(front_is(store, max(wanted)))
    check_all(store, wanted)
    assert not store.alive()


def test_another_pace_starts_anew(settings: Settings, store: RiskStore) -> None:
    messages = world(days=20)
    send(settings, messages)
    for hours in (24, 12):
        wanted = expected(messages, hours)
        with building(paced(settings, hours), store):
            until(front_is(store, max(wanted)))
        assert store.named() == wanted
    daily = expected(messages, 24)
    assert all(store.snapshot(digest) is None for digest in daily.values())


def test_day_by_day_gives_the_same_and_a_new_builder_goes_on_where_the_last_stopped(
    settings: Settings, store: RiskStore, monkeypatch: pytest.MonkeyPatch
) -> None:
    messages = world()
    cut = len(messages) * 3 // 4
    send(settings, messages[:cut])
    newest = max(
        orjson.loads(m[3])["event_time"] // DAY_MS for m in messages[:cut] if m[0] != "labels"
    )
    with building(settings, store):
        until(front_is(store, newest))
    restart = store.state().restart
    assert restart is not None and min(restart["transactions"].values()) > 0
    read: list[int] = []
    add = risk_agent.Builder._add

    def counted(self: risk_agent.Builder, feed: RiskFeed, chunk: risk_agent.Chunk) -> None:
        if chunk.topic == "transactions":
            read.append(len(chunk.batch))
        add(self, feed, chunk)

    monkeypatch.setattr(risk_agent.Builder, "_add", counted)
    with building(settings, store):
        # Day by day from here on, each as soon as it is there.
        rest = messages[cut:]
        send(settings, [m for m in rest if m[0] == "labels" or _day(m) <= newest])
        for day in range(newest + 1, FIRST + DAYS):
            send(settings, [m for m in rest if m[0] != "labels" and _day(m) == day])
            until(front_is(store, day))
    check_all(store, expected(messages))
    published = sum(m[0] == "transactions" for m in messages)
    assert sum(read) < 0.9 * published


def _day(message: Message) -> int:
    return int(orjson.loads(message[3])["event_time"]) // DAY_MS


def test_two_agents_race_and_one_builds(settings: Settings, store: RiskStore) -> None:
    messages = world()
    send(settings, messages)
    with building(settings, store), building(settings, store), building(settings, store):
        until(front_is(store, FIRST + DAYS - 1))
    check_all(store, expected(messages))


def test_a_builder_that_lost_the_lock_changes_nothing(settings: Settings, store: RiskStore) -> None:
    first = store.take()
    assert first is not None and store.take() is None and store.alive()
    store.begin(first, "topics")
    store.publish(first, 5, "aa", b"x" * 20)
    store.release(first)
    second = store.take()
    assert second is not None and second > first
    for call in (
        lambda: store.renew(first),
        lambda: store.begin(first, "others"),
        lambda: store.publish(first, 6, "bb", b"y" * 20),
    ):
        with pytest.raises(NotLeader):
            call()
    store.release(first)
    assert store.alive() and store.state().front == 5 and store.named() == {5: "aa"}
    # What is published does not change, though the builder may say it again.
    store.publish(second, 5, "cc", b"z" * 20)
    assert store.named() == {5: "aa"} and store.snapshot("cc") is None
    store.publish(second, 6, "dd", b"z" * 20, dropped={5: "aa"})
    assert store.named() == {6: "dd"} and store.snapshot("aa") is None
    store.begin(second, "others")
    assert store.named() == {} and store.state().front is None and store.snapshot("dd") is None


def test_a_killed_leader_is_followed_by_another(settings: Settings, store: RiskStore) -> None:
    messages = world()
    cut = len(messages) // 2
    send(settings, messages[:cut])
    with RiskProcess(settings) as one, RiskProcess(settings):
        until(lambda: (store.state().front or 0) > FIRST + 10)
        # Whichever leads: the standby goes on, or the one started again.
        assert one.pid is not None
        os.kill(one.pid, signal.SIGKILL)
        send_as_it_happens(settings, messages[cut:])
        until(front_is(store, FIRST + DAYS - 1))
    check_all(store, expected(messages))
    assert not multiprocessing.active_children()


@pytest.mark.parametrize("hours", [24, 8])
def test_a_worker_sees_what_a_replay_sees(settings: Settings, store: RiskStore, hours: int) -> None:
    settings, pace = paced(settings, hours), Pace(DELAY, hours)
    messages = world()
    send(settings, messages)
    source = RiskSource(store, check_topics(settings), pace, wait_s=120)
    wanted = expected(messages, hours)
    with building(settings, store):
        # The builder is only starting: the first look waits for it.
        for columns in batches(messages, 100):
            view, stale = source.view([columns])
            found, versions = view.lookup(columns)
            periods = (columns.event_time // (hours * HOUR_MS)).tolist()
            assert stale == 0
            assert versions == [wanted.get(period, NO_SNAPSHOT) for period in periods]
            assert (found[np.array(versions) == NO_SNAPSHOT] == -1).all()
    assert len(source._sheets) <= 16 and not source.waiting


def test_waiting_ends(
    settings: Settings, store: RiskStore, monkeypatch: pytest.MonkeyPatch
) -> None:
    messages = world(days=8)
    send(settings, messages)
    about = check_topics(settings)
    every = list(batches(messages))
    with building(settings, store):
        until(front_is(store, FIRST + 7))
    later = [m for m in world(days=9) if m[0] == "transactions" and _day(m) == FIRST + 8]
    ahead = list(batches(later))
    naps = Naps()
    monkeypatch.setattr("streams.live.risk_source.time", naps)
    monkeypatch.setattr("streams.live.risk_lock.RENEW_EVERY_S", 0.01)

    def looking(wait_s: float) -> RiskSource:
        made = RiskSource(store, about, Pace(DELAY), wait_s)
        made._stopping = naps
        return made

    def took(source: RiskSource, columns: list[Columns]) -> tuple[float, int]:
        began = naps.now
        view, stale = source.view(columns)
        _, versions = view.lookup(columns[0])
        newest = store.named()[FIRST + 7]
        assert not stale or set(versions) == {newest}
        return naps.now - began, stale

    # Nobody builds: a short wait, once, then the newest there is; then no wait at all.
    source = looking(20)
    waited, stale = took(source, ahead)
    assert 10 <= waited < 10.1 and stale == sum(map(len, ahead)) > 0
    waited, stale = took(source, ahead)
    assert waited == 0 and stale
    # Somebody holds the lock but does not get on: the whole wait.
    token = store.take()
    assert token is not None
    waited, stale = took(looking(1), ahead)
    assert 1 <= waited < 1.1 and stale
    # Somebody builds and gets on: longer, but not for ever.
    with Leadership(store, token) as lead:
        naps.meanwhile = lambda: _beat(store, lead)
        waited, stale = took(looking(0.5), ahead)
    assert 5 <= waited < 5.1 and stale
    # A worker that is to stop does not wait.
    stopping = looking(20)
    other = store.take()
    assert other is not None
    naps.meanwhile = stopping.stop
    waited, stale = took(stopping, ahead)
    assert waited < 0.1 and stale
    naps.clear()
    store.release(other)
    # When the day comes at last, it is used.
    send(settings, later)
    with building(settings, store):
        until(front_is(store, FIRST + 8))
    monkeypatch.setattr("streams.live.risk_source.GLANCE_EVERY_S", 0.0)
    assert took(source, ahead)[1] == 0
    assert took(source, every)[1] == 0


def _beat(store: RiskStore, lead: Leadership) -> None:
    """The builder gets on by a step, and the lock's thread has told it."""
    before = store.state().sign
    lead.beat()
    until(lambda: store.state().sign != before)


def test_snapshots_of_other_topics_are_not_used(settings: Settings, store: RiskStore) -> None:
    token = store.take()
    assert token is not None
    store.begin(token, "some other topics")
    store.publish(token, FIRST, "aa", b"x" * 20)
    store.release(token)
    columns = next(batches(world(days=1)))
    source = RiskSource(store, check_topics(settings), Pace(DELAY), wait_s=0.0)
    view, stale = source.view([columns])
    assert stale == len(columns) and set(view.lookup(columns)[1]) == {NO_SNAPSHOT}


def test_packed_snapshots_come_back() -> None:
    content = os.urandom(20) + bytes(80) + os.urandom(800)
    assert unpacked(packed(content)) == content and unpacked(packed(content[:20])) == content[:20]


def test_the_lock_is_kept_while_the_builder_gets_on(
    store: RiskStore, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("streams.live.risk_lock.RENEW_EVERY_S", 0.05)
    monkeypatch.setattr("streams.live.risk_store.LOCK_MS", 3_000)
    clock = Naps()
    monkeypatch.setattr("streams.live.risk_lock.time", clock)
    token = store.take()
    assert token is not None
    with Leadership(store, token, stalled_s=60) as lead:
        # One step takes longer than the lock lives, and the next one is slow: it is kept.
        for seconds in (3.2, 0.5):
            clock.now += 50
            time.sleep(seconds)
            lead.beat()
        assert store.take() is None
        # One that never ends: it is not.
        clock.now += 61
        until(lambda: store.take() is not None)
        until(lambda: not _holds(lead))
    # What somebody else has is not given back.
    assert store.alive()


def _holds(lead: Leadership) -> bool:
    try:
        lead.beat()
    except NotLeader:
        return False
    return True


def test_a_redis_that_is_busy_is_waited_for(settings: Settings) -> None:
    """As the account store does: a script that runs long is no reason to end a worker."""
    client = redis_client(settings)
    store = RiskStore(client, settings.redis.namespace)

    def busy() -> None:
        raise redis.ResponseError("BUSY Redis is busy running a script")

    with pytest.raises(StoreLost):
        store._asked(busy)
    client.close()
