"""Raw messages to validated columns: the first step of the pipeline.

In: a batch, and how far event_time may be ahead of the broker's time. Out: `Columns`.
Does not know state, features or scores; touches no clock: the broker's time comes with the batch.

Whole columns are cleared at once. A message that these quick tests cannot clear is a suspect, and
`validate.examine` decides about it alone: one bad message costs one slow look, changes nothing
about its neighbours, and no verdict depends on how the batches were cut.

1. Parse each message. What is no JSON object of bearable size is a suspect.
2. Scan the raw bytes (`scan.py`): card numbers, members given twice and deep nesting make suspects;
   so do escapes and bytes outside ASCII, unless a look at the strings finds them plain. The strings
   of the others are plain: only their lengths are to test.
3. Test each field's column (`screen.py`), then keys and times.
4. Ask `examine` about the suspects; make arrays of the rest (`words.py`).

All of this is done for PART messages at a time and joined at the end: what one step touches is
then still in the processor's cache for the next.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import chain, compress, repeat
from operator import itemgetter
from typing import Any, Final

import numpy as np
import orjson
from numpy.typing import NDArray

from streams import words
from streams.batch import Batch
from streams.columns import Columns, Rejected
from streams.scan import UNCLEAN, scan
from streams.schema import MAX_EVENT_TIME_MS, MAX_MESSAGE_BYTES, MAX_NESTING, REQUIRED_FIELDS
from streams.screen import screen
from streams.validate import CHECKS, check_headers, examine, surely_plain, tombstone_account
from streams.words import Fields

PART: Final = 1_024

Document = dict[str, Any]
Mask = NDArray[np.bool_]
Times = NDArray[np.int64]

_KNOWN: Final = frozenset(CHECKS)


@dataclass(slots=True)
class _Part:
    """Messages of a batch that are JSON objects of bearable size; all lists of one length."""

    rows: Sequence[int]
    values: Sequence[bytes]
    keys: Sequence[bytes | None]
    documents: Sequence[Document]
    fields: Fields

    def __len__(self) -> int:
        return len(self.rows)

    def numbers(self) -> NDArray[np.int32]:
        """`rows` as an array."""
        if isinstance(self.rows, range):
            return np.arange(self.rows.start, self.rows.stop, dtype=np.int32)
        return np.array(self.rows, np.int32)

    def only(self, keep: Sequence[bool]) -> _Part:
        """The messages marked in `keep`."""
        return _Part(
            list(compress(self.rows, keep)),
            list(compress(self.values, keep)),
            list(compress(self.keys, keep)),
            list(compress(self.documents, keep)),
            {name: list(compress(column, keep)) for name, column in self.fields.items()},
        )


def _parse_one(value: bytes | None) -> Any:
    """None where there is no JSON of bearable size."""
    if value is None or len(value) > MAX_MESSAGE_BYTES:
        return None
    try:
        return orjson.loads(value)
    except orjson.JSONDecodeError:
        return None


def _parse(batch: Batch, low: int, high: int) -> _Part:
    """Step 1, for the rows from `low` to before `high`; the fields are left empty."""
    values: Sequence[Any] = batch.values[low:high]
    try:
        bearable = max(map(len, values), default=0) <= MAX_MESSAGE_BYTES
        documents = list(map(orjson.loads if bearable else _parse_one, values))
    except (TypeError, orjson.JSONDecodeError):  # a null, or no JSON: see which
        documents = list(map(_parse_one, values))
    part = _Part(range(low, high), values, batch.keys[low:high], documents, {})
    if set(map(type, documents)) == {dict}:
        return part
    return part.only([type(document) is dict for document in documents])


def _columns_of(documents: Sequence[Document]) -> tuple[Fields, bool]:
    """One sequence for each known field that occurs; are there unknown ones?"""
    shape = tuple(documents[0])
    if len(shape) > 1 and set(map(len, documents)) == {len(shape)}:
        # One publisher writes one shape: if each has as many members, and these, it has no others.
        try:
            columns = zip(*map(itemgetter(*shape), documents), strict=True)
            fields: dict[str, Sequence[Any]] = dict(zip(shape, columns, strict=True))
        except KeyError:
            fields = _mixed_columns(documents)
    else:
        fields = _mixed_columns(documents)
    known = {name: column for name, column in fields.items() if name in _KNOWN}
    return known, len(known) < len(fields)


def _mixed_columns(documents: Sequence[Document]) -> dict[str, Sequence[Any]]:
    fields: dict[str, Sequence[Any]] = {}
    for name in frozenset[str]().union(*documents):
        try:
            fields[name] = list(map(itemgetter(name), documents))
        except KeyError:
            fields[name] = list(map(dict.get, documents, repeat(name)))
    return fields


def _suspect_bytes(part: _Part) -> Mask:
    """Step 2."""
    n = len(part)
    bounds = np.zeros(n + 1, np.int64)
    np.cumsum(np.fromiter(map(len, part.values), np.int64, n), out=bounds[1:])
    flags, members, depth = np.empty(n, np.uint8), np.empty(n, np.int32), np.empty(n, np.int32)
    scan(np.frombuffer(b"".join(part.values), np.uint8), bounds, flags, members, depth)
    expected = np.fromiter(map(len, part.documents), np.int64, n)
    if "ext" in part.fields:
        # An ext that is no object miscounts here, but is a suspect by its type already.
        expected += [len(ext) if type(ext) is dict else 0 for ext in part.fields["ext"]]
    suspect: Mask = (flags > UNCLEAN) | (members != expected) | (depth > MAX_NESTING)
    for i in np.flatnonzero((flags == UNCLEAN) & ~suspect).tolist():
        suspect[i] = not surely_plain(part.values[i], part.documents[i])
    return suspect


def _suspect_keys(part: _Part) -> Mask:
    accounts = part.fields.get("account_id", ())
    try:
        encoded: list[Any] = list(map(str.encode, accounts))
    except TypeError:  # not all are strings: those rows are suspects already
        encoded = [each.encode() if type(each) is str else None for each in accounts]
    if encoded == part.keys:
        return np.zeros(len(part), np.bool_)
    pairs = zip(encoded, part.keys, strict=False)
    return np.fromiter((a != b for a, b in pairs), np.bool_, len(encoded))


def _suspect_times(part: _Part, latest: Times) -> Mask:
    times = part.fields.get("event_time", ())
    try:
        return np.fromiter(times, np.int64, len(times)) > latest
    except (TypeError, ValueError, OverflowError):  # those rows are suspects already
        late = [type(time) is int and time > int(latest[i]) for i, time in enumerate(times)]
        return np.array(late, np.bool_)


def _suspects(part: _Part, batch: Batch, latest: Times) -> list[int]:
    """Steps 2 and 3: fill in the fields; the rows of the batch that need a closer look."""
    n = len(part)
    part.fields, strange = _columns_of(part.documents)
    if not part.fields.keys() >= set(REQUIRED_FIELDS):
        return list(part.rows)
    suspect = screen(part.fields, n) | _suspect_bytes(part)
    suspect |= _suspect_keys(part)
    suspect |= _suspect_times(part, latest[part.numbers()])
    if strange:
        suspect |= np.array([not document.keys() <= _KNOWN for document in part.documents])
    if batch.headers is not None:
        headers = map(batch.headers.__getitem__, part.rows)
        suspect |= np.array([check_headers(each) is not None for each in headers])
    return [part.rows[i] for i in np.flatnonzero(suspect).tolist()]


def _assemble(part: _Part) -> dict[str, Any]:
    """Step 4: the columns of messages that are all valid."""
    n = len(part)
    fields = part.fields if n else dict.fromkeys(REQUIRED_FIELDS, ())
    event_time = words.integers(fields["event_time"])
    amount = words.integers(fields["amount"])
    merchant, terminal, place = words.places(fields, n)
    return {
        "row": part.numbers(),
        "account_id": fields["account_id"],
        "transaction_id": fields["transaction_id"],
        "tenant_id": fields.get("tenant_id", (None,) * n),
        "words": words.pack(fields, part.values, event_time, amount, place),
        "event_time": event_time,
        "amount": amount,
        "currency": fields["currency"],
        "merchant": merchant,
        "terminal": terminal,
        "billing_country": words.countries(fields, "billing_country", n),
        "ip_country": words.countries(fields, "ip_country", n),
        "latitude": words.microdegrees(fields, "latitude", n),
        "longitude": words.microdegrees(fields, "longitude", n),
        "docs": part.documents,
    }


def _decode_part(
    batch: Batch, low: int, high: int, latest: Times
) -> tuple[dict[str, Any], list[Rejected], list[tuple[int, str]]]:
    """The columns of the accepted messages of these rows, and the others."""
    part = _parse(batch, low, high)
    suspects = _suspects(part, batch, latest) if len(part) else []
    if len(part) < high - low:
        suspects = sorted({*range(low, high)}.difference(part.rows).union(suspects))
    rejects: list[Rejected] = []
    tombstones: list[tuple[int, str]] = []
    for row in suspects:
        account = tombstone_account(batch.keys[row]) if batch.values[row] is None else None
        if account is not None:
            tombstones.append((row, account))
            continue
        headers = batch.headers[row] if batch.headers is not None else ()
        fault = examine(batch.values[row], batch.keys[row], headers, int(latest[row]))
        if fault is not None:
            rejects.append(Rejected(row, *fault))
    dropped = {each.row for each in rejects}
    if not dropped.isdisjoint(part.rows):
        part = part.only([row not in dropped for row in part.rows])
    return _assemble(part), rejects, tombstones


def _join(columns: Sequence[Any]) -> Any:
    if isinstance(columns[0], np.ndarray):
        return columns[0] if len(columns) == 1 else np.concatenate(columns)
    return list(chain.from_iterable(columns))


def decode(batch: Batch, max_future_ms: int) -> Columns:
    """Validate a batch. Never raises on what messages hold; each message is accounted for once."""
    n = len(batch)
    known = batch.timestamps >= 0
    latest = np.where(known, batch.timestamps + max_future_ms, MAX_EVENT_TIME_MS)
    cuts = range(0, max(n, 1), PART)
    decoded = [_decode_part(batch, low, min(low + PART, n), latest) for low in cuts]
    columns = [each for each, _, _ in decoded]
    return Columns(
        batch=batch,
        **{name: _join([each[name] for each in columns]) for name in columns[0]},
        rejects=[each for _, rejects, _ in decoded for each in rejects],
        tombstones=[each for _, _, tombstones in decoded for each in tombstones],
    )
