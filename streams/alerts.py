"""From a packed outbox entry to the messages on Kafka, byte for byte the same each time.

In: an outbox entry (see `entry.py`) and the time of producing.
Out: score, alert and dead letter messages in schema v1; digests that compare two runs.
Does not know how a decision was made, nor which client sends the messages; topic names are the
schema's, the sender puts the prefix of the settings before them.

A score is joined from columns that are JSON already (numbers printed by the column, ids pasted as
they were packed): building and dumping a dict for each costs twice the time.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import replace
from itertools import repeat
from typing import Any, Final, NamedTuple

import numpy as np
import orjson
import xxhash
from numpy.typing import NDArray

from streams.entry import LATE, DeadRow, Entry, json_strings, keep, pack, plain_strings, unpack
from streams.schema import SCHEMA_VERSION, Decision, Reject

VOLATILE: Final = ("source", "produced_time")
"""Fields that differ between two runs over the same transactions."""

DECISIONS: Final = tuple(Decision)


class OutMessage(NamedTuple):
    """One message to produce."""

    topic: str
    key: bytes | None
    value: bytes | None
    headers: tuple[tuple[str, bytes], ...]


def alert_id(tenant_id: str | None, transaction_id: str, versions: dict[str, str]) -> str:
    """32 hex digits: the same transaction decided by the same versions is the same alert."""
    parts = [tenant_id, transaction_id, sorted(versions.items())]
    return xxhash.xxh3_128_hexdigest(orjson.dumps(parts))


def _numbers(column: NDArray[Any], n: int) -> list[bytes]:
    """Each number as JSON; not-a-number is null."""
    text = orjson.dumps(np.ascontiguousarray(column), option=orjson.OPT_SERIALIZE_NUMPY)
    return text[1:-1].split(b",") if n else []


def _score_values(entry: Entry, produced_time_ms: int) -> list[bytes]:
    n = len(entry)
    hexed = entry.digests.astype(">u8").tobytes().hex().encode()
    start = b'{"schema_version":%d,"transaction_id":"' % SCHEMA_VERSION
    # What comes between the score and the digest takes few values: one text a code, made once.
    middle = [
        b',"decision":"%b","mode":"%b","late":%b,"feature_digest":"'
        % (DECISIONS[code % LATE].encode(), entry.mode.encode(), b"true" if late else b"false")
        if code % LATE < len(DECISIONS)
        else b""
        for late in (False, True)
        for code in range(LATE)
    ]
    source = b',"source":{"topic":%b,"partition":%d,"offset":' % (
        orjson.dumps(entry.topic),
        entry.partition,
    )
    named = [b'","versions":' + orjson.dumps(each) + source for each in entry.versions]
    versions = (
        repeat(named[0], n) if len(named) == 1 else map(named.__getitem__, entry.version.tolist())
    )
    columns = zip(
        repeat(start, n),
        json_strings(entry.transaction_ids, n),
        repeat(b'","account_id":"'),
        json_strings(entry.account_ids, n),
        repeat(b'","event_time":'),
        _numbers(entry.event_time, n),
        repeat(b',"score":'),
        _numbers(entry.scores, n),
        map(middle.__getitem__, entry.codes.tolist()),
        [hexed[at : at + 16] for at in range(0, 16 * n, 16)],
        versions,
        _numbers(entry.offsets, n),
        repeat(b'},"produced_time":%d}' % produced_time_ms),
        strict=False,
    )
    return list(map(b"".join, columns))


def _dead_message(dead: DeadRow, produced_time_ms: int) -> OutMessage:
    time = ("time", b"%d" % produced_time_ms)
    return OutMessage("transactions.dlq", dead.key, dead.value, (*dead.headers, time))


def render(packed: bytes, produced_time_ms: int) -> list[OutMessage]:
    """The messages of one outbox entry: scores in offset order, then alerts, then dead letters.

    Pure: the same entry and time give the same bytes. Raises StoreError on damaged bytes.
    """
    entry = unpack(packed)
    values = _score_values(entry, produced_time_ms)
    keys = plain_strings(entry.account_ids, len(entry))
    assert len(values) == len(keys) == len(entry)
    messages = list(
        map(OutMessage._make, zip(repeat("scores"), keys, values, repeat(()), strict=False))
    )
    for row, own in entry.alerts:
        # The alert is its score's object with its own fields put in after them.
        messages.append(OutMessage("alerts", keys[row], values[row][:-1] + b"," + own[1:], ()))
    messages.extend(_dead_message(dead, produced_time_ms) for dead in entry.dead)
    return messages


def scrub(packed: bytes, account: str, until: int | None = None) -> bytes:
    """The entry without this account: its scores become blanked dead letters `forgotten`.

    Offsets from `until` on stay as they are: they came after the erasure.
    Each transaction stays accounted for. Dead letters of the account, and those whose bytes
    mention it, lose key and value. Unchanged bytes come back when it is not in the entry.
    """
    entry = unpack(packed)
    wanted = account.encode()
    quoted = orjson.dumps(account)
    accounts = plain_strings(entry.account_ids, len(entry))
    end = 2**63 if until is None else until
    rows = [
        row for row, each in enumerate(accounts) if each != wanted or int(entry.offsets[row]) >= end
    ]
    dead = [
        DeadRow(each.offset, None, b"", each.headers)
        if each.offset < end
        and (each.key == wanted or (each.value is not None and quoted in each.value))
        else each
        for each in entry.dead
    ]
    gone = sorted(set(range(len(entry))) - set(rows))
    if not gone and dead == list(entry.dead):
        return packed
    dead.extend(
        DeadRow(int(entry.offsets[row]), None, b"", _forgotten_headers(entry, row)) for row in gone
    )
    kept = keep(entry, rows)
    return pack(replace(kept, dead=tuple(dead)))


def _forgotten_headers(entry: Entry, row: int) -> tuple[tuple[str, bytes], ...]:
    return (
        ("reason", Reject.FORGOTTEN.encode()),
        ("detail", b"erased before it was published"),
        ("topic", entry.topic.encode()),
        ("partition", b"%d" % entry.partition),
        ("offset", b"%d" % entry.offsets[row]),
        ("schema_version", b"%d" % SCHEMA_VERSION),
    )


def message_digest(value: bytes) -> int:
    """128 bits of a score or alert without its volatile fields, whatever their order."""
    document = orjson.loads(value)
    for name in VOLATILE:
        document.pop(name, None)
    return xxhash.xxh3_128_intdigest(orjson.dumps(document, option=orjson.OPT_SORT_KEYS))


def run_digest(values: Iterable[bytes]) -> str:
    """One digest of many messages, whatever their order; a repeated message changes it.

    Two runs are equal when their deduplicated scores and alerts have equal digests.
    """
    total = sum(map(message_digest, values)) % (1 << 128)
    return f"{total:032x}"
