"""Risk snapshots built live, on a real Kafka and a real Redis, against one builder in memory."""

from __future__ import annotations

import multiprocessing
import os
import random
import signal
import threading
import time
import zlib
from collections.abc import Callable, Iterator
from contextlib import contextmanager

import numpy as np
import orjson
import pytest
from confluent_kafka import Producer

from streams.batch import Batch
from streams.columns import Columns
from streams.connect import confluent_config, redis_client
from streams.decode import decode
from streams.labels import decode_labels
from streams.live import risk_agent
from streams.live.risk_agent import check_topics
from streams.live.risk_lock import Leadership, serve
from streams.live.risk_process import RiskProcess
from streams.live.risk_source import RiskSource
from streams.live.risk_store import NotLeader, RiskStore, packed, unpacked
from streams.risk import NO_SNAPSHOT, digest_of
from streams.risk_feed import RiskFeed
from streams.schema import DAY_MS
from streams.settings import Settings
from tests.live.reading import settings_for

FIRST, DAYS, PARTITIONS, DELAY = 19_000, 60, 3, 3
"""Day of the first transaction, how many days there are."""

Message = tuple[str, int, bytes, bytes]
"""Topic, partition, key, value."""


def world(days: int = DAYS, a_day: int = 40, seed: int = 1) -> list[Message]:
    """Transactions in order of time, some late and some twice, and labels for some of them."""
    chance = random.Random(seed)
    messages: list[tuple[int, Message]] = []
    for day in range(FIRST, FIRST + days):
        for number in range(a_day):
            account = f"acct-{chance.randrange(30)}"
            time_ms = day * DAY_MS + chance.randrange(DAY_MS)
            payment = {
                "schema_version": 1,
                "transaction_id": f"{day}-{number}",
                "account_id": account,
                "event_time": time_ms,
                "amount": chance.randrange(100_000),
                "currency": "EUR",
                "merchant_id": f"shop-{chance.randrange(12)}",
            }
            if chance.random() < 0.5:
                payment["terminal_id"] = f"pos-{chance.randrange(20)}"
            arrival = time_ms + (chance.randrange(2 * DAY_MS) if chance.random() < 0.1 else 0)
            partition = zlib.crc32(account.encode()) % PARTITIONS
            message = ("transactions", partition, account.encode(), orjson.dumps(payment))
            messages.append((arrival, message))
            if chance.random() < 0.05:
                messages.append((arrival + 5, message))
            for _ in range(chance.choice((0, 0, 1, 1, 2))):
                known = time_ms + chance.randrange(20 * DAY_MS)
                label = {
                    "label_id": f"{day}-{number}-{known}",
                    "transaction_id": payment["transaction_id"],
                    "account_id": account,
                    "label": chance.choice(("fraud", "legitimate", "disputed")),
                    "label_time": known,
                }
                messages.append(
                    (known, ("labels", partition, account.encode(), orjson.dumps(label)))
                )
    messages.sort(key=lambda pair: pair[0])
    return [message for _, message in messages]


def send(settings: Settings, messages: list[Message]) -> None:
    producer = Producer(confluent_config(settings, {"linger.ms": 20}))
    for topic, partition, key, value in messages:
        producer.produce(settings.topic(topic), value, key, partition=partition)
        producer.poll(0)
    assert producer.flush(30) == 0


def batches(messages: list[Message], size: int = 500) -> Iterator[Columns]:
    """The transactions, decoded, by partition."""
    for partition in range(PARTITIONS):
        mine = [m for m in messages if m[:2] == ("transactions", partition)]
        for start in range(0, len(mine), size):
            part = mine[start : start + size]
            yield decode(
                Batch(
                    topic="transactions",
                    partition=partition,
                    offsets=np.arange(start, start + len(part), dtype=np.int64),
                    timestamps=np.full(len(part), -1, np.int64),
                    keys=[m[2] for m in part],
                    values=[m[3] for m in part],
                    headers=None,
                    next_offset=start + len(part),
                ),
                0,
            )


def expected(messages: list[Message]) -> dict[int, str]:
    """The digest of every day's snapshot, from one feed in memory."""
    feed = RiskFeed(DELAY, dict.fromkeys(range(PARTITIONS), 0), {0: 0})
    feed.add_labels(0, decode_labels([m[3] for m in messages if m[0] == "labels"]), 0, 1)
    for columns in batches(messages):
        feed.add(columns)
    return {s.day: digest_of(s.to_bytes()) for s in feed.snapshots(feed.newest)}


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
        thread.join(20)
        assert not thread.is_alive()


def until(condition: Callable[[], bool], seconds: float = 30.0) -> None:
    deadline = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < deadline, "it did not happen in time"
        time.sleep(0.02)


def front_is(store: RiskStore, day: int) -> Callable[[], bool]:
    return lambda: store.state().front == day


def check_all(store: RiskStore, wanted: dict[int, str]) -> None:
    assert store.days() == wanted and len(wanted) > 40
    for digest in wanted.values():
        content = store.snapshot(digest)
        assert content is not None and digest_of(content) == digest


def test_a_backlog_gives_the_snapshots_of_a_replay(settings: Settings, store: RiskStore) -> None:
    messages = world()
    send(settings, messages)
    with building(settings, store):
        until(front_is(store, FIRST + DAYS - 1))
    check_all(store, expected(messages))
    assert not store.alive()


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
    assert store.alive() and store.state().front == 5 and store.days() == {5: "aa"}
    # What is published does not change, though the builder may say it again.
    store.publish(second, 5, "cc", b"z" * 20)
    assert store.days() == {5: "aa"} and store.snapshot("cc") is None
    store.publish(second, 6, "dd", b"z" * 20, dropped={5: "aa"})
    assert store.days() == {6: "dd"} and store.snapshot("aa") is None
    store.begin(second, "others")
    assert store.days() == {} and store.state().front is None and store.snapshot("dd") is None


def test_a_killed_leader_is_followed_by_another(settings: Settings, store: RiskStore) -> None:
    messages = world()
    cut = len(messages) // 2
    send(settings, messages[:cut])
    with RiskProcess(settings) as one, RiskProcess(settings):
        until(lambda: (store.state().front or 0) > FIRST + 10, 60)
        # Whichever leads: the standby goes on, or the one started again.
        assert one.pid is not None
        os.kill(one.pid, signal.SIGKILL)
        send(settings, messages[cut:])
        until(front_is(store, FIRST + DAYS - 1), 60)
    check_all(store, expected(messages))
    assert not multiprocessing.active_children()


def test_a_worker_sees_what_a_replay_sees(settings: Settings, store: RiskStore) -> None:
    messages = world()
    send(settings, messages)
    about = check_topics(settings)
    source = RiskSource(store, about, wait_s=30)
    wanted = expected(messages)
    known = {day: wanted.get(day, NO_SNAPSHOT) for day in range(FIRST, FIRST + DAYS)}
    with building(settings, store):
        # The builder is only starting: the first look waits for it.
        for columns in batches(messages, 100):
            view, stale = source.view([columns])
            found, versions = view.lookup(columns)
            days = columns.event_time // DAY_MS
            assert stale == 0 and versions == [known[day] for day in days.tolist()]
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
    monkeypatch.setattr("streams.live.risk_source.NOBODY_S", 0.4)
    monkeypatch.setattr("streams.live.risk_lock.RENEW_EVERY_S", 0.1)

    def took(source: RiskSource, columns: list[Columns]) -> tuple[float, int]:
        began = time.monotonic()
        view, stale = source.view(columns)
        _, versions = view.lookup(columns[0])
        newest = store.days()[FIRST + 7]
        assert not stale or set(versions) == {newest}
        return time.monotonic() - began, stale

    # Nobody builds: a short wait, once, then the newest there is; then no wait at all.
    source = RiskSource(store, about, wait_s=20)
    waited, stale = took(source, ahead)
    assert 0.4 <= waited < 5 and stale == sum(map(len, ahead)) > 0
    waited, stale = took(source, ahead)
    assert waited < 0.3 and stale
    # Somebody holds the lock but does not get on: the whole wait.
    token = store.take()
    assert token is not None
    slow = RiskSource(store, about, wait_s=1.0)
    waited, stale = took(slow, ahead)
    assert 1.0 <= waited < 6 and stale
    # Somebody builds and gets on: longer, but not for ever.
    monkeypatch.setattr("streams.live.risk_source.LONGEST_WAITS", 4)
    patient = RiskSource(store, about, wait_s=0.5)
    with Leadership(store, token) as lead:
        beats = threading.Thread(target=lambda: [_beat(lead) for _ in range(60)], daemon=True)
        beats.start()
        waited, stale = took(patient, ahead)
        beats.join()
    assert 2.0 <= waited < 6 and stale
    # A worker that is to stop does not wait.
    stopping = RiskSource(store, about, wait_s=20)
    other = store.take()
    assert other is not None
    threading.Timer(0.3, stopping.stop).start()
    waited, stale = took(stopping, ahead)
    assert waited < 5 and stale
    store.release(other)
    # When the day comes at last, it is used.
    send(settings, later)
    with building(settings, store):
        until(front_is(store, FIRST + 8))
    monkeypatch.setattr("streams.live.risk_source.GLANCE_EVERY_S", 0.0)
    assert took(source, ahead)[1] == 0
    assert took(source, every)[1] == 0


def _beat(lead: Leadership) -> None:
    time.sleep(0.05)
    lead.beat()


def test_snapshots_of_other_topics_are_not_used(settings: Settings, store: RiskStore) -> None:
    token = store.take()
    assert token is not None
    store.begin(token, "some other topics")
    store.publish(token, FIRST, "aa", b"x" * 20)
    store.release(token)
    columns = next(batches(world(days=1)))
    source = RiskSource(store, check_topics(settings), wait_s=0.0)
    view, stale = source.view([columns])
    assert stale == len(columns) and set(view.lookup(columns)[1]) == {NO_SNAPSHOT}


def test_packed_snapshots_come_back() -> None:
    content = os.urandom(20) + bytes(80) + os.urandom(800)
    assert unpacked(packed(content)) == content and unpacked(packed(content[:20])) == content[:20]


def test_the_lock_is_kept_while_the_builder_gets_on(
    store: RiskStore, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("streams.live.risk_lock.RENEW_EVERY_S", 0.05)
    monkeypatch.setattr("streams.live.risk_store.LOCK_MS", 1_000)
    token = store.take()
    assert token is not None
    with Leadership(store, token, stalled_s=2.5) as lead:
        # One step takes longer than the lock lives: it is kept.
        for _ in range(2):
            time.sleep(1.5)
            lead.beat()
        assert store.take() is None
        # One that never ends: it is not.
        until(lambda: store.take() is not None, 10)
        until(lambda: not _holds(lead), 10)
    # What somebody else has is not given back.
    assert store.alive()


def _holds(lead: Leadership) -> bool:
    try:
        lead.beat()
    except NotLeader:
        return False
    return True
