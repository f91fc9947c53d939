"""A rebuilt set of keys takes over from the one in use, whenever a worker or the rebuild dies."""

from __future__ import annotations

from collections.abc import Iterator

import pytest
import redis

from streams.errors import Conflict, Overtaken, StoreError, StoreUnready
from streams.store import WHOLE, Commit, Identity, Writes, generations
from streams.store.redis import RedisStore

TOPIC = Identity("topic-a", 2)
WIDER = Identity("topic-a", 4)


@pytest.fixture
def client(redis_url: str) -> Iterator[redis.Redis]:
    with redis.Redis.from_url(redis_url) as made:
        yield made


def whole(name: str, record: bytes) -> Writes:
    return Writes.of([(name, [(WHOLE, record)])])


def build(client: redis.Redis, record: bytes, offset: int, topic: Identity = TOPIC) -> int:
    """A new generation with one account in partition 0."""
    generation = generations.begin(client, "fs")
    store = RedisStore(client, generation=generation)
    for partition in range(topic.partitions):
        claim = store.acquire(partition, topic)
        if partition == 0:
            store.commit(claim, Commit(None, 77, whole("a", record)))
        generations.finish(client, "fs", generation, partition, offset, {b"d" * 16: 3})
    return generation


def test_a_namespace_never_used(client: redis.Redis) -> None:
    assert generations.read(client, "fs") == generations.Now(0, None, None, None)
    assert not client.exists("fs:generation")


def test_building_leaves_workers_alone(client: redis.Redis) -> None:
    store = RedisStore(client)
    claim = store.acquire(0, TOPIC)
    store.commit(claim, Commit(None, 5, whole("a", b"old")))
    assert build(client, b"new", 4) == 1
    store.commit(claim, Commit(5, 6, whole("a", b"newer")))
    assert store.acquire(0, TOPIC).generation == 0
    assert generations.read(client, "fs").building == 1


def test_after_the_switch_the_old_owner_is_refused_and_claims_anew(client: redis.Redis) -> None:
    store = RedisStore(client)
    claim = store.acquire(0, TOPIC)
    store.commit(claim, Commit(None, 5, whole("a", b"old"), (), b"entry"))
    generations.switch(client, "fs", build(client, b"new", 4), 2)
    for call in (
        lambda: store.commit(claim, Commit(5, 6)),
        lambda: store.commit(claim, Commit(None, 5)),
        lambda: store.load(claim, ["a"], 5),
        lambda: store.trim(claim, [5]),
    ):
        with pytest.raises(Overtaken, match="retired"):
            call()
    again = store.acquire(0, TOPIC)
    assert (again.generation, again.offset) == (1, 4)
    assert store.load(again, ["a"], 4) == [b"new"]
    assert store.forgotten(again) == {b"d" * 16: 3}
    store.commit(again, Commit(4, 6))


def test_a_switch_that_dies_half_way_is_ended_by_the_first_claim(client: redis.Redis) -> None:
    """The pointer moved, but the old partitions were not marked."""
    store = RedisStore(client)
    claim, other = store.acquire(0, TOPIC), store.acquire(1, TOPIC)
    store.commit(claim, Commit(None, 5))
    generation = build(client, b"new", 4)
    client.hset("fs:generation", mapping={"before": 0, "current": generation})
    client.hdel("fs:generation", "building")
    store.commit(claim, Commit(5, 6))  # nobody has claimed partition 0 of the new one yet
    with pytest.raises(Overtaken, match="retired"):
        store.load(claim, [], 6)  # so a worker that nobody claims anything from learns of it
    later = RedisStore(client).acquire(0, TOPIC)
    with pytest.raises(Conflict):
        store.commit(claim, Commit(6, 7))
    store.commit(other, Commit(None, 1))
    RedisStore(client).commit(later, Commit(4, 5))


def test_an_acquire_between_pointer_and_claim(client: redis.Redis) -> None:
    """A worker reads the pointer, the switch happens, then its claim on the old keys arrives."""
    old = RedisStore(client, generation=0)
    generations.read(client, "fs", 2)
    generations.switch(client, "fs", build(client, b"new", 4), 2)
    with pytest.raises(StoreUnready, match="retired"):
        old.acquire(0, TOPIC)


def test_two_rebuilds_at_once_the_later_one_counts(client: redis.Redis) -> None:
    RedisStore(client).acquire(0, TOPIC)
    first = build(client, b"first", 1)
    second = build(client, b"second", 2)
    with pytest.raises(StoreError, match="another rebuild"):
        generations.switch(client, "fs", first, 2)
    assert generations.read(client, "fs").current == 0
    generations.switch(client, "fs", second, 2)
    generations.switch(client, "fs", second, 2)  # its answer was lost
    store = RedisStore(client)
    assert store.load(store.acquire(0, TOPIC), ["a"], 2) == [b"second"]
    assert not client.keys("fs.1:*"), "what the first had built is swept, its marks too"


def test_a_rebuild_that_goes_on_after_another_began_is_refused(client: redis.Redis) -> None:
    """Its keys were deleted, and it makes no new ones."""
    generation = build(client, b"first", 1)
    store = RedisStore(client, generation=generation)
    claim = store.acquire(0, TOPIC)
    generations.begin(client, "fs")
    with pytest.raises(Conflict):
        store.commit(claim, Commit(1, 2, whole("b", b"late")))
    assert not client.keys("fs.1:*")


def test_another_partition_count_is_refused_for_every_partition(client: redis.Redis) -> None:
    """Also for those that the topic did not have before, whose own keys say nothing yet."""
    store = RedisStore(client)
    store.acquire(0, TOPIC)
    for partition in range(4):
        with pytest.raises(StoreUnready, match="rebuild"):
            store.acquire(partition, WIDER)
    generations.switch(client, "fs", build(client, b"new", 4, WIDER), 4)
    assert store.acquire(3, WIDER).generation == 1
    with pytest.raises(StoreUnready):
        store.acquire(0, TOPIC)


def test_sweep_takes_one_generation_and_leaves_its_marks(client: redis.Redis) -> None:
    client.set("fs:{risk}:state", "not ours")
    client.set("fs:{0}:deaths", "a running worker's")
    client.set("fsx:{0}:a:a", "another namespace")
    store = RedisStore(client)
    claim = store.acquire(0, TOPIC)
    names = [f"n{number}" for number in range(2_500)]
    step = Commit(
        None, 5, Writes.of([(name, [(WHOLE, b"r")]) for name in names]), (("z", 1),), b"e"
    )
    store.commit(claim, step)
    generations.switch(client, "fs", build(client, b"new", 4), 2)
    assert generations.sweep(client, "fs", 0) == len(names) + 2
    left = {name for name in client.scan_iter() if not name.startswith(b"fs.1:")}
    assert left == {
        b"fs:generation",
        b"fs:{0}:part",
        b"fs:{0}:deaths",
        b"fs:{1}:part",
        b"fs:{risk}:state",
        b"fsx:{0}:a:a",
    }
    with pytest.raises(Conflict):
        store.commit(claim, Commit(5, 6))
    with pytest.raises(AssertionError):
        generations.sweep(client, "fs", 1)


@pytest.mark.parametrize("name", ["a}:deaths", "a}:part", "{0}:part", "}"])
def test_sweep_takes_accounts_that_are_named_like_its_marks(client: redis.Redis, name: str) -> None:
    store = RedisStore(client)
    store.commit(store.acquire(0, TOPIC), Commit(None, 5, whole(name, b"old")))
    generations.switch(client, "fs", build(client, b"new", 4), 2)
    assert generations.sweep(client, "fs", 0) == 1
    assert client.keys("fs:{?}:a:*") == []


def test_forget_reaches_the_generation_being_built(client: redis.Redis) -> None:
    store = RedisStore(client)
    claim = store.acquire(0, TOPIC)
    store.commit(claim, Commit(None, 5, whole("a", b"old")))
    build(client, b"new", 4)
    store.forget(0, "a", 9, lambda entry: entry)
    assert client.keys("*a:a") == []


def test_pieces_of_names_do_not_meet(client: redis.Redis) -> None:
    """Namespace "fs" generation 1 and a namespace "fs1" have nothing in common."""
    generations.switch(client, "fs", build(client, b"new", 4), 2)
    other = RedisStore(client, "fs1")
    assert other.acquire(0, TOPIC).offset is None
