"""The state of every account at one offset a partition, as a file that a replay can start from.

In: a Redis client. Out: `DIR/<partition>.parquet` and `DIR/snapshot.json`; read back as records.
Does not know what a record holds. A live partition moves while it is read: it is read again until
its offset was the same before and after, a few times; then the user is told to stop the workers.
"""

from __future__ import annotations

import hashlib
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import orjson
import pyarrow as pa
import pyarrow.parquet as pq
import redis

from model.errors import writing
from streams.errors import RecordingError, StoreError
from streams.store import generations, keys, scripts

FORMAT = "fraudstream-snapshot"
MANIFEST = "snapshot.json"
VERSION = 1
ATTEMPTS = 5
PAGE = 4_096
SCHEMA = pa.schema([("account_id", pa.string()), ("record", pa.binary())])


def take(client: redis.Redis, namespace: str, out: Path) -> dict[str, Any]:
    """Write the snapshot of all partitions; returns its manifest.

    One that is there already is replaced when all is written. Raises StoreError when a partition
    does not stand still, or has no state, and when a rebuild put other state in use meanwhile.
    """
    out.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=out, prefix=".snapshot.") as name:
        draft = Path(name)
        manifest = _write(client, namespace, draft)
        # A stop amid the renames leaves no snapshot rather than a mixture of two.
        (out / MANIFEST).unlink(missing_ok=True)
        for file in sorted(draft.iterdir(), key=lambda file: file.name == MANIFEST):
            file.replace(out / file.name)
    return manifest


def _write(client: redis.Redis, namespace: str, out: Path) -> dict[str, Any]:
    """What `take` does, into an empty directory."""
    generation = generations.read(client, namespace).current
    first = keys.of(namespace, generation, 0).part
    with scripts.named_failures(-1):
        partitions: Any = client.hget(first, "partitions")
    if partitions is None:
        raise StoreError("there is no state in Redis", remedy="run a worker first")
    parts = {}
    for partition in range(int(partitions)):
        names = keys.of(namespace, generation, partition)
        offset, records = _standing(client, names, partition)
        path = out / f"{partition:05d}.parquet"
        table = pa.table(
            [pa.array(list(records), pa.string()), pa.array(list(records.values()), pa.binary())],
            schema=SCHEMA,
        )
        with writing(out.parent / path.name):
            pq.write_table(table, path, compression="zstd")
        parts[str(partition)] = {
            "offset": offset,
            "accounts": len(records),
            "sha256": hashlib.sha256(path.read_bytes()).hexdigest(),
        }
    if generations.read(client, namespace).current != generation:
        # It sweeps the records that were read here, and leaves their offsets.
        raise StoreError(
            "a rebuild was ended while the state was read", remedy="run the same command again"
        )
    manifest = {"format": FORMAT, "version": VERSION, "partitions": parts}
    with writing(out.parent / MANIFEST):
        (out / MANIFEST).write_bytes(orjson.dumps(manifest, option=orjson.OPT_INDENT_2))
    return manifest


def _standing(client: redis.Redis, names: keys.Keys, partition: int) -> tuple[int, dict[str, Any]]:
    """Offset and records of a partition, read while it did not move."""
    for _ in range(ATTEMPTS):
        with scripts.named_failures(partition):
            before: Any = client.hget(names.part, "offset")
            records = _records(client, names.record)
            after: Any = client.hget(names.part, "offset")
        if before == after:
            return int(before or 0), records
    raise StoreError(
        f"partition {partition} moves while it is read",
        remedy="stop the workers, or take the snapshot in a quiet hour",
    )


def _records(client: redis.Redis, start: str) -> dict[str, Any]:
    found: dict[str, Any] = {}
    # A glob would take the braces and brackets of a key for a pattern: they are escaped.
    pattern = "".join(f"\\{c}" if c in "*?[]\\" else c for c in start) + "*"
    page: list[Any] = []
    for name in client.scan_iter(match=pattern, count=PAGE):
        page.append(name)
        if len(page) == PAGE:
            found.update(_page(client, page, start))
            page = []
    if page:
        found.update(_page(client, page, start))
    return dict(sorted(found.items()))


def _page(client: redis.Redis, names: list[Any], start: str) -> dict[str, Any]:
    values: Any = client.mget(names)
    return {
        name.decode().removeprefix(start): value
        for name, value in zip(names, values, strict=True)
        if value is not None
    }


def manifest_of(path: Path) -> dict[str, Any]:
    """The manifest of a snapshot. Raises RecordingError when it is absent or foreign."""
    try:
        manifest: dict[str, Any] = orjson.loads((path / MANIFEST).read_bytes())
        if (manifest["format"], manifest["version"]) != (FORMAT, VERSION):
            raise KeyError("format")
    except (FileNotFoundError, NotADirectoryError):
        raise RecordingError(
            f"{path} is not a snapshot", remedy="make one with `fraudstream snapshot`"
        ) from None
    except (orjson.JSONDecodeError, KeyError, TypeError):
        raise RecordingError(f"{path}/{MANIFEST} is foreign or damaged") from None
    return manifest


def offset_of(path: Path, partition: int) -> int:
    """The offset that a partition's state stands at. Raises RecordingError."""
    return int(_entry(path, partition)["offset"])


def _entry(path: Path, partition: int) -> dict[str, Any]:
    """What the manifest says of a partition. Raises RecordingError when it has none such."""
    entry: dict[str, Any] | None = manifest_of(path)["partitions"].get(str(partition))
    if entry is None:
        raise RecordingError(
            f"{path} has no state of partition {partition}, which the recording has",
            remedy="It is of a topic with fewer partitions: take a snapshot of the service whose "
            "transactions were recorded, or start without one",
        )
    return entry


def records(path: Path, partition: int) -> Iterator[tuple[str, bytes]]:
    """(account, record) of a partition. Raises RecordingError when the file is damaged."""
    entry = _entry(path, partition)
    file = path / f"{partition:05d}.parquet"
    try:
        content = file.read_bytes()
    except FileNotFoundError:
        raise RecordingError(f"{file} is missing") from None
    if hashlib.sha256(content).hexdigest() != entry["sha256"]:
        raise RecordingError(f"{file} does not match its checksum")
    table = pq.read_table(pa.BufferReader(content))
    yield from zip(table["account_id"].to_pylist(), table["record"].to_pylist(), strict=True)
