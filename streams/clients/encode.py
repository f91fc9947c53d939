"""Rows of Arrow record batches to Kafka messages: the key and the JSON bytes.

In: a record batch with columns of schema v1. Out: keys and values, in row order.
Does not check values: a row that breaks the schema is published as it is, and the service tells.

The JSON is joined column by column in Arrow's kernels: each column becomes `"name":value` strings,
null where the value is null, and one join per row skips the nulls. Columns that come
dictionary-encoded (`files.py` reads Parquet so) are written once a distinct value.
"""

from __future__ import annotations

import numpy as np
import orjson
import pyarrow as pa
import pyarrow.compute as pc


def _needs_escape(column: pa.Array) -> bool:
    """Whether any string holds a quote, a backslash or a control character."""
    _, offsets, data = column.buffers()
    if data is None or len(column) == 0:
        return False
    ends = np.frombuffer(offsets, np.int32)[column.offset : column.offset + len(column) + 1]
    text = np.frombuffer(data, np.uint8)[ends[0] : ends[-1]]
    return bool(((text < 0x20) | (text == 0x22) | (text == 0x5C)).any())


def _by_orjson(column: pa.Array) -> pa.Array:
    """JSON of each value, one Python object at a time."""
    values = column.to_pylist()
    if pa.types.is_map(column.type):
        values = [None if item is None else dict(item) for item in values]
    return pa.array([None if v is None else orjson.dumps(v).decode() for v in values], pa.string())


def _members(name: str, column: pa.Array) -> pa.Array:
    """`"name":value` of each row, null where the value is null."""
    kind = column.type
    if pa.types.is_dictionary(kind):
        return _members(name, column.dictionary).take(column.indices)
    if pa.types.is_integer(kind):
        return pc.binary_join_element_wise(f'"{name}":', column.cast(pa.string()), "")
    if pa.types.is_string(kind) and not _needs_escape(column):
        return pc.binary_join_element_wise(f'"{name}":"', column, '"', "")
    return pc.binary_join_element_wise(f'"{name}":', _by_orjson(column), "")


def _keys(column: pa.Array) -> list[bytes | None]:
    """The UTF-8 bytes of a column, once a distinct value; None where it has none."""
    coded = column if pa.types.is_dictionary(column.type) else column.dictionary_encode()
    names = [str(name).encode() for name in coded.dictionary.to_pylist()]
    return [None if i is None else names[i] for i in coded.indices.to_pylist()]


def messages(
    batch: pa.RecordBatch, key: str = "account_id"
) -> tuple[list[bytes | None], list[bytes]]:
    """Keys and JSON values of all rows. `key` names the column whose UTF-8 bytes are the key."""
    if len(batch) == 0:
        # No column would be left to join: all are as empty as they are null.
        return [], []
    parts = [
        _members(name, column)
        for name, column in zip(batch.schema.names, batch.columns, strict=True)
        if column.null_count < len(column)
    ]
    body = pc.binary_join_element_wise(*parts, ",", null_handling="skip")
    rows = pc.binary_join_element_wise("{", body, "}", "")
    return _keys(batch.column(key)), rows.cast(pa.binary()).to_pylist()
