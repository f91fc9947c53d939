"""Sources of a replay: a recording, or plain files of transactions and labels.

In: a path. Out: shards, and each shard's messages as micro-batches in offset order; labels.
Does not know the pipeline. An account is in one shard only, whatever the source.

A plain file is first laid out as a recording, with the very bytes that `publish` would send. It has
no partitions or offsets of its own: the partition is a checksum of the key, the offset the number
of the row in the file. Features, digests and alert ids depend on neither.
"""

from __future__ import annotations

import hashlib
import logging
import zlib
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from functools import cache
from pathlib import Path
from typing import Protocol

import numpy as np
import pyarrow.compute as pc

from model.errors import writing
from streams.batch import Batch
from streams.clients.publish import chunks, labels_in
from streams.errors import ConfigError, FormatError
from streams.labels import Labels, decode_labels
from streams.offline.recording import FOLLOWED, Manifest, RecordedFile, Recording, to_table

FILE_PARTITIONS = 8
FILE_ROWS = 65_536
FILE = "file"
"""Names, in a manifest's origin, the plain file that was laid out; a log's origin has none."""
_Rows = tuple[list[int], list[bytes], list[bytes]]
_logger = logging.getLogger(__name__)


class Source(Protocol):
    """What replay reads. Picklable: a worker process opens it again."""

    def shards(self) -> list[int]:
        """Shard numbers, ascending."""

    def batches(self, shard: int, size: int) -> Iterator[Batch]:
        """The shard's transactions."""

    def labels(self) -> Iterator[bytes]:
        """Raw label messages, any order."""

    def tombstones(self) -> Iterator[tuple[bytes, int]]:
        """Key and offset of each transaction without a value: the request to forget an account."""

    def rows(self, shard: int) -> int:
        """Messages of the shard, for progress; 0 when it is not known without reading."""

    def identity(self) -> str:
        """A digest of the content, however it is stored."""

    def location(self) -> str:
        """Path or URL of the recording."""

    def of_a_log(self) -> bool:
        """Are its partitions and offsets those of a topic? Those of a plain file are made up."""

    def unfinished(self) -> str:
        """What to say of one that holds less than was to be recorded; of a whole one nothing."""

    def manifest(self) -> Manifest:
        """What it held when it was opened: a recorder may be adding to it."""


@dataclass(frozen=True)
class RecordingSource:
    """A recording as it was when it was opened; shards are its partitions. `more`: a file with
    labels beside its own."""

    path: str
    more: Path | None = None
    held: Manifest = field(init=False, compare=False, repr=False)

    def __post_init__(self) -> None:
        # Read once: of one that grows, every pass and every process has to see the same.
        object.__setattr__(self, "held", Recording(self.path).manifest())

    def _open(self) -> tuple[Recording, Manifest]:
        return Recording(self.path), self.held

    def manifest(self) -> Manifest:
        """What it held when it was opened."""
        return self.held

    def location(self) -> str:
        """Path or URL of the recording."""
        return self.path

    def of_a_log(self) -> bool:
        """Not when a plain file was laid out (`spool`)."""
        return FILE not in self.held.origin

    def unfinished(self) -> str:
        """What to say of a recording that grows or was broken off; of a whole one nothing."""
        manifest = self.held
        if manifest.complete:
            return ""
        if FOLLOWED in manifest.origin:
            counts = (f"{manifest.rows(name):,} {name}" for name in ("transactions", "labels"))
            return (
                f"{self.path} is still being written by `record --follow` (or that was killed):"
                f" read is what it held at the start, {' and '.join(counts)}"
            )
        missing = 0
        for place, end in manifest.end.items():
            topic, _, partition = place.rpartition(":")
            at = manifest.resume_at(topic, int(partition))
            missing += max(0, end - max(manifest.start.get(place, 0), at or 0))
        if not missing:
            return ""
        return (
            f"{self.path} is not whole, {missing:,} offsets of it are missing: `fraudstream record`"
            " to the same place goes on with it"
        )

    def shards(self) -> list[int]:
        """The partitions recorded."""
        return self.held.partitions("transactions")

    def batches(self, shard: int, size: int) -> Iterator[Batch]:
        """Micro-batches of a partition."""
        recording, manifest = self._open()
        yield from recording.batches(manifest, "transactions", shard, size)

    def labels(self) -> Iterator[bytes]:
        """Every label recorded, then those of the file."""
        recording, manifest = self._open()
        for partition in manifest.partitions("labels"):
            for table in recording.tables(manifest, "labels", partition, []):
                yield from (value for value in table["value"].to_pylist() if value is not None)
        if self.more is not None:
            yield from labels_in(self.more)

    def tombstones(self) -> Iterator[tuple[bytes, int]]:
        """Keys of the messages without a value, with their offsets."""
        recording, manifest = self._open()
        for shard in manifest.partitions("transactions"):
            for table in recording.tables(manifest, "transactions", shard, []):
                if table["value"].null_count:
                    gone = table.filter(pc.is_null(table["value"]))
                    for key, offset in zip(gone["key"], gone["offset"], strict=True):
                        if key.is_valid:
                            yield key.as_py(), offset.as_py()

    def rows(self, shard: int) -> int:
        """Messages recorded of a partition."""
        files = self.held.files
        return sum(f.rows for f in files if f.topic == "transactions" and f.partition == shard)

    def identity(self) -> str:
        """Digest of the row groups' checksums of transactions and labels."""
        whole = hashlib.blake2b(digest_size=16)
        for file in sorted(self.held.files, key=lambda f: f.path):
            if file.topic in ("transactions", "labels"):
                whole.update(f"{file.path} {file.groups}".encode())
        if self.more is not None:
            whole.update(_file_digest(self.more).encode())
        return whole.hexdigest()


def decoded(source: Source, values: Iterable[bytes] | None = None) -> Labels:
    """The labels of a source, in `values` where they are at hand; tells how many messages among
    them are none, since anybody may write to a topic."""
    labels = decode_labels(source.labels() if values is None else values)
    if labels.bad:
        _tell_bad(source.location(), labels.bad)
    return labels


@cache
def _tell_bad(location: str, bad: int) -> None:
    """Once, though a verb reads the labels for the risk snapshots and again for the judgement."""
    _logger.warning("%d messages among the labels of %s are no labels: passed over", bad, location)


def spool(transactions: Path, labels: Path | None, recording: Recording) -> None:
    """Lay files out as a recording; does nothing if these very files are there already.

    Raises FormatError for a file that is not transactions or labels.
    """
    about = {FILE: _file_digest(transactions)} | (
        {} if labels is None else {"labels": _file_digest(labels)}
    )
    if recording.exists():
        if recording.manifest().origin == about:
            return
        # Of other files, which are written over from here on: a stop must not leave it their name.
        recording.save(Manifest())
    manifest = Manifest(origin=about, complete=True)
    for topic, path, parts in (
        ("transactions", transactions, FILE_PARTITIONS),
        ("labels", labels, 1),
    ):
        if path is not None:
            _lay_out(topic, path, parts, recording, manifest)
    recording.sweep(manifest)
    recording.save(manifest)


def _file_digest(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def _lay_out(topic: str, path: Path, parts: int, recording: Recording, manifest: Manifest) -> None:
    """One file of messages to the files of a topic's partitions."""
    waiting: list[_Rows] = [([], [], []) for _ in range(parts)]
    number = 0
    for chunk in chunks(path, None):
        if chunk.topic != topic:
            raise FormatError(f"{path} holds {chunk.topic}, not {topic}")
        for key, value in zip(chunk.keys, chunk.values, strict=True):
            # A row without a key names no account: it is refused, on whatever partition.
            named = key or b""
            offsets, keys, values = waiting[zlib.crc32(named) % parts]
            offsets.append(number)
            keys.append(named)
            values.append(value)
            number += 1
        for partition, rows in enumerate(waiting):
            if len(rows[0]) >= FILE_ROWS:
                manifest.files.append(_written(topic, partition, rows, recording))
                waiting[partition] = ([], [], [])
    for partition, rows in enumerate(waiting):
        manifest.start[f"{topic}:{partition}"] = 0
        manifest.end[f"{topic}:{partition}"] = number
        if rows[0]:
            manifest.files.append(_written(topic, partition, rows, recording))


def _written(topic: str, partition: int, rows: _Rows, recording: Recording) -> RecordedFile:
    offsets, keys, values = rows
    batch = Batch(
        topic=topic,
        partition=partition,
        offsets=np.array(offsets, np.int64),
        timestamps=np.full(len(offsets), -1, np.int64),
        keys=list(keys),
        values=list(values),
        headers=None,
        next_offset=offsets[-1] + 1,
    )
    return recording.write(topic, partition, to_table(batch), batch.next_offset)


def open_source(path: Path | str, labels: Path | None, work: Path) -> Source:
    """The source at `path`: a directory or URL is a recording; a file is laid out under `work`.

    Raises ConfigError when there is nothing.
    """
    text = str(path)
    if labels is not None and not labels.is_file():
        raise ConfigError(f"no file {labels}", remedy="name a file of labels")
    if "://" in text or Path(text).is_dir():
        return RecordingSource(text, labels)
    if not Path(text).exists():
        raise ConfigError(f"nothing at {text}", remedy="name a recording or a transactions file")
    target = work / "input"
    with writing(target):
        spool(Path(text), labels, Recording(str(target)))
    return RecordingSource(str(target))
