"""`forget` on real servers, with the worker ahead, behind and away."""

from __future__ import annotations

import time
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import orjson
import pytest
import redis

from streams.clients.forget import Erased, forget
from streams.entry import Entry, pack, unpack
from streams.errors import BrokerError, ConfigError, StoreError
from streams.offline.routing import java
from streams.privacy import account_digest
from streams.settings import Settings, load
from streams.store import WHOLE, Claim, Commit, Identity, Writes, generations
from streams.store.redis import RedisStore
from streams.topics import describe
from tests.live.reading import contents, ends, publish, settings_for
from tests.live.workers import scored, team
from tests.messages import message

ACCOUNT = "acct-7"
HOME = java(ACCOUNT.encode(), 2)


@pytest.fixture
def client(redis_url: str) -> Iterator[redis.Redis]:
    with redis.Redis.from_url(redis_url) as made:
        yield made


@pytest.fixture
def settings(kafka: str, redis_url: str, topic_prefix: str) -> Settings:
    return settings_for(kafka, topic_prefix, f"redis.url={redis_url}")


def claim_at(settings: Settings, client: redis.Redis, partition: int) -> Claim:
    topic_id, count = describe(settings, "transactions")
    return RedisStore(client).acquire(partition, Identity(topic_id, count))


def payments(account: str, first: int, count: int) -> list[tuple[int, bytes, bytes | None]]:
    partition = java(account.encode(), 2)
    return [
        (partition, account.encode(), message(transaction_id=f"t{n}", account_id=account, amount=n))
        for n in range(first, first + count)
    ]


def entry_of(*rows: tuple[int, str]) -> bytes:
    """An outbox entry with a score for each (offset, account)."""
    n = len(rows)
    return pack(
        Entry(
            topic="transactions",
            partition=HOME,
            mode="full",
            versions=({"model": "m"},),
            offsets=np.array([offset for offset, _ in rows], np.int64),
            event_time=np.zeros(n, np.int64),
            scores=np.zeros(n),
            digests=np.zeros(n, np.uint64),
            codes=np.zeros(n, np.uint8),
            version=np.zeros(n, np.uint16),
            transaction_ids=orjson.dumps([f"t{offset}" for offset, _ in rows]),
            account_ids=orjson.dumps([account for _, account in rows]),
            alerts=(),
            dead=(),
        )
    )


def test_a_running_worker_lets_the_account_go_and_begins_anew(
    settings: Settings, client: redis.Redis, redis_url: str, tmp_path: Path
) -> None:
    name = f"fs:{{{HOME}}}:a:{ACCOUNT}"
    with team(settings, redis_url, tmp_path) as workers:
        worker = workers.start().ready()
        publish(settings, payments(ACCOUNT, 0, 20) + payments("acct-1", 20, 20))
        worker.until(lambda: scored(settings) == 40)
        [erased] = forget(settings, ACCOUNT)
        assert (erased.partition, erased.had_state) == (HOME, True)
        worker.until(lambda: _applied(client, HOME) > erased.offset)
        assert client.get(name) is None
        publish(settings, payments(ACCOUNT, 40, 3))
        worker.until(lambda: scored(settings) >= 43)
        assert worker.stop()[0] == 0, worker.said()
    record = client.get(name)
    assert record is not None and len(record) == 64 + 3 * 32, "three events, not twenty-three"
    assert client.hgetall(f"fs:{{{HOME}}}:gone") == {account_digest(ACCOUNT): b"%d" % erased.offset}
    assert client.hgetall(f"fs:{{{HOME}}}:out") == {}


def _applied(client: redis.Redis, partition: int) -> int:
    return int(client.hget(f"fs:{{{partition}}}:part", "offset") or 0)


def test_a_worker_that_comes_later_withholds_what_was_erased(
    settings: Settings, client: redis.Redis, redis_url: str, tmp_path: Path
) -> None:
    publish(settings, payments(ACCOUNT, 0, 5) + payments("acct-1", 5, 5))
    [erased] = forget(settings, ACCOUNT)
    assert (erased.partition, erased.offset, erased.had_state) == (
        HOME,
        ends(settings, "transactions")[HOME] - 1,
        False,
    )
    publish(settings, payments(ACCOUNT, 10, 2))
    with team(settings, redis_url, tmp_path) as workers:
        worker = workers.start().ready()
        worker.until(lambda: scored(settings) == 7)
        time.sleep(0.2)
        assert worker.stop()[0] == 0, worker.said()
    dead = contents(settings, "transactions.dlq")
    assert len(dead) == 5
    for letter in dead:
        assert (letter.key(), letter.value()) in ((None, b""), (None, None))
        assert ("reason", b"forgotten") in (letter.headers() or [])
    scores = [orjson.loads(sent.value() or b"") for sent in contents(settings, "scores")]
    ids = sorted(score["transaction_id"] for score in scores if score["account_id"] == ACCOUNT)
    assert ids == ["t10", "t11"]


def test_the_outbox_is_scrubbed_up_to_the_tombstone(
    settings: Settings, client: redis.Redis
) -> None:
    store, claim = RedisStore(client), claim_at(settings, client, HOME)
    store.commit(claim, Commit(None, 3, entry=entry_of((1, ACCOUNT), (2, "acct-1"))))
    store.commit(claim, Commit(3, 4, entry=entry_of((3, "acct-1"))))
    untouched = store.pending(claim)[1]
    [erased] = forget(settings, ACCOUNT)
    assert erased.offset == 0  # an empty topic: nothing was below the tombstone
    assert unpack(store.pending(claim)[0][1]).account_ids == entry_ids(ACCOUNT, "acct-1")
    publish(settings, payments("acct-1", 0, 5) + payments(ACCOUNT, 5, 5))
    [erased] = forget(settings, ACCOUNT)
    first, second = store.pending(claim)
    assert second == untouched
    scrubbed = unpack(first[1])
    assert scrubbed.account_ids == entry_ids("acct-1")
    assert [dead.offset for dead in scrubbed.dead] == [1]
    assert ACCOUNT.encode() not in first[1]


def entry_ids(*accounts: str) -> bytes:
    return orjson.dumps(list(accounts))


def test_the_tombstone_goes_where_the_state_is(settings: Settings, client: redis.Redis) -> None:
    """Publishers with another rule than ours put the account elsewhere."""
    away = 1 - HOME
    claim = claim_at(settings, client, away)
    step = Commit(None, 1, Writes.of([(ACCOUNT, [(WHOLE, b"r" * 96)])]))
    RedisStore(client).commit(claim, step)
    [erased] = forget(settings, ACCOUNT)
    assert (erased.partition, erased.had_state) == (away, True)
    assert ends(settings, "transactions") == {away: 1, HOME: 0}
    again = claim_at(settings, client, away)
    # The tombstone has offset 0 and the state stands at 1: it is past it, and keeps what it has.
    assert RedisStore(client).load(again, [ACCOUNT], 1) == [b"r" * 96]
    assert forget(settings, ACCOUNT)[0].offset == 1
    assert RedisStore(client).load(claim_at(settings, client, away), [ACCOUNT], 1) == [None]


def test_a_redis_that_refuses_the_erasure_once_the_tombstone_is_sent(
    settings: Settings, client: redis.Redis
) -> None:
    claim = claim_at(settings, client, HOME)
    step = Commit(None, 0, Writes.of([(ACCOUNT, [(WHOLE, b"r" * 96)])]))
    RedisStore(client).commit(claim, step)
    client.execute_command("REPLICAOF", "127.0.0.1", "1")
    try:
        told = r"the tombstone is in the log.*read only.*Promote it.*Then run this again"
        with pytest.raises(StoreError, match=told):
            forget(settings, ACCOUNT)
    finally:
        client.execute_command("REPLICAOF", "NO", "ONE")
    assert ends(settings, "transactions")[HOME] == 1
    assert forget(settings, ACCOUNT) == [Erased(HOME, 1, had_state=True)]
    assert RedisStore(client).load(claim_at(settings, client, HOME), [ACCOUNT], 0) == [None]


def test_what_a_rebuild_that_died_left_behind_goes_too(
    settings: Settings, client: redis.Redis
) -> None:
    step = Commit(None, 1, Writes.of([(ACCOUNT, [(WHOLE, b"r" * 96)])]))
    for partition in (HOME, 1 - HOME):  # before it moved it was in the other one
        RedisStore(client).commit(claim_at(settings, client, partition), step)
    generation = generations.begin(client, "fs")
    generations.switch(client, "fs", generation, 2)
    assert len(client.keys(f"*:a:{ACCOUNT}")) == 2, "the switch was made, the sweep was not"
    forget(settings, ACCOUNT)
    assert client.keys(f"*:a:{ACCOUNT}") == []


@pytest.mark.parametrize("account", ["", "x" * 65])
def test_an_id_no_account_can_have(settings: Settings, account: str) -> None:
    with pytest.raises(ConfigError, match="1 to 64"):
        forget(settings, account)


@pytest.mark.parametrize(
    ("account", "said"),
    [
        ("4111111111111111", "card number"),
        ("x-4111 1111 1111 1111", "card number"),
        ("a\nb", "control"),
        ("a\u202eb", "control"),
        ("\udcff", "control"),
    ],
)
def test_an_id_that_the_service_refuses_is_refused_before_anything_is_sent(
    account: str, said: str
) -> None:
    nowhere = load(flags=["kafka.bootstrap=127.0.0.1:1"])
    with pytest.raises(ConfigError, match=said) as failure:
        forget(nowhere, account)
    assert account not in f"{failure.value}"


def test_a_topic_that_is_not_there(kafka: str, redis_url: str) -> None:
    flags = [f"kafka.bootstrap={kafka}", "kafka.topic_prefix=none-", f"redis.url={redis_url}"]
    with pytest.raises(BrokerError, match="topics create"):
        forget(load(flags=flags), ACCOUNT)
