"""From a packed outbox entry to the messages on Kafka, byte for byte the same each time.

In: an outbox entry (see `entry.py`) and the time of producing.
Out: score, alert and dead letter messages in schema v1; digests that compare two runs.
Does not know how a decision was made, nor which client sends the messages; topic names are the
schema's, the sender puts the prefix of the settings before them.

A score is put together by a kernel from columns that are JSON already (scores printed by the
column, ids pasted as they were packed), so that no score is an object of Python on its way out.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, replace
from typing import Final, NamedTuple

import numpy as np
import orjson
import xxhash
from numpy.typing import NDArray

from streams.entry import LATE, DeadRow, Entry, json_strings, keep, pack, plain_strings, unpack
from streams.kernels.texts import (
    CODES,
    HEX_DIGITS,
    MOST_DIGITS,
    Pieces,
    score_texts,
    string_spans,
)
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


class Texts(NamedTuple):
    """Row i is data[spans[i, 0] : spans[i, 1]]; spans int64 [n, 2]."""

    data: NDArray[np.uint8]
    spans: NDArray[np.int64]


@dataclass(frozen=True, slots=True)
class Scores:
    """The n score messages of an entry; value i is values[bounds[i] : bounds[i + 1]]."""

    keys: Texts
    values: NDArray[np.uint8]
    bounds: NDArray[np.int64]

    def __len__(self) -> int:
        return len(self.bounds) - 1

    def key(self, row: int) -> bytes:
        """The account, UTF-8."""
        begin, end = self.keys.spans[row]
        return self.keys.data[begin:end].tobytes()

    def value(self, row: int) -> bytes:
        """The JSON object."""
        return self.values[self.bounds[row] : self.bounds[row + 1]].tobytes()


NO_SCORES: Final = Scores(
    Texts(np.zeros(0, np.uint8), np.zeros((0, 2), np.int64)),
    np.zeros(0, np.uint8),
    np.zeros(1, np.int64),
)


class Rendered(NamedTuple):
    """The messages of an entry: scores in offset order, then alerts and dead letters."""

    scores: Scores
    others: Sequence[OutMessage]


def alert_id(tenant_id: str | None, transaction_id: str, versions: dict[str, str]) -> str:
    """32 hex digits: the same transaction decided by the same versions is the same alert."""
    parts = [tenant_id, transaction_id, sorted(versions.items())]
    return xxhash.xxh3_128_hexdigest(orjson.dumps(parts))


def _spans(packed: bytes, n: int, strings: Callable[[bytes, int], list[bytes]]) -> Texts:
    """The n strings of a JSON list; `strings` takes them out where they are not plain."""
    spans = np.empty((n, 2), np.int64)
    if b"\\" in packed:
        found = strings(packed, n)
        assert len(found) == n
        ends = np.cumsum([len(text) for text in found], dtype=np.int64)
        spans[1:, 0], spans[:, 1], spans[:1, 0] = ends[:-1], ends, 0
        return Texts(np.frombuffer(b"".join(found), np.uint8), spans)
    data = np.frombuffer(packed, np.uint8)
    assert string_spans(data, spans) == n
    return Texts(data, spans)


def _fixed(entry: Entry, produced_time_ms: int) -> list[bytes]:
    """What is the same in every score, and what a row's code or version picks; see `Pieces`."""
    # What comes between the score and the digest takes few values: one text a code, made once.
    middles = [
        b',"decision":"%b","mode":"%b","late":%b,"feature_digest":"'
        % (DECISIONS[code % LATE].encode(), entry.mode.encode(), b"true" if late else b"false")
        if code % LATE < len(DECISIONS)
        else b""
        for late in (False, True)
        for code in range(LATE)
    ]
    assert len(middles) == CODES
    source = b',"source":{"topic":%b,"partition":%d,"offset":' % (
        orjson.dumps(entry.topic),
        entry.partition,
    )
    return [
        b'{"schema_version":%d,"transaction_id":"' % SCHEMA_VERSION,
        b'","account_id":"',
        b'","event_time":',
        b',"score":',
        b'},"produced_time":%d}' % produced_time_ms,
        *middles,
        *(b'","versions":' + orjson.dumps(each) + source for each in entry.versions),
    ]


def _scores(entry: Entry, produced_time_ms: int) -> Scores:
    n = len(entry)
    if not n:
        return NO_SCORES
    assert entry.offsets.min() >= 0 and entry.event_time.min() >= 0
    assert entry.codes.max() < CODES and entry.version.max() < len(entry.versions)
    fixed = _fixed(entry, produced_time_ms)
    ids = _spans(entry.transaction_ids, n, json_strings)
    accounts = _spans(entry.account_ids, n, json_strings)
    # Not-a-number is null.
    numbers = orjson.dumps(
        np.ascontiguousarray(entry.scores, np.float64), option=orjson.OPT_SERIALIZE_NUMPY
    )
    pieces = Pieces(
        fixed=np.frombuffer(b"".join(fixed), np.uint8),
        at=np.cumsum([0, *map(len, fixed)]),
        ids=ids.data,
        id_spans=ids.spans,
        accounts=accounts.data,
        account_spans=accounts.spans,
        times=np.ascontiguousarray(entry.event_time, np.int64),
        scores=np.frombuffer(numbers, np.uint8),
        codes=np.ascontiguousarray(entry.codes),
        digests=np.ascontiguousarray(entry.digests, np.uint64),
        versions=np.ascontiguousarray(entry.version, np.uint16),
        offsets=np.ascontiguousarray(entry.offsets, np.int64),
    )
    each = sum(map(len, fixed)) + 2 * MOST_DIGITS + HEX_DIGITS
    out = np.empty(len(ids.data) + len(accounts.data) + len(numbers) + n * each, np.uint8)
    bounds = np.empty(n + 1, np.int64)
    score_texts(pieces, out, bounds)
    assert bounds[n] <= len(out)
    keys = accounts
    if b"\\" in entry.account_ids:
        keys = _spans(entry.account_ids, n, plain_strings)
    return Scores(keys, out[: bounds[n]], bounds)


def _dead_message(dead: DeadRow, produced_time_ms: int) -> OutMessage:
    time = ("time", b"%d" % produced_time_ms)
    return OutMessage("transactions.dlq", dead.key, dead.value, (*dead.headers, time))


def rendered(packed: bytes, produced_time_ms: int) -> Rendered:
    """The messages of one outbox entry, ready to be made into Kafka records.

    Pure: the same entry and time give the same bytes. Raises StoreError on damaged bytes.
    """
    entry = unpack(packed)
    scores = _scores(entry, produced_time_ms)
    # The alert is its score's object with its own fields put in after them.
    others = [
        OutMessage("alerts", scores.key(row), scores.value(row)[:-1] + b"," + own[1:], ())
        for row, own in entry.alerts
    ]
    others += [_dead_message(dead, produced_time_ms) for dead in entry.dead]
    return Rendered(scores, others)


def render(packed: bytes, produced_time_ms: int) -> list[OutMessage]:
    """`rendered`, one by one: scores in offset order, then alerts, then dead letters."""
    scores, others = rendered(packed, produced_time_ms)
    return [
        *(OutMessage("scores", scores.key(i), scores.value(i), ()) for i in range(len(scores))),
        *others,
    ]


def scrub(packed: bytes, account: str, until: int | None = None) -> bytes:
    """The entry without this account: its scores become blanked dead letters `forgotten`.

    So do dead letters of the account, and those whose bytes mention it: what their senders wrote
    in the headers goes, too. Each transaction stays accounted for. Offsets from `until` on stay as
    they are: they came after the erasure. Unchanged bytes come back when it is not in the entry.
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
        _forgotten(entry, each.offset)
        if each.offset < end
        and (each.key == wanted or (each.value is not None and quoted in each.value))
        else each
        for each in entry.dead
    ]
    gone = sorted(set(range(len(entry))) - set(rows))
    if not gone and dead == list(entry.dead):
        return packed
    dead.extend(_forgotten(entry, int(entry.offsets[row])) for row in gone)
    kept = keep(entry, rows)
    return pack(replace(kept, dead=tuple(dead)))


def _forgotten(entry: Entry, offset: int) -> DeadRow:
    headers = (
        ("reason", Reject.FORGOTTEN.encode()),
        ("detail", b"erased before it was published"),
        ("topic", entry.topic.encode()),
        ("partition", b"%d" % entry.partition),
        ("offset", b"%d" % offset),
        ("schema_version", b"%d" % SCHEMA_VERSION),
    )
    return DeadRow(offset, None, b"", headers)


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
