"""Risk snapshots in a real Redis: the lock, how far the building is, and bytes that were damaged.

Two builders that race are in test_risk_agent.py.
"""

from __future__ import annotations

import time
from collections.abc import Iterator

import pytest
import redis

from streams.errors import StoreError
from streams.live import risk_store
from streams.live.risk_store import HEAD_BYTES, NotLeader, RiskStore, packed, unpacked

CONTENT = bytes(range(HEAD_BYTES)) + b"words of eight b" * 4


@pytest.fixture
def client(redis_url: str) -> Iterator[redis.Redis]:
    with redis.Redis.from_url(redis_url) as made:
        yield made


@pytest.fixture
def store(client: redis.Redis) -> RiskStore:
    return RiskStore(client, "kept")


def taken(store: RiskStore) -> int:
    token = store.take()
    assert token is not None
    return token


def test_the_lock_runs_out_unless_it_is_renewed(
    store: RiskStore, client: redis.Redis, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert not store.alive()
    first = taken(store)
    assert store.alive() and 0 < client.pttl("kept:{risk}:lock") <= risk_store.LOCK_MS
    monkeypatch.setattr(risk_store, "LOCK_MS", 600_000)
    store.renew(first)
    assert client.pttl("kept:{risk}:lock") > 500_000
    monkeypatch.setattr(risk_store, "LOCK_MS", 1)
    store.renew(first)
    time.sleep(0.05)
    assert not store.alive()
    for late in (lambda: store.renew(first), lambda: store.publish(first, 1, "aa", CONTENT)):
        with pytest.raises(NotLeader):
            late()
    assert store.snapshot("aa") is None and store.named() == {}
    monkeypatch.undo()
    assert taken(store) == first + 1


def test_every_step_of_a_builder_is_a_sign_of_it(store: RiskStore) -> None:
    signs = [store.state().sign]
    token = taken(store)
    signs.append(store.state().sign)
    for steps in (1, 2):
        store.renew(token, steps)
        signs.append(store.state().sign)
    for period in (5, 6):
        store.publish(token, period, None, None)
        signs.append(store.state().sign)
    store.release(token)
    taken(store)
    signs.append(store.state().sign)
    assert len(set(signs)) == len(signs)
    assert store.state().sign == signs[-1], "and it is still where nobody gets on"


def test_where_to_go_on_from_is_kept_until_it_is_begun_anew(
    store: RiskStore, client: redis.Redis
) -> None:
    empty = store.state()
    assert (empty.about, empty.front, empty.restart) == (None, None, None)
    token = taken(store)
    store.begin(token, "these topics")
    store.publish(token, 3, "aa", CONTENT, {"labels": {0: 7, 12: 8}, "transactions": {}})
    # An empty period has no snapshot, and says nothing of where to go on from.
    store.publish(token, 4, None, None)
    found = store.state()
    assert (found.about, found.front) == ("these topics", 4)
    assert found.restart == {"labels": {"0": 7, "12": 8}, "transactions": {}}
    assert store.named() == {3: "aa"} and store.snapshot("aa") == CONTENT
    store.publish(token, 5, "bb", CONTENT[:HEAD_BYTES], dropped={})
    assert store.digests([]) == [] and store.digests([5, 4, 3]) == ["bb", None, "aa"]
    store.publish(token, 6, "cc", CONTENT, dropped={3: "aa", 5: "bb"})
    assert store.named() == {6: "cc"}
    assert [store.snapshot(each) for each in ("aa", "bb", "cc")] == [None, None, CONTENT]
    store.begin(token, "other topics")
    found = store.state()
    assert (found.about, found.front, found.restart) == ("other topics", None, None)
    store.release(token)
    assert [*client.scan_iter()] == [b"kept:{risk}:state"], "nothing else stays"


@pytest.mark.parametrize("cut", [0, 3, 4, HEAD_BYTES, 4 + HEAD_BYTES, -1])
def test_a_snapshot_that_was_cut_is_said_to_be(cut: int) -> None:
    with pytest.raises(StoreError, match="a stored risk snapshot is unreadable"):
        unpacked(packed(CONTENT)[:cut])


def test_a_snapshot_that_was_damaged_is_said_to_be() -> None:
    stored = packed(CONTENT)
    for wrong in (b"\1" + stored[1:], stored[:-1] + bytes([stored[-1] ^ 1])):
        with pytest.raises(StoreError, match="a stored risk snapshot is unreadable"):
            unpacked(wrong)
