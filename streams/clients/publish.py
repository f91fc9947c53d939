"""What `fraudstream publish` does: a file to its topic, at full speed or at a pace.

In: a file or standard input, a pace. Out: messages on Kafka and a count of them.
Does not know how records are sent (`publisher.py`) or parsed (`files.py`, `encode.py`).
"""

from __future__ import annotations

import sys
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import orjson
from numpy.typing import NDArray

from streams.adapters.reading import no_text
from streams.clients.encode import messages
from streams.clients.files import FileFormat, batches, check_columns, format_of, lines
from streams.clients.publisher import Publisher
from streams.errors import ConfigError, FormatError
from streams.labels import decode_labels, fault
from streams.schema import MAX_EVENT_TIME_MS, MIN_EVENT_TIME_MS

LINES = 4_096
"""Lines of a file sent together; those of a pipe are sent one by one, as they come."""
SLICE = 2_048
EDGE_MS = 1 << 63
"""The times of messages are kept in 64 bits."""
LONGEST_NAP_S = 0.2
ONE_A_LINE = "Write one object a line, as `jq -c .` does, and `jq -c '.[]'` of a list"


@dataclass(frozen=True, slots=True)
class Chunk:
    """Messages ready to send. times: event_time, or label_time of labels, in ms; 0 where none."""

    topic: str
    keys: list[bytes | None]
    values: list[bytes]
    times: NDArray[np.int64]


@dataclass(frozen=True, slots=True)
class Pace:
    """At most `rate` messages a second, or event time `speed` times as fast; 0 is no limit."""

    rate: float = 0.0
    speed: float = 0.0

    def __post_init__(self) -> None:
        if self.rate and self.speed:
            raise ConfigError("--rate and --speed exclude each other")
        if self.rate < 0 or self.speed < 0:
            raise ConfigError("--rate and --speed are above 0")


def _column_chunks(source: Path, form: FileFormat) -> Iterator[Chunk]:
    for batch in batches(source, source.name, form):
        labels = "label_id" in batch.schema.names
        keys, values = messages(batch)
        times = batch.column("label_time" if labels else "event_time")
        yield Chunk(
            "labels" if labels else "transactions",
            keys,
            values,
            np.asarray(times.fill_null(0).to_numpy(zero_copy_only=False), np.int64),
        )


def _row(number: int, line: bytes, name: str, first: bool) -> tuple[bytes | None, int, bool]:
    """Key, time (0 for none of 64 bits) and whether it is a label. Raises FormatError for what is
    no JSON, and for a first line without account_id: the file is another one. Later lines of any
    JSON are sent as they are, without a key where they name none: what breaks the schema is for the
    service to answer."""
    try:
        document = orjson.loads(line)
    except orjson.JSONDecodeError as error:
        raise (no_text(name, line) if first else None) or FormatError(
            f"{name}, line {number}: not JSON: {error.msg}, at character {error.pos + 1}",
            remedy=ONE_A_LINE if line in (b"{", b"[") else None,
        ) from None
    if first and isinstance(document, list):
        raise FormatError(f"{name}, line {number}: a list, not an object", remedy=ONE_A_LINE)
    if not isinstance(document, dict):
        document = {}
    account = document.get("account_id")
    if first and not isinstance(account, str):
        raise FormatError(
            f"{name}, line {number}, field account_id: missing or not a string",
            remedy="Each line is one message: docs/schema.md has its fields",
        )
    label = "label_id" in document
    moment = document.get("label_time" if label else "event_time")
    key = account.encode() if isinstance(account, str) else None
    if not (isinstance(moment, int) and -EDGE_MS <= moment < EDGE_MS):
        moment = 0
    return key, moment, label


def _line_chunks(source: Path | None) -> Iterator[Chunk]:
    """Lines are sent byte for byte. All must be of one topic."""
    name = "standard input" if source is None else source.name
    together = 1 if source is None else LINES
    keys: list[bytes | None] = []
    values: list[bytes] = []
    times: list[int] = []
    topic = None
    with sys.stdin.buffer if source is None else source.open("rb") as stream:
        try:
            for number, line in lines(stream, name):
                key, moment, label = _row(number, line, name, topic is None)
                found = "labels" if label else "transactions"
                if topic is not None and key is None:
                    found = topic  # it names nothing, and goes where its neighbours go
                if topic not in (None, found):
                    raise FormatError(f"{name}, line {number}: {found} among {topic}")
                topic = found
                keys.append(key)
                values.append(line)
                times.append(moment)
                if len(keys) == together:
                    yield Chunk(topic, keys, values, np.array(times, np.int64))
                    keys, values, times = [], [], []
        except FormatError:
            # What stands before the fault is sent, so that the line tells where to go on.
            if keys and topic is not None:
                yield Chunk(topic, keys, values, np.array(times, np.int64))
            raise
        if keys and topic is not None:
            yield Chunk(topic, keys, values, np.array(times, np.int64))


def chunks(source: Path | None, form: str | None) -> Iterator[Chunk]:
    """The messages of a file, or of standard input (JSON lines) when `source` is None.

    Raises FormatError for a label that is none: unlike a transaction it would get no answer.
    """
    name = "standard input" if source is None else source.name
    return _usable(_all_chunks(source, form), name)


def labels_in(path: Path) -> Iterator[bytes]:
    """The messages of a file of labels. Raises ConfigError and FormatError."""
    for chunk in chunks(path, None):
        if chunk.topic != "labels":
            raise FormatError(f"{path} holds {chunk.topic}, not labels")
        yield from chunk.values


def _usable(found: Iterator[Chunk], name: str) -> Iterator[Chunk]:
    """The same; what stands before a label that is none is sent."""
    seen = 0
    for chunk in found:
        if chunk.topic == "labels" and decode_labels(chunk.values).bad:
            good, why = next(
                (at, why) for at, value in enumerate(chunk.values) if (why := fault(value))
            )
            if good:
                yield Chunk(chunk.topic, chunk.keys[:good], chunk.values[:good], chunk.times[:good])
            raise FormatError(
                f"{name}, message {seen + good + 1}: no label, and nobody would read it: {why}",
                remedy="docs/schema.md has the fields and their rules",
            )
        yield chunk
        seen += len(chunk.values)


def _all_chunks(source: Path | None, form: str | None) -> Iterator[Chunk]:
    if source is None:
        if form not in (None, "jsonl"):
            raise ConfigError("standard input is read as JSON lines", remedy="Give a file")
        if sys.stdin is None:
            raise ConfigError("standard input is closed", remedy="Give a file")
        return _line_chunks(None)
    if source.is_dir():
        raise ConfigError(f"{source} is a folder", remedy="Give one file")
    if not source.exists():
        raise ConfigError(f"no file {source}")
    found = format_of(source, form)
    return _line_chunks(source) if found == "jsonl" else _column_chunks(source, found)


def count_rows(source: Path | None, form: str | None) -> int | None:
    """How many messages there will be, where that is known beforehand."""
    if source is None or not source.exists() or format_of(source, form) != "parquet":
        return None
    import pyarrow as pa
    import pyarrow.parquet as pq

    try:
        meta = pq.read_metadata(source)
    except (pa.ArrowException, OSError) as error:
        raise FormatError(f"{source.name} is not a Parquet file: {error}") from None
    check_columns(meta.schema.to_arrow_schema().names, source.name)
    return int(meta.num_rows)


class _Clock:
    """When each message is due, in seconds since the first one."""

    def __init__(self, pace: Pace) -> None:
        self._pace = pace
        self._sent = 0
        self._first_ms: int | None = None
        self._start: float | None = None

    def due(self, chunk: Chunk) -> NDArray[np.float64] | None:
        """Due times of the chunk's messages, never falling; None is at once."""
        n = len(chunk.keys)
        if self._start is None:
            self._start = time.monotonic()
        if self._pace.rate:
            moments = (self._sent + np.arange(n)) / self._pace.rate
            self._sent += n
            return moments
        if not self._pace.speed:
            return None
        # A time that no event can have (none, or in other units) is no reason to wait.
        known = (chunk.times >= MIN_EVENT_TIME_MS) & (chunk.times <= MAX_EVENT_TIME_MS)
        if self._first_ms is None:
            if not known.any():
                return None
            self._first_ms = int(chunk.times[known][0])
        # What is behind the chunk before is due at once, as that one was sent.
        rising = np.maximum.accumulate(np.where(known, chunk.times, 0))
        return (rising - self._first_ms) / (1_000.0 * self._pace.speed)

    def now(self) -> float:
        """Seconds since the first chunk was there."""
        assert self._start is not None
        return time.monotonic() - self._start


def publish(
    publisher: Publisher,
    found: Iterator[Chunk],
    pace: Pace,
    topic: str | None = None,
    limit: int | None = None,
    progress: Callable[[int], None] = lambda n: None,
) -> int:
    """Send every message (the first `limit`), in order; returns how many. `progress` gets counts
    of what is queued.

    Call `publisher.flush()` or leave its context to know that they arrived. Raises FormatError
    where the messages are not of `topic`.
    """
    clock = _Clock(pace)
    total = 0
    for chunk in found:
        if topic not in (None, chunk.topic):
            raise FormatError(
                f"these are {chunk.topic}, and nobody would answer them among {topic}",
                remedy="leave --topic away: what the messages are decides",
            )
        name = publisher.topic(chunk.topic)
        n = len(chunk.keys) if limit is None else min(len(chunk.keys), limit - total)
        due = clock.due(chunk)
        at = 0
        while at < n:
            end = min(n, at + SLICE)
            if due is not None:
                ready = int(np.searchsorted(due, clock.now(), side="right"))
                if ready <= at:
                    publisher.wait(min(LONGEST_NAP_S, max(0.0, due[at] - clock.now())))
                    continue
                end = min(end, ready)
            publisher.send_encoded(name, chunk.keys[at:end], chunk.values[at:end])
            progress(end - at)
            at = end
        total += n
        if limit is not None and total >= limit:
            break
    return total
