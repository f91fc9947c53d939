"""Files of transactions or labels: Parquet, CSV and JSON lines, read in bounded memory.

In: a path (or standard input). Out: record batches of schema v1, or raw lines of JSON.
Raises FormatError, naming row and column where they are known. Does not know Kafka, nor whether a
value is allowed: only that columns have the names and types of schema v1.

In CSV an empty cell is "not given" and `ext` holds a JSON object, whose members become the texts
that the schema asks for: strings as they are, all else as JSON writes it; null is "not given".
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any, BinaryIO, Literal

import orjson
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.csv as pacsv
import pyarrow.parquet as pq

from streams.adapters.canonical import LABEL, TRANSACTION
from streams.adapters.reading import closed_quotes, commas, heading, told, without_data
from streams.errors import ConfigError, FormatError
from streams.schema import LABEL_REQUIRED, MAX_MESSAGE_BYTES, REQUIRED_FIELDS

FileFormat = Literal["parquet", "csv", "jsonl"]
SUFFIXES: dict[str, FileFormat] = {
    ".parquet": "parquet",
    ".csv": "csv",
    ".jsonl": "jsonl",
    ".ndjson": "jsonl",
    ".json": "jsonl",
}
ROWS = 16_384
"""Rows of a record batch."""
CSV_BLOCK = 1 << 22
PANDAS_INDEX = "__index_level_0__"
MAX_LINE_BYTES = 4 * MAX_MESSAGE_BYTES


def format_of(path: Path, given: str | None = None) -> FileFormat:
    """The format by name or by suffix. Raises ConfigError when neither tells."""
    if given is not None:
        if given not in SUFFIXES.values():
            raise ConfigError(f"no file format {given!r}", remedy="use parquet, csv or jsonl")
        return given  # type: ignore[return-value]
    if path.suffix.lower() not in SUFFIXES:
        raise ConfigError(
            f"cannot tell the format of {path.name or path}",
            remedy="name it .parquet, .csv or .jsonl",
        )
    return SUFFIXES[path.suffix.lower()]


def _meant(text: str) -> str | None:
    """What a column that the text names is to hold, where people often have another thing."""
    found = re.search(r"column (\w+)", text)
    name = found[1] if found else ""
    if name == "amount":
        return "Amounts are whole minor units: 12.34 EUR is 1234"
    return "Times are whole milliseconds since 1970, UTC" if name.endswith("_time") else None


def check_columns(names: list[str], where: str) -> pa.Schema:
    """The full schema, of transactions or labels, that these columns belong to.

    Raises FormatError for columns missing, unknown or named twice.
    """
    labels = "label_id" in names or "label" in names
    schema, required = (LABEL, LABEL_REQUIRED) if labels else (TRANSACTION, REQUIRED_FIELDS)
    missing = [name for name in required if name not in names]
    unknown = sorted(set(names) - set(schema.names))
    what = "labels" if labels else "transactions"
    if missing:
        remedy = f"It is not a file of {what} in schema v1; `fraudstream convert` makes one"
        if missing == ["schema_version"]:
            remedy = "Add it, with 1 in each row"
        elif {name.strip().lower() for name in names} >= set(missing):
            remedy = "Write their names in small letters, without spaces"
        remedy = commas(names) or remedy
        raise FormatError(f"{where} has no column {', '.join(missing)}", remedy=remedy)
    if unknown:
        raise FormatError(
            f"{where} has unknown columns: {', '.join(unknown)}",
            remedy="Schema v1 keeps fields of your own under `ext` only"
            if unknown != [PANDAS_INDEX]
            else "It is the index of pandas: write the file with `index=False`",
        )
    if len(set(names)) < len(names):
        raise FormatError(f"{where} names a column twice")
    return schema


def _aligned(array: pa.Array, field: pa.Field, where: str) -> pa.Array:
    """A column in the type of schema v1. Raises FormatError when a value would change."""
    kind, wanted = array.type, field.type
    if pa.types.is_dictionary(kind) and kind.value_type in (wanted, pa.large_string()):
        return array.cast(pa.dictionary(kind.index_type, wanted))
    if pa.types.is_dictionary(kind):
        array = array.cast(kind.value_type)
        kind = array.type
    if kind == wanted:
        return array
    try:
        if pa.types.is_timestamp(kind) and pa.types.is_int64(wanted):
            return array.cast(pa.timestamp("ms", kind.tz)).cast(wanted)
        text = pa.types.is_string(wanted)
        if pa.types.is_boolean(kind):
            raise FormatError(f"{where}, column {field.name}: true and false are no {wanted}")
        if pa.types.is_null(kind) or text == (
            pa.types.is_string(kind) or pa.types.is_large_string(kind)
        ):
            return array.cast(wanted)
    except pa.ArrowNotImplementedError:
        pass  # There is no way from that type to this one.
    except pa.ArrowInvalid:
        if pa.types.is_timestamp(kind):
            raise FormatError(
                f"{where}, column {field.name}: {kind} with parts of a millisecond",
                remedy="Schema v1 has whole milliseconds: round them first",
            ) from None
        # Arrow's words quote the value, which is an account's.
        text = f"{where}, column {field.name}: a value of {kind} that no {wanted} holds"
        raise FormatError(text, remedy=_meant(text)) from None
    text = f"{where}, column {field.name}: {kind} where schema v1 has {wanted}"
    raise FormatError(text, remedy=_meant(text))


def _parquet(path: Path) -> Iterator[pa.RecordBatch]:
    try:
        found = pq.read_schema(path)
        schema = check_columns(found.names, path.name)
        # What nests has no column of its own name; `_aligned` refuses all of it but `ext`.
        flat = [field.name for field in found if not pa.types.is_nested(field.type)]
        repeating = [name for name in flat if name not in ("transaction_id", "label_id")]
        file = pq.ParquetFile(path, read_dictionary=repeating)
        first = 0
        for batch in file.iter_batches(batch_size=ROWS):
            where = f"{path.name}, rows {first + 1} to {first + len(batch)}"
            _check_texts(batch, where)
            columns = [
                _aligned(column, schema.field(name), where)
                for name, column in zip(batch.schema.names, batch.columns, strict=True)
            ]
            yield pa.RecordBatch.from_arrays(columns, names=batch.schema.names)
            first += len(batch)
    except (pa.ArrowException, OSError) as error:
        # Arrow says OSError for damaged bytes, too.
        raise FormatError(f"{path.name} is not a Parquet file: {error}") from None


def _check_texts(batch: pa.RecordBatch, where: str) -> None:
    """A value that no message can hold is found before it is copied into one message after the
    other: a few bytes of a compressed file may say it ten thousand times. Nor does Parquet check
    that texts are UTF-8. Raises FormatError."""
    for name, column in zip(batch.schema.names, batch.columns, strict=True):
        texts, place = column, f"{where}, column {name}"
        if pa.types.is_dictionary(column.type):
            # It has the values of rows that follow, too.
            texts, place = column.dictionary, f"{where} or below, column {name}"
        try:
            column.validate(full=True)
        except pa.ArrowInvalid:
            raise FormatError(f"{place}: a text that is not UTF-8") from None
        if not (pa.types.is_string(texts.type) or pa.types.is_large_string(texts.type)):
            continue
        if (pc.max(pc.binary_length(texts)).as_py() or 0) > MAX_MESSAGE_BYTES:
            raise FormatError(f"{place}: longer than {MAX_MESSAGE_BYTES} bytes")


def _ext(column: pa.Array, where: str) -> pa.Array:
    """JSON objects in a column of text to maps of texts."""
    found: list[list[tuple[str, str]] | None] = []
    for row, text in enumerate(column.to_pylist(), 1):
        try:
            value = None if text is None else orjson.loads(text)
            if value is not None and not isinstance(value, dict):
                raise FormatError(f"{where}, row {row} of them, column ext: not a JSON object")
            found.append(None if value is None else _texts(value))
        except orjson.JSONDecodeError:
            raise FormatError(f"{where}, row {row} of them, column ext: not JSON") from None
        except orjson.JSONEncodeError:
            raise FormatError(f"{where}, row {row} of them, column ext: nests too deep") from None
    return pa.array(found, TRANSACTION.field("ext").type)


def _texts(members: dict[str, Any]) -> list[tuple[str, str]]:
    """The members as texts, without those that are null."""
    return [
        (name, value if isinstance(value, str) else orjson.dumps(value).decode())
        for name, value in members.items()
        if value is not None
    ]


def _csv(source: Path | BinaryIO, name: str) -> Iterator[pa.RecordBatch]:
    types = {f.name: f.type for f in (*TRANSACTION, *LABEL)} | {"ext": pa.string()}
    names: list[str] = []
    try:
        # Before a row is read: what is wrong with the heading is often wrong with all rows. Not of
        # a file that Arrow decompresses by its name.
        if isinstance(source, Path) and source.suffix.lower() == ".csv":
            names = heading(source)
        if any(names):
            check_columns(names, name)
        reader = pacsv.open_csv(
            source,
            # One thread, so that an error names its row.
            read_options=pacsv.ReadOptions(use_threads=False, block_size=CSV_BLOCK),
            parse_options=pacsv.ParseOptions(newlines_in_values=True),
            convert_options=pacsv.ConvertOptions(
                column_types=types, strings_can_be_null=True, null_values=[""]
            ),
        )
        check_columns(reader.schema.names, name)
        first = 0
        for batch in reader:
            closed_quotes(name, first + 1, batch, but="ext")
            where = f"{name}, rows {first + 1} to {first + len(batch)}"
            if "ext" in batch.schema.names:
                at = batch.schema.names.index("ext")
                columns = [*batch.columns]
                columns[at] = _ext(batch.column(at), where)
                batch = pa.RecordBatch.from_arrays(columns, names=batch.schema.names)
            yield batch
            first += len(batch)
    except (pa.ArrowException, OSError) as error:
        text = f"{name}: {told(without_data(str(error)), names)}"
        raise FormatError(text, remedy=_meant(text)) from None


def batches(source: Path | BinaryIO, name: str, form: FileFormat) -> Iterator[pa.RecordBatch]:
    """Record batches of a Parquet or CSV file. Raises FormatError."""
    if form == "csv":
        return _csv(source, name)
    assert form == "parquet"
    if not isinstance(source, Path):
        raise FormatError("Parquet cannot be read from standard input", remedy="Give a file")
    return _parquet(source)


def lines(source: BinaryIO, name: str) -> Iterator[tuple[int, bytes]]:
    """Numbered lines that are not empty. Raises FormatError for one beyond the limit."""
    number = 0
    while line := source.readline(MAX_LINE_BYTES + 1):
        number += 1
        if len(line) > MAX_LINE_BYTES:
            raise FormatError(f"{name}, line {number}: longer than {MAX_LINE_BYTES} bytes")
        line = line.strip()
        if line:
            yield number, line
