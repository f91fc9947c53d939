"""The five promises, checked on what a run left behind.

In: `Seen` (topics, store, log lines, the watch over the offsets) and `Expected`. Out: what is
broken, one line each. Does not know which fault was made.

    I1 every input offset is scored, dead-lettered, an erasure or a counted duplicate
    I2 scores and alerts are the oracle's; every copy is byte-equal apart from produced_time
    I3 every account record equals the oracle's, bit for bit
    I4 a partition's offset never goes back, except by a rollback of Redis that the run announced
    I5 no log line holds an account id or an amount
"""

from __future__ import annotations

import re
from collections import defaultdict
from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Any, cast

import redis

from streams.settings import Settings
from streams.store import keys
from tests.faults.expected import Dead, Expected, Place, dead_letter, source_of, timeless
from tests.live.reading import contents

SHOWN = 3


class Broken(AssertionError):
    """A promise was broken; the message says which, and how to see it again."""


@dataclass(slots=True)
class Seen:
    """What a run left. Values are kept without produced_time; every copy counts once."""

    scores: dict[Place, set[bytes]] = field(default_factory=lambda: defaultdict(set))
    alerts: dict[Place, set[bytes]] = field(default_factory=lambda: defaultdict(set))
    dead: dict[Place, set[Dead]] = field(default_factory=lambda: defaultdict(set))
    copies: int = 0
    ends: dict[int, int | None] = field(default_factory=dict)
    records: dict[int, dict[str, bytes]] = field(default_factory=dict)
    markers: dict[int, dict[bytes, int]] = field(default_factory=dict)
    went_back: list[str] = field(default_factory=list)
    said: list[str] = field(default_factory=list)


def look(settings: Settings, client: redis.Redis, generation: int = 0) -> Seen:
    """Read topics and store (the keys of one generation). Log lines and the watch's findings are
    the caller's to add."""
    seen = Seen()
    for name, to in (("scores", seen.scores), ("alerts", seen.alerts)):
        for message in contents(settings, name):
            value = cast(bytes, message.value())
            to[source_of(value)].add(timeless(value))
            seen.copies += 1
    for message in contents(settings, "transactions.dlq"):
        headers = cast(list[tuple[str, bytes]], message.headers() or [])
        place, letter = dead_letter(
            cast(bytes | None, message.key()), cast(bytes | None, message.value()), headers
        )
        seen.dead[place].add(letter)
        seen.copies += 1
    for partition in range(settings.topics.partitions):
        names = keys.of(settings.redis.namespace, generation, partition)
        offset = client.hget(names.part, "offset")
        seen.ends[partition] = None if offset is None else int(offset)
        found = list(client.scan_iter(match=f"{names.record}*", count=1_000))
        values = cast(list[bytes], client.mget(found)) if found else []
        start = len(names.record)
        seen.records[partition] = {
            name[start:].decode(): value for name, value in zip(found, values, strict=True)
        }
        gone = cast(dict[bytes, bytes], client.hgetall(names.gone))
        seen.markers[partition] = {digest: int(cut) for digest, cut in gone.items()}
    return seen


def broken(seen: Seen, expected: Expected, accounts: list[str], amounts: set[int]) -> Iterator[str]:
    """Every promise that does not hold."""
    yield from accounted(seen, expected)
    yield from equal_copies(seen, expected)
    yield from equal_records(seen, expected)
    yield from (f"I4 {line}" for line in seen.went_back)
    yield from silent(seen, accounts, amounts)


def accounted(seen: Seen, expected: Expected) -> Iterator[str]:
    """I1."""
    for partition, end in expected.ends.items():
        if (seen.ends.get(partition) or 0) != end:
            yield f"I1 partition {partition} stands at {seen.ends.get(partition)}, not at {end}"
    forgotten = erased_early(seen, expected)
    for what, found, wanted in (
        ("score", seen.scores.keys(), expected.scores.keys()),
        ("dead letter", seen.dead.keys(), expected.dead.keys()),
    ):
        if missing := sorted(wanted - found - forgotten):
            yield f"I1 no {what} for {len(missing)} offsets: {missing[:SHOWN]}"
        if extra := sorted(found - wanted - forgotten):
            yield f"I1 a {what} for {len(extra)} offsets too many: {extra[:SHOWN]}"


def erased_early(seen: Seen, expected: Expected) -> set[Place]:
    """Places whose account was erased by a tombstone of the same round."""
    return {
        place for place, letter in expected.covered.items() if letter in seen.dead.get(place, ())
    }


def equal_copies(seen: Seen, expected: Expected) -> Iterator[str]:
    """I2."""
    forgotten = erased_early(seen, expected)
    missing = sorted(expected.alerts.keys() - seen.alerts.keys() - forgotten)
    missing += sorted(seen.alerts.keys() - expected.alerts.keys())
    if missing:
        yield f"I2 the alerts are not the oracle's at {len(missing)} offsets: {missing[:SHOWN]}"
    found: Any
    for what, found, wanted in (
        ("score", seen.scores, expected.scores),
        ("alert", seen.alerts, expected.alerts),
        ("dead letter", seen.dead, expected.dead),
    ):
        other = sorted(
            place
            for place in wanted
            if place in found
            and found[place] - {expected.covered.get(place)} not in ({wanted[place]}, set())
        )
        if other:
            first = other[0]
            yield (
                f"I2 {len(other)} places have another {what} than the oracle: {other[:SHOWN]}; "
                f"the first has {list(found[first])}, the oracle {wanted[first]!r}"
            )


def equal_records(seen: Seen, expected: Expected) -> Iterator[str]:
    """I3."""
    for partition, wanted in expected.records.items():
        found = seen.records.get(partition, {})
        if found.keys() != wanted.keys():
            yield f"I3 partition {partition}: {len(found.keys() ^ wanted.keys())} accounts differ"
        other = [name for name in wanted if name in found and found[name] != wanted[name]]
        if other:
            yield f"I3 partition {partition}: {len(other)} records differ: {other[:SHOWN]}"
        if seen.markers.get(partition, {}) != expected.markers[partition]:
            yield f"I3 partition {partition}: the markers of erased accounts differ"


def silent(seen: Seen, accounts: list[str], amounts: set[int]) -> Iterator[str]:
    """I5."""
    for line in seen.said:
        if any(account in line for account in accounts):
            yield f"I5 a log line holds an account id: {line}"
        if any(int(number) in amounts for number in re.findall(r"\d{10}", line)):
            yield f"I5 a log line holds an amount: {line}"
