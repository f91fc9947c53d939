"""What does the state store cost: CPU an account, accounts a second on disk, bytes an account?

In: `--json`, `--accounts N` for the memory part, `--rounds`. Out: three tables. Needs no service
running: it starts a Redis (or Valkey) of its own with the settings of infra/redis/redis.conf.

1. One commit of 4,096 accounts, `appendfsync always`, by form of the write. "pieces" is what the
   arena sends for a full record: the header, and the new event; "whole" is the record. Client and
   server CPU are told apart. One row packs the pieces in Python, one shows the arena's own packing.
2. Several partitions' commits in one round trip (one disk sync), against one after the other.
3. Memory for accounts of realistic size: rates lognormal, a median of 0.7 transactions a day, over
   90 days; goal at most 3,072 bytes each, key and all. The records are real ones: events go through
   the windows pass, and what the arena writes is committed. Of an account's events those of the
   last PLAYED_DAYS, or the last PLAYED_LEAST if those are more, are played: of older ones nothing
   is left in a record but a count and a sum.
"""

from __future__ import annotations

import argparse
import json
import random
import tempfile
import time
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

import numpy as np
import redis
from numpy.typing import NDArray

from benchmarks.windows import START, columns
from streams import windows
from streams.dev import process
from streams.dev import redis as redis_server
from streams.state import Arena
from streams.store import WHOLE, Claim, Commit, Identity, Writes
from streams.store.redis import RedisStore

BATCH = 4_096
POOL = 40_960
GOAL_BYTES = 3_072
GOAL_RATE = 70_000
TOPIC = Identity("benchmark", 16)
HEADER, EVENT, RING = 64, 32, 64
SMALL_EVENTS = 30
"""A record of so many events is still written whole."""
KEPT_DAYS, PLAYED_DAYS, PLAYED_LEAST = 90, 33, 96
PLAYED_AT_ONCE = 512
"""Accounts that go through the pass together."""


@dataclass(frozen=True, slots=True)
class Row:
    """One line of the first table: microseconds an account, accounts a second."""

    form: str
    bytes: int
    pack_us: float
    client_us: float
    server_us: float
    rate: int


def names(count: int) -> list[str]:
    return [f"acct-{number:08}" for number in range(count)]


def server_cpu(client: redis.Redis) -> float:
    """Seconds of CPU of the whole server, its disk thread included."""
    info = client.info("cpu")
    return float(info["used_cpu_user"]) + float(info["used_cpu_sys"])


def pieces_of(accounts: Sequence[str], chance: random.Random) -> list[tuple[str, list]]:
    header, event = chance.randbytes(HEADER), chance.randbytes(EVENT)
    return [
        (name, [(0, header), (HEADER + EVENT * chance.randrange(RING), event)]) for name in accounts
    ]


def as_arena_packs(accounts: Sequence[str], chance: random.Random) -> Writes:
    """The same two pieces an account, packed from arrays as `Arena.writes` does it."""
    count = len(accounts)
    spans = np.empty((count, 2, 2), "<u4")
    spans[:, 0] = (0, HEADER)
    spans[:, 1, 0] = HEADER + EVENT * np.frombuffer(chance.randbytes(count), np.uint8) // 4
    spans[:, 1, 1] = EVENT
    blob = chance.randbytes(count * (HEADER + EVENT))
    return Writes(accounts, np.full(count, 2, "<u2").tobytes(), spans.tobytes(), blob)


def measure_forms(client: redis.Redis, rounds: int) -> list[Row]:
    store, chance = RedisStore(client), random.Random(1)
    pool = names(POOL)

    def whole(size: int) -> Callable[[Sequence[str]], Writes]:
        return lambda accounts: Writes.of(
            [(name, [(WHOLE, chance.randbytes(size))]) for name in accounts]
        )

    forms: list[tuple[str, int, int, Callable[[Sequence[str]], Writes]]] = [
        ("2 pieces, packed one by one", 96, 2_112, lambda a: Writes.of(pieces_of(a, chance))),
        ("2 pieces, packed by the arena", 96, 2_112, lambda a: as_arena_packs(a, chance)),
    ]
    forms += [("whole", size, size, whole(size)) for size in (96, 256, 512, 1_024, 2_112, 4_160)]
    rows = []
    for number, (form, sent, size, make) in enumerate(forms):
        claim = store.acquire(number, TOPIC)
        at = fill(store, claim, pool, size, chance)
        best: Row | None = None
        for _ in range(rounds):
            row, at = one_round(store, client, claim, at, pool, make, (form, sent))
            best = row if best is None or row.server_us < best.server_us else best
        assert best is not None
        rows.append(best)
        client.flushall()
    return rows


def fill(
    store: RedisStore, claim: Claim, pool: Sequence[str], size: int, chance: random.Random
) -> int:
    """Records to change; returns the offset."""
    at: int | None = None
    for start in range(0, len(pool), BATCH):
        some = [(name, [(WHOLE, chance.randbytes(size))]) for name in pool[start : start + BATCH]]
        store.commit(claim, Commit(at, start + BATCH, Writes.of(some)))
        at = start + BATCH
    assert at is not None
    return at


def one_round(
    store: RedisStore,
    client: redis.Redis,
    claim: Claim,
    at: int,
    pool: Sequence[str],
    make: Callable[[Sequence[str]], Writes],
    told: tuple[str, int],
) -> tuple[Row, int]:
    """Ten commits."""
    chance, count = random.Random(at), 0
    packing = sending = wall = 0.0
    before = server_cpu(client)
    for _ in range(10):
        accounts = chance.sample(pool, BATCH)
        began = time.process_time()
        writes = make(accounts)
        packed, clock = time.process_time(), time.perf_counter()
        store.commit(claim, Commit(at, at + BATCH, writes, (), b"entry" * 2_000))
        wall += time.perf_counter() - clock
        sending += time.process_time() - packed
        packing += packed - began
        store.trim(claim, [at + BATCH])
        at += BATCH
        count += BATCH
    server = server_cpu(client) - before
    each = 1e6 / count
    row = Row(*told, packing * each, sending * each, server * each, round(count / wall))
    return row, at


def measure_partitions(client: redis.Redis, rounds: int) -> dict[str, float]:
    """Small commits of six partitions, as a quiet stream makes them: milliseconds for all six."""
    store, chance = RedisStore(client), random.Random(2)
    claims = [store.acquire(number, TOPIC) for number in range(6)]
    pool = names(64)

    def steps(at: int | None) -> list[tuple[Claim, Commit]]:
        writes = as_arena_packs(pool, chance)
        return [(claim, Commit(at, (at or 0) + 1, writes, (), b"entry")) for claim in claims]

    times: dict[str, list[float]] = {"one after the other": [], "one round trip": []}
    at: int | None = None
    for _ in range(rounds * 20):
        for form, spent in times.items():
            todo = steps(at)
            began = time.perf_counter()
            if form == "one round trip":
                assert not any(store.commit_all(todo))
            else:
                for claim, commit in todo:
                    store.commit(claim, commit)
            spent.append(1e3 * (time.perf_counter() - began))
            at = (at or 0) + 1
    client.flushall()
    return {form: float(np.median(spent)) for form, spent in times.items()}


def events_of(accounts: int, chance: np.random.Generator) -> tuple[NDArray[np.int64], ...]:
    """(account 0.., its n-th event, time) of all events, in the accounts' order and in time."""
    rate = chance.lognormal(np.log(0.7), 1.1, accounts)
    made = np.maximum(1, chance.poisson(rate * KEPT_DAYS))
    recent = chance.poisson(rate * PLAYED_DAYS)
    played = np.minimum(made, np.maximum(recent, PLAYED_LEAST))
    account = np.repeat(np.arange(accounts), played)
    back_days = chance.exponential(1 / rate[account])
    ends = np.cumsum(played)
    total = np.cumsum(back_days)
    spent = total - np.repeat(total[ends - played] - back_days[ends - played], played)
    number = np.arange(len(account)) - np.repeat(ends - played, played)
    return account, number, START + (spent * 86_400_000).astype(np.int64)


def grown(arena: Arena, first: int, names: list[str], chance: np.random.Generator) -> list[Writes]:
    """The accounts' writes, as they come when a record grows: whole while it is small, then by
    pieces put behind its end, where Redis reserves more than it needs."""
    account, number, time_ms = events_of(len(names), chance)
    steps = []
    for least, end in (
        (0, SMALL_EVENTS),
        (SMALL_EVENTS, SMALL_EVENTS + 1),
        (SMALL_EVENTS + 1, None),
    ):
        now = (number >= least) & (True if end is None else number < end)
        some = int(now.sum())
        if not some:
            continue
        rows = {
            "account": account[now],
            "time": time_ms[now],
            "amount": chance.integers(100, 50_000, some),
            "merchant": chance.integers(1, 300, some),
        }
        given = [names[each] for each in rows["account"].tolist()]
        arena.fill([(name, None) for name in arena.missing(given)])
        windows.apply(columns(rows, given, first), arena, None, history=False)
        steps.append(arena.writes())
        arena.settled()
        first += some
    return steps


def measure_memory(client: redis.Redis, count: int) -> dict[str, float]:
    client.config_set("appendfsync", "no")  # only filling up; durability is not the question here
    store, chance, pool = RedisStore(client), np.random.default_rng(4), names(count)
    before = int(client.info("memory")["used_memory"])
    claims = [store.acquire(number, TOPIC) for number in range(16)]
    at: list[int | None] = [None] * 16
    sizes = []
    for group, start in enumerate(range(0, count, PLAYED_AT_ONCE)):
        part, some = group % 16, pool[start : start + PLAYED_AT_ONCE]
        arena = Arena(part, 16 << 20)
        for writes in grown(arena, 0, some, chance):
            after = (at[part] or 0) + 1
            store.commit(claims[part], Commit(at[part], after, writes))
            at[part] = after
        sizes += [len(arena.record(name)) for name in some]
    used = int(client.info("memory")["used_memory"]) - before
    held = np.array(sizes)
    return {
        "accounts": count,
        "mean_record_bytes": float(held.mean()),
        "full_ring_share": float(np.mean(held >= HEADER + EVENT * RING)),
        "pane_rows_share": float(np.mean(held > HEADER + EVENT * RING)),
        "bytes_an_account": used / count,
        "goal_bytes": GOAL_BYTES,
    }


def main() -> None:
    flags = argparse.ArgumentParser(description=__doc__)
    flags.add_argument("--json", action="store_true")
    flags.add_argument("--accounts", type=int, default=1_000_000)
    flags.add_argument("--rounds", type=int, default=3)
    given = flags.parse_args()
    with tempfile.TemporaryDirectory() as place:
        server = redis_server.start(Path(place), die_with_parent=True)
        try:
            with redis.Redis.from_url(server.url, socket_timeout=60) as client:
                version = client.info("server")
                rows = measure_forms(client, given.rounds)
                partitions = measure_partitions(client, given.rounds)
                memory = measure_memory(client, given.accounts)
        finally:
            process.stop(server.child, 0)
    named = version.get("valkey_version") or version["redis_version"]
    result = {
        "server": f"{version.get('server_name', 'redis')} {named}",
        "batch": BATCH,
        "commit": [asdict(row) for row in rows],
        "six_partitions_ms": partitions,
        "memory": memory,
    }
    if given.json:
        print(json.dumps(result, indent=2))
        return
    print(f"{result['server']}, appendfsync always, {BATCH} accounts a commit, best of rounds\n")
    print("form                            bytes  pack us  client us  server us  accounts/s")
    for row in rows:
        print(
            f"{row.form:<30} {row.bytes:>6} {row.pack_us:>8.2f} {row.client_us:>10.2f}"
            f" {row.server_us:>10.2f} {row.rate:>11,}"
        )
    print("\nsix partitions of 64 accounts, median ms for all six")
    for form, spent in partitions.items():
        print(f"{form:<30} {spent:.2f}")
    print(f"\nmemory for {given.accounts:,} accounts")
    for name, value in memory.items():
        print(f"{name:<30} {value:,.2f}")
    verdict = "met" if memory["bytes_an_account"] <= GOAL_BYTES else "MISSED"
    print(f"goal of {GOAL_BYTES} bytes: {verdict}")


if __name__ == "__main__":
    main()
