"""`rebuild` on real servers: the state made again equals the state of a replay, bit for bit."""

from __future__ import annotations

import random
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import orjson
import pytest
import redis
from confluent_kafka import Consumer, Producer, TopicPartition
from confluent_kafka.admin import AdminClient, NewPartitions, NewTopic
from typer.testing import CliRunner

from streams import topics
from streams.batch import Batch
from streams.cli import build
from streams.connect import confluent_config
from streams.errors import Conflict, StoreError, StoreUnready
from streams.offline import rebuild as rebuilding
from streams.offline.rebuild import rebuild
from streams.offline.replay import Shard
from streams.offline.routing import java
from streams.privacy import account_digest
from streams.schema import MAX_HEADERS
from streams.settings import Settings
from streams.store import Claim, Commit, Identity, generations, keys
from streams.store.redis import RedisStore
from streams.topics import describe
from tests.clients.test_publisher import flags
from tests.live.reading import ends, publish, settings_for
from tests.live.workers import check_scores, payments, scored, team
from tests.messages import BROKER_TIME, message

ACCOUNTS = [f"acct-{number}" for number in range(12)]
Row = tuple[int, bytes, bytes | None]


def rows(count: int, partitions: int, begin: int = 0, seed: int = 1) -> list[Row]:
    """Messages as a Java publisher would place them; some late, some twice, one account erased."""
    chance = random.Random(seed)
    made: list[Row] = []
    for number in range(begin, begin + count):
        account = chance.choice(ACCOUNTS)
        key = account.encode()
        late = chance.randrange(50_000) if chance.random() < 0.2 else 0
        twice = number - 1 if chance.random() < 0.05 and number else number
        value = message(
            transaction_id=f"t{twice}",
            account_id=account,
            amount=number,
            event_time=BROKER_TIME + number * 1_000 - late,
        )
        made.append((java(key, partitions), key, value))
    erased = ACCOUNTS[3].encode()
    made.insert(count // 2, (java(erased, partitions), erased, None))
    return made


def expected(messages: list[Row]) -> dict[str, bytes]:
    """Every account's record, from the messages in the order they were sent."""
    shard = Shard(0, [], None, max_future_ms=10**12, forgotten={})
    shard.step(
        Batch(
            topic="transactions",
            partition=0,
            offsets=np.arange(len(messages)),
            timestamps=np.full(len(messages), BROKER_TIME),
            keys=[key for _, key, _ in messages],
            values=[value for _, _, value in messages],
            headers=None,
            next_offset=len(messages),
        )
    )
    found = {account: shard.record(account) for account in ACCOUNTS}
    return {account: record for account, record in found.items() if record is not None}


def stored(client: redis.Redis, namespace: str = "fs") -> dict[str, bytes]:
    """Every account's record in the generation in use, which must be where its key belongs."""
    now = generations.read(client, namespace)
    found = {}
    for number in range(now.partitions or 0):
        start = keys.of(namespace, now.current, number).record
        for name in client.scan_iter(f"{start}*".replace("[", "\\[")):
            account = name.decode().removeprefix(start)
            assert java(account.encode(), now.partitions or 0) == number, account
            assert account not in found
            found[account] = client.get(name)
    return found


def commit_group(settings: Settings, offsets: dict[int, int]) -> None:
    """What Faust's consumer commits once output is delivered."""
    consumer = Consumer(confluent_config(settings, {"group.id": settings.kafka.group}))
    topic = settings.topic("transactions")
    places = [TopicPartition(topic, number, offset) for number, offset in offsets.items()]
    consumer.commit(offsets=places, asynchronous=False)
    consumer.close()


@pytest.fixture
def client(redis_url: str) -> Iterator[redis.Redis]:
    with redis.Redis.from_url(redis_url) as made:
        yield made


@pytest.fixture
def settings(kafka: str, redis_url: str, topic_prefix: str) -> Settings:
    return settings_for(kafka, topic_prefix, f"redis.url={redis_url}", partitions=3)


def claim_all(settings: Settings, client: redis.Redis) -> list[Claim]:
    topic_id, count = describe(settings, "transactions")
    store = RedisStore(client)
    return [store.acquire(number, Identity(topic_id, count)) for number in range(count)]


def raise_partitions(settings: Settings, count: int) -> None:
    """As an operator does; returns when every answer of the broker knows of it."""
    topic = settings.topic("transactions")
    admin = AdminClient(confluent_config(settings))
    admin.create_partitions([NewPartitions(topic, count)])[topic].result()
    while {describe(settings, "transactions")[1], len(ends(settings, "transactions"))} != {count}:
        pass


def made_again(settings: Settings, count: int) -> None:
    """The topic deleted, and another one of its name."""
    topic = settings.topic("transactions")
    admin = AdminClient(confluent_config(settings))
    admin.delete_topics([topic])[topic].result()
    while topic in admin.list_topics().topics:
        pass
    admin.create_topics([NewTopic(topic, count, 1)])[topic].result()
    while topic not in admin.list_topics().topics:  # what the controller made, a broker hears later
        pass


def test_an_empty_redis_is_filled_up_to_what_the_group_committed(
    settings: Settings, client: redis.Redis
) -> None:
    first, rest = rows(600, 3), rows(100, 3, begin=600, seed=2)
    publish(settings, first)
    delivered = ends(settings, "transactions")
    publish(settings, rest)
    commit_group(settings, delivered)
    seen: list[tuple[int, int]] = []
    result = rebuild(settings, lambda done, total: seen.append((done, total)))
    assert (result.generation, result.partitions, result.moved) == (1, 3, False)
    assert result.offsets == delivered
    assert result.messages == len(first) == seen[-1][0] == seen[-1][1]
    assert stored(client) == expected(first)
    claims = claim_all(settings, client)
    assert [claim.offset for claim in claims] == [delivered[number] for number in range(3)]
    assert {claim.generation for claim in claims} == {1}


def test_nothing_committed_means_nothing_applied(settings: Settings, client: redis.Redis) -> None:
    publish(settings, rows(30, 3))
    result = rebuild(settings)
    assert (result.messages, result.offsets) == (0, {0: 0, 1: 0, 2: 0})
    assert stored(client) == {}


def test_after_the_partition_count_was_raised_accounts_are_where_their_next_messages_come(
    settings: Settings, client: redis.Redis
) -> None:
    old, new = rows(400, 3), rows(400, 5, begin=400, seed=3)
    publish(settings, old)
    claim_all(settings, client)
    raise_partitions(settings, 5)
    with pytest.raises(StoreUnready, match=r"3 partitions, but the topic has 5.*rebuild"):
        claim_all(settings, client)
    publish(settings, new)
    commit_group(settings, ends(settings, "transactions"))
    result = rebuild(settings)
    assert (result.partitions, result.moved) == (5, True)
    assert stored(client) == expected(old + new)
    assert len(claim_all(settings, client)) == 5


def test_a_topic_made_again_with_another_count_begins_anew(
    settings: Settings, client: redis.Redis
) -> None:
    """Its keys tell no rule, there being none; no account has moved in it either."""
    publish(settings, rows(90, 3))
    claim_all(settings, client)
    made_again(settings, 2)
    raise_partitions(settings, 5)
    result = rebuild(settings)
    assert (result.partitions, result.messages, result.moved) == (5, 0, False)
    assert len(claim_all(settings, client)) == 5


def test_a_topic_made_again_is_scored_from_its_start_whatever_was_committed(
    settings: Settings, client: redis.Redis
) -> None:
    """A worker that runs meanwhile commits the offset of the topic that is gone to the new one."""
    publish(settings, rows(90, 3))
    before = ends(settings, "transactions")
    claim_all(settings, client)
    made_again(settings, 3)
    publish(settings, rows(300, 3, begin=90))
    commit_group(settings, before)
    result = rebuild(settings)
    assert (result.messages, result.offsets) == (0, {0: 0, 1: 0, 2: 0})
    assert [claim.offset for claim in claim_all(settings, client)] == [0, 0, 0]


def test_messages_that_wait_in_partitions_of_before_are_told(
    settings: Settings, client: redis.Redis
) -> None:
    """Workers apply them where they lie: the account then has state in two places."""
    old, new = rows(400, 3), rows(400, 5, begin=400, seed=3)
    publish(settings, old)
    claim_all(settings, client)
    applied = ends(settings, "transactions")
    publish(settings, rows(90, 3, begin=800, seed=5))
    raise_partitions(settings, 5)
    publish(settings, new)
    commit_group(settings, applied)
    away = sum(java(key, 5) != at for at, key, _ in rows(90, 3, begin=800, seed=5))
    url = settings.redis.url.get_secret_value()
    given = [
        *flags(settings),
        "--set",
        f"redis.url={url}",
        "--set",
        "kafka.group=" + settings.kafka.group,
    ]
    found = CliRunner().invoke(build(), ["rebuild", "--json", *given])
    result = orjson.loads(found.stdout)
    assert result["moved"] and result["misplaced"] == away > 0
    assert f"{away} messages that wait for workers lie in partitions of before" in found.stderr
    commit_group(settings, ends(settings, "transactions"))
    again = rebuild(settings)
    assert (again.moved, again.misplaced) == (True, 0)


def test_the_state_of_another_service_is_left_alone(
    settings: Settings, client: redis.Redis
) -> None:
    """Somebody made a second set of topics, and gave it no namespace of its own."""
    publish(settings, rows(90, 3))
    commit_group(settings, ends(settings, "transactions"))
    rebuild(settings)
    claim_all(settings, client)
    before = stored(client)
    prefix = f"{settings.kafka.topic_prefix}again-"
    kafka = settings.kafka.model_copy(update={"topic_prefix": prefix})
    second = settings.model_copy(update={"kafka": kafka})
    topics.create(second, 2)
    with pytest.raises(StoreUnready, match=r"Is it another service's\?.*redis.namespace"):
        claim_all(second, client)
    with pytest.raises(StoreError, match=settings.topic("transactions")) as problem:
        rebuild(second)
    assert "a redis.namespace and a kafka.group of its own" in str(problem.value)
    assert stored(client) == before and len(claim_all(settings, client)) == 3


def test_markers_of_erasures_come_along_and_are_kept_to(
    settings: Settings, client: redis.Redis
) -> None:
    """An account erased from outside whose tombstone no worker has read yet."""
    messages = [row for row in rows(300, 3) if row[2] is not None]
    publish(settings, messages)
    at = ends(settings, "transactions")
    commit_group(settings, at)
    claim_all(settings, client)
    victim = ACCOUNTS[5]
    home = java(victim.encode(), 3)
    RedisStore(client).forget(home, victim, at[home], lambda entry: entry)
    rebuild(settings)
    left = [row for row in messages if row[1] != victim.encode()]
    assert stored(client) == expected(left)
    assert len(RedisStore(client).forgotten(claim_all(settings, client)[home])) == 1


def test_a_message_refused_for_its_headers_is_refused_again(
    settings: Settings, client: redis.Redis
) -> None:
    sent = [row for row in rows(30, 3) if row[2] is not None]
    publish(settings, sent)
    producer = Producer(confluent_config(settings))
    home = java(ACCOUNTS[5].encode(), 3)
    refused = message(transaction_id="refused", account_id=ACCOUNTS[5], event_time=BROKER_TIME)
    headers = [(f"h{number}", b"x") for number in range(MAX_HEADERS + 1)]
    topic = settings.topic("transactions")
    producer.produce(topic, refused, ACCOUNTS[5].encode(), partition=home, headers=headers)
    assert producer.flush(30) == 0
    commit_group(settings, ends(settings, "transactions"))
    assert rebuild(settings).messages == len(sent) + 1
    assert stored(client) == expected(sent)


def test_the_keys_that_an_earlier_rebuild_left_are_swept(
    settings: Settings, client: redis.Redis, monkeypatch: pytest.MonkeyPatch
) -> None:
    publish(settings, rows(30, 3))
    commit_group(settings, ends(settings, "transactions"))
    claim = claim_all(settings, client)[0]
    RedisStore(client).commit(claim, Commit(None, 1))
    with monkeypatch.context() as dying:
        dying.setattr(generations, "retire", lambda *rest: 1 / 0)
        with pytest.raises(ZeroDivisionError):
            rebuild(settings)
    left = len(client.keys("fs.1:*:a:*"))
    # The switch was made and the sweep was not: as if the keys of generation 1 were never swept.
    assert left and generations.read(client, "fs").current == 1
    with monkeypatch.context() as dying:
        dying.setattr(generations, "sweep", lambda *rest: 0)
        rebuild(settings)
    # Nobody was told of the first switch: a worker must not go on with keys that are swept.
    with pytest.raises(Conflict, match="retired"):
        RedisStore(client).commit(claim, Commit(1, 2))
    assert len(client.keys("fs.1:*:a:*")) == left
    rebuild(settings)
    assert {name.partition(b":")[0] for name in client.keys("*:a:*")} == {b"fs.3"}


def test_an_erasure_meanwhile_is_marked_in_the_new_generation(
    settings: Settings, client: redis.Redis, monkeypatch: pytest.MonkeyPatch
) -> None:
    publish(settings, rows(30, 3))
    commit_group(settings, ends(settings, "transactions"))
    claim_all(settings, client)
    victim, home = ACCOUNTS[5], java(ACCOUNTS[5].encode(), 3)
    cut, switch = ends(settings, "transactions")[home], generations.switch

    def late(*given: Any) -> None:
        RedisStore(client, generation=0).forget(home, victim, cut, lambda entry: entry)
        client.delete(keys.of("fs", 1, home).gone)  # as if it was marked before `finish`
        switch(*given)

    monkeypatch.setattr(generations, "switch", late)
    rebuild(settings)
    assert RedisStore(client).forgotten(claim_all(settings, client)[home]) == {
        account_digest(victim): cut
    }


def test_no_room_for_a_second_copy_leaves_the_first_in_use(
    settings: Settings, client: redis.Redis
) -> None:
    publish(settings, rows(100, 3))
    commit_group(settings, ends(settings, "transactions"))
    claim = claim_all(settings, client)[0]
    client.config_set("maxmemory", "1mb")
    try:
        with pytest.raises(StoreError, match="raise maxmemory"):
            rebuild(settings)
    finally:
        client.config_set("maxmemory", "0")
    RedisStore(client).commit(claim, Commit(None, 1))
    assert rebuild(settings).messages == 101
    assert stored(client) == expected(rows(100, 3))


def test_a_running_worker_changes_over_and_every_score_stays_the_same(
    settings: Settings,
    client: redis.Redis,
    redis_url: str,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """It is stopped at its next step, claims the new keys, does again what was not committed."""
    with team(settings, redis_url, tmp_path) as workers:
        worker = workers.start().ready()
        publish(settings, payments(300, 3))
        worker.until(lambda: scored(settings) >= 300, 60)
        monkeypatch.setattr(rebuilding, "BATCH_EVENTS", 64)
        assert rebuild(settings).generation == 1
        publish(settings, payments(300, 3, begin=300))
        worker.until(lambda: scored(settings) >= 600, 60)
        worker.until(lambda: len(check_scores_or_none(settings, 600)) == 600, 60)
        assert worker.stop()[0] == 0, worker.said()
    assert generations.read(client, "fs").current == 1
    assert client.keys("fs:{*}:a:*") == []


def check_scores_or_none(settings: Settings, count: int) -> dict[str, int]:
    try:
        return dict(check_scores(settings, count))
    except AssertionError:
        return {}
