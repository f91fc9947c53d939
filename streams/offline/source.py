"""Sources of a replay: a recording, or plain files of transactions and labels.

In: a path. Out: shards, and each shard's messages as micro-batches in offset order; labels.
Does not know the pipeline. An account is in one shard only, whatever the source.

A plain file has no partitions or offsets: its shard is a checksum of the key, modulo the number of
shards, and its offset the row's number in the file. Window features, digests and alert ids depend
on neither.
"""

from __future__ import annotations

import hashlib
import zlib
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

import numpy as np

from streams.batch import Batch
from streams.errors import ConfigError
from streams.offline.recording import Manifest, Recording

FILE_SHARDS = 8


class Source(Protocol):
    """What replay reads. Picklable: a worker process opens it again."""

    def shards(self) -> list[int]:
        """Shard numbers, ascending."""

    def batches(self, shard: int, size: int) -> Iterator[Batch]:
        """The shard's transactions."""

    def labels(self) -> Iterator[bytes]:
        """Raw label messages, any order."""

    def rows(self, shard: int) -> int:
        """Messages of the shard, for progress; 0 when it is not known without reading."""

    def identity(self) -> str:
        """A digest of the content, however it is stored."""


@dataclass(frozen=True)
class RecordingSource:
    """A recording; shards are its partitions."""

    path: str

    def _open(self) -> tuple[Recording, Manifest]:
        recording = Recording(self.path)
        return recording, recording.manifest()

    def shards(self) -> list[int]:
        """The partitions recorded."""
        return self._open()[1].partitions("transactions")

    def batches(self, shard: int, size: int) -> Iterator[Batch]:
        """Micro-batches of a partition."""
        recording, manifest = self._open()
        yield from recording.batches(manifest, "transactions", shard, size)

    def labels(self) -> Iterator[bytes]:
        """Every label recorded."""
        recording, manifest = self._open()
        for partition in manifest.partitions("labels"):
            for table in recording.tables(manifest, "labels", partition, []):
                yield from (value for value in table["value"].to_pylist() if value is not None)

    def rows(self, shard: int) -> int:
        """Messages recorded of a partition."""
        files = self._open()[1].files
        return sum(f.rows for f in files if f.topic == "transactions" and f.partition == shard)

    def identity(self) -> str:
        """Digest of the row groups' checksums of transactions and labels."""
        whole = hashlib.blake2b(digest_size=16)
        for file in sorted(self._open()[1].files, key=lambda f: f.path):
            if file.topic in ("transactions", "labels"):
                whole.update(f"{file.path} {file.groups}".encode())
        return whole.hexdigest()


@dataclass(frozen=True)
class FileSource:
    """A file of transactions (Parquet, CSV, JSON lines) and optionally one of labels."""

    transactions: Path
    label_file: Path | None = None
    shard_count: int = FILE_SHARDS

    def shards(self) -> list[int]:
        """All of them; some may be empty."""
        return list(range(self.shard_count))

    def batches(self, shard: int, size: int) -> Iterator[Batch]:
        """The rows whose key falls into the shard; a row's number is its offset."""
        from streams.clients.files import messages

        offsets: list[int] = []
        keys: list[bytes | None] = []
        values: list[bytes | None] = []
        for number, (key, value) in enumerate(messages(self.transactions)):
            if zlib.crc32(key or b"") % self.shard_count != shard:
                continue
            offsets.append(number)
            keys.append(key)
            values.append(value)
            if len(values) == size:
                yield _batch(shard, offsets, keys, values)
                offsets, keys, values = [], [], []
        if values:
            yield _batch(shard, offsets, keys, values)

    def labels(self) -> Iterator[bytes]:
        """The label file's messages."""
        from streams.clients.files import messages

        if self.label_file is not None:
            yield from (value for _, value in messages(self.label_file) if value is not None)

    def rows(self, shard: int) -> int:
        """Not known without reading."""
        return 0

    def identity(self) -> str:
        """Digest of the files' bytes and the number of shards."""
        whole = hashlib.blake2b(str(self.shard_count).encode(), digest_size=16)
        for path in (self.transactions, self.label_file):
            if path is not None:
                with path.open("rb") as file:
                    whole.update(hashlib.file_digest(file, "blake2b").digest())
        return whole.hexdigest()


def _batch(
    shard: int, offsets: list[int], keys: list[bytes | None], values: list[bytes | None]
) -> Batch:
    return Batch(
        topic="transactions",
        partition=shard,
        offsets=np.array(offsets, np.int64),
        timestamps=np.full(len(values), -1, np.int64),
        keys=keys,
        values=values,
        headers=None,
        next_offset=offsets[-1] + 1,
    )


def open_source(path: Path | str, labels: Path | None = None) -> Source:
    """The source at `path`: a directory or URL is a recording, a file is a file.

    Raises ConfigError when there is nothing.
    """
    text = str(path)
    if "://" in text or Path(text).is_dir():
        if labels is not None:
            raise ConfigError("a recording holds its own labels", remedy="leave --labels out")
        return RecordingSource(text)
    if not Path(text).exists():
        raise ConfigError(f"nothing at {text}", remedy="name a recording or a transactions file")
    return FileSource(Path(text), labels)
