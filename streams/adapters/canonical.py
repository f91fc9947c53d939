"""The Arrow form of schema v1: what every adapter yields, every file holds, `publish` reads.

In: nothing. Out: two Arrow schemas. Columns a source cannot fill are absent, never made up.
Does not know any foreign format.
"""

from __future__ import annotations

from typing import Final

import pyarrow as pa

TRANSACTION: Final = pa.schema(
    [
        pa.field("schema_version", pa.int8(), nullable=False),
        pa.field("transaction_id", pa.string(), nullable=False),
        pa.field("account_id", pa.string(), nullable=False),
        pa.field("event_time", pa.int64(), nullable=False),
        pa.field("amount", pa.int64(), nullable=False),
        pa.field("currency", pa.string(), nullable=False),
        pa.field("event_type", pa.string()),
        pa.field("direction", pa.string()),
        pa.field("channel", pa.string()),
        pa.field("entry_mode", pa.string()),
        pa.field("card_id", pa.string()),
        pa.field("merchant_id", pa.string()),
        pa.field("terminal_id", pa.string()),
        pa.field("mcc", pa.string()),
        pa.field("counterparty_account_id", pa.string()),
        pa.field("merchant_country", pa.string()),
        pa.field("billing_country", pa.string()),
        pa.field("ip_country", pa.string()),
        pa.field("latitude", pa.float64()),
        pa.field("longitude", pa.float64()),
        pa.field("device_id", pa.string()),
        pa.field("ip_hash", pa.string()),
        pa.field("email_hash", pa.string()),
        pa.field("auth_response", pa.string()),
        pa.field("observed_time", pa.int64()),
        pa.field("original_transaction_id", pa.string()),
        pa.field("tenant_id", pa.string()),
        pa.field("ext", pa.map_(pa.string(), pa.string())),
    ]
)

LABEL: Final = pa.schema(
    [
        pa.field("schema_version", pa.int8(), nullable=False),
        pa.field("label_id", pa.string(), nullable=False),
        pa.field("transaction_id", pa.string(), nullable=False),
        pa.field("account_id", pa.string(), nullable=False),
        pa.field("label", pa.string(), nullable=False),
        pa.field("label_time", pa.int64(), nullable=False),
        pa.field("source", pa.string()),
        pa.field("fraud_type", pa.string()),
    ]
)


def subset(full: pa.Schema, columns: set[str]) -> pa.Schema:
    """The fields of `full` named in `columns`, in the order of `full`."""
    unknown = columns - set(full.names)
    assert not unknown, f"not in the schema: {sorted(unknown)}"
    return pa.schema([field for field in full if field.name in columns])
