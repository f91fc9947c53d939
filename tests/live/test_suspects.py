"""From a death to the one message that caused it, and back to full speed."""

from __future__ import annotations

from pathlib import Path

import pytest
import redis

from streams.connect import redis_client
from streams.dev import process
from streams.dev import redis as redis_server
from streams.errors import StoreLost
from streams.live.suspects import NOBODY, Care, Notes, NotesInMemory, RedisNotes, Suspects
from streams.settings import load
from tests.faults.proxy import Proxy

ROUND = 4_096


def suspects(deaths: int = 3) -> Suspects:
    return Suspects(NotesInMemory(), deaths, ROUND)


def test_orderly_workers_leave_no_suspicion() -> None:
    kept = suspects()
    for token in range(5):
        assert kept.claimed(0, 100, token) is None
        kept.released(0, token)


def test_each_death_makes_the_rounds_smaller_and_the_stretch_shorter() -> None:
    kept = suspects()
    assert kept.claimed(0, 0, 1) is None
    assert kept.claimed(0, 5_000, 2) == Care(64, 5_000 + 2 * ROUND)
    assert kept.claimed(0, 5_640, 3) == Care(1, 5_640 + 128)
    kept.trying(0, 5_640, 3)
    kept.trying(0, 5_641, 3)
    assert kept.claimed(0, 5_641, 4) == Care(1, 5_642, condemned=5_641)
    kept.passed(0, 4)
    assert kept.claimed(0, 9_000, 5) == Care(64, 9_000 + 2 * ROUND), "a new death, a new search"


def test_a_death_past_the_stretch_starts_anew() -> None:
    kept = suspects()
    kept.claimed(0, 0, 1)
    care = kept.claimed(0, 10, 2)
    assert care is not None
    assert kept.claimed(0, care.until, 3) == Care(64, care.until + 2 * ROUND)


def test_a_message_is_condemned_only_by_the_worker_that_died_of_it() -> None:
    kept = suspects(deaths=2)
    kept.claimed(0, 0, 1)
    assert kept.claimed(0, 7, 2) == Care(1, 7 + 2 * ROUND)
    kept.trying(0, 7, 1)
    care = kept.claimed(0, 7, 3)
    assert care is not None and care.condemned == NOBODY
    kept.trying(0, 7, 3)
    care = kept.claimed(0, 7, 4)
    assert care is not None and care.condemned == 7
    # This one died before it had handled anything: the word of the one before is none of its own.
    assert kept.claimed(0, 7, 5) == Care(1, 7 + 2 * ROUND)


def test_a_try_that_was_committed_is_no_suspicion() -> None:
    kept = suspects(deaths=2)
    kept.claimed(0, 0, 1)
    kept.claimed(0, 7, 2)
    kept.trying(0, 7, 2)
    care = kept.claimed(0, 8, 3)
    assert care is not None and care.condemned == NOBODY


@pytest.mark.parametrize("deaths", [2, 3, 5, 100])
def test_the_last_step_is_one_message(deaths: int) -> None:
    kept = suspects(deaths)
    limits = [care.limit for n in range(deaths + 2) if (care := kept.claimed(0, 0, n))]
    assert limits == sorted(limits, reverse=True) and limits[-1] == 1
    assert limits.index(1) == deaths - 2


def test_partitions_are_apart() -> None:
    kept = suspects()
    kept.claimed(0, 0, 1)
    assert kept.claimed(1, 0, 2) is None
    assert kept.claimed(0, 0, 3) is not None


def test_notes_in_redis_are_notes(redis_url: str) -> None:
    with redis.Redis.from_url(redis_url) as client:
        notes = RedisNotes(client, "fs")
        assert notes.read(3) == {}
        notes.write(3, {"level": 1, "until": 90, "token": 7})
        notes.write(3, {"level": 2}, 7)
        assert notes.read(3) == {"level": 2, "until": 90, "token": 7} and notes.read(4) == {}
        notes.erase(3, 7)
        assert notes.read(3) == {} and client.keys("*") == []


@pytest.mark.parametrize("where", ["redis", "memory"])
def test_an_older_claim_changes_nobodys_note(where: str, redis_url: str) -> None:
    """A worker that was frozen wakes up and writes, before it finds out that it is fenced."""
    with redis.Redis.from_url(redis_url) as client:
        notes: Notes = RedisNotes(client, "fs") if where == "redis" else NotesInMemory()
        kept = Suspects(notes, 2, ROUND)
        kept.claimed(0, 0, 1)
        kept.claimed(0, 7, 2)
        before = notes.read(0)
        kept.trying(0, 7, 1)
        kept.passed(0, 1)
        kept.released(0, 1)
        assert notes.read(0) == before
        kept.released(0, 2)
        kept.trying(0, 7, 1)
        kept.passed(0, 2)
        assert notes.read(0) == {}, "no half of a note, which nobody could read"
        assert kept.claimed(0, 9, 3) is None


def test_a_worker_that_ends_while_redis_is_away_is_no_death(tmp_path: Path) -> None:
    """It cannot take its note off. Three times, and a message was put aside for it."""
    server = redis_server.start(tmp_path)
    try:
        for token in range(1, 6):
            with redis_client(load(flags=[f"redis.url={server.url}"])) as client:
                kept = Suspects(RedisNotes(client, "fs"), 2, ROUND)
                assert kept.claimed(0, 7, token) is None
                kept.trying(0, 7, token)
            process.stop(server.child, 0)
            server = redis_server.start(tmp_path)
        with redis_client(load(flags=[f"redis.url={server.url}"])) as client:
            kept = Suspects(RedisNotes(client, "fs"), 2, ROUND)
            assert kept.claimed(0, 7, 8) is None
            assert kept.claimed(0, 7, 9) is not None, "a death is one still"
    finally:
        process.stop(server.child, 0)


@pytest.mark.parametrize("deaths", [0, 1, 2, 3])
def test_a_claim_asked_again_is_no_death(deaths: int, redis_url: str) -> None:
    """Redis took the note and its answer was lost: the claim found its own, and took it for that
    of a worker that had died."""

    class LosesAnAnswer(RedisNotes):
        def _call(self, partition: int, *given: str | int) -> None:
            proxy.lose_replies(1)
            super()._call(partition, *given)

    with (
        redis.Redis.from_url(redis_url) as near,
        Proxy(near.get_connection_kwargs()["port"]) as proxy,
    ):
        settings = load(flags=[f"redis.url=redis://127.0.0.1:{proxy.port}/0"])
        with redis_client(settings) as far:
            kept, deaf = (
                Suspects(each, 3, ROUND)
                for each in (RedisNotes(near, "fs"), LosesAnAnswer(far, "fs"))
            )
            plain = suspects()
            for token in range(deaths):
                for each in (kept, plain):
                    each.claimed(0, 7, token)
                    each.trying(0, 7, token)
            with pytest.raises(StoreLost):
                deaf.claimed(0, 7, 9)
            assert kept.claimed(0, 7, 9) == plain.claimed(0, 7, 9)


def test_a_full_redis_takes_notes(redis_url: str) -> None:
    """Else a claim would wait there, and outboxes that could be emptied would not be."""
    with redis.Redis.from_url(redis_url) as client:
        notes = RedisNotes(client, "fs")
        client.config_set("maxmemory", "1mb")
        try:
            with pytest.raises(redis.exceptions.OutOfMemoryError):
                client.set("other", "x")
            notes.write(0, {"level": 1, "until": 90})
            assert notes.read(0) == {"level": 1, "until": 90}
        finally:
            client.config_set("maxmemory", "0")


def test_a_claim_on_a_full_redis_follows_no_death(redis_url: str) -> None:
    """Workers wait there, and one that joins has the group take their partitions. When as many had
    joined as a message may end, one that nobody had died of was put aside."""
    with redis.Redis.from_url(redis_url) as client:
        kept = Suspects(RedisNotes(client, "fs"), 2, ROUND)
        assert kept.claimed(0, 7, 1) is None
        client.config_set("maxmemory", "1mb")
        try:
            for token in range(2, 6):
                assert kept.claimed(0, 7, token) is None
        finally:
            client.config_set("maxmemory", "0")
        care = Care(1, 7 + 2 * ROUND)
        assert kept.claimed(0, 7, 6) == care, "a death is one still"
        kept.trying(0, 7, 6)
        client.config_set("maxmemory", "1mb")
        try:
            assert kept.claimed(0, 7, 7) == care, "what went before is not forgotten"
        finally:
            client.config_set("maxmemory", "0")


def test_a_redis_that_is_away_is_a_lost_store() -> None:
    from redis.backoff import NoBackoff
    from redis.retry import Retry

    with redis.Redis(port=1, retry=Retry(NoBackoff(), 0)) as client, pytest.raises(StoreLost):
        RedisNotes(client, "fs").read(0)
