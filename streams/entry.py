"""The packed outbox entry: all that one commit has to publish, as columns of bytes.

In: the columns of scores, the alerts' own fields and the dead letters of one micro-batch.
Out: bytes for the store, and the same columns again from those bytes.
Does not know what a message looks like on Kafka (`alerts.render` does), nor who keeps the bytes.

    magic "fso1"
    7 sections, each: u32 length, then that many bytes (little endian)
      0 head       JSON: topic, partition, mode, versions (a list; a row names one by index)
      1 columns    offset i64, event_time i64, score f64, feature digest u64 [n]; then u8 code [n]
      2 version    u16 [n], or nothing when there is one version
      3 ids        JSON list of transaction_id
      4 accounts   JSON list of account_id
      5 alerts     per alert: u32 row, u32 length, the JSON object of the alert's own fields
      6 dead       per dead letter: i64 offset, u32 length, JSON head, then key and value bytes
A code is `decision + 4 * late`, decisions counted from the mildest.
"""

from __future__ import annotations

import struct
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from typing import Final

import numpy as np
import orjson
from numpy.typing import NDArray

from streams.errors import StoreError

MAGIC: Final = b"fso1"
SECTIONS: Final = 7
LATE: Final = 4
"""Added to the decision in a row's code when the event came late."""

_LENGTH: Final = struct.Struct("<I")
_ALERT: Final = struct.Struct("<II")
_DEAD: Final = struct.Struct("<qIiI")


@dataclass(frozen=True, slots=True)
class DeadRow:
    """One dead letter, ready but for its `time` header."""

    offset: int
    key: bytes | None
    value: bytes | None
    headers: tuple[tuple[str, bytes], ...]


@dataclass(frozen=True, slots=True)
class Entry:
    """The columns of one outbox entry; row i of every array and list is one score."""

    topic: str
    partition: int
    mode: str
    versions: tuple[dict[str, str], ...]
    offsets: NDArray[np.int64]
    event_time: NDArray[np.int64]
    scores: NDArray[np.float64]
    digests: NDArray[np.uint64]
    codes: NDArray[np.uint8]
    version: NDArray[np.uint16]
    transaction_ids: bytes
    """A JSON list of strings; kept as JSON because rendering pastes it into JSON."""
    account_ids: bytes
    alerts: tuple[tuple[int, bytes], ...]
    dead: tuple[DeadRow, ...]

    def __post_init__(self) -> None:
        n = len(self.offsets)
        assert len(self.event_time) == len(self.scores) == len(self.digests) == n
        assert len(self.codes) == len(self.version) == n

    def __len__(self) -> int:
        return len(self.offsets)


def json_strings(packed: bytes, n: int) -> list[bytes]:
    """The n strings of a JSON list, each still escaped and without its quotes."""
    if n and b"\\" not in packed:
        # Without escapes a quote is never inside a string, so this splits between strings only.
        return packed[2:-2].split(b'","')
    return [orjson.dumps(text)[1:-1] for text in orjson.loads(packed)]


def plain_strings(packed: bytes, n: int) -> list[bytes]:
    """The n strings of a JSON list as UTF-8, no longer escaped."""
    if n and b"\\" not in packed:
        return packed[2:-2].split(b'","')
    return [text.encode() for text in orjson.loads(packed)]


def pack(entry: Entry) -> bytes:
    """Bytes for the store; `unpack` gives back an equal entry."""
    single = len(entry.versions) <= 1
    head = {
        "topic": entry.topic,
        "partition": entry.partition,
        "mode": entry.mode,
        "versions": entry.versions,
        "n": len(entry),
    }
    sections = (
        orjson.dumps(head),
        b"".join(
            (
                entry.offsets.astype("<i8").tobytes(),
                entry.event_time.astype("<i8").tobytes(),
                entry.scores.astype("<f8").tobytes(),
                entry.digests.astype("<u8").tobytes(),
                entry.codes.tobytes(),
            )
        ),
        b"" if single else entry.version.astype("<u2").tobytes(),
        entry.transaction_ids,
        entry.account_ids,
        b"".join(_ALERT.pack(row, len(own)) + own for row, own in entry.alerts),
        b"".join(map(_pack_dead, entry.dead)),
    )
    assert len(sections) == SECTIONS
    parts = [MAGIC]
    for section in sections:
        parts.append(_LENGTH.pack(len(section)))
        parts.append(section)
    return b"".join(parts)


def _pack_dead(dead: DeadRow) -> bytes:
    key, value = dead.key or b"", dead.value or b""
    head = orjson.dumps([[name, content.hex()] for name, content in dead.headers])
    # A length of -1 tells "no key" from an empty one; the flag in the key's sign does for both.
    key_length = -1 if dead.key is None else len(key)
    fixed = _DEAD.pack(dead.offset, len(head), key_length, len(value) + (dead.value is not None))
    return fixed + head + key + value


def unpack(packed: bytes) -> Entry:
    """The entry of these bytes. Raises StoreError when they are damaged or of another version."""
    try:
        head, columns, version, ids, accounts, alerts, dead = _sections(packed)
        fields = orjson.loads(head)
        n = int(fields["n"])
        if len(columns) != 33 * n or len(version) not in (0, 2 * n):
            raise ValueError("column lengths")
        words = [columns[8 * n * i : 8 * n * (i + 1)] for i in range(4)]
        return Entry(
            topic=fields["topic"],
            partition=fields["partition"],
            mode=fields["mode"],
            versions=tuple(fields["versions"]),
            offsets=np.frombuffer(words[0], "<i8"),
            event_time=np.frombuffer(words[1], "<i8"),
            scores=np.frombuffer(words[2], "<f8"),
            digests=np.frombuffer(words[3], "<u8"),
            codes=np.frombuffer(columns[32 * n :], np.uint8),
            version=np.frombuffer(version or bytes(2 * n), "<u2"),
            transaction_ids=ids,
            account_ids=accounts,
            alerts=tuple(_alerts(alerts)),
            dead=tuple(_dead(dead)),
        )
    except (ValueError, KeyError, TypeError, struct.error) as error:
        raise StoreError(f"outbox entry of {len(packed)} bytes is unreadable: {error}") from None


def _sections(packed: bytes) -> list[bytes]:
    if packed[:4] != MAGIC:
        raise ValueError("not an outbox entry of this version")
    at, found = 4, []
    while at < len(packed):
        (length,) = _LENGTH.unpack_from(packed, at)
        section = packed[at + 4 : at + 4 + length]
        if len(section) != length:
            raise ValueError("cut short")
        found.append(section)
        at += 4 + length
    if len(found) != SECTIONS:
        raise ValueError("number of sections")
    return found


def _alerts(section: bytes) -> Iterator[tuple[int, bytes]]:
    at = 0
    while at < len(section):
        row, length = _ALERT.unpack_from(section, at)
        yield row, section[at + 8 : at + 8 + length]
        at += 8 + length


def _dead(section: bytes) -> Iterator[DeadRow]:
    at = 0
    while at < len(section):
        offset, head_length, key_length, value_length = _DEAD.unpack_from(section, at)
        at += _DEAD.size
        head = orjson.loads(section[at : at + head_length])
        at += head_length
        key = None if key_length < 0 else section[at : at + key_length]
        at += max(key_length, 0)
        value = None if value_length == 0 else section[at : at + value_length - 1]
        at += max(value_length - 1, 0)
        yield DeadRow(
            offset, key, value, tuple((name, bytes.fromhex(hexed)) for name, hexed in head)
        )


def keep(entry: Entry, rows: Sequence[int]) -> Entry:
    """The entry with only these rows (ascending); alerts follow their rows."""
    take = np.asarray(rows, np.int64)
    ids, accounts = orjson.loads(entry.transaction_ids), orjson.loads(entry.account_ids)
    place = {int(old): new for new, old in enumerate(take)}
    return replace(
        entry,
        offsets=entry.offsets[take],
        event_time=entry.event_time[take],
        scores=entry.scores[take],
        digests=entry.digests[take],
        codes=entry.codes[take],
        version=entry.version[take],
        transaction_ids=orjson.dumps([ids[row] for row in take]),
        account_ids=orjson.dumps([accounts[row] for row in take]),
        alerts=tuple((place[row], own) for row, own in entry.alerts if row in place),
    )
