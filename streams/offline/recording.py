"""A recording: a range of topics as Parquet files under one checked manifest.

In: messages, already in offset order per partition. Out: files, and batches read back from them.
Does not know Kafka (see `record.py`) nor what a transaction means beyond the schema's columns.

    OUT/manifest.json                          what is there, with checksums; replaced atomically
    OUT/transactions/00003-000000012000.parquet  partition 3 from offset 12,000 on
    OUT/labels/..., OUT/scores/...             the same for the other topics
    OUT/risk/<digest>.bin                      the risk snapshots that the scores name

A file counts only once the manifest names it. So a recorder that dies in the middle leaves at most
files that nobody names; the next run deletes them and goes on from the manifest's offsets.
Each stretch of a file has a checksum that is looked at before anything is parsed, and each row
group one over what it holds; so a fault is named to the row group.
Checksums are against damage: who can write a recording can write its checksums, too.
"""

from __future__ import annotations

import errno
import hashlib
import json
import os
import re
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass, field
from pathlib import PurePosixPath
from typing import Any

import fsspec
import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from streams.batch import Batch, Headers
from streams.errors import NO_ROOM, ConfigError, RecordingDamaged, RecordingError
from streams.offline import stretches
from streams.offline.stretches import Watched

FORMAT = "fraudstream-recording"
VERSION = 1
ROW_GROUP = 16_384
"""Messages a row group; also the unit of checking and of memory while reading."""
MAX_MANIFEST_BYTES = 1 << 28
OTHER_PLACE = "Let this user write there, or name another directory"
HOME = "topic"
"""Names, in a manifest's origin, the topic whose transactions were recorded."""
FOLLOWED = "followed"
"""Stands in a manifest's origin while `record --follow` adds to it; stays where that is killed."""
OWN_FILE = re.compile(
    r"(manifest\.json|risk/[0-9a-f]+\.bin|[a-z.]+/\d{5,}-\d{12,}\.parquet)(\.part)?"
)
"""What a recording writes. A manifest that names other files is refused; no other is deleted."""

RAW_SCHEMA = pa.schema(
    [
        ("partition", pa.int32()),
        ("offset", pa.int64()),
        ("timestamp", pa.int64()),
        ("key", pa.binary()),
        ("value", pa.binary()),
        ("headers", pa.list_(pa.struct([("name", pa.string()), ("value", pa.binary())]))),
    ]
)


@dataclass(frozen=True, slots=True)
class RecordedFile:
    """One Parquet file of one partition: offsets [first, next), checksums per row group.

    stretches: `<end>:<checksum>` of the file's bytes from the end before, in order. Empty in files
    of earlier versions, which are parsed before they are checked.
    """

    path: str
    topic: str
    partition: int
    first: int
    next: int
    rows: int
    bytes: int
    groups: tuple[str, ...]
    stretches: tuple[str, ...] = ()

    def __post_init__(self) -> None:
        expected = _file_name(self.topic, self.partition, self.first)
        if self.path != expected or not OWN_FILE.fullmatch(self.path):
            raise ValueError("a file of another name than the recorder gives")
        for stretch in self.stretches:
            int(stretch.partition(":")[0])


@dataclass(slots=True)
class Manifest:
    """What a recording holds. `start` and `end` are the offsets asked for, per topic:partition."""

    start: dict[str, int] = field(default_factory=dict)
    end: dict[str, int] = field(default_factory=dict)
    files: list[RecordedFile] = field(default_factory=list)
    snapshots: list[str] = field(default_factory=list)
    origin: dict[str, str] = field(default_factory=dict)
    complete: bool = False

    def resume_at(self, topic: str, partition: int) -> int | None:
        """The offset after the last one recorded, None if nothing is."""
        nexts = [f.next for f in self.files if f.topic == topic and f.partition == partition]
        return max(nexts) if nexts else None

    def partitions(self, topic: str) -> list[int]:
        """Partitions of a topic that were asked for, ascending."""
        return sorted(
            int(name.rpartition(":")[2]) for name in self.start if name.rpartition(":")[0] == topic
        )

    def rows(self, topic: str) -> int:
        """Messages recorded of a topic."""
        return sum(f.rows for f in self.files if f.topic == topic)


def _file_name(topic: str, partition: int, first: int) -> str:
    return f"{topic}/{partition:05d}-{first:012d}.parquet"


def _hash_binary(digest: Any, column: pa.ChunkedArray) -> None:
    """Feed lengths (-1 for null) and bytes of a binary column, straight from Arrow's buffers."""
    array = column.combine_chunks()
    lengths = pc.fill_null(pc.binary_length(array), -1).to_numpy(zero_copy_only=False)
    digest.update(lengths.astype(np.int32).tobytes())
    offsets = np.frombuffer(array.buffers()[1], np.int32)[array.offset :][: len(array) + 1]
    if array.buffers()[2] is not None and len(array):
        digest.update(memoryview(array.buffers()[2])[int(offsets[0]) : int(offsets[-1])])


def group_checksum(table: pa.Table) -> str:
    """Checksum of one row group over what replay reads: offsets, times, keys, values, headers."""
    digest = hashlib.blake2b(digest_size=16)
    for name in ("partition", "offset", "timestamp"):
        digest.update(table[name].to_numpy().astype(np.int64).tobytes())
    for name in ("key", "value"):
        _hash_binary(digest, table[name])
    if _has_headers(table):
        digest.update(json.dumps(table["headers"].to_pylist(), default=bytes.hex).encode())
    return digest.hexdigest()


def _has_headers(table: pa.Table) -> bool:
    return bool(pc.sum(pc.list_value_length(table["headers"])).as_py())


class Recording:
    """A recording on any fsspec path: local, S3-compatible, memory."""

    def __init__(self, path: str) -> None:
        try:
            self.fs, root = fsspec.core.url_to_fs(str(path))
        except (ValueError, ImportError) as error:
            scheme = str(path).partition("://")[0]  # the rest of an address may hold a password
            raise ConfigError(f"no recording can be at {scheme}://...: {error}") from None
        self.root = PurePosixPath(root)
        self.path = str(path)

    def _at(self, *parts: str) -> str:
        return str(self.root.joinpath(*parts))

    def exists(self) -> bool:
        """Whether there is a manifest."""
        return bool(self.fs.exists(self._at("manifest.json")))

    def manifest(self) -> Manifest:
        """Read the manifest. Raises RecordingError when it is absent, foreign or damaged."""
        try:
            raw = self.fs.cat_file(self._at("manifest.json"), start=0, end=MAX_MANIFEST_BYTES + 1)
            if len(raw) > MAX_MANIFEST_BYTES:
                raise ValueError("size")
            document: dict[str, Any] = json.loads(raw)
            body = document["recording"]
            version, checksum = document["version"], document["checksum"]
            if document["format"] != FORMAT:
                raise KeyError("format")
        except (FileNotFoundError, NotADirectoryError):
            raise RecordingError(
                f"{self.path} is not a recording: it has no manifest.json",
                remedy="make one with `fraudstream record`",
            ) from None
        except (ValueError, KeyError, TypeError, RecursionError):
            raise RecordingError(
                f"{self.path}/manifest.json is foreign or damaged",
                remedy="name a recording, as `fraudstream record` makes it",
            ) from None
        if version != VERSION:
            raise RecordingError(
                f"{self.path}: recording version {version}, not {VERSION}",
                remedy="record again, or use the version of fraudstream that made it",
            )
        if checksum != _manifest_checksum(body):
            raise RecordingDamaged(f"{self.path}/manifest.json was changed after it was written")
        try:
            files = [_recorded(file) for file in body.pop("files")]
            return Manifest(files=files, **body)
        except (ValueError, KeyError, TypeError, AttributeError) as error:
            raise RecordingDamaged(f"{self.path}/manifest.json was forged: {error}") from None

    def save(self, manifest: Manifest) -> None:
        """Replace the manifest atomically."""
        body = asdict(manifest)
        document = {
            "format": FORMAT,
            "version": VERSION,
            "checksum": _manifest_checksum(body),
            "recording": body,
        }
        self._replace("manifest.json", json.dumps(document, indent=1, sort_keys=True).encode())

    def _replace(self, name: str, content: bytes) -> None:
        target, draft = self._at(name), self._at(name + ".part")
        self.fs.makedirs(str(PurePosixPath(target).parent), exist_ok=True)
        with self.fs.open(draft, "wb") as out:
            out.write(content)
            _sync(out)
        self.fs.mv(draft, target)

    def write(self, topic: str, partition: int, table: pa.Table, next_offset: int) -> RecordedFile:
        """Write one file (RAW_SCHEMA columns first, any columns after them).

        The file is complete on disk when this returns, but counts only once `save` names it.
        Raises OSError, for example on a full disk; what the manifest names is not touched.
        """
        first = int(table["offset"][0].as_py())
        name = _file_name(topic, partition, first)
        target, draft = self._at(name), self._at(name + ".part")
        self.fs.makedirs(str(PurePosixPath(target).parent), exist_ok=True)
        groups = []
        with self.fs.open(draft, "wb") as out:
            watched = Watched(out)
            with pq.ParquetWriter(watched, table.schema, compression="zstd") as writer:
                for at in range(0, len(table), ROW_GROUP):
                    piece = table.slice(at, ROW_GROUP)
                    writer.write_table(piece, row_group_size=ROW_GROUP)
                    groups.append(group_checksum(piece))
                    watched.cut()
            watched.cut()
            _sync(out)
        self.fs.mv(draft, target)
        size = int(self.fs.size(target))
        return RecordedFile(
            path=name,
            topic=topic,
            partition=partition,
            first=first,
            next=next_offset,
            rows=len(table),
            bytes=size,
            groups=tuple(groups),
            stretches=tuple(watched.stretches),
        )

    def sweep(self, manifest: Manifest) -> None:
        """Delete what the manifest does not name: the remains of a run that died."""
        named = {f.path for f in manifest.files}
        for path in self.fs.find(str(self.root)):
            name = str(PurePosixPath(path).relative_to(self.root))
            own = OWN_FILE.fullmatch(name)
            if own and (own[2] or (name.endswith(".parquet") and name not in named)):
                self.fs.rm_file(path)

    def put_snapshot(self, digest: str, content: bytes) -> None:
        """Keep a risk snapshot under its digest."""
        self._replace(f"risk/{digest}.bin", content)

    def snapshot(self, digest: str) -> bytes:
        """A kept risk snapshot. Raises RecordingError when it is absent."""
        try:
            if not OWN_FILE.fullmatch(f"risk/{digest}.bin"):
                raise FileNotFoundError
            return bytes(self.fs.cat_file(self._at("risk", f"{digest}.bin")))
        except FileNotFoundError:
            raise RecordingDamaged(f"{self.path} lacks risk snapshot {digest}") from None

    def tables(
        self, manifest: Manifest, topic: str, partition: int, columns: list[str] | None = None
    ) -> Iterator[pa.Table]:
        """Row groups of a partition in offset order, each checked before it is handed out.

        Raises RecordingError that names the file and the row group.
        """
        files = [f for f in manifest.files if f.topic == topic and f.partition == partition]
        reached: int | None = None
        for entry in sorted(files, key=lambda f: f.first):
            if reached is not None and entry.first < reached:
                raise RecordingDamaged(f"{self.path}/{entry.path} overlaps the file before it")
            reached = entry.next
            yield from self._groups(entry, columns)

    def _groups(self, entry: RecordedFile, columns: list[str] | None) -> Iterator[pa.Table]:
        name = f"{self.path}/{entry.path}"
        try:
            source = self.fs.open(self._at(entry.path), "rb")
        except FileNotFoundError:
            raise RecordingDamaged(f"{name} is missing") from None
        with source:
            stretches.check(source, entry.bytes, entry.stretches, name)
            try:
                parquet = pq.ParquetFile(source)
            except (pa.ArrowException, OSError) as error:
                raise RecordingDamaged(f"{name} is truncated or not Parquet") from error
            if parquet.num_row_groups != len(entry.groups):
                raise RecordingDamaged(
                    f"{name} has {parquet.num_row_groups} row groups, not {len(entry.groups)}"
                )
            wanted = columns if columns is None else [*RAW_SCHEMA.names, *columns]
            for index, expected in enumerate(entry.groups):
                try:
                    table = parquet.read_row_group(index, columns=wanted)
                    found = group_checksum(table)
                except (pa.ArrowException, OSError, KeyError, TypeError) as error:
                    raise RecordingDamaged(f"{name}, row group {index}: unreadable") from error
                if found != expected:
                    raise RecordingDamaged(f"{name}, row group {index}: checksum does not match")
                yield table

    def batches(self, manifest: Manifest, topic: str, partition: int, size: int) -> Iterator[Batch]:
        """The partition as micro-batches of at most `size` messages."""
        for table in self.tables(manifest, topic, partition, []):
            for at in range(0, len(table), size):
                yield to_batch(topic, partition, table.slice(at, size))


def _recorded(told: dict[str, Any]) -> RecordedFile:
    """A file as a manifest tells of it. Raises ValueError, KeyError, TypeError."""
    lists = {name: tuple(told.get(name, ())) for name in ("groups", "stretches")}
    return RecordedFile(**{**told, **lists})


def _sync(out: Any) -> None:
    """Flush to the disk where the file system has a descriptor; object stores have none."""
    out.flush()
    try:
        descriptor = out.fileno()
    except (AttributeError, OSError):
        return
    os.fsync(descriptor)


def _manifest_checksum(body: dict[str, Any]) -> str:
    canonical = json.dumps(body, sort_keys=True, separators=(",", ":")).encode()
    return hashlib.blake2b(canonical, digest_size=16).hexdigest()


def to_batch(topic: str, partition: int, table: pa.Table) -> Batch:
    """A slice of a recorded table as the pipeline's input."""
    offsets = table["offset"].to_numpy().astype(np.int64, copy=False)
    headers: list[Headers] | None = None
    if _has_headers(table):
        headers = [
            [(pair["name"], pair["value"] or b"") for pair in row or ()]
            for row in table["headers"].to_pylist()
        ]
    return Batch(
        topic=topic,
        partition=partition,
        offsets=offsets,
        timestamps=table["timestamp"].to_numpy().astype(np.int64, copy=False),
        keys=table["key"].to_pylist(),
        values=table["value"].to_pylist(),
        headers=headers,
        next_offset=int(offsets[-1]) + 1,
    )


def to_table(batch: Batch) -> pa.Table:
    """A batch as RAW_SCHEMA columns."""
    headers = (
        [[{"name": name, "value": value} for name, value in row] for row in batch.headers]
        if batch.headers is not None
        else [[] for _ in range(len(batch))]
    )
    columns = [
        pa.array(np.full(len(batch), batch.partition, np.int32)),
        pa.array(batch.offsets),
        pa.array(batch.timestamps),
        pa.array(batch.keys, pa.binary()),
        pa.array(batch.values, pa.binary()),
        pa.array(headers, RAW_SCHEMA.field("headers").type),
    ]
    return pa.Table.from_arrays(columns, schema=RAW_SCHEMA)


@contextmanager
def resumable(recording: Recording) -> Iterator[None]:
    """What adds to a recording. Raises RecordingError where the disk refuses it."""
    try:
        yield
    except OSError as error:
        todo = NO_ROOM.get(error.errno or errno.ENOSPC, OTHER_PLACE)
        raise RecordingError(
            f"cannot write to {recording.path}: {error.strerror or error}",
            remedy=f"{todo}, and run the same command again: it resumes",
        ) from error
