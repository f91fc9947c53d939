"""The names of the keys in Redis.

In: namespace, key generation, partition, account. Out: key names.
Does not know what the keys hold.

    fs:{p}:part          hash: offset, token, owner, erasures, topic, partitions, model, format;
                         `retired` once a newer generation took over, `broken` when a write failed
    fs:{p}:a:<account>   string: the account's packed record
    fs:{p}:out           hash: sequence number -> packed outbox entry
    fs:{p}:gone          hash: digest of an erased account -> cut offset
    fs:{p}:deaths        hash: the note of whoever claims the partition (`live/suspects.py`); of no
                         generation
    fs:generation        hash: `current`, the generation that workers use (absent: 0), `before`, the
                         one it took over from, `partitions`, the topic's count that it was made
                         for, `building`, the generation that `rebuild` is making (mostly absent)

Generation g > 0 has the prefix `fs.g` in the place of `fs` (a namespace has no dot, so no other
namespace can meet it). Every key of partition p carries the hash tag {p}: one script may touch all
of a partition's keys, of two generations even, on Redis Cluster too.
"""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Keys:
    """The keys of one partition in one generation."""

    part: str
    outbox: str
    gone: str
    record: str
    """Put the account behind it."""


def of(namespace: str, generation: int, partition: int) -> Keys:
    """The keys of this partition."""
    start = f"{prefix(namespace, generation)}:{{{partition}}}:"
    return Keys(f"{start}part", f"{start}out", f"{start}gone", f"{start}a:")


def prefix(namespace: str, generation: int) -> str:
    """What the names of a generation's partition keys start with."""
    return f"{namespace}.{generation}" if generation else namespace


def pointer(namespace: str) -> str:
    """The key that says which generation is in use."""
    return f"{namespace}:generation"
