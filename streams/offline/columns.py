"""Schema columns beside the raw bytes of a recording, for people with polars, DuckDB or Spark.

In: message values. Out: Arrow columns. Lenient on purpose: a message the pipeline would refuse is
still recorded, with nulls here; replay reads the raw bytes and never these columns.
"""

from __future__ import annotations

from typing import Any

import orjson
import pyarrow as pa

TEXT, INTEGER, REAL, FLAG = pa.string(), pa.int64(), pa.float64(), pa.bool_()

BY_TOPIC: dict[str, dict[str, pa.DataType]] = {
    "transactions": {
        "transaction_id": TEXT,
        "account_id": TEXT,
        "event_time": INTEGER,
        "amount": INTEGER,
        "currency": TEXT,
        "event_type": TEXT,
        "direction": TEXT,
        "channel": TEXT,
        "entry_mode": TEXT,
        "merchant_id": TEXT,
        "terminal_id": TEXT,
        "mcc": TEXT,
        "merchant_country": TEXT,
        "latitude": REAL,
        "longitude": REAL,
        "device_id": TEXT,
        "tenant_id": TEXT,
    },
    "labels": {
        "label_id": TEXT,
        "transaction_id": TEXT,
        "account_id": TEXT,
        "label": TEXT,
        "label_time": INTEGER,
        "fraud_type": TEXT,
    },
    "scores": {
        "transaction_id": TEXT,
        "account_id": TEXT,
        "event_time": INTEGER,
        "score": REAL,
        "decision": TEXT,
        "mode": TEXT,
        "late": FLAG,
        "feature_digest": TEXT,
    },
    "alerts": {
        "alert_id": TEXT,
        "transaction_id": TEXT,
        "account_id": TEXT,
        "event_time": INTEGER,
        "score": REAL,
        "decision": TEXT,
        "amount": INTEGER,
        "currency": TEXT,
    },
    # What a dead letter holds may be anything; what it is about stands in its headers.
    "transactions.dlq": {},
}
_PYTHON: dict[pa.DataType, tuple[type, ...]] = {
    TEXT: (str,),
    INTEGER: (int,),
    REAL: (int, float),
    FLAG: (bool,),
}


def document_of(value: bytes | None) -> dict[str, Any]:
    """The JSON object of a message; empty when it is none."""
    try:
        document = orjson.loads(value or b"")
    except orjson.JSONDecodeError:
        return {}
    return document if isinstance(document, dict) else {}


def _fits(value: Any, kind: pa.DataType) -> bool:
    if isinstance(value, bool):
        return bool(kind == FLAG)
    if kind == INTEGER:
        return isinstance(value, int) and -(2**63) <= value < 2**63
    return isinstance(value, _PYTHON[kind])


def with_schema_columns(topic: str, raw: pa.Table) -> pa.Table:
    """`raw` with the topic's schema columns appended; nulls where a message does not have them."""
    documents = [document_of(value) for value in raw["value"].to_pylist()]
    for name, kind in BY_TOPIC[topic].items():
        found = [document.get(name) for document in documents]
        column = [value if _fits(value, kind) else None for value in found]
        raw = raw.append_column(name, pa.array(column, kind))
    return raw
