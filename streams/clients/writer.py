"""Files of transactions or labels, written: Parquet, CSV or JSON lines by the suffix.

In: record batches of schema v1. Out: one file that `files.py` reads back.
Does not know where the rows come from.
"""

from __future__ import annotations

import contextlib
import os
from collections.abc import Iterator
from pathlib import Path
from typing import BinaryIO

import orjson
import pyarrow as pa
import pyarrow.csv as pacsv
import pyarrow.parquet as pq

from model.errors import writing
from streams.clients.encode import messages
from streams.clients.files import ROWS, FileFormat, format_of
from streams.errors import ConfigError

ROW_GROUP = 65_536


class Writer:
    """Writes record batches to one file, by its suffix. A context manager.

    The bytes are a function of the batches: no time and no version of a tool enters them.
    """

    def __init__(self, path: Path, schema: pa.Schema, form: FileFormat | None = None) -> None:
        self._form = form or format_of(path)
        self._plain = pa.schema(
            [
                f.with_type(f.type.value_type) if pa.types.is_dictionary(f.type) else f
                for f in schema
            ]
        )
        self._parquet: pq.ParquetWriter | None = None
        self._file: BinaryIO | None = None
        self._csv: pacsv.CSVWriter | None = None
        if self._form == "parquet":
            self._parquet = pq.ParquetWriter(path, schema, compression="zstd", store_schema=False)
        elif self._form == "csv":
            flat = [f.with_type(pa.string()) if f.name == "ext" else f for f in self._plain]
            self._csv = pacsv.CSVWriter(path, pa.schema(flat))
        else:
            self._file = path.open("wb")

    def write(self, table: pa.Table | pa.RecordBatch) -> None:
        """Append rows; the schema must be the writer's."""
        if self._parquet is not None:
            whole = pa.table(table) if isinstance(table, pa.RecordBatch) else table
            self._parquet.write_table(whole, row_group_size=ROW_GROUP)
            return
        pieces = [table] if isinstance(table, pa.RecordBatch) else table.to_batches(ROWS)
        for piece in pieces:
            if self._csv is not None:
                self._csv.write_batch(self._flat(piece))
            else:
                assert self._file is not None
                _, values = messages(piece)
                self._file.write(b"\n".join(values) + b"\n" if values else b"")

    def _flat(self, batch: pa.RecordBatch) -> pa.RecordBatch:
        """The batch without dictionaries and maps, which CSV does not have."""
        columns = []
        for field, column in zip(self._plain, batch.columns, strict=True):
            if field.name == "ext":
                maps = column.to_pylist()
                texts = [None if m is None else orjson.dumps(dict(m)).decode() for m in maps]
                columns.append(pa.array(texts, pa.string()))
            else:
                columns.append(column.cast(field.type))
        return pa.RecordBatch.from_arrays(columns, names=self._plain.names)

    def close(self) -> None:
        """Finish the file."""
        for each in (self._parquet, self._csv, self._file):
            if each is not None:
                each.close()

    def __enter__(self) -> Writer:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()


def require_place(path: Path) -> None:
    """Raise ConfigError where no file could be written, or none of that name: before the work."""
    format_of(path)
    if not path.resolve().parent.is_dir():
        raise ConfigError(f"cannot write {path}: its folder does not exist", remedy="make it")
    if path.is_dir():
        raise ConfigError(f"cannot write {path}: it is a folder", remedy="name a file")


@contextlib.contextmanager
def drafted(*paths: Path) -> Iterator[tuple[Path, ...]]:
    """Drafts of files, which take their places when the block has ended well: all or none.

    Raises ConfigError where no file can be; OSError, which names the first, where there is no room.
    """
    # A link stays one: the draft lies beside the file that it leads to.
    targets = tuple(path.resolve() for path in paths)
    drafts = tuple(target.with_name(target.name + ".part") for target in targets)
    try:
        with writing(paths[0]):
            yield drafts
            for draft, target in zip(drafts, targets, strict=True):
                draft.replace(target)
    except (FileNotFoundError, NotADirectoryError, IsADirectoryError) as error:
        raise ConfigError(f"cannot write {paths[0]}: {os.strerror(error.errno or 0)}") from None
    finally:
        for draft in drafts:
            with contextlib.suppress(OSError):
                draft.unlink(missing_ok=True)


def write_table(path: Path, table: pa.Table) -> None:
    """One table to one file, whole or not at all. Raises as `drafted` does."""
    with drafted(path) as (draft,), Writer(draft, table.schema, format_of(path)) as writer:
        writer.write(table)
