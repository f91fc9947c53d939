"""What `fraudstream convert` does: a foreign file to schema v1 files, in event time order.

In: a format, a path. Out: a file of transactions and a file of labels.
Does not know any format. A source that is not in time order is dealt into spans of event time on
disk and sorted span by span, so memory is bounded by the fullest span. A format that is sorted as
published is only watched: files joined or shuffled by a user are met at the first step back.
Both files are written as drafts (`.part`) and get their names at the end: a run that fails leaves
what stood there before.
"""

from __future__ import annotations

import contextlib
import os
import secrets
import shutil
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from model.errors import writing
from streams.adapters.canonical import LABEL
from streams.adapters.formats import Adapter, Converted, adapter
from streams.clients.files import FileFormat, format_of
from streams.clients.writer import Writer, drafted
from streams.errors import ConfigError, FormatError
from streams.schema import DAY_MS, MAX_EVENT_TIME_MS, MCC_DIGITS, MIN_EVENT_TIME_MS

SPAN_MS = 30 * DAY_MS
KEY_BYTES = 32
MAX_SPANS = 2_000
"""More of them is a broken time column, not a data set."""


class Counts(NamedTuple):
    """What was written. Of that the service will refuse: `outside`, transactions at times that the
    schema does not have; `uncoded`, those whose MCC is too long for it."""

    transactions: int = 0
    labels: int = 0
    outside: int = 0
    uncoded: int = 0


class _StepBack(Exception):
    """An event before the one that precedes it, in a format that is sorted as published."""


def convert(name: str, source: Path, out: Path, labels: Path, key: bytes) -> Counts:
    """Write both files, or neither; returns how many transactions and labels.

    Raises ConfigError and FormatError; OSError on a full disk.
    """
    found = adapter(name)
    if source.is_dir():
        raise ConfigError(f"{source} is a folder", remedy="Give one file")
    if not source.is_file():
        raise ConfigError(f"no file {source}")
    _check_apart(source, out, labels)
    with drafted(out, labels) as drafts:
        return _drafted(found, source, key, drafts, (format_of(out), format_of(labels)))


def _check_apart(source: Path, out: Path, labels: Path) -> None:
    """Raises ConfigError when a file would be written over the source, or over the other one."""
    for target in (out, labels):
        if target.resolve() == source.resolve():
            raise ConfigError(
                f"{target} is the file to convert, and would be lost",
                remedy="name another file for the result",
            )
    if out.resolve() == labels.resolve():
        raise ConfigError(
            f"{out} would hold the transactions and the labels", remedy="name two files"
        )


def _drafted(
    found: Adapter,
    source: Path,
    key: bytes,
    drafts: tuple[Path, ...],
    forms: tuple[FileFormat, ...],
) -> Counts:
    """Write the drafts of transactions and labels in time order."""
    if found.SORTED:
        with contextlib.suppress(_StepBack):
            return _write(_watched(found.rows(source, key)), drafts, forms, source.name)
    pieces = _sorted_whole(found, source, key, drafts[0].parent)
    return _write(pieces, drafts, forms, source.name)


def token_key(path: Path, *, make: bool) -> bytes:
    """The secret in a file; made of random bytes when it is missing and `make` is set.

    Raises ConfigError for a file that is missing, none, or too short to be a secret; OSError, which
    names it, where the system refuses it.
    """
    try:
        with writing(path):
            if make and not path.exists():
                _make_key(path)
            key = path.read_bytes()
    except (FileNotFoundError, FileExistsError, IsADirectoryError, NotADirectoryError) as error:
        raise ConfigError(f"cannot use the key file {path}: {error.strerror}") from None
    if len(key) < KEY_BYTES // 2:
        raise ConfigError(f"the key in {path} is shorter than {KEY_BYTES // 2} bytes")
    return key


def _make_key(path: Path) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    made = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
    try:
        with os.fdopen(made, "wb") as out:
            out.write(secrets.token_bytes(KEY_BYTES))
    except OSError:
        path.unlink()  # Half a key would be in the way of the next run.
        raise


def _write(
    pieces: Iterator[Converted],
    drafts: tuple[Path, ...],
    forms: tuple[FileFormat, ...],
    name: str,
) -> Counts:
    first = next(pieces, None)
    if first is None:
        raise FormatError(f"{name} has no rows")
    counts = Counts()
    with (
        Writer(drafts[0], first.transactions.schema, forms[0]) as left,
        Writer(drafts[1], LABEL, forms[1]) as right,
    ):
        piece: Converted | None = first
        while piece is not None:
            left.write(piece.transactions)
            right.write(piece.labels)
            times = piece.transactions.column("event_time").to_numpy()
            odd = (times < MIN_EVENT_TIME_MS) | (times > MAX_EVENT_TIME_MS)
            counts = Counts(
                counts.transactions + len(piece.transactions),
                counts.labels + len(piece.labels),
                counts.outside + int(odd.sum()),
                counts.uncoded + _uncoded(piece.transactions),
            )
            piece = next(pieces, None)
    return counts


def _uncoded(batch: pa.RecordBatch) -> int:
    """Transactions whose MCC has more digits than one has."""
    if "mcc" not in batch.schema.names:
        return 0
    longer = pc.greater(pc.utf8_length(batch.column("mcc")), MCC_DIGITS)
    return pc.sum(longer).as_py() or 0


def _watched(pieces: Iterator[Converted]) -> Iterator[Converted]:
    """The pieces as they are. Raises _StepBack at the first one that is not in time order."""
    newest = np.iinfo(np.int64).min
    for piece in pieces:
        times = piece.transactions.column("event_time").to_numpy()
        if len(times):
            if times[0] < newest or (np.diff(times) < 0).any():
                raise _StepBack
            newest = times[-1]
        yield piece


def _sorted_whole(found: Adapter, source: Path, key: bytes, beside: Path) -> Iterator[Converted]:
    try:
        work = Path(tempfile.mkdtemp(prefix=".convert-", dir=beside))
    except OSError as error:
        raise ConfigError(f"cannot write beside {beside}: {error.strerror}") from None
    try:
        yield from _sorted_spans(found.rows(source, key), work)
    finally:
        shutil.rmtree(work, ignore_errors=True)


def _sorted_spans(pieces: Iterator[Converted], work: Path) -> Iterator[Converted]:
    """Deal into spans, then give each span back sorted by event_time, ties as in the source."""
    spans: dict[int, tuple[pq.ParquetWriter, pq.ParquetWriter]] = {}
    schema: pa.Schema | None = None
    for piece in pieces:
        schema = piece.transactions.schema
        for side, (batch, column) in enumerate(
            ((piece.transactions, "event_time"), (piece.labels, "label_time"))
        ):
            span_of = batch.column(column).to_numpy() // SPAN_MS
            for span in np.unique(span_of).tolist():
                if span not in spans:
                    if len(spans) == MAX_SPANS:
                        raise FormatError(f"event times span more than {MAX_SPANS} months")
                    spans[span] = (
                        pq.ParquetWriter(work / f"{span}-0", schema),
                        pq.ParquetWriter(work / f"{span}-1", LABEL),
                    )
                spans[span][side].write_batch(batch.filter(pa.array(span_of == span)))
    for pair in spans.values():
        for writer in pair:
            writer.close()
    for span in sorted(spans):
        yield Converted(
            _sorted(work / f"{span}-0", "event_time"), _sorted(work / f"{span}-1", "label_time")
        )


def _sorted(path: Path, column: str) -> pa.RecordBatch:
    table = pq.read_table(path).combine_chunks()
    order = np.argsort(table.column(column).to_numpy(), kind="stable")
    taken = table.take(pa.array(order)).combine_chunks()
    batches = taken.to_batches()
    return batches[0] if batches else pa.RecordBatch.from_pylist([], schema=table.schema)
