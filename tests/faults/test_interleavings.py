"""6,000 interleavings without a fault, and each broken store caught by the same schedules."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from pathlib import Path

import pytest
import redis

from streams.dev import process
from streams.dev import redis as redis_server
from streams.store import Claim, Commit
from streams.store.redis import RedisStore
from streams.store.scripts import Script
from tests.faults.conftest import Tally
from tests.faults.interleave import Violation, World, run, worker

SCHEDULES = 6_000
MUTANT_SCHEDULES = 1_500
"""A mutant must show within so many; most show within fifty."""


@pytest.fixture(scope="module")
def client(tmp_path_factory: pytest.TempPathFactory) -> Iterator[redis.Redis]:
    """A server of its own without a file: crashes here are the workers', and disk syncs cost."""
    directory: Path = tmp_path_factory.mktemp("interleave")
    socket = directory / "socket"
    extra = {"appendonly": "no", "unixsocket": str(socket)}
    server = redis_server.start(directory, extra=extra, die_with_parent=True)
    with redis.Redis(unix_socket_path=str(socket)) as made:
        yield made
    process.stop(server.child, 0)


def without(name: str, *lines: str) -> Script:
    """A script of the store with some lines taken out."""
    text = Script.named(name).text
    for line in lines:
        assert text.count(line) == 1, f"{name}.lua no longer has: {line}"
        text = text.replace(line, "")
    return Script.of(text)


NO_TOKEN = (
    "if not token or tonumber(token) < tonumber(ARGV[1]) then return {'LOST', token or ''} end\n",
    "if token ~= ARGV[1] or owner ~= ARGV[2] then return {'FENCED', token} end\n",
)
NO_CAS = "if offset ~= ARGV[3] then return {'OFFSET', offset} end\n"
NO_COUNT = "if erasures ~= ARGV[5] then return {'ERASED', erasures} end\n"


class NoCompare(RedisStore):
    """Commits whatever the stored offset is."""

    commit_script = without("commit", NO_CAS)


class NoToken(RedisStore):
    """Loads, commits and trims for whoever asks."""

    commit_script = without("commit", *NO_TOKEN)
    trim_script = without("trim", *NO_TOKEN)

    def load(self, claim: Claim, accounts: Sequence[str], at: int | None) -> list[bytes | None]:
        start = self._keys(claim).record
        return [self._client.get(start + name) for name in accounts]


class NoTokenNoCompare(NoToken):
    """Neither guard."""

    commit_script = without("commit", *NO_TOKEN, NO_CAS)


class NoErasureCount(RedisStore):
    """Commits though an account was erased meanwhile."""

    commit_script = without("commit", NO_COUNT)


class TrimByCount(RedisStore):
    """Drops as many entries as were delivered, the oldest first, as LTRIM would."""

    trim_script = Script.of(
        without("trim", *NO_TOKEN).text.replace(
            "for i = 3, #ARGV do redis.call('HDEL', KEYS[2], ARGV[i]) end",
            "local seqs = redis.call('HKEYS', KEYS[2])\n"
            "table.sort(seqs, function(a, b) return tonumber(a) < tonumber(b) end)\n"
            "for i = 1, math.min(#ARGV - 2, #seqs) do redis.call('HDEL', KEYS[2], seqs[i]) end",
        )
    )


class NoOutbox(RedisStore):
    """Publishes after the commit and keeps nothing."""

    def commit(self, claim: Claim, commit: Commit) -> None:
        super().commit(claim, Commit(commit.expected, commit.next, commit.writes, commit.erased))


class TwoCalls(RedisStore):
    """Records first, then the offset under its guards."""

    def commit(self, claim: Claim, commit: Commit) -> None:
        for account, pieces in commit.writes:
            name = f"fs:{{{claim.partition}}}:a:{account}"
            self._client.append(name, pieces[0][1])
        empty = Commit(commit.expected, commit.next, erased=commit.erased, entry=commit.entry)
        super().commit(claim, empty)


class ForgetsTheRecordAlone(RedisStore):
    """Erases the record and tells no running worker."""

    forget_script = without("forget", "redis.call('HINCRBY', KEYS[1], 'erasures', 1)\n")


def schedules(
    client: redis.Redis,
    number: int,
    store: type[RedisStore] = RedisStore,
    life: Callable[[World], Iterator[None]] = worker,
) -> None:
    client.flushall()
    for seed in range(number):
        run(seed, client, store, life)
        if seed % 200 == 199:
            client.flushall()


def test_no_schedule_breaks_a_promise(client: redis.Redis, tally: Tally) -> None:
    with tally("F4", "interleavings over the real scripts") as row:
        row.place.seeds.extend((0, SCHEDULES - 1))
        schedules(client, SCHEDULES)
        row.count(SCHEDULES)


@pytest.mark.parametrize(
    "mutant",
    [
        NoCompare,
        NoToken,
        NoTokenNoCompare,
        NoErasureCount,
        TrimByCount,
        NoOutbox,
        TwoCalls,
        ForgetsTheRecordAlone,
    ],
    ids=lambda mutant: mutant.__name__,
)
def test_a_broken_store_is_caught(client: redis.Redis, mutant: type[RedisStore]) -> None:
    with pytest.raises(Violation):
        schedules(client, MUTANT_SCHEDULES, mutant)


def test_a_schedule_is_its_seed(client: redis.Redis) -> None:
    said = []
    for _ in range(2):
        with pytest.raises(Violation) as caught:
            schedules(client, MUTANT_SCHEDULES, TrimByCount)
        said.append(str(caught.value))
    assert said[0] == said[1]
