"""What only a real server can do to the store: lose answers, fill up, restart, refuse."""

from __future__ import annotations

import random
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path

import pytest
import redis
from redis.backoff import NoBackoff
from redis.retry import Retry

from streams.dev import process
from streams.dev import redis as redis_server
from streams.errors import (
    Conflict,
    Fenced,
    PartitionError,
    StoreFull,
    StoreLost,
    StoreUnready,
)
from streams.store import WHOLE, Commit, Identity, Writes
from streams.store.redis import RedisStore
from tests.faults.proxy import Proxy

TOPIC = Identity("topic-a", 6)


def connect(port: int, timeout_s: float = 60.0, **extra: str) -> redis.Redis:
    """A client that repeats nothing, like the worker's."""
    return redis.Redis(port=port, socket_timeout=timeout_s, retry=Retry(NoBackoff(), 0), **extra)


def opened(client: redis.Redis) -> None:
    """The client has a connection: the next thing that it sends is its request."""
    while True:
        with suppress(redis.exceptions.TimeoutError):
            client.ping()
            return


def whole(name: str, record: bytes) -> Writes:
    return Writes.of([(name, [(WHOLE, record)])])


def piece(name: str, at: int, content: bytes) -> Writes:
    return Writes.of([(name, [(at, content)])])


@pytest.fixture
def direct(redis_url: str) -> Iterator[redis.Redis]:
    with redis.Redis.from_url(redis_url) as client:
        yield client


@pytest.fixture
def proxy(direct: redis.Redis) -> Iterator[Proxy]:
    with Proxy(direct.connection_pool.connection_kwargs["port"]) as made:
        yield made


@pytest.fixture
def own_server(tmp_path: Path) -> Iterator[redis_server.Server]:
    server = redis_server.start(tmp_path, die_with_parent=True)
    yield server
    process.stop(server.child, 0)


def test_the_keys_are_those_of_the_design(direct: redis.Redis) -> None:
    store = RedisStore(direct, "ns")
    claim = store.acquire(3, TOPIC)
    store.commit(claim, Commit(None, 5, whole("a", b"x"), (("b", 1),), b"e"))
    names = [b"generation", b"{3}:a:a", b"{3}:gone", b"{3}:out", b"{3}:part"]
    assert sorted(direct.keys()) == [b"ns:" + name for name in names]
    assert direct.hgetall("ns:{3}:part") == {
        b"token": b"1",
        b"owner": claim.owner.encode(),
        b"offset": b"5",
        b"format": b"1",
        b"topic": b"topic-a",
        b"partitions": b"6",
        b"model": b"",
        b"decides": b"",
    }


def test_a_lost_answer_to_a_commit(proxy: Proxy, direct: redis.Redis) -> None:
    store = RedisStore(connect(proxy.port))
    claim = store.acquire(0, TOPIC)
    store.commit(claim, Commit(None, 1, whole("a", b"0")))
    step = Commit(1, 2, piece("a", 1, b"1"), (), b"e")
    proxy.lose_replies()
    with pytest.raises(StoreLost):
        store.commit(claim, step)
    assert RedisStore(direct).pending(claim) == [(2, b"e")], "the server did act"
    store.commit(claim, step)
    store.commit(claim, Commit(2, 3, piece("a", 2, b"2")))
    assert store.load(claim, ["a"], 3) == [b"012"]
    store.close()


def test_a_lost_answer_to_an_acquire_costs_no_claim(proxy: Proxy) -> None:
    store = RedisStore(connect(proxy.port))
    first = store.acquire(0, TOPIC)
    proxy.lose_replies()
    with pytest.raises(StoreLost):
        store.acquire(0, TOPIC)
    claim = store.acquire(0, TOPIC)
    assert claim.token > first.token
    store.commit(claim, Commit(None, 1))
    store.close()


def test_a_lost_answer_to_steps_of_several_partitions(proxy: Proxy) -> None:
    store = RedisStore(connect(proxy.port))
    claims = [store.acquire(number, TOPIC) for number in range(3)]
    store.commit_all([(claim, Commit(None, 1, whole("a", b"0"))) for claim in claims])
    steps = [(claim, Commit(1, 2, piece("a", 1, b"1"))) for claim in claims]
    proxy.lose_replies()
    with pytest.raises(StoreLost):
        store.commit_all(steps)
    assert store.commit_all(steps) == [None, None, None]
    assert [store.load(claim, ["a"], 2) for claim in claims] == [[b"01"]] * 3
    store.close()


def test_a_commit_that_arrives_after_its_own_repetition(proxy: Proxy) -> None:
    """The first sending hangs in the network, the second is done; then the first arrives."""
    line = connect(proxy.port, timeout_s=0.2)
    store, hasty = RedisStore(connect(proxy.port)), RedisStore(line)
    claim = store.acquire(0, TOPIC)
    store.commit(claim, Commit(None, 1, whole("a", b"0")))
    step = Commit(1, 2, piece("a", 0, b"1"))
    opened(line)
    proxy.hold_requests()
    with pytest.raises(StoreLost):
        hasty.commit(claim, step)
    store.commit(claim, step)
    assert b"again" in proxy.release()[0]
    store.commit(claim, Commit(2, 3, piece("a", 0, b"2")))

    opened(line)
    proxy.hold_requests()
    with pytest.raises(StoreLost):
        hasty.commit(claim, Commit(3, 4, piece("a", 0, b"3")))
    store.commit(claim, Commit(3, 4, piece("a", 0, b"3")))
    store.commit(claim, Commit(4, 5, piece("a", 0, b"4")))
    assert b"OFFSET" in proxy.release()[0]

    opened(line)
    proxy.hold_requests()
    with pytest.raises(StoreLost):
        hasty.commit(claim, Commit(5, 6, piece("a", 0, b"5")))
    later = RedisStore(connect(proxy.port)).acquire(0, TOPIC)
    assert later.offset == 5
    assert b"FENCED" in proxy.release()[0]
    assert store.load(later, ["a"], 5) == [b"4"]
    store.close()
    hasty.close()


@pytest.mark.parametrize("seed", range(3))
def test_many_commits_over_a_bad_line(proxy: Proxy, seed: int) -> None:
    """A third of all calls lose request or answer; each step must still be done exactly once."""
    chance = random.Random(seed)
    store = RedisStore(connect(proxy.port))
    claim = store.acquire(0, TOPIC)
    store.commit(claim, Commit(None, 1, whole("a", b"\0")))
    lost = 0
    for at in range(1, 120):
        step = Commit(at, at + 1, piece("a", at, bytes([at])), (), bytes([at]))
        fault = chance.random()
        if fault < 0.2:
            proxy.lose_replies(chance.randrange(1, 3))
        elif fault < 0.35:
            proxy.lose_requests(chance.randrange(1, 3))
        while True:
            try:
                store.commit(claim, step)
                break
            except StoreLost:
                lost += 1
    assert store.load(claim, ["a"], 120) == [bytes(range(120))]
    assert [seq for seq, _ in store.pending(claim)] == list(range(2, 121))
    assert lost > 20
    store.close()


def test_a_restarted_server_has_no_scripts_and_still_the_state(
    own_server: redis_server.Server, tmp_path: Path
) -> None:
    store = RedisStore(connect(own_server.port))
    claim = store.acquire(0, TOPIC)
    other = store.acquire(1, TOPIC)
    store.commit(claim, Commit(None, 1, whole("a", b"kept"), (), b"e"))
    process.stop(own_server.child, 0)  # kill -9
    with pytest.raises(StoreLost):
        store.commit(claim, Commit(1, 2))
    again = redis_server.start(tmp_path, port=own_server.port, die_with_parent=True)
    try:
        assert store.load(claim, ["a"], 1) == [b"kept"]
        steps = [(claim, Commit(1, 2, piece("a", 4, b"!"))), (other, Commit(None, 1))]
        assert store.commit_all(steps) == [None, None]
        assert store.load(claim, ["a"], 2) == [b"kept!"]
        assert store.pending(claim) == [(1, b"e")]
    finally:
        store.close()
        process.stop(again.child, 0)


def test_a_full_server_stops_commits_and_nothing_else(own_server: redis_server.Server) -> None:
    client = connect(own_server.port)
    store = RedisStore(client)
    claim = store.acquire(0, TOPIC)
    store.commit(claim, Commit(None, 1, whole("a", b"0" * 100), (), b"e"))
    filler = [(f"n{number}", [(WHOLE, bytes(1_000))]) for number in range(4_000)]
    store.commit(claim, Commit(1, 2, Writes.of(filler), (), b"e"))
    client.config_set("maxmemory", "2mb")
    before = (store.load(claim, ["a", "n0", "new"], 2), store.pending(claim))
    step = Commit(2, 3, Writes.of([("a", [(0, b"1")]), ("new", [(WHOLE, b"n")])]), (("n0", 0),))
    with pytest.raises(StoreFull, match="partition=0"):
        store.commit(claim, step)
    assert isinstance(store.commit_all([(claim, step)])[0], StoreFull)
    assert (store.load(claim, ["a", "n0", "new"], 2), store.pending(claim)) == before
    # What frees memory or starts a worker must go on.
    store.trim(claim, [1])
    store.forget(0, "n1", 5, lambda entry: None)
    claim = store.acquire(0, TOPIC)
    assert claim.offset == 2
    assert (store.load(claim, ["n1"], 2), store.pending(claim)) == ([None], [])
    client.config_set("maxmemory", "0")
    store.commit(claim, step)
    assert store.load(claim, ["a", "n0", "new"], 3) == [b"1" + b"0" * 99, None, b"n"]
    store.close()


def test_a_write_that_fails_half_way_breaks_the_partition_loudly(direct: redis.Redis) -> None:
    store = RedisStore(direct)
    claim = store.acquire(0, TOPIC)
    store.commit(claim, Commit(None, 1, whole("a", b"0")))
    direct.rpush("fs:{0}:a:b", "a foreign list")
    both = Writes.of([("a", [(0, b"1")]), ("b", [(0, b"1")])])
    with pytest.raises(StoreUnready, match="rebuild"):
        store.commit(claim, Commit(1, 2, both))
    with pytest.raises(StoreUnready, match="rebuild"):
        store.commit(claim, Commit(1, 2))
    with pytest.raises(StoreUnready, match="rebuild"):
        store.load(claim, ["a"], 1)
    with pytest.raises(StoreUnready, match="rebuild"):
        store.acquire(0, TOPIC)
    assert direct.hget("fs:{0}:part", "offset") == b"1"


def test_a_server_that_lost_the_claim_is_noticed(direct: redis.Redis) -> None:
    """Restored to a file older than the claim: same offset, but the token is from before."""
    store = RedisStore(direct)
    first = store.acquire(0, TOPIC)
    store.commit(first, Commit(None, 5))
    older = direct.dump("fs:{0}:part")
    claim = store.acquire(0, TOPIC)
    direct.restore("fs:{0}:part", 0, older, replace=True)
    with pytest.raises(Conflict, match="no longer knows"):
        store.load(claim, ["a"], 5)
    with pytest.raises(Conflict, match="no longer knows"):
        store.commit(claim, Commit(5, 6))
    with pytest.raises(Conflict):
        store.trim(claim, [5])
    # Another worker takes the token that the lost claim had: the owner tells them apart.
    other = store.acquire(0, TOPIC)
    assert other.token == claim.token
    with pytest.raises(Fenced):
        store.commit(claim, Commit(5, 6))
    direct.flushall()
    with pytest.raises(Conflict):
        store.commit(other, Commit(5, 6))


def test_a_replica_that_lost_its_master_is_waited_for(own_server: redis_server.Server) -> None:
    client = connect(own_server.port)
    store = RedisStore(client)
    claim = store.acquire(0, TOPIC)
    client.config_set("replica-serve-stale-data", "no")
    client.replicaof("127.0.0.1", process.free_port())
    for call in (
        lambda: store.load(claim, ["a"], None),
        lambda: store.commit(claim, Commit(None, 1)),
        lambda: store.commit_all([(claim, Commit(None, 1))]),
    ):
        with pytest.raises(StoreLost):
            call()
    client.replicaof("NO", "ONE")
    store.commit(claim, Commit(None, 1))
    store.close()


def test_a_cluster_that_misses_slots_is_waited_for(tmp_path: Path) -> None:
    """As one is in the middle of a failover."""
    extra = {"cluster-enabled": "yes", "cluster-port": str(process.free_port())}
    server = redis_server.start(tmp_path, extra=extra, die_with_parent=True)
    store = RedisStore(connect(server.port))
    try:
        with pytest.raises(StoreLost):
            store.acquire(0, TOPIC)
    finally:
        store.close()
        process.stop(server.child, 0)


def test_a_store_nobody_answers_for() -> None:
    store = RedisStore(connect(process.free_port()))
    for call in (
        store.check,
        lambda: store.acquire(0, TOPIC),
        lambda: store.forget(0, "a", 1, lambda entry: entry),
    ):
        with pytest.raises(StoreLost):
            call()
    store.close()


def test_a_user_who_may_not_write(direct: redis.Redis) -> None:
    direct.acl_setuser("reader", enabled=True, passwords=["+pw"], keys=["*"], commands=["+@read"])
    try:
        port = direct.connection_pool.connection_kwargs["port"]
        for password in ("pw", "wrong"):
            client = connect(port, username="reader", password=password)
            with client, pytest.raises(StoreUnready, match=r"(?i)acl"):
                RedisStore(client).acquire(0, TOPIC)
    finally:
        direct.acl_deluser("reader")


@pytest.mark.parametrize("command", ["hget", "hlen", "hset", "hdel", "del", "mset", "setrange"])
def test_a_user_who_may_not_do_all_of_a_step_gets_no_claim(
    direct: redis.Redis, command: str
) -> None:
    """The step that came to the command was left half done, and the state had to be made again."""
    rights = ["+@all", f"-{command}"]
    direct.acl_setuser("poor", enabled=True, nopass=True, keys=["*"], commands=rights)
    try:
        client = connect(direct.connection_pool.connection_kwargs["port"], username="poor")
        with client, pytest.raises(StoreUnready, match=rf"(?i){command}.*users\.acl"):
            RedisStore(client).acquire(0, TOPIC)
        assert not direct.exists("fs:{0}:part")
    finally:
        direct.acl_deluser("poor")


def test_forget_waits_for_an_entry_that_changes_under_it(direct: redis.Redis) -> None:
    """Another forget rewrites the entry between this one's read and its write."""
    store = RedisStore(direct)
    claim = store.acquire(0, TOPIC)
    store.commit(claim, Commit(None, 1, entry=b"a,b,c"))
    seen: list[bytes] = []

    def scrub(entry: bytes) -> bytes | None:
        seen.append(entry)
        if len(seen) == 1:
            direct.hset("fs:{0}:out", "1", b"a,c")
        return entry.replace(b"a,", b"")

    store.forget(0, "a", 1, scrub)
    assert seen == [b"a,b,c", b"a,c"]
    assert store.pending(claim) == [(1, b"c")]


def test_a_refused_load_names_no_account(direct: redis.Redis) -> None:
    direct.acl_setuser("blind", enabled=True, nopass=True, keys=["*"], commands=["+@all", "-mget"])
    try:
        client = connect(direct.connection_pool.connection_kwargs["port"], username="blind")
        with client:
            store = RedisStore(client)
            claim = store.acquire(0, TOPIC)
            with pytest.raises(StoreUnready) as caught:
                store.load(claim, ["secret-account"], None)
        assert "secret" not in str(caught.value)
    finally:
        direct.acl_deluser("blind")


def test_errors_name_places_and_no_account(direct: redis.Redis) -> None:
    store = RedisStore(direct)
    claim = store.acquire(2, TOPIC)
    with pytest.raises(PartitionError) as caught:
        store.commit(claim, Commit(7, 8, whole("secret-account", b"x")))
    assert "partition=2 offset=7" in str(caught.value)
    assert "secret" not in str(caught.value)
