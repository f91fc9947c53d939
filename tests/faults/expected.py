"""What must come out, computed from the input log alone.

In: the messages of `transactions` as the broker keeps them, and settings. Out: `Expected`.
Does not know what workers did. It walks the log in one process, partition by partition, in batches
of a size that no worker uses; features themselves are held by `tests/oracle.py` elsewhere.
"""

from __future__ import annotations

import re
from collections import defaultdict
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Final

import numpy as np
from confluent_kafka import Message

from streams import assembly, deadletter
from streams.alerts import render
from streams.batch import Batch
from streams.columns import Rejected
from streams.entry import pack
from streams.offline.replay import Shard
from streams.privacy import account_digest
from streams.schema import Reject
from streams.settings import Settings

BATCH: Final = 37
PRODUCED: Final = re.compile(rb'"produced_time":\d+')

Place = tuple[int, int]
"""Partition and offset in `transactions`."""
Dead = tuple[bytes | None, bytes | None, tuple[tuple[str, bytes], ...]]


def timeless(value: bytes) -> bytes:
    """A score or alert without the moment it was produced."""
    found, count = PRODUCED.subn(b'"produced_time":0', value)
    assert count == 1, "a message without produced_time"
    return found


@dataclass(slots=True)
class Expected:
    """The books of a whole log.

    offsets:    every offset, per partition; scores, alerts, dead: the one message of each place
    repeats:    places with neither, but a counted duplicate; erasures: tombstones
    records:    per partition and account the record's bytes; erased or never seen accounts are not
                there
    markers:    per partition digest -> offset of the newest tombstone
    covered:    places of accepted messages of an account that a later tombstone erases. When both
                come in one round the account is erased first, and the message becomes this dead
                letter `forgotten`; else it has its outcome as if no tombstone came. Which of the
                two it is depends on the size of rounds, and both are right.
    """

    ends: dict[int, int]
    offsets: set[Place] = field(default_factory=set)
    scores: dict[Place, bytes] = field(default_factory=dict)
    alerts: dict[Place, bytes] = field(default_factory=dict)
    dead: dict[Place, Dead] = field(default_factory=dict)
    repeats: set[Place] = field(default_factory=set)
    erasures: set[Place] = field(default_factory=set)
    records: dict[int, dict[str, bytes]] = field(default_factory=dict)
    markers: dict[int, dict[bytes, int]] = field(default_factory=dict)
    covered: dict[Place, Dead] = field(default_factory=dict)


def batches(messages: Sequence[Message], topic: str, partition: int, size: int) -> list[Batch]:
    """The log of one partition in batches; a tombstone is the first message of its batch."""
    made = []
    cuts = [0]
    for at, message in enumerate(messages):
        if at - cuts[-1] == size or (message.value() is None and at > cuts[-1]):
            cuts.append(at)
    for at, end in zip(cuts, [*cuts[1:], len(messages)], strict=True):
        some = messages[at:end]
        offsets = np.array([m.offset() for m in some], np.int64)
        made.append(
            Batch(
                topic=topic,
                partition=partition,
                offsets=offsets,
                timestamps=np.array([m.timestamp()[1] for m in some], np.int64),
                keys=[_bytes(m.key()) for m in some],
                values=[_bytes(m.value()) for m in some],
                headers=None,
                next_offset=int(offsets[-1]) + 1,
            )
        )
    return made


def _bytes(found: str | bytes | None) -> bytes | None:
    return found.encode() if isinstance(found, str) else found


def expect(
    settings: Settings,
    log: Sequence[Message],
    ends: Mapping[int, int],
    aside: Collection[Place] = (),
) -> Expected:
    """The outcome of a log that is read to its end; the messages `aside` are read by nobody."""
    judge = assembly.judge(settings)
    found = Expected(dict(ends))
    by_partition: dict[int, list[Message]] = defaultdict(list)
    for message in log:
        partition = message.partition()
        assert partition is not None
        by_partition[partition].append(message)
    for partition, messages in by_partition.items():
        messages.sort(key=lambda m: m.offset() or 0)
        topic = settings.topic("transactions")
        for poison in [m for m in messages if (partition, m.offset()) in aside]:
            messages.remove(poison)
            _put_aside(found, batches([poison], topic, partition, 1)[0])
        shard = Shard(
            partition,
            [judge],
            None,
            max_future_ms=settings.worker.max_future_s * 1000,
            forgotten={},
        )
        rows: list[tuple[int, str]] = []
        erased: dict[str, int] = {}
        for batch in batches(messages, topic, partition, BATCH):
            step = shard.step(batch)
            columns = step.work.columns
            rows += zip(batch.offsets[columns.row].tolist(), columns.account_id, strict=True)
            for row, account in columns.tombstones:
                erased[account] = int(batch.offsets[row])
                found.erasures.add((partition, erased[account]))
            found.offsets.update((partition, int(offset)) for offset in batch.offsets)
            entry = step.entries[0]
            if entry is not None:
                _enter(found, partition, pack(entry))
        found.markers[partition] = {account_digest(name): cut for name, cut in erased.items()}
        for offset, account in rows:
            if offset < erased.get(account, -1):
                found.covered[partition, offset] = _forgotten(settings, partition, offset)
        records = {account: shard.record(account) for account in {name for _, name in rows}}
        found.records[partition] = {name: each for name, each in records.items() if each}
    found.repeats = found.offsets - found.scores.keys() - found.dead.keys() - found.erasures
    return found


def _put_aside(found: Expected, batch: Batch) -> None:
    rejected = Rejected(0, Reject.QUARANTINED, "every worker that handled it died")
    letter = deadletter.dead_letter(batch, rejected)
    place = batch.partition, int(batch.offsets[0])
    found.offsets.add(place)
    found.dead[place] = (letter.key, letter.value, tuple(letter.headers))


def _enter(found: Expected, partition: int, packed: bytes) -> None:
    for message in render(packed, 0):
        assert message.value is not None or message.topic == "transactions.dlq"
        if message.topic == "transactions.dlq":
            place, letter = dead_letter(message.key, message.value, message.headers)
            found.dead[place] = letter
            continue
        assert message.value is not None
        place = source_of(message.value)
        assert place[0] == partition
        (found.scores if message.topic == "scores" else found.alerts)[place] = message.value


def _forgotten(settings: Settings, partition: int, offset: int) -> Dead:
    headers = (
        ("reason", b"forgotten"),
        ("detail", b"the account was erased"),
        ("topic", settings.topic("transactions").encode()),
        ("partition", b"%d" % partition),
        ("offset", b"%d" % offset),
        ("schema_version", b"1"),
    )
    return None, b"", headers


SOURCE: Final = re.compile(rb'"source":\{"topic":"[^"]*","partition":(\d+),"offset":(\d+)\}')


def source_of(value: bytes) -> Place:
    """The place in `transactions` that a score or alert names."""
    found = SOURCE.search(value)
    assert found is not None, "a message without its source"
    return int(found[1]), int(found[2])


def dead_letter(
    key: bytes | None, value: bytes | None, headers: Sequence[tuple[str, bytes]]
) -> tuple[Place, Dead]:
    """Place and content of a dead letter, without the moment it was made."""
    kept = tuple((name, content) for name, content in headers if name != "time")
    named = dict(kept)
    return (int(named["partition"]), int(named["offset"])), (key, value, kept)
