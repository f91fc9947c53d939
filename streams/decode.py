"""Raw messages to validated columns: the first step of the pipeline.

In: a batch, and how far event_time may be ahead of the broker's time. Out: `Columns`.
Does not know state, features or scores; touches no clock: the broker's time comes with the batch.

Whole columns are cleared at once. A message that these quick tests cannot clear is a suspect, and
`validate.examine` decides about it alone: one bad message costs one slow look, changes nothing
about its neighbours, and no verdict depends on how the batches were cut.

1. Parse each message. What is no JSON object of bearable size is a suspect.
2. Scan the raw bytes (`scan.py`): escapes, bytes outside ASCII, card numbers, members given twice
   and deep nesting make suspects. The strings of the others are plain: only lengths are to test.
3. Test each field's column (`screen.py`), then keys and times.
4. Ask `examine` about the suspects; make arrays of the rest (`words.py`).
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from itertools import compress
from operator import itemgetter
from typing import Any, Final

import numpy as np
import orjson
from numpy.typing import NDArray

from streams import words
from streams.batch import Batch
from streams.codes import COUNTRY_CODES
from streams.columns import Columns, Rejected
from streams.scan import scan
from streams.schema import MAX_EVENT_TIME_MS, MAX_MESSAGE_BYTES, MAX_NESTING, REQUIRED_FIELDS
from streams.screen import screen
from streams.validate import CHECKS, check_headers, examine, tombstone_account
from streams.words import Fields

Document = dict[str, Any]
Mask = NDArray[np.bool_]

_KNOWN: Final = frozenset(CHECKS)


def _parse_one(value: bytes) -> Any:
    try:
        return orjson.loads(value)
    except orjson.JSONDecodeError:
        return None


def _parse(values: Sequence[bytes | None]) -> tuple[list[int], list[Document]]:
    """The messages that are JSON objects of bearable size: their rows, and the objects."""
    rows, bearable = _bearable(values)
    try:
        documents = list(map(orjson.loads, bearable))
    except orjson.JSONDecodeError:
        documents = list(map(_parse_one, bearable))
    if set(map(type, documents)) == {dict}:
        return rows, documents
    found = [type(document) is dict for document in documents]
    return list(compress(rows, found)), list(compress(documents, found))


def _bearable(values: Sequence[bytes | None]) -> tuple[list[int], list[bytes]]:
    rows, given = [], []
    for row, value in enumerate(values):
        if value is not None and len(value) <= MAX_MESSAGE_BYTES:
            rows.append(row)
            given.append(value)
    return rows, given


def _columns_of(documents: Sequence[Document], names: Iterable[str]) -> dict[str, list[Any]]:
    fields = {}
    for name in names:
        try:
            fields[name] = list(map(itemgetter(name), documents))
        except KeyError:
            fields[name] = [document.get(name) for document in documents]
    return fields


def _suspect_bytes(values: Sequence[bytes], documents: Sequence[Document], ext: Any) -> Mask:
    """Step 2."""
    n = len(values)
    bounds = np.zeros(n + 1, np.int64)
    np.cumsum(np.fromiter(map(len, values), np.int64, n), out=bounds[1:])
    flags, members, depth = np.empty(n, np.uint8), np.empty(n, np.int32), np.empty(n, np.int32)
    scan(np.frombuffer(b"".join(values), np.uint8), bounds, flags, members, depth)
    expected = np.fromiter(map(len, documents), np.int64, n)
    if ext is not None:
        expected += [len(value) if type(value) is dict else 0 for value in ext]
    # An ext of another form miscounts here, but is a suspect by its type already.
    suspect: Mask = (flags != 0) | (members != expected) | (depth > MAX_NESTING)
    return suspect


def _suspect_keys(keys: Sequence[bytes | None], accounts: Sequence[Any]) -> Mask:
    n = len(keys)
    try:
        encoded: list[Any] = list(map(str.encode, accounts))
    except TypeError:  # not all are strings: those rows are suspects already
        encoded = [each.encode() if type(each) is str else None for each in accounts]
    if encoded == keys:
        return np.zeros(n, np.bool_)
    return np.fromiter((a != b for a, b in zip(encoded, keys, strict=True)), np.bool_, n)


def _suspect_times(times: Sequence[Any], latest: NDArray[np.int64]) -> Mask:
    try:
        return np.fromiter(times, np.int64, len(times)) > latest
    except (TypeError, ValueError, OverflowError):  # those rows are suspects already
        return np.ones(len(times), np.bool_)


def _suspects(
    batch: Batch, rows: list[int], docs: list[Document], latest: Any
) -> tuple[Fields, Mask]:
    """Steps 2 and 3: the field columns of these rows, and which rows need a closer look."""
    n = len(rows)
    values: Any = batch.values if n == len(batch) else [batch.values[i] for i in rows]
    keys = batch.keys if n == len(batch) else [batch.keys[i] for i in rows]
    names = frozenset[str]().union(*docs)
    fields = _columns_of(docs, names & _KNOWN)
    suspect = screen(fields, n)
    suspect |= _suspect_bytes(values, docs, fields.get("ext"))
    suspect |= _suspect_keys(keys, fields.get("account_id", [None] * n))
    suspect |= _suspect_times(fields.get("event_time", [None] * n), latest[rows])
    if not names <= _KNOWN:
        suspect |= np.array([not document.keys() <= _KNOWN for document in docs])
    if batch.headers is not None:
        suspect |= np.array([check_headers(batch.headers[i]) is not None for i in rows], np.bool_)
    return fields, suspect


def decode(batch: Batch, max_future_ms: int) -> Columns:
    """Validate a batch. Never raises on what messages hold; each message is accounted for once."""
    known = batch.timestamps >= 0
    latest = np.where(known, batch.timestamps + max_future_ms, MAX_EVENT_TIME_MS)
    rows, documents = _parse(batch.values)
    fields, suspect = _suspects(batch, rows, documents, latest)
    refused = sorted({*range(len(batch))}.difference(rows)) if len(rows) < len(batch) else []
    refused += [rows[i] for i in np.flatnonzero(suspect)]
    rejects, tombstones = [], []
    for row in sorted(refused):
        account = tombstone_account(batch.keys[row]) if batch.values[row] is None else None
        if account is not None:
            tombstones.append((row, account))
            continue
        headers = batch.headers[row] if batch.headers is not None else ()
        fault = examine(batch.values[row], batch.keys[row], headers, int(latest[row]))
        if fault is not None:
            rejects.append(Rejected(row, *fault))
    if len(rejects) + len(tombstones) + len(rows) > len(batch):
        dropped = {reject.row for reject in rejects}
        kept = [row not in dropped for row in rows]
        rows, documents = list(compress(rows, kept)), list(compress(documents, kept))
        fields = {name: list(compress(column, kept)) for name, column in fields.items()}
    return _assemble(batch, rows, documents, fields, rejects, tombstones)


def _assemble(
    batch: Batch,
    rows: list[int],
    documents: list[Document],
    fields: Fields,
    rejects: list[Rejected],
    tombstones: list[tuple[int, str]],
) -> Columns:
    """Step 4: `Columns` of rows that are all valid."""
    n = len(rows)
    fields = fields if n else dict.fromkeys(REQUIRED_FIELDS, ())
    values: Any = batch.values if n == len(batch) else [batch.values[i] for i in rows]
    event_time = words.integers(fields["event_time"])
    amount = words.integers(fields["amount"])
    merchant, terminal, place = words.places(fields, n)
    return Columns(
        batch=batch,
        row=np.array(rows, np.int32),
        account_id=list(fields["account_id"]),
        transaction_id=list(fields["transaction_id"]),
        tenant_id=list(fields["tenant_id"]) if "tenant_id" in fields else [None] * n,
        words=words.pack(fields, values, event_time, amount, place),
        event_time=event_time,
        amount=amount,
        currency=list(fields["currency"]),
        merchant=merchant,
        terminal=terminal,
        billing_country=words.codes(fields, "billing_country", COUNTRY_CODES, n).astype(np.uint16),
        ip_country=words.codes(fields, "ip_country", COUNTRY_CODES, n).astype(np.uint16),
        latitude=words.microdegrees(fields, "latitude", n),
        longitude=words.microdegrees(fields, "longitude", n),
        docs=documents,
        rejects=rejects,
        tombstones=tombstones,
    )
