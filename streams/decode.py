"""Raw messages to validated columns: the first step of the pipeline.

In: batches, and how far event_time may be ahead of the broker's time. Out: `Columns` of each.
Does not know state, features or scores; touches no clock: the broker's time comes with the batch.

1. One compiled pass over the bytes (`kernels/message.py`) clears every plain message and takes its
   values; in a healthy stream these are all.
2. Messages with escapes (`\\u00e9`) are written without them and go through the same pass.
3. About each of the others `validate.examine` decides alone; what it accepts is parsed by orjson,
   and `words.take` puts the same values into the same arrays.
4. The arrays become columns (`words.py`).

So one bad message costs one slow look and changes nothing about its neighbours, and no verdict
depends on how the batches were cut. docs/decisions/0007-one-pass-over-the-bytes.md has the figures.

All of this is done for PART messages at a time and joined at the end: what one step touches is
then still in the processor's cache for the next. The batches of several partitions go through it
end to end: what a handful of messages costs is mostly the calls.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from itertools import chain, compress, pairwise
from typing import Any, Final

import numpy as np
import orjson
from numpy.typing import NDArray

from streams import words
from streams.batch import Batch, Headers, headers_of
from streams.columns import Columns, Documents, Rejected
from streams.kernels.fields import SPANNED, TABLES, WORDS_BYTES, Taken, no_follows, taken
from streams.kernels.message import clear
from streams.kernels.texts import put_apart
from streams.schema import MAX_EVENT_TIME_MS
from streams.validate import check_headers, examine, retold, tombstone_account

PART: Final = 1_024
_BEHIND: Final = bytes(WORDS_BYTES)

Mask = NDArray[np.bool_]
Times = NDArray[np.int64]


@dataclass(slots=True)
class _Part:
    """Neighbouring messages, and what is known of them. Lists are of one length.

    low:    number of the first among all
    latest: int64 [n], the newest event_time that is taken from each
    texts:  the columns of SPANNED; None where a message is not accepted or does not give it
    """

    low: int
    values: list[bytes | None]
    keys: list[bytes | None]
    headers: list[Headers] | None
    latest: Times
    taken: Taken
    accepted: Mask
    texts: list[list[str | None]]


def _joined(values: Sequence[bytes | None]) -> tuple[bytes, Times]:
    """The bytes one after another, and where each begins, with one end. A null has no bytes. Behind
    the last one are the bytes that the pass may look at."""
    given = [value or b"" for value in values]
    bounds = np.zeros(len(given) + 1, np.int64)
    np.cumsum(np.fromiter(map(len, given), np.int64, len(given)), out=bounds[1:])
    return b"".join([*given, _BEHIND]), bounds


def _texts(data: NDArray[np.uint8], spans: Times) -> list[str | None]:
    """The texts data[begin:end] of int64 [n, 2]; None for an empty one, which means: not given.
    None of them holds a byte 0, for cleared strings hold no control characters."""
    sizes = spans[:, 1] - spans[:, 0]
    if not sizes.any():
        return [None] * len(spans)
    out = np.empty(int(sizes.sum()) + len(spans), np.uint8)
    # A column of one row is contiguous by itself: a type of its own, compiled when it first comes.
    end = put_apart(data, np.ascontiguousarray(spans), out)
    texts: list[str | None] = list(out[:end].tobytes().decode().split("\0"))
    assert len(texts) == len(spans)
    return texts if sizes.all() else [text or None for text in texts]


def _quick(
    values: Sequence[bytes | None],
    keys: Sequence[bytes | None],
    headers: Sequence[Headers] | None,
    latest: Times,
) -> tuple[Taken, list[list[str | None]]]:
    """Step 1: what the pass takes, of those that are cleared; their texts, a list a column."""
    data, bounds = _joined(values)
    key_data, key_bounds = _joined(keys)
    out = taken(len(values))
    as_bytes = np.frombuffer(data, np.uint8)
    as_keys = np.frombuffer(key_data, np.uint8)
    clear(as_bytes, bounds, as_keys, key_bounds, latest, TABLES, no_follows(), out)
    if headers is not None:
        out.cleared[:] &= np.array([check_headers(each) is None for each in headers], np.bool_)
    if not out.cleared.all():
        out.spans[~out.cleared] = 0
    return out, [_texts(as_bytes, out.spans[:, column]) for column in range(len(SPANNED))]


def _without_escapes(part: _Part) -> None:
    """Step 2: accept what is cleared when it is told without escapes."""
    told = [(i, retold(part.values[i])) for i in np.flatnonzero(~part.accepted).tolist()]
    rows = [i for i, each in told if each is not None]
    if not rows:
        return
    found, texts = _quick(
        [each for _, each in told if each is not None],
        [part.keys[i] for i in rows],
        None if part.headers is None else [part.headers[i] for i in rows],
        part.latest[rows],
    )
    for k in np.flatnonzero(found.cleared).tolist():
        for column, own in zip(part.texts, texts, strict=True):
            column[rows[k]] = own[k]
    part.taken.put(np.array(rows)[found.cleared], found.only(found.cleared))


def _closer(part: _Part) -> tuple[list[Rejected], list[tuple[int, str]]]:
    """Step 3: accept or refuse what is not cleared; the rejects and the tombstones."""
    rejects: list[Rejected] = []
    tombstones: list[tuple[int, str]] = []
    for i in np.flatnonzero(~part.accepted).tolist():
        row, value, key = part.low + i, part.values[i], part.keys[i]
        account = tombstone_account(key) if value is None else None
        if account is not None:
            tombstones.append((row, account))
            continue
        headers = () if part.headers is None else part.headers[i]
        fault = examine(value, key, headers, int(part.latest[i]))
        if fault is not None:
            rejects.append(Rejected(row, *fault))
            continue
        document = orjson.loads(value)  # type: ignore[arg-type]
        words.take(document, i, part.taken)
        for column, name in zip(part.texts, SPANNED, strict=True):
            column[i] = document.get(name)
        part.accepted[i] = True
    return rejects, tombstones


def _only_accepted(part: _Part) -> None:
    """Drop the messages that are not accepted; `accepted` still says which of all they were."""
    keep = part.accepted
    chosen = keep.tolist()
    part.taken = part.taken.only(keep)
    part.values = list(compress(part.values, chosen))
    part.texts = [list(compress(column, chosen)) for column in part.texts]


def _columns(part: _Part) -> dict[str, Any]:
    """Step 4: the columns of the accepted messages."""
    if not part.accepted.all():
        _only_accepted(part)
    values = part.taken
    return {
        "row": (np.flatnonzero(part.accepted) + part.low).astype(np.int32),
        **dict(zip(SPANNED, part.texts, strict=True)),
        "words": words.pack(values, part.values),  # type: ignore[arg-type]
        "event_time": np.ascontiguousarray(values.numbers[:, 0]),
        "amount": np.ascontiguousarray(values.numbers[:, 1]),
        "currency": words.currencies(values),
        "merchant": np.ascontiguousarray(words.hashes(values, "merchant_id")),
        "terminal": np.ascontiguousarray(words.hashes(values, "terminal_id")),
        "billing_country": words.codes(values, "billing_country").astype(np.uint16),
        "ip_country": words.codes(values, "ip_country").astype(np.uint16),
        "latitude": np.ascontiguousarray(values.position[:, 0]),
        "longitude": np.ascontiguousarray(values.position[:, 1]),
        "docs": part.values,
    }


def _join(columns: Sequence[Any]) -> Any:
    if len(columns) == 1:
        return columns[0]
    if isinstance(columns[0], np.ndarray):
        return np.concatenate(columns)
    return list(chain.from_iterable(columns))


def decode(batch: Batch, max_future_ms: int) -> Columns:
    """Validate a batch. Never raises on what messages hold; each message is accounted for once."""
    return decode_all([batch], max_future_ms)[0]


def decode_all(batches: Sequence[Batch], max_future_ms: int) -> list[Columns]:
    """Validate batches as if each came alone; see `decode`."""
    if not batches:
        return []
    columns, rejects, tombstones = _end_to_end(batches, max_future_ms)
    if len(batches) == 1:
        columns["docs"] = Documents(columns["docs"])
        return [Columns(batch=batches[0], **columns, rejects=rejects, tombstones=tombstones)]
    found: list[Columns] = []
    ends = np.cumsum([len(batch) for batch in batches])
    places = [0, *np.searchsorted(columns["row"], ends).tolist()]
    for batch, end, (begin, stop) in zip(batches, ends.tolist(), pairwise(places), strict=True):
        low = end - len(batch)
        own = {name: column[begin:stop] for name, column in columns.items()}
        own["row"] = own["row"] - np.int32(low)
        own["docs"] = Documents(own["docs"])
        mine = [replace(each, row=each.row - low) for each in rejects if low <= each.row < end]
        erased = [(row - low, account) for row, account in tombstones if low <= row < end]
        found.append(Columns(batch=batch, **own, rejects=mine, tombstones=erased))
    return found


def _end_to_end(
    batches: Sequence[Batch], max_future_ms: int
) -> tuple[dict[str, Any], list[Rejected], list[tuple[int, str]]]:
    """Columns by name, rejects and tombstones of all; rows are numbered through."""
    times = _join([batch.timestamps for batch in batches])
    latest = np.where(times >= 0, times + max_future_ms, MAX_EVENT_TIME_MS)
    values = _join([batch.values for batch in batches])
    keys = _join([batch.keys for batch in batches])
    headers = headers_of(batches)
    parts: list[dict[str, Any]] = []
    rejects: list[Rejected] = []
    tombstones: list[tuple[int, str]] = []
    for low in range(0, max(len(values), 1), PART):
        here = slice(low, low + PART)
        given = values[here], keys[here], None if headers is None else headers[here], latest[here]
        found, texts = _quick(*given)
        part = _Part(low, *given, found, found.cleared, texts)
        if not part.accepted.all():
            _without_escapes(part)
            refused, erased = _closer(part)
            rejects += refused
            tombstones += erased
        parts.append(_columns(part))
    return {name: _join([each[name] for each in parts]) for name in parts[0]}, rejects, tombstones
