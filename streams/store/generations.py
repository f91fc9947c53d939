"""Key generations: a second set of keys beside the one in use, and the switch between them.

In: a Redis client and a namespace. Out: which generation is in use; a new one begun, put in use,
swept away. Does not know what is built into a generation (`offline/rebuild.py` does).

A switch is one write to one key. Workers that still hold claims on the generation before are
stopped by its partitions being marked retired: by the switch, and again, in the same script that
gives the first claim on the new one, by `acquire`. So no two generations are ever both moved on,
whenever the switch or its author dies. Where the marks are missing, a worker learns of the switch
at its next load, and a rebuild sets them before it sweeps anything.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Final, cast

import redis

from streams.errors import StoreError
from streams.store import keys, scripts
from streams.store.scripts import Script

SWEEP_KEYS: Final = 1_000
"""Keys deleted by one command."""

_BEGIN = Script.named("begin")
_SWITCH = Script.named("switch")


@dataclass(frozen=True, slots=True)
class Now:
    """The pointer key. `partitions` is None when nobody has used the namespace yet."""

    current: int
    before: int | None
    partitions: int | None
    building: int | None


def read(client: redis.Redis, namespace: str, partitions: int | None = None) -> Now:
    """The pointer key; a namespace never used is noted as of a topic with so many partitions."""
    name = keys.pointer(namespace)
    with scripts.named_failures(-1):
        found = client.hmget(name, ["current", "before", "partitions", "building"])
        if found[2] is None and partitions is not None:
            client.hsetnx(name, "partitions", str(partitions))
            found = client.hmget(name, ["current", "before", "partitions", "building"])
    current, before, count, building = (
        None if value is None else int(value) for value in cast(list[bytes | None], found)
    )
    return Now(current or 0, before, count, building)


def begin(client: redis.Redis, namespace: str) -> int:
    """A generation that nobody has used; it replaces one that was begun and never put in use."""
    abandoned = read(client, namespace).building
    answer = scripts.run(client, _BEGIN, [keys.pointer(namespace)], [])
    if abandoned is not None:
        # Nobody claimed a partition of it but its own rebuild, which is refused from now on.
        sweep(client, namespace, abandoned, marks=True)
    return int(answer[1])


def finish(
    client: redis.Redis,
    namespace: str,
    generation: int,
    partition: int,
    offset: int,
    forgotten: Mapping[bytes, int],
) -> None:
    """Say where in the log a partition of the new generation stands, and what was erased in it."""
    own = keys.of(namespace, generation, partition)
    with scripts.named_failures(partition), client.pipeline(transaction=True) as pipe:
        pipe.hset(own.part, "offset", str(offset))
        pipe.delete(own.gone)
        if forgotten:
            pipe.hset(own.gone, mapping={digest: str(cut) for digest, cut in forgotten.items()})
        pipe.execute()


def mark(
    client: redis.Redis,
    namespace: str,
    generation: int,
    partition: int,
    forgotten: Mapping[bytes, int],
) -> None:
    """Add markers of erased accounts; one that is there and names a later offset stays."""
    name = keys.of(namespace, generation, partition).gone
    with scripts.named_failures(partition):
        for digest, cut in forgotten.items():
            known = cast(bytes | None, client.hget(name, cast(str, digest)))
            if known is None or int(known) < cut:
                client.hset(name, cast(str, digest), str(cut))


def cuts(client: redis.Redis, namespace: str, account: bytes, partition: int) -> dict[int, int]:
    """The markers of one erased account, by its digest: partition -> offset of the erasure.

    All partitions are asked, and this one even if nobody has used the namespace. Raises StoreLost.
    """
    now = read(client, namespace)
    numbers = range(max(now.partitions or 0, partition + 1))
    with scripts.named_failures(-1), client.pipeline(transaction=False) as pipe:
        for number in numbers:
            pipe.hget(keys.of(namespace, now.current, number).gone, cast(str, account))
        answers = cast(list[bytes | None], pipe.execute())
    return {
        number: int(cut) for number, cut in zip(numbers, answers, strict=True) if cut is not None
    }


def switch(client: redis.Redis, namespace: str, generation: int, partitions: int) -> None:
    """Put a finished generation in use. Raises StoreError when another rebuild has begun since."""
    answer = scripts.run(client, _SWITCH, [keys.pointer(namespace)], [generation, partitions])
    if answer[0] != b"OK":
        raise StoreError("another rebuild began while this one ran; nothing was switched")
    before = read(client, namespace).before
    assert before is not None and before < generation
    retire(client, namespace, before, partitions)


def retire(client: redis.Redis, namespace: str, generation: int, partitions: int) -> None:
    """Stop whoever still moves a generation on that is no longer in use."""
    for partition in range(partitions):
        own = keys.of(namespace, generation, partition)
        with scripts.named_failures(partition):
            client.hset(own.part, "retired", "1")


def sweep(client: redis.Redis, namespace: str, generation: int, *, marks: bool = False) -> int:
    """Delete the keys of a generation that is not in use; what retires it stays, unless `marks`: of
    one that never was in use. Their number."""
    assert read(client, namespace).current != generation, "the generation is in use"
    pattern = f"{keys.prefix(namespace, generation)}:{{*}}:*"
    count = 0
    with scripts.named_failures(-1):
        for some in _in_groups(client.scan_iter(pattern, count=SWEEP_KEYS)):
            names = [name for name in some if _goes(name, marks)]
            if names:
                count += client.unlink(*names)
    return count


def _goes(name: bytes, marks: bool) -> bool:
    """Not the partition hash (its mark stops old owners) without `marks`, nor a key that is of no
    generation: risk ({risk}), and the notes of deaths, which running workers still read."""
    # To the first brace: an account may be named like any key.
    tag, _, rest = name[name.index(b"{") + 1 :].partition(b"}:")
    stays = (b"deaths",) if marks else (b"deaths", b"part")
    return tag.isdigit() and rest not in stays


def _in_groups(names: Iterator[bytes]) -> Iterator[Sequence[bytes]]:
    some: list[bytes] = []
    for name in names:
        some.append(name)
        if len(some) == SWEEP_KEYS:
            yield some
            some = []
    yield some
