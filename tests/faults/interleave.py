"""Seeded interleavings of workers on one partition, over the real scripts on a real server.

In: a seed, and a store class (the real one, or a mutant of it). Out: nothing, or the `Violation`
that the schedule ended in; the same seed gives the same schedule.
Does not know Faust, Kafka or windows: a worker here is the commit path alone, as live/agents.py
walks it, cut into steps at every call that leaves the process.

A schedule: one to four workers share a log of some twenty offsets. In each step one of them, drawn
by chance, goes on by one call; in one step of twenty its process dies instead and starts anew; now
and then a call's answer is lost, or a request hangs and arrives much later, or (`restore`) Redis
comes back as it was before, or (`forget`) an account is erased from outside. Then one fresh worker
finishes alone, while the dead ones' late requests still drop in. At the end:

    every offset was published, and every copy of it is byte-equal to the oracle's  (no loss)
    every record equals the oracle's                                              (exactly once)
    the offset seen in the store never went back, but after a restore
    after `forget`, neither records nor outbox hold what came before the tombstone

A record is the list of offsets applied; what is published for an offset names the offsets its
account had before it, so a step done on a wrong state shows in its bytes.
"""

from __future__ import annotations

import random
from collections import defaultdict
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from functools import partial
from typing import Final

import redis

from streams.errors import Conflict, Fenced, StoreLost
from streams.privacy import account_digest
from streams.store import WHOLE, Claim, Commit, Identity, Writes
from streams.store.redis import RedisStore

ACCOUNTS: Final = ("a", "b", "c")
CRASH: Final = 0.05
LOSE_ANSWER: Final = 0.04
HANG: Final = 0.04
OUTSIDE: Final = 0.06
SWITCH: Final = 0.2
FREE_STEPS: Final = 45
PATIENCE: Final = 400
TOPIC: Final = Identity("topic-a", 1)


class Violation(Exception):
    """A promise was broken; the message says which, and the seed."""


@dataclass
class World:
    """What outlives every worker: the log, the server, what Kafka has taken, who asked what."""

    chance: random.Random
    client: redis.Redis
    store: type[RedisStore]
    partition: int
    mode: str
    log: list[str]
    tombstone: int = -1
    forgotten: bool = False
    published: dict[int, set[bytes]] = field(default_factory=lambda: defaultdict(set))
    late: list[Callable[[], object]] = field(default_factory=list)
    seen: int = 0
    changed: bool = False
    saved: dict[str, bytes | None] | None = None

    def key(self, name: str) -> str:
        """A key of this schedule's partition."""
        return f"fs:{{{self.partition}}}:{name}"

    def call(self, what: Callable[[], object]) -> object:
        """A call over a bad line: done, done unheard, or left to arrive late."""
        draw = self.chance.random()
        if draw < HANG:
            self.late.append(what)
            raise StoreLost("hangs")
        self.changed = True
        result = what()
        if draw < HANG + LOSE_ANSWER:
            raise StoreLost("unheard")
        return result

    def publish(self, entry: bytes) -> None:
        for row in entry.split(b";"):
            self.published[int(row.partition(b":")[0])].add(row)


def row_of(offset: int, account: str, before: bytes) -> bytes:
    """What is published for an offset."""
    return b"%d:%s:%s" % (offset, account.encode(), before.hex().encode())


def oracle(world: World) -> tuple[dict[str, bytes], dict[int, bytes]]:
    """Records and rows from the log alone."""
    records: dict[str, bytes] = defaultdict(bytes)
    rows = {}
    for offset, account in enumerate(world.log):
        if offset == world.tombstone:
            records.pop(account, None)
            continue
        rows[offset] = row_of(offset, account, records[account])
        records[account] += b"%c" % offset
    return dict(records), rows


def worker(world: World) -> Iterator[None]:
    """One worker's life; each `yield` is a point where it may be overtaken or die."""
    store = world.store(world.client)
    while True:
        try:
            yield from session(world, store)
            return
        except Conflict:
            continue
        except Fenced:
            # Another owner holds the partition: wait for a rebalance, then claim it again.
            for _ in range(world.chance.randrange(8)):
                yield


def again(world: World, what: Callable[[], object]) -> Iterator[None]:
    """Repeat a call as it was until an answer comes."""
    while True:
        yield
        try:
            world.call(what)
            return
        except StoreLost:
            continue


def session(world: World, store: RedisStore) -> Iterator[None]:
    """From a claim to the end of the log, or to the error that ends the claim."""
    claims: list[Claim] = []
    yield from again(world, lambda: claims.append(store.acquire(world.partition, TOPIC)))
    claim = claims[-1]
    at = claim.offset
    if (at or 0) < world.seen:
        raise Violation(f"the offset went back from {world.seen} to {at}")
    world.seen = at or 0
    yield
    pending = store.pending(claim)
    for _, entry in pending:
        yield
        world.publish(entry)
    yield from again(world, lambda: store.trim(claim, [seq for seq, _ in pending]))
    forgotten = store.forgotten(claim)
    arena: dict[str, bytes] = {}
    sent: list[int] = []
    while (at or 0) < len(world.log):
        start = at or 0
        offsets = range(start, min(len(world.log), start + world.chance.randrange(1, 4)))
        names = sorted({world.log[offset] for offset in offsets} - arena.keys())
        yield
        records = store.load(claim, names, at)
        arena.update(zip(names, (record or b"" for record in records), strict=True))
        step = advance(world, arena, forgotten, at, offsets)
        yield from again(world, partial(store.commit, claim, step))
        at = step.next
        world.seen = max(world.seen, at)
        yield
        if step.entry is not None:
            world.publish(step.entry)
            sent.append(at)
        if len(sent) > world.chance.randrange(3):
            yield from again(world, partial(store.trim, claim, sent))
            sent = []


def advance(
    world: World,
    arena: dict[str, bytes],
    forgotten: dict[bytes, int],
    expected: int | None,
    offsets: range,
) -> Commit:
    """Apply offsets to the records in memory; the commit that makes the store follow."""
    before = dict(arena)
    erased: list[tuple[str, int]] = []
    rows = []
    for offset in offsets:
        account = world.log[offset]
        if offset == world.tombstone:
            erased.append((account, offset))
            arena[account] = before[account] = b""
        elif offset < forgotten.get(account_digest(account), -1):
            rows.append(b"%d:forgotten" % offset)
        else:
            rows.append(row_of(offset, account, arena[account]))
            arena[account] += b"%c" % offset
    changed = []
    for account, record in arena.items():
        known = len(before[account])
        if len(record) > known:
            # A record that the store has is continued, a new one comes whole.
            changed.append((account, [(known or WHOLE, record[known:])]))
    return Commit(expected, offsets[-1] + 1, Writes.of(changed), erased, b";".join(rows) or None)


def outside(world: World) -> None:
    """What happens to the server from elsewhere."""
    if world.mode == "restore":
        names = [world.key(name) for name in ("part", "out", *(f"a:{each}" for each in ACCOUNTS))]
        if world.saved is None:
            world.saved = {name: world.client.dump(name) for name in names}
            return
        for name, value in world.saved.items():
            if value is None:
                world.client.delete(name)
            else:
                world.client.restore(name, 0, value, replace=True)
        world.saved = None
        world.seen = 0
    elif world.mode == "forget" and not world.forgotten and world.tombstone >= 0:
        account = world.log[world.tombstone]
        store = world.store(world.client)
        store.forget(world.partition, account, world.tombstone, lambda e: scrub(world, e))
        world.forgotten = True


def scrub(world: World, entry: bytes) -> bytes | None:
    """An entry without the rows that the tombstone covers."""
    return b";".join(row for row in entry.split(b";") if not covered(world, row)) or None


def covered(world: World, row: bytes) -> bool:
    """Does this row tell something of the erased account from before its tombstone?"""
    offset = int(row.partition(b":")[0])
    account = world.log[world.tombstone]
    return (
        offset < world.tombstone
        and world.log[offset] == account
        and not row.endswith(b":forgotten")
    )


def look(world: World) -> None:
    """After `forget`, at any time: the store holds nothing of before."""
    if not (world.forgotten and world.changed):
        return
    world.changed = False
    record = world.client.get(world.key(f"a:{world.log[world.tombstone]}")) or b""
    if any(offset < world.tombstone for offset in record):
        raise Violation(f"the erased account came back: {record!r}")
    for entry in world.client.hvals(world.key("out")):
        if any(covered(world, row) for row in entry.split(b";")):
            raise Violation(f"the outbox holds the erased account: {entry!r}")


def run(
    seed: int,
    client: redis.Redis,
    store: type[RedisStore] = RedisStore,
    life: Callable[[World], Iterator[None]] = worker,
) -> None:
    """One schedule. Raises Violation."""
    chance = random.Random(seed)
    mode = ("plain", "restore", "forget")[seed % 3]
    log = [chance.choice(ACCOUNTS) for _ in range(chance.randrange(8, 24))]
    world = World(chance, client, store, seed, mode, log)
    if mode == "forget":
        world.tombstone = chance.randrange(len(log))
    try:
        _steps(world, life)
        _judge(world)
    except Violation as violation:
        raise Violation(f"seed {seed} ({mode}): {violation}") from None


def _steps(world: World, life: Callable[[World], Iterator[None]]) -> None:
    chance = world.chance
    workers = [life(world) for _ in range(chance.randrange(1, 5))]
    number = 0
    for _ in range(FREE_STEPS):
        if chance.random() < SWITCH:
            number = chance.randrange(len(workers))
        draw = chance.random()
        if draw < CRASH:
            workers[number] = life(world)
        elif draw < CRASH + OUTSIDE:
            outside(world)
            _arrive(world)
        else:
            next(workers[number], None)
        look(world)
    final = life(world)
    for _ in range(PATIENCE):
        if next(final, "done") == "done":
            break
        if chance.random() < OUTSIDE:
            _arrive(world)
        look(world)
    else:
        raise Violation("the last worker did not come to the end")
    while world.late:
        _arrive(world)


def _arrive(world: World) -> None:
    """A request that hung arrives; nobody hears its answer."""
    if world.late:
        what = world.late.pop(world.chance.randrange(len(world.late)))
        world.changed = True
        try:
            what()
        except (Conflict, Fenced):
            return


def _judge(world: World) -> None:
    """The state and the output against the oracle."""
    records, rows = oracle(world)
    store = world.store(world.client)
    claim = store.acquire(world.partition, TOPIC)
    if claim.offset != len(world.log):
        raise Violation(f"the offset is {claim.offset} of {len(world.log)}")
    found = store.load(claim, ACCOUNTS, claim.offset)
    for account, record in zip(ACCOUNTS, found, strict=True):
        if (record or b"") != records.get(account, b""):
            raise Violation(f"record {account}: {record!r}, not {records.get(account)!r}")
    for _, entry in store.pending(claim):
        world.publish(entry)
    for offset, row in rows.items():
        copies = world.published.get(offset, set())
        allowed = {row}
        if world.forgotten and offset < world.tombstone:
            allowed.add(b"%d:forgotten" % offset)
        if not copies and not (world.forgotten and covered(world, row)):
            raise Violation(f"offset {offset} was never published")
        if copies - allowed:
            raise Violation(f"offset {offset} has copies {copies}, not {allowed}")
