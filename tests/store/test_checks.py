"""Every check at start refuses what it should, and says what to do."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest
import redis

from streams.dev import process
from streams.dev import redis as redis_server
from streams.errors import LogShort, StoreUnready
from streams.store import Claim, Commit, Identity, checks
from streams.store.redis import RedisStore

TOPIC = Identity("topic-a", 6)


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[redis_server.Server]:
    running = redis_server.start(tmp_path_factory.mktemp("checks"), die_with_parent=True)
    yield running
    process.stop(running.child, 0)


@pytest.fixture
def client(server: redis_server.Server) -> Iterator[redis.Redis]:
    with redis.Redis.from_url(server.url) as made:
        made.flushall()
        yield made
        for name, value in (
            ("maxmemory-policy", "noeviction"),
            ("appendonly", "yes"),
            ("appendfsync", "always"),
        ):
            made.config_set(name, value)


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("maxmemory-policy", "allkeys-lru"),
        ("maxmemory-policy", "volatile-ttl"),
        ("appendonly", "no"),
        ("appendfsync", "everysec"),
    ],
)
def test_settings_that_lose_state_are_refused(client: redis.Redis, name: str, value: str) -> None:
    store = RedisStore(client)
    store.check()
    client.config_set(name, value)
    with pytest.raises(StoreUnready, match=f"CONFIG SET {name}"):
        store.check()
    relaxed = RedisStore(client, require_durable=False)
    if name == "maxmemory-policy":
        with pytest.raises(StoreUnready, match="noeviction"):
            relaxed.check()
    else:
        relaxed.check()


def test_a_user_who_may_not_read_the_settings(client: redis.Redis) -> None:
    client.acl_setuser(
        "plain", enabled=True, nopass=True, keys=["*"], commands=["+@all", "-config"]
    )
    try:
        port = client.connection_pool.connection_kwargs["port"]
        with redis.Redis(port=port, username="plain", password="any") as plain:
            with pytest.raises(StoreUnready, match=r"config.get.*require_durable"):
                RedisStore(plain).check()
            RedisStore(plain, require_durable=False).check()
            client.config_set("appendonly", "no")
            with pytest.raises(StoreUnready, match="appendonly"):
                RedisStore(plain).check()
    finally:
        client.acl_deluser("plain")


def test_a_replica_is_refused(client: redis.Redis, tmp_path: Path) -> None:
    port = client.connection_pool.connection_kwargs["port"]
    extra = {"replicaof": f"127.0.0.1 {port}"}
    replica = redis_server.start(tmp_path, extra=extra, die_with_parent=True)
    try:
        with (
            redis.Redis.from_url(replica.url) as second,
            pytest.raises(StoreUnready, match="primary"),
        ):
            RedisStore(second).check()
    finally:
        process.stop(replica.child, 0)


@pytest.mark.parametrize("version", ["6.2.14", "5.0.0", "?"])
def test_an_old_server_is_refused(version: str) -> None:
    class Old(redis.Redis):
        def info(self, *_: object, **__: object) -> dict[str, str]:
            return {"redis_version": version}

    with Old() as old, pytest.raises(StoreUnready, match=">= 7"):
        checks.check_server(old, require_durable=True)


@pytest.mark.parametrize(
    ("field", "value", "match"),
    [
        ("topic", "other", "deleted and made again.*rebuild"),
        ("partitions", "12", "12 partitions, but the topic has 6.*rebuild"),
        ("format", "2", "format 2, this version writes 1"),
        ("broken", "why", "why.*rebuild"),
        ("retired", "1", "retired.*rebuild"),
    ],
)
def test_a_partition_of_something_else(
    client: redis.Redis, field: str, value: str, match: str
) -> None:
    store = RedisStore(client)
    claim = store.acquire(0, TOPIC)
    client.hset("fs:{0}:part", field, value)
    before = client.hgetall("fs:{0}:part")
    with pytest.raises(StoreUnready, match=match):
        RedisStore(client).acquire(0, TOPIC)
    assert client.hgetall("fs:{0}:part") == before, "a refused claim changes nothing"
    if field not in ("broken", "retired"):
        store.commit(claim, Commit(None, 1))


def claim(offset: int | None) -> Claim:
    return Claim(3, 1, "o", 0, offset, 0, "")


@pytest.mark.parametrize(
    ("stored", "low", "high", "committed", "start"),
    [
        (None, 0, 10, None, 0),
        (None, 4, 10, None, 4),
        (None, 0, 10, 0, 0),
        (None, 4, 10, 4, 4),
        (7, 0, 10, None, 7),
        (7, 0, 10, 3, 7),
        (7, 0, 10, 9, 7),
        (4, 4, 4, 4, 4),
    ],
)
def test_where_to_start(
    stored: int | None, low: int, high: int, committed: int | None, start: int
) -> None:
    assert checks.start_offset(claim(stored), low, high, committed) == start


@pytest.mark.parametrize(
    ("stored", "low", "high", "committed", "match"),
    [
        (None, 0, 10, 5, r"holds nothing of transactions\[3\].*offset 5.*rebuild"),
        (3, 4, 10, None, "removed 1 offsets.*rebuild"),
        (11, 4, 10, None, "ends at offset 10, but the state stands at 11.*rebuild"),
    ],
)
def test_where_not_to_start(
    stored: int | None, low: int, high: int, committed: int | None, match: str
) -> None:
    with pytest.raises(StoreUnready, match=match):
        checks.start_offset(claim(stored), low, high, committed)


def test_a_short_log_is_a_refusal_of_its_own() -> None:
    with pytest.raises(LogShort):
        checks.start_offset(claim(11), 4, 10, None)
