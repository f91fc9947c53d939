"""Working events to Arrow tables of schema v1: codes become strings, through dictionaries.

In: `Events` in arrival order, the world, the seed. Out: tables of transactions, labels and truth.
Does not know how the events came about, nor where the tables are written.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from model.inputs import AUTH_RESPONSES, CHANNELS, DIRECTIONS, ENTRY_MODES, EVENT_TYPES
from streams.adapters.canonical import LABEL, TRANSACTION, subset
from streams.dev.simulate import events as ev
from streams.dev.simulate.frauds import SCENARIOS
from streams.dev.simulate.world import CATEGORIES, COUNTRIES, CURRENCIES, DAY_MS, World
from streams.schema import SCHEMA_VERSION

TRUTH = pa.schema(
    [
        pa.field("transaction_id", pa.string(), nullable=False),
        pa.field("account_id", pa.string(), nullable=False),
        pa.field("event_time", pa.int64(), nullable=False),
        pa.field("is_fraud", pa.bool_(), nullable=False),
        pa.field("scenario", pa.string(), nullable=False),
    ]
)
"""What only the simulator knows: every fraud, reported or not, and the twins (scenario `order`)."""

FAULTS = ("amount", "currency", "mcc", "event_time")
"""What an injected fault spoils, by its number less one."""


def numbered(prefix: str, numbers: NDArray[np.int64], digits: int) -> pa.Array:
    """Strings prefix + number with leading zeros, without a Python object an element."""
    assert numbers.size == 0 or (numbers.min() >= 0 and numbers.max() < 10**digits)
    head = np.frombuffer(prefix.encode(), np.uint8)
    text = np.empty((len(numbers), len(head) + digits), np.uint8)
    text[:, : len(head)] = head
    rest = numbers.astype(np.int64, copy=True)
    for place in range(digits - 1, -1, -1):
        text[:, len(head) + place] = 48 + rest % 10
        rest //= 10
    width = text.shape[1]
    offsets = np.arange(len(numbers) + 1, dtype=np.int32) * np.int32(width)
    return pa.StringArray.from_buffers(
        len(numbers), pa.py_buffer(offsets), pa.py_buffer(text.reshape(-1))
    )


def _named(codes: NDArray[Any], names: tuple[str, ...] | pa.Array) -> pa.Array:
    """Codes to strings; a negative code is null."""
    values = pa.array(names, pa.string()) if isinstance(names, tuple) else names
    index = pa.array(codes.astype(np.int32), mask=codes < 0)
    return pa.DictionaryArray.from_arrays(index, values)


def _coded(prefix: str, codes: NDArray[np.int64], digits: int) -> pa.Array:
    """Sparse codes to numbered strings; a negative code is null."""
    names, index = np.unique(codes, return_inverse=True)
    below = int((names < 0).sum())
    return _named(index.astype(np.int32) - below, numbered(prefix, names[below:], digits))


def _degrees(micro: NDArray[np.int32]) -> pa.Array:
    return pa.array(micro / 1e6, mask=micro == ev.NO_POSITION)


def transaction_ids(seed: int, rows: NDArray[np.int64]) -> pa.Array:
    """The id of the n-th event of the stream of this seed; the letter between the two numbers
    keeps their digits from being taken for a card number."""
    return numbered(f"s{seed}n", rows, 9)


def transactions(e: ev.Events, row: NDArray[np.int64], world: World, seed: int) -> pa.Table:
    """The stream in schema v1. `row` numbers the events; a repeated number is a duplicate."""
    m, a = world.merchants, world.accounts
    n = len(e)
    has = e.merchant >= 0
    shop = np.maximum(e.merchant, 0)
    mcc_names = (*(c[1] for c in CATEGORIES), "12")
    mcc = np.where(has, m.category[shop], ev.NONE)
    mcc[e.fault == 3] = len(CATEGORIES)
    currency = a.currency[e.account].copy()
    currency[e.fault == 2] = len(CURRENCIES)
    counterparty = np.where(e.counterparty >= 0, e.counterparty, ev.NONE)
    people = numbered("acct-", np.arange(len(a)), 7)
    columns = {
        "schema_version": pa.array(np.full(n, SCHEMA_VERSION, np.int8)),
        "transaction_id": transaction_ids(seed, row),
        "account_id": _named(e.account, people),
        "event_time": pa.array(np.where(e.fault == 4, e.time // 1_000, e.time)),
        "amount": pa.array(np.where(e.fault == 1, -1, e.amount)),
        "currency": _named(currency, (*CURRENCIES, "eur")),
        "event_type": _named(e.kind, EVENT_TYPES),
        "direction": _named(e.direction, DIRECTIONS),
        "channel": _named(e.channel, CHANNELS),
        "entry_mode": _named(e.entry, ENTRY_MODES),
        "merchant_id": _coded("mer-", e.merchant.astype(np.int64), 6),
        "terminal_id": _coded(
            "till-", np.where(e.terminal >= 0, shop.astype(np.int64) * 4 + e.terminal, -1), 7
        ),
        "mcc": _named(mcc, mcc_names),
        "counterparty_account_id": _named(counterparty, people),
        "merchant_country": _named(np.where(has, m.country[shop], ev.NONE), COUNTRIES),
        "billing_country": _named(a.country[e.account], COUNTRIES),
        "ip_country": _named(e.ip, COUNTRIES),
        "latitude": _degrees(e.latitude),
        "longitude": _degrees(e.longitude),
        "device_id": _coded("dev-", e.device.astype(np.int64), 9),
        "auth_response": _named(e.auth, AUTH_RESPONSES),
    }
    schema = subset(TRANSACTION, set(columns))
    fields = [
        f.with_type(columns[f.name].type).with_nullable(True) for f in schema
    ]  # dictionary types; the Parquet file stores plain strings all the same
    return pa.table([columns[f.name] for f in fields], schema=pa.schema(fields))


def labels(
    rng: np.random.Generator,
    e: ev.Events,
    row: NDArray[np.int64],
    seed: int,
    delay_days: float,
    unreported: float,
) -> pa.Table:
    """What becomes known, and when: frauds after a delay (log-normal, `delay_days` its median),
    a share of them never; half of the twins and one ordinary payment in 500 as legitimate.
    """
    n = len(e)
    draw = rng.random(n)
    reported = e.fraud & (draw >= unreported)
    cleared = ~e.fraud & (draw < np.where(e.scenario > 0, 0.5, 0.002)) & (e.amount > 0)
    known = np.flatnonzero(reported | cleared)
    delay = delay_days * np.exp(0.8 * rng.standard_normal(len(known)))
    time = e.time[known] + np.maximum(60_000, (delay * DAY_MS).astype(np.int64))
    order = np.lexsort((known, time))
    known, time = known[order], time[order]
    fraud = e.fraud[known]
    source = np.where(fraud, (e.scenario[known] % 3 == 0).astype(np.int8), 2)
    people = numbered("acct-", e.account[known].astype(np.int64), 7)
    columns = {
        "schema_version": pa.array(np.full(len(known), SCHEMA_VERSION, np.int8)),
        "label_id": numbered(f"l{seed}n", np.arange(len(known)), 9),
        "transaction_id": transaction_ids(seed, row[known]),
        "account_id": people,
        "label": _named(np.where(fraud, 0, 1), ("fraud", "legitimate")).cast(pa.string()),
        "label_time": pa.array(time),
        "source": _named(source, ("customer", "chargeback", "analyst")).cast(pa.string()),
        "fraud_type": _named(np.where(fraud, e.scenario[known] - 1, ev.NONE), SCENARIOS).cast(
            pa.string()
        ),
    }
    return pa.table([columns[f.name] for f in LABEL], schema=LABEL)


def truth(e: ev.Events, row: NDArray[np.int64], seed: int) -> pa.Table:
    """Every event of a scenario: the frauds and the twins."""
    special = np.flatnonzero(e.scenario > 0)
    return pa.table(
        [
            transaction_ids(seed, row[special]),
            numbered("acct-", e.account[special].astype(np.int64), 7),
            pa.array(e.time[special]),
            pa.array(e.fraud[special]),
            _named(e.scenario[special] - 1, SCENARIOS).cast(pa.string()),
        ],
        schema=TRUTH,
    )
