"""A small simulated stream as a recording, with what a service said of it. For tests only.

The service here is the pipeline over the recording with every entry rendered as it is published;
tests/e2e does the same with a real broker and real workers.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import orjson
import pyarrow as pa

from streams.alerts import render
from streams.batch import Batch
from streams.clients.writer import write_table
from streams.dev.simulate import Plan, simulate
from streams.entry import pack
from streams.offline.columns import with_schema_columns
from streams.offline.recording import Manifest, Recording, to_table
from streams.offline.risk_pass import build
from streams.offline.run import Job, open_shard
from streams.offline.source import RecordingSource, open_source
from streams.offline.verdict import Verdict
from streams.offline.verify import verify
from streams.settings import Settings, load
from streams.store import WHOLE as WHOLE

EVENTS = 4_000
FLAGS = ("model.bundle=stub", "risk.delay_days=2")


@dataclass(frozen=True)
class World:
    """A recording with scores and alerts, and the settings they were made with."""

    recording: Recording
    settings: Settings

    def job(self, out: Path, **changes: Any) -> Job:
        """A job over the recording."""
        settings = changes.pop("settings", (self.settings,))
        return Job(RecordingSource(self.recording.path), settings, out, **changes)


def settings(*flags: str) -> Settings:
    """Settings of a stub service."""
    return load(flags=[*FLAGS, *flags])


def stream(path: Path, *, events: int = EVENTS, **plan: Any) -> tuple[Path, Path]:
    """A seeded stream as two files: transactions and labels."""
    made = simulate(Plan(events=events, accounts=120, days=20, seed=7, **plan))
    files = (path / "stream.parquet", path / "stream-labels.parquet")
    path.mkdir(parents=True, exist_ok=True)
    write_table(files[0], made.transactions)
    write_table(files[1], made.labels)
    return files


def recorded(path: Path, *, events: int = EVENTS, **plan: Any) -> World:
    """The stream as a recording with scores."""
    transactions, labels = stream(path, events=events, **plan)
    source = open_source(transactions, labels, path)
    world = World(Recording(source.location()), settings())
    say(world, path / "said")
    return world


def say(world: World, scratch: Path) -> None:
    """Score the recording as the live service would, into the recording itself."""
    job = world.job(scratch)
    snapshots = build(job.source, world.settings, scratch / "risk")
    manifest = world.recording.manifest()
    for shard in job.source.shards():
        runner = open_shard(job, snapshots, shard)
        values: dict[str, list[bytes | None]] = {"scores": [], "alerts": []}
        for step in runner.steps(job.source.batches(shard, 512)):
            entry = step.entries[0]
            for message in () if entry is None else render(pack(entry), 0):
                if message.topic in values and message.value is not None:
                    values[message.topic].append(message.value)
        for topic, some in values.items():
            put(world.recording, manifest, topic, shard, some)
    world.recording.save(manifest)


def put(
    recording: Recording, manifest: Manifest, topic: str, partition: int, values: list[bytes | None]
) -> None:
    """Make these values a whole partition of a topic; replaces what the manifest has of it."""
    key = f"{topic}:{partition}"
    manifest.start[key], manifest.end[key] = 0, len(values)
    manifest.files = [f for f in manifest.files if (f.topic, f.partition) != (topic, partition)]
    if values:
        table = with_schema_columns(topic, to_table(_batch(topic, partition, values)))
        manifest.files.append(recording.write(topic, partition, table, len(values)))


def _batch(topic: str, partition: int, values: list[bytes | None]) -> Batch:
    n = len(values)
    return Batch(
        topic=topic,
        partition=partition,
        offsets=np.arange(n, dtype=np.int64),
        timestamps=np.full(n, -1, np.int64),
        keys=[None] * n,
        values=list(values),
        headers=None,
        next_offset=n,
    )


def rewrite(
    world: World, topic: str, partition: int, change: Callable[[pa.Table], pa.Table]
) -> None:
    """Change the rows of one partition, as if they had been recorded so."""
    manifest = world.recording.manifest()
    whole = pa.concat_tables(list(world.recording.tables(manifest, topic, partition)))
    changed = change(whole)
    mine = [f for f in manifest.files if (f.topic, f.partition) == (topic, partition)]
    last = max(f.next for f in mine)
    manifest.files = [f for f in manifest.files if f not in mine]
    manifest.files.append(world.recording.write(topic, partition, changed, last))
    world.recording.save(manifest)


def told(this: World, topic: str, partition: int) -> list[bytes]:
    """The recorded messages."""
    tables = this.recording.tables(this.recording.manifest(), topic, partition)
    return [value for table in tables for value in table["value"].to_pylist()]


def scores(this: World, partition: int) -> list[bytes]:
    """The recorded scores."""
    return told(this, "scores", partition)


def source(message: bytes) -> int:
    """The offset of the transaction that a score or an alert is of."""
    offset: int = orjson.loads(message)["source"]["offset"]
    return offset


def offset_at(this: World, partition: int, row: int) -> int:
    """The offset of a recorded transaction."""
    tables = this.recording.tables(this.recording.manifest(), "transactions", partition)
    return int(pa.concat_tables(list(tables))["offset"][row].as_py())


def said_by(this: World, section: str, name: str, value: str) -> World:
    """The recording with one version replaced in every score of partition 0's transactions."""
    edit(this, lambda document: document[section].update({name: value}))
    return this


def edit(this: World, change: Callable[[dict[str, Any]], None]) -> None:
    """Change every score of partition 0's transactions."""

    def edited(table: pa.Table) -> pa.Table:
        documents = [orjson.loads(value) for value in table["value"].to_pylist()]
        for document in documents:
            change(document)
        values = [orjson.dumps(document) for document in documents]
        return table.set_column(4, "value", pa.array(values, pa.binary()))

    rewrite(this, "scores", 0, edited)


def check(this: World, scratch: Path, *, jobs: int = 1, **changes: object) -> Verdict:
    """Verify the recording."""
    return verify(this.job(scratch, **changes), jobs=jobs)
