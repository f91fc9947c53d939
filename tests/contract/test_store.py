"""One list of properties over every store: memory, one Redis, a Redis Cluster node.

The cluster is one real server that holds all slots: a command whose keys do not share a hash tag
gets CROSSSLOT from it, whatever its name.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator

import pytest
import redis
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from streams.dev import process
from streams.dev import redis as redis_server
from streams.errors import Conflict, Fenced, Overtaken, PartitionError, StoreFull, StoreUnready
from streams.privacy import account_digest
from streams.store import (
    MAX_OUTBOX_ENTRIES,
    WHOLE,
    Claim,
    Commit,
    Identity,
    Piece,
    Store,
    Writes,
)
from streams.store.memory import MemoryStore
from streams.store.redis import RedisStore

TOPIC = Identity("topic-a", 6, "stub@1")
NAMES = ("a", "b", "{3}", "a b", "}{", "żółć", "𝔘nicode", "x" * 64, "*?[a-z]", "%d\\n", "-1")
Make = Callable[[], Store]


@pytest.fixture(scope="module")
def cluster_url(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    bus_port = process.free_port()
    server = redis_server.start(
        tmp_path_factory.mktemp("cluster"),
        extra={"cluster-enabled": "yes", "cluster-port": str(bus_port)},
        die_with_parent=True,
    )
    with redis.Redis.from_url(server.url) as client:
        client.execute_command("CLUSTER", "ADDSLOTSRANGE", 0, 16383)
        while b"cluster_state:ok" not in client.execute_command("CLUSTER", "INFO"):
            pass
    yield server.url
    process.stop(server.child, 0)


@pytest.fixture(params=["memory", "redis", "cluster"])
def make(request: pytest.FixtureRequest) -> Iterator[Make]:
    """Makes stores over the same state, one for each worker of a test."""
    if request.param == "memory":
        store = MemoryStore()
        yield lambda: store
        return
    url = request.getfixturevalue("redis_url" if request.param == "redis" else "cluster_url")
    clients: list[redis.Redis] = []

    def connected() -> Store:
        clients.append(redis.Redis.from_url(url))
        return RedisStore(clients[-1])

    with redis.Redis.from_url(url) as client:
        client.flushall()
    yield connected
    for client in clients:
        client.close()


@pytest.fixture
def store(make: Make) -> Store:
    return make()


def whole(**records: bytes) -> Writes:
    return Writes.of([(name, [(WHOLE, record)]) for name, record in records.items()])


def keep(entry: bytes) -> bytes:
    """A scrub that finds nothing."""
    return entry


def snapshot(store: Store, claim: Claim, at: int) -> object:
    """All that is to be seen of a partition, but for its token."""
    return (
        store.load(claim, NAMES, at),
        store.pending(claim),
        store.forgotten(claim),
    )


def test_a_store_is_fit_when_it_is_asked(store: Store) -> None:
    store.check()


def test_an_unknown_partition_has_no_offset(store: Store) -> None:
    claim = store.acquire(3, TOPIC)
    assert (claim.offset, claim.erasures, claim.model_id) == (None, 0, "")
    assert store.load(claim, ["a", "b"], None) == [None, None]
    assert store.load(claim, [], None) == []
    assert store.pending(claim) == []
    assert store.forgotten(claim) == {}


def test_a_commit_is_seen_by_the_next_owner(make: Make) -> None:
    first, second = make(), make()
    claim = first.acquire(3, TOPIC)
    first.commit(claim, Commit(None, 7, whole(a=b"one", b=b"two"), (), b"entry"))
    later = second.acquire(3, Identity("topic-a", 6, "stub@2"))
    assert (later.offset, later.model_id) == (7, "stub@1")
    assert later.token > claim.token
    assert second.load(later, ["b", "c", "a"], 7) == [b"two", None, b"one"]
    assert second.pending(later) == [(7, b"entry")]


def test_partitions_are_apart(store: Store) -> None:
    three, four = store.acquire(3, TOPIC), store.acquire(4, TOPIC)
    store.commit(three, Commit(None, 1, whole(a=b"three"), (), b"3"))
    store.commit(four, Commit(None, 1, whole(a=b"four"), (), b"4"))
    store.forget(4, "a", 9, lambda entry: None)
    assert store.load(three, ["a"], 1) == [b"three"]
    assert store.load(store.acquire(4, TOPIC), ["a"], 1) == [None]
    assert store.pending(three) == [(1, b"3")]
    assert store.forgotten(three) == {}
    store.commit(three, Commit(1, 2))


def test_an_older_owner_is_fenced_and_changes_nothing(make: Make) -> None:
    old, new = make(), make()
    claim = old.acquire(0, TOPIC)
    old.commit(claim, Commit(None, 5, whole(a=b"a5"), (), b"e5"))
    later = new.acquire(0, TOPIC)
    before = snapshot(new, later, 5)
    with pytest.raises(Fenced, match="partition=0"):
        old.commit(claim, Commit(5, 6, whole(a=b"a6"), (("b", 5),), b"e6"))
    with pytest.raises(Fenced):
        old.trim(claim, [5])
    assert snapshot(new, later, 5) == before
    new.commit(later, Commit(5, 6, whole(a=b"ok")))
    assert new.acquire(0, TOPIC).offset == 6


def test_a_commit_from_another_offset_is_a_conflict_and_changes_nothing(store: Store) -> None:
    claim = store.acquire(0, TOPIC)
    with pytest.raises(Conflict):
        store.commit(claim, Commit(4, 5, whole(a=b"x")))
    store.commit(claim, Commit(None, 5, whole(a=b"a5"), (), b"e5"))
    before = snapshot(store, claim, 5)
    for expected, after in ((None, 6), (4, 6), (6, 7), (1, 2)):
        with pytest.raises(Conflict):
            store.commit(claim, Commit(expected, after, whole(a=b"x"), (("b", 5),), b"no"))
    assert snapshot(store, claim, 5) == before


def test_a_load_is_of_the_moment_last_seen(make: Make) -> None:
    """Records of another moment than the offset's would make a commit that no check refuses."""
    old, new = make(), make()
    claim = old.acquire(0, TOPIC)
    old.commit(claim, Commit(None, 5, whole(a=b"a5")))
    assert old.load(claim, ["a"], 5) == [b"a5"]
    for at in (None, 4, 6):
        with pytest.raises(Conflict):
            old.load(claim, ["a"], at)
    later = new.acquire(0, TOPIC)
    with pytest.raises(Fenced):
        old.load(claim, ["a"], 5)
    assert new.load(later, ["a"], 5) == [b"a5"]
    new.forget(0, "b", 7, keep)
    with pytest.raises(Overtaken, match="erased"):
        new.load(later, ["a"], 5)


def test_a_commit_sent_again_has_no_second_effect(store: Store) -> None:
    claim = store.acquire(0, TOPIC)
    step = Commit(None, 5, whole(a=b"a5"), (), b"e5")
    store.commit(claim, step)
    store.commit(claim, step)
    store.trim(claim, [5])
    store.commit(claim, step)
    assert store.pending(claim) == []
    store.commit(claim, Commit(5, 6, Writes.of([("a", [(1, b"6")])])))
    store.commit(claim, Commit(5, 6, Writes.of([("a", [(1, b"6")])])))
    assert store.load(claim, ["a"], 6) == [b"a6"]


def test_pending_is_in_order_and_trim_goes_by_name(store: Store) -> None:
    claim = store.acquire(0, TOPIC)
    steps = [9, 10, 99, 100, 2**40]
    for expected, after in zip([None, *steps], steps, strict=False):
        store.commit(claim, Commit(expected, after, entry=b"%d" % after))
    assert store.pending(claim) == [(seq, b"%d" % seq) for seq in steps]
    store.trim(claim, [10])
    store.trim(claim, [10, 11])
    assert [seq for seq, _ in store.pending(claim)] == [9, 99, 100, 2**40]
    store.trim(claim, [2**40, 9])
    assert [seq for seq, _ in store.pending(claim)] == [99, 100]
    store.trim(claim, [])
    assert len(store.pending(claim)) == 2


def test_a_full_outbox_stops_commits_until_it_is_trimmed(store: Store) -> None:
    claim = store.acquire(0, TOPIC)
    steps = [Commit(at or None, at + 1, entry=b"e") for at in range(MAX_OUTBOX_ENTRIES)]
    assert not any(store.commit_all([(claim, step) for step in steps]))
    at = MAX_OUTBOX_ENTRIES
    with pytest.raises(StoreFull):
        store.commit(claim, Commit(at, MAX_OUTBOX_ENTRIES + 1, whole(a=b"x"), (), b"e"))
    assert store.load(claim, ["a"], at) == [None]
    store.commit(claim, Commit(at, MAX_OUTBOX_ENTRIES + 1, whole(a=b"x")))
    store.trim(claim, [1])
    store.commit(claim, Commit(MAX_OUTBOX_ENTRIES + 1, MAX_OUTBOX_ENTRIES + 2, entry=b"e"))


def test_an_erasure_from_outside_stops_the_running_owner(store: Store) -> None:
    claim = store.acquire(0, TOPIC)
    store.commit(claim, Commit(None, 5, whole(a=b"a", b=b"b"), (), b"a,b"))
    store.forget(0, "a", 9, lambda entry: entry.replace(b"a,", b""))
    with pytest.raises(Overtaken, match="erased"):
        store.load(claim, ["a", "b"], 5)
    assert store.pending(claim) == [(5, b"b")]
    assert store.forgotten(claim) == {account_digest("a"): 9}
    with pytest.raises(Overtaken, match="erased"):
        store.commit(claim, Commit(5, 6, Writes.of([("a", [(0, b"back")])])))
    again = store.acquire(0, TOPIC)
    assert again.erasures == claim.erasures + 1
    assert store.load(again, ["a", "b"], 5) == [None, b"b"]
    store.commit(again, Commit(5, 6, whole(b=b"b6")))


def test_what_came_after_the_tombstone_outlives_forget(store: Store) -> None:
    claim = store.acquire(0, TOPIC)
    store.commit(claim, Commit(None, 5, whole(a=b"old"), (), b"a,old"))
    store.commit(claim, Commit(5, 9, whole(a=b"new"), (("a", 6),), b"a,new"))
    store.forget(0, "a", 6, lambda entry: None if b"old" in entry else entry)
    assert store.load(claim, ["a"], 9) == [b"new"]
    assert store.pending(claim) == [(9, b"a,new")]
    assert store.forgotten(claim) == {account_digest("a"): 6}
    store.commit(claim, Commit(9, 10))
    store.forget(0, "a", 10, keep)
    with pytest.raises(Overtaken, match="erased"):
        store.load(claim, ["a"], 10)
    with pytest.raises(Overtaken, match="erased"):
        store.commit(claim, Commit(10, 11))


def test_a_commit_that_came_before_the_erasure_is_still_done(store: Store) -> None:
    claim = store.acquire(0, TOPIC)
    step = Commit(None, 5, whole(a=b"a"))
    store.commit(claim, step)
    store.forget(0, "a", 9, keep)
    store.commit(claim, step)
    assert store.load(store.acquire(0, TOPIC), ["a"], 5) == [None]


def test_forget_drops_entries_that_come_out_empty(store: Store) -> None:
    claim = store.acquire(0, TOPIC)
    for offset in range(3):
        store.commit(claim, Commit(offset or None, offset + 1, entry=b"%d" % (offset % 2)))
    store.forget(0, "a", 9, lambda entry: None if entry == b"0" else entry)
    assert store.pending(claim) == [(2, b"1")]


def test_forget_on_a_partition_nobody_ever_had(store: Store) -> None:
    store.forget(5, "a", 9, keep)
    claim = store.acquire(5, TOPIC)
    assert (claim.offset, claim.erasures) == (None, 1)
    assert store.forgotten(claim) == {account_digest("a"): 9}
    store.commit(claim, Commit(None, 1, whole(b=b"b")))


def test_a_marker_never_goes_back(store: Store) -> None:
    claim = store.acquire(0, TOPIC)
    store.forget(0, "a", 9, keep)
    store.forget(0, "a", 4, keep)
    assert store.forgotten(claim) == {account_digest("a"): 9}
    claim = store.acquire(0, TOPIC)
    store.commit(claim, Commit(None, 5, erased=(("a", 3), ("b", 4), ("b", 2))))
    assert store.forgotten(claim) == {account_digest("a"): 9, account_digest("b"): 4}


def test_a_tombstone_erases_before_the_writes(store: Store) -> None:
    claim = store.acquire(0, TOPIC)
    store.commit(claim, Commit(None, 1, whole(a=b"a" * 100, b=b"b", c=b"c")))
    store.commit(claim, Commit(1, 9, whole(a=b"new", d=b"d"), (("a", 5), ("b", 7))))
    assert store.load(claim, ["a", "b", "c", "d"], 9) == [b"new", None, b"c", b"d"]
    assert store.forgotten(claim) == {account_digest("a"): 5, account_digest("b"): 7}
    store.commit(claim, Commit(9, 10, whole(b=b"again")))
    assert store.load(claim, ["b"], 10) == [b"again"]


@pytest.mark.parametrize(
    "other", [Identity("topic-b", 6), Identity("topic-a", 12)], ids=["topic", "partitions"]
)
def test_another_topic_is_refused_and_the_owner_goes_on(make: Make, other: Identity) -> None:
    owner = make()
    claim = owner.acquire(0, TOPIC)
    owner.commit(claim, Commit(None, 1))
    with pytest.raises(StoreUnready):
        make().acquire(0, other)
    owner.commit(claim, Commit(1, 2))


def test_steps_of_several_partitions_stand_alone(make: Make) -> None:
    store, thief = make(), make()
    claims = [store.acquire(number, TOPIC) for number in range(5)]
    thief.acquire(1, TOPIC)
    store.forget(3, "z", 0, keep)
    steps = [
        (claim, Commit(None, 4, whole(a=b"%d" % n), (), b"e")) for n, claim in enumerate(claims)
    ]
    steps[2] = (claims[2], Commit(9, 10))
    results = store.commit_all(steps)
    assert [type(result) for result in results] == [
        type(None),
        Fenced,
        Conflict,
        Overtaken,
        type(None),
    ]
    assert [result.partition for result in results if result] == [1, 2, 3]
    assert store.commit_all(steps)[0] is None
    loaded = store.load_all([(claim, ["new", "a"], 4) for claim in claims])
    assert [type(each) for each in loaded] == [list, Fenced, Conflict, Conflict, list]
    assert (loaded[0], loaded[4]) == ([None, b"0"], [None, b"4"])
    assert [each.partition for each in loaded if isinstance(each, PartitionError)] == [1, 2, 3]
    assert store.load_all([(claims[0], [], 4), (claims[4], ["a"], 4)]) == [[], [b"4"]]
    again = [store.acquire(number, TOPIC) for number in range(5)]
    found = [store.load(claim, ["a"], claim.offset)[0] for claim in again]
    assert found == [b"0", None, None, None, b"4"]
    assert store.commit_all([]) == [] == store.load_all([])


def test_any_name_and_any_bytes(store: Store) -> None:
    claim = store.acquire(0, TOPIC)
    record = bytes(range(256)) * 9
    names = [*NAMES, "", "a\nb", "\x00", "fs:{1}:part"]
    store.commit(
        claim,
        Commit(None, 1, Writes.of([(name, [(WHOLE, record)]) for name in names]), (), record),
    )
    assert store.load(claim, names, 1) == [record] * len(names)
    assert store.pending(claim) == [(1, record)]
    middle = bytes(reversed(range(256)))
    store.commit(claim, Commit(1, 2, Writes.of([(name, [(77, middle)]) for name in names])))
    changed = record[:77] + middle + record[77 + 256 :]
    assert store.load(claim, names, 2) == [changed] * len(names)
    store.commit(claim, Commit(2, 3, erased=[(name, 2) for name in names]))
    assert store.load(claim, names, 3) == [None] * len(names)
    assert set(store.forgotten(claim)) == {account_digest(name) for name in names}


def test_a_batch_of_the_largest_size(store: Store) -> None:
    claim = store.acquire(0, TOPIC)
    names = [f"account-{number}" for number in range(8_192)]
    first = Writes.of([(name, [(WHOLE, name.encode() * 8)]) for name in names])
    store.commit(claim, Commit(None, 1, first, (), b"e" * 500_000))
    second = Writes.of([(name, [(0, b"A"), (5, b"XY")]) for name in names])
    store.commit(claim, Commit(1, 2, second))
    for name, record in zip(names, store.load(claim, names, 2), strict=True):
        expected = name.encode() * 8
        assert record == b"A" + expected[1:5] + b"XY" + expected[7:]


pieces = st.lists(st.tuples(st.integers(0, 60), st.binary(min_size=1, max_size=40)), max_size=6)


@settings(
    max_examples=40,
    suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.too_slow],
)
@given(base=st.binary(min_size=60, max_size=90), changes=st.lists(pieces, min_size=1, max_size=8))
def test_pieces_come_out_as_the_whole_record(
    store: Store, base: bytes, changes: list[list[Piece]]
) -> None:
    """Any overlapping and growing pieces, several accounts in one step, against a bytearray."""
    claim = store.acquire(1, TOPIC)
    at = claim.offset or 0
    names = [f"n{number}" for number in range(len(changes))]
    store.commit(
        claim,
        Commit(claim.offset, at + 1, Writes.of([(name, [(WHOLE, base)]) for name in names])),
    )
    store.commit(claim, Commit(at + 1, at + 2, Writes.of(list(zip(names, changes, strict=True)))))
    expected = []
    for change in changes:
        record = bytearray(base)
        for offset, content in change:
            record[offset : offset + len(content)] = content
        expected.append(bytes(record))
    assert store.load(claim, names, at + 2) == expected
