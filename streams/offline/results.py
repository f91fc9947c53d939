"""The result of a replay: one row a message, in Parquet, the same bytes however the work was cut.

In: what the pipeline made of each batch. Out: `DIR/<shard>.parquet`, and one digest over them.
Does not know how a replay is driven, nor what anybody computes from its rows.

Rows are gathered into groups of a fixed size before they are written, so the batch size leaves no
trace in the file. A shard's file is renamed into place when it is whole: it is there or it is not.
"""

from __future__ import annotations

import contextlib
import hashlib
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from numpy.typing import NDArray

from model.disk import into_place
from model.errors import writing

ROW_GROUP = 65_536

OUTCOMES = SCORED, DUPLICATE, DEAD, ERASED = "scored", "duplicate", "dead", "erased"
"""What became of a message. `erased` is a tombstone: the request to forget an account."""

BASE = [
    pa.field("offset", pa.int64()),
    pa.field("outcome", pa.string()),
    pa.field("reason", pa.string()),
    pa.field("transaction_id", pa.string()),
    pa.field("account_id", pa.string()),
    pa.field("event_time", pa.int64()),
    pa.field("amount", pa.int64()),
    pa.field("currency", pa.string()),
    pa.field("channel", pa.string()),
    pa.field("country", pa.string()),
    pa.field("late", pa.bool_()),
    pa.field("edge", pa.bool_()),
    pa.field("feature_digest", pa.uint64()),
    pa.field("risk", pa.string()),
]


def schema(models: int) -> pa.Schema:
    """The columns of a result for this many models; model k's columns end in `_k`."""
    fields = list(BASE)
    for k in range(models):
        fields += [
            pa.field(f"score_{k}", pa.float64()),
            pa.field(f"decision_{k}", pa.string()),
            pa.field(f"alert_id_{k}", pa.string()),
            pa.field(f"reasons_{k}", pa.string()),
        ]
    return pa.schema(fields)


def total(amounts: NDArray[np.int64]) -> int | float:
    """Their sum, exact where it fits int64; that of 9,224 of the largest amounts does not, and is
    the nearest float then, since reports hold no longer integers."""
    # Each half of the bits by itself, for neither can overflow.
    exact = (int((amounts >> 32).sum()) << 32) + int((amounts & 0xFFFFFFFF).sum())
    return exact if exact < 2**63 else float(exact)


class ResultWriter:
    """Writes the rows of one shard in offset order. Use as a context; an error leaves no file."""

    def __init__(self, path: Path, models: int) -> None:
        self._path = path
        self._draft = path.with_suffix(".part")
        self._schema = schema(models)
        path.parent.mkdir(parents=True, exist_ok=True)
        with writing(path):
            self._writer = pq.ParquetWriter(self._draft, self._schema, compression="zstd")
        self._waiting: list[pa.Table] = []
        self._rows = 0

    def __enter__(self) -> ResultWriter:
        return self

    def add(self, columns: Mapping[str, pa.Array]) -> None:
        """Append rows; every column of the schema, equal lengths."""
        arrays = [columns[field.name] for field in self._schema]
        table = pa.Table.from_arrays(arrays, schema=self._schema)
        self._waiting.append(table)
        self._rows += len(table)
        if self._rows >= ROW_GROUP:
            self._write(ROW_GROUP)

    def _write(self, at_least: int) -> None:
        gathered = pa.concat_tables(self._waiting).combine_chunks()
        while self._rows >= max(at_least, 1):
            with writing(self._path):
                self._writer.write_table(gathered.slice(0, ROW_GROUP), row_group_size=ROW_GROUP)
            gathered = gathered.slice(ROW_GROUP)
            self._rows = len(gathered)
        self._waiting = [gathered]

    def __exit__(self, kind: type[BaseException] | None, *rest: object) -> None:
        try:
            if kind is None:
                if self._rows:
                    self._write(1)
                with writing(self._path):
                    self._writer.close()
                    into_place(self._draft, self._path)
        finally:
            with contextlib.suppress(OSError):  # it is closed already, or the disk is full again
                self._writer.close()
            self._draft.unlink(missing_ok=True)


def shard_path(directory: Path, shard: int) -> Path:
    """Where a shard's rows are."""
    return directory / f"{shard:05d}.parquet"


def shards(directory: Path) -> list[int]:
    """Shards with a whole result, ascending."""
    return sorted(int(path.stem) for path in directory.glob("[0-9]*.parquet"))


def tables(directory: Path, columns: Sequence[str] | None = None) -> Iterator[tuple[int, pa.Table]]:
    """(shard, rows) by row group, shards and offsets ascending."""
    for shard in shards(directory):
        with pq.ParquetFile(shard_path(directory, shard)) as file:
            for index in range(file.num_row_groups):
                yield shard, file.read_row_group(index, columns=columns and list(columns))


def read(directory: Path, columns: Sequence[str] | None = None) -> pa.Table:
    """All rows as one table, with the shard as column `partition`."""
    parts = []
    for shard, table in tables(directory, columns):
        number = pa.array([shard] * len(table), pa.int32())
        parts.append(table.append_column("partition", number))
    if not parts:
        raise FileNotFoundError(f"no results in {directory}")
    return pa.concat_tables(parts)


def digest(directory: Path) -> str:
    """One digest over every shard's bytes."""
    whole = hashlib.blake2b(digest_size=16)
    for shard in shards(directory):
        whole.update(shard.to_bytes(4, "little"))
        whole.update(hashlib.blake2b(shard_path(directory, shard).read_bytes()).digest())
    return whole.hexdigest()
