"""Which partition an account's next transaction will come to, told from where its last ones lie.

In: keys with the partition they were found in. Out: `Route`, a function of key and partition.
Does not know Kafka or accounts' states.

As long as a topic keeps its partition count, an account stays where it is, whatever rule the
publishers follow. After the count was raised the rule decides, so it must be known: this file tries
the two that nearly all clients use, with every count the topic may have had.
"""

from __future__ import annotations

import zlib
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Final, cast

from aiokafka.partitioner import murmur2

from streams.errors import StoreUnready

Found = tuple[bytes, int]
"""A message's key, the partition it lies in."""


def java(key: bytes, partitions: int) -> int:
    """The Java clients' rule, librdkafka's `murmur2_random`; this service's own publishers'."""
    return cast(int, (murmur2(key) & 0x7FFF_FFFF) % partitions)


def librdkafka(key: bytes, partitions: int) -> int:
    """librdkafka's default, `consistent_random`."""
    return zlib.crc32(key) % partitions


RULES: Final[dict[str, Callable[[bytes, int], int]]] = {"murmur2": java, "crc32": librdkafka}

HASHES: Final = 2**32
"""Both rules hash a key to less than this, and divide by the number of partitions."""
LAST: Final = 100
ENOUGH: Final = 0.9
"""So many of the last messages tell the rule when so large a share of them follows it."""
NEARLY_ALL: Final = 0.98
"""Of the places where keys lie: what a rule must explain before it may move accounts."""


@dataclass(frozen=True, slots=True)
class Route:
    """Where a key's state belongs. `rule` None: where its messages lie."""

    partitions: int
    rule: str | None

    def __call__(self, key: bytes | None, partition: int) -> int:
        """The partition for the state of a message that lies in `partition`."""
        if self.rule is None or key is None:
            return partition
        return RULES[self.rule](key, self.partitions)


def find(oldest: Sequence[Found], newest: Sequence[Found], partitions: int, before: int) -> Route:
    """The route for a topic of now `partitions`; `before` is the count the state was made for.

    `oldest` and `newest` are samples of all partitions' ends, the newest last. Raises StoreUnready
    when accounts may have moved and no rule explains where the last ones lie.
    """
    everything = [*oldest, *newest]
    for rule in RULES:
        if newest and _share(rule, everything, partitions) == 1.0:
            return Route(partitions, None)
    # Only a change of the count puts a key in two places. Without such a sign the last messages are
    # not enough, for those of a burst lie in one partition: then a rule has to explain them all.
    changed = before != partitions or len(dict(everything)) < len(set(everything))
    # With it not all have to fit: publishers learn of new partitions one by one. But the rule must
    # explain the old places, too: a key that somebody put in two places is no change of the count.
    last, enough = (newest[-LAST:], ENOUGH) if changed else (everything, 1.0)
    rules = [rule for rule in RULES if newest and _explains(rule, set(everything), partitions)]
    for count in range(partitions, 0, -1):
        for rule in rules:
            if _share(rule, last, count) >= enough:
                return Route(partitions, rule)
    if before == partitions:
        # A rule of the publishers' own, and no sign that the count ever changed.
        return Route(partitions, None)
    raise StoreUnready(
        f"the topic now has {partitions} partitions, the state was made for {before}, and the keys"
        " follow neither murmur2 (Java) nor crc32 (librdkafka): nobody can say where an account's"
        " next transaction will come to",
        remedy="Publish with partitioner murmur2_random, to a new topic",
    )


def _share(rule: str, found: Sequence[Found], partitions: int) -> float:
    """Of the messages, how many lie where the rule puts them."""
    return sum(RULES[rule](key, partitions) == place for key, place in found) / len(found)


def _explains(rule: str, found: set[Found], partitions: int) -> bool:
    """Whether nearly all lie where the rule put them at some count that the topic may have had."""
    # Each key is hashed once: with so many partitions its place is its hash.
    hashed = ((RULES[rule](key, HASHES), place) for key, place in found)
    known = sum(
        any(key % count == place for count in range(partitions, 0, -1)) for key, place in hashed
    )
    return known >= NEARLY_ALL * len(found)
