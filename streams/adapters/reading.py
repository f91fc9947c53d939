"""What adapters share: CSV in pieces with named faults, amounts, labels, tokens.

In: columns of a foreign file. Out: columns of schema v1. Does not know any one format.
"""

from __future__ import annotations

import hashlib
import re
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.csv as pacsv
from numpy.typing import NDArray

from streams.adapters.canonical import LABEL, TRANSACTION, subset
from streams.errors import FormatError
from streams.schema import DAY_MS, SCHEMA_VERSION

BLOCK_BYTES = 1 << 22
LABEL_DELAY_MS = 7 * DAY_MS
"""When the truth of a public data set becomes known: a live service learns it days later."""
NO_DIGITS = str.maketrans("0123456789", "ghijklmnop")
"""Hexadecimal without digits: long runs of them may look like a card number."""
TOKEN_BYTES = 10
SIGNS = (
    (b"\x1f\x8b", "packed by gzip", "Unpack it first"),
    (b"\x28\xb5\x2f\xfd", "packed by zstd", "Unpack it first"),
    (b"PK\x03\x04", "a ZIP archive, as workbooks are too", "Unpack it, or save it as CSV"),
    (b"PAR1", "a Parquet file", "Name it .parquet, if it is in schema v1"),
    (b"\xff\xfe", "UTF-16", "Save it as UTF-8"),
    (b"\xfe\xff", "UTF-16", "Save it as UTF-8"),
)
"""How files begin that people give in place of text, what they are, and what to do."""
_PARTED = re.compile("[;\t|]")


def missing_columns(path: Path, have: Sequence[str], wanted: Sequence[str], name: str) -> None:
    """Raises FormatError when a wanted column is not there."""
    lacking = [column for column in wanted if column not in have]
    if lacking:
        raise FormatError(
            f"{path.name} is not {name}: no column {', '.join(lacking)}", remedy=commas(have)
        )


def commas(names: Sequence[str]) -> str | None:
    """What to do about a heading that was parted by something else."""
    return (
        "Separate the columns by commas" if len(names) == 1 and _PARTED.search(names[0]) else None
    )


def no_text(name: str, start: bytes) -> FormatError | None:
    """The error of a file that is no text in UTF-8, as its first bytes say."""
    for sign, what, remedy in SIGNS:
        if start.startswith(sign):
            return FormatError(f"{name} is {what}, no text in UTF-8", remedy=remedy)
    return None


def csv_pieces(
    path: Path, types: Mapping[str, pa.DataType], name: str
) -> Iterator[tuple[int, pa.RecordBatch]]:
    """Pieces of a CSV file with just these columns, each with the number of its first row (1 is
    the row after the heading). Raises FormatError, naming row and column.
    """
    columns: list[str] = []
    try:
        columns = heading(path)
        missing_columns(path, columns, list(types), name)
        reader = pacsv.open_csv(
            path,
            # One thread, so that an error names its row.
            read_options=pacsv.ReadOptions(use_threads=False, block_size=BLOCK_BYTES),
            parse_options=pacsv.ParseOptions(newlines_in_values=True),
            convert_options=pacsv.ConvertOptions(
                column_types=dict(types), include_columns=list(types), null_values=[""],
                strings_can_be_null=True,
            ),
        )  # fmt: skip
        first = 1
        for piece in reader:
            closed_quotes(path.name, first, piece)
            yield first, piece
            first += len(piece)
    except pa.ArrowInvalid as error:
        raise FormatError(f"{path.name}: {told(without_data(str(error)), columns)}") from None
    except OSError as error:
        raise FormatError(f"cannot read {path}: {error.strerror or error}") from None


def heading(path: Path) -> list[str]:
    """The names of a CSV file's columns. Raises OSError; FormatError for a file without a heading,
    or of another kind."""
    with path.open("rb") as file:
        line = file.readline(BLOCK_BYTES)
        while line and not line.strip(b"\r\n"):  # Arrow passes over empty lines, too.
            line = file.readline(BLOCK_BYTES)
    if not line:
        raise FormatError(f"{path.name} is empty", remedy="A CSV file begins with a heading")
    if (fault := no_text(path.name, line)) is not None:
        raise fault
    text = line.decode("utf-8-sig", "replace")
    return [cell.strip().strip('"') for cell in text.rstrip("\r\n").split(",")]


def closed_quotes(name: str, first: int, piece: pa.RecordBatch, but: str = "") -> None:
    """Raises FormatError at the first text with a line break (outside the column `but`): no field
    has one, and after a quote that is not closed Arrow takes the rows that follow, to the next
    quote or to the end, for a part of that text."""
    for column, texts in zip(piece.schema.names, piece.columns, strict=True):
        if column == but or not pa.types.is_string(texts.type):
            continue
        broken = pc.or_(pc.match_substring(texts, "\n"), pc.match_substring(texts, "\r"))
        row = pc.index(broken, True).as_py()
        if row >= 0:
            raise FormatError(
                f"{name}, row {first + row}, column {column}: a line break in a text",
                remedy="Look for a quote before it that is not closed",
            )


def without_data(said: str) -> str:
    """What Arrow says of a CSV file, without its content, which is an account's data; columns
    counted from 1, as rows are."""
    if "straddling" in said:
        return "a row of many megabytes: look for a quote that is not closed"
    if "cannot infer number of columns" in said:
        return "a heading and no rows"
    told = re.sub(r"^In |(?<=, got )(\d+): .*", r"\1", said, flags=re.DOTALL)
    told = re.sub(r"CSV column #(\d+)", lambda found: f"CSV column #{int(found[1]) + 1}", told)
    return re.sub(r"invalid value '.*'", "invalid value", told, flags=re.DOTALL)


def told(message: str, columns: Sequence[str]) -> str:
    """Arrow's words with the column's name and the row after the heading."""
    at = re.search(r"column #(\d+)", message)
    row = re.search(r"[Rr]ow #(\d+)", message)
    column = None if at is None else at[1]
    if column is not None and int(column) <= len(columns):
        column = columns[int(column) - 1]
    where = [f"row {int(row[1]) - 1}"] if row else []
    where += [f"column {column}"] if column else []
    what = re.search(r"conversion error to (\w+)", message)
    text = f"not a value of type {what[1]}" if what else message.split(":")[-1].strip()
    if what and what[1] == "string":
        text = "a text that is not UTF-8"
    return f"{', '.join(where)}: {text}" if where else message


def refuse(path: Path, first: int, bad: NDArray[np.bool_], column: str, what: str) -> None:
    """Raises FormatError at the first bad row; `first` numbers the piece's first row."""
    if bad.any():
        raise FormatError(f"{path.name}, row {first + int(bad.argmax())}, column {column}: {what}")


def shaped(path: Path, first: int, texts: pa.Array, like: str, column: str, what: str) -> None:
    """Raises FormatError at the first text that does not match the regular expression."""
    fits = pc.match_substring_regex(texts, like).to_numpy(zero_copy_only=False)
    refuse(path, first, ~fits.astype(bool), column, what)


def required(path: Path, first: int, piece: pa.RecordBatch, optional: Sequence[str] = ()) -> None:
    """Raises FormatError at the first empty cell of a column that is not `optional`."""
    for name, column in zip(piece.schema.names, piece.columns, strict=True):
        if column.null_count and name not in optional:
            empty = np.asarray(pc.is_null(column).to_numpy(zero_copy_only=False))
            refuse(path, first, empty, name, "empty")


def minor_units(
    path: Path, first: int, values: NDArray[np.float64], column: str, decimals: int = 2
) -> NDArray[np.int64]:
    """Exact minor units of decimal amounts. Raises FormatError where there are more decimals."""
    scaled = values * 10.0**decimals
    whole = np.rint(scaled)
    refuse(path, first, ~np.isfinite(values) | (np.abs(values) > 1e12), column, "not an amount")
    refuse(path, first, np.abs(scaled - whole) > 1e-3, column, f"more than {decimals} decimals")
    return whole.astype(np.int64)


def prefixed(prefix: str, values: pa.Array) -> pa.Array:
    """Strings prefix + value; null stays null."""
    return pc.binary_join_element_wise(prefix, values.cast(pa.string()), "")


def mapped(values: pa.Array, table: Mapping[str, str | None]) -> pa.Array:
    """Each string through a table, once a distinct value; what is not in it becomes null."""
    coded = values.dictionary_encode()
    found = pa.array([table.get(name) for name in coded.dictionary.to_pylist()], pa.string())
    return found.take(coded.indices)


def tokens(values: pa.Array, key: bytes, prefix: str) -> pa.Array:
    """A keyed one-way digest of each string, once a distinct value: who lacks the key cannot find
    the card number, not even by trying all of them."""
    secret = hashlib.blake2b(key, digest_size=32).digest()
    coded = values.cast(pa.string()).dictionary_encode()
    found = [
        prefix + digest.hexdigest().translate(NO_DIGITS)
        for digest in (
            hashlib.blake2b(name.encode(), key=secret, digest_size=TOKEN_BYTES)
            for name in coded.dictionary.to_pylist()
        )
    ]
    return pa.array(found, pa.string()).take(coded.indices)


def transactions(n: int, columns: Mapping[str, Any]) -> pa.RecordBatch:
    """A batch of schema v1 from columns; schema_version is put in."""
    whole = {"schema_version": np.full(n, SCHEMA_VERSION, np.int8), **columns}
    schema = subset(TRANSACTION, set(whole))
    return pa.RecordBatch.from_arrays(
        [_array(whole[f.name], f.type) for f in schema], schema=schema
    )


def _array(values: Any, kind: pa.DataType) -> pa.Array:
    if isinstance(values, pa.Array):
        return values.cast(kind)
    return pa.array(values, kind)


def constant(value: str, n: int) -> pa.Array:
    """The same string n times."""
    return pa.repeat(pa.scalar(value, pa.string()), n)


def yes_or_no(
    path: Path, first: int, piece: pa.RecordBatch, column: str, yes: str = "1", no: str = "0"
) -> NDArray[np.bool_]:
    """Which rows say yes. Raises FormatError at one that says neither: a fraud taken for none would
    teach a model that it is fine."""
    said = piece.column(column).cast(pa.string())
    fraud = np.asarray(pc.equal(said, yes).to_numpy(zero_copy_only=False)).astype(bool)
    neither = np.asarray(pc.not_equal(said, no).to_numpy(zero_copy_only=False)).astype(bool)
    refuse(path, first, neither & ~fraud, column, f"neither {yes} nor {no}")
    return fraud


def fraud_labels(
    batch: pa.RecordBatch, fraud: NDArray[np.bool_], kinds: pa.Array | None = None
) -> pa.RecordBatch:
    """Labels of the frauds in a batch, known LABEL_DELAY_MS after the event."""
    at = pa.array(np.flatnonzero(fraud))
    ids = batch.column("transaction_id").take(at)
    n = len(at)
    columns = {
        "schema_version": pa.array(np.full(n, SCHEMA_VERSION, np.int8)),
        "label_id": prefixed("l-", ids),
        "transaction_id": ids,
        "account_id": batch.column("account_id").take(at),
        "label": constant("fraud", n),
        "label_time": pc.add(batch.column("event_time").take(at), LABEL_DELAY_MS),
        "source": constant("dataset", n),
        "fraud_type": pa.nulls(n, pa.string()) if kinds is None else kinds.take(at),
    }
    return pa.RecordBatch.from_arrays([columns[f.name] for f in LABEL], schema=LABEL)
