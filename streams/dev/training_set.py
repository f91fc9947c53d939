"""A training set from Arrow tables in one process: the same pipeline as `fraudstream dataset`.

In: transactions in arrival order and labels, in schema v1. Out: `model.data.Dataset`. For the
benchmarks and for the shipped bundle, which start from tables in memory and not from a recording.
Does not know which stream it is.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from model import data
from streams import features
from streams.batch import Batch
from streams.clients.encode import messages
from streams.columns import Columns, Documents
from streams.decode import decode
from streams.labels import LabelBook, decode_labels
from streams.risk import RiskView, Sheet, digest_of
from streams.risk_build import RiskBuilder
from streams.risk_pace import Pace
from streams.schema import DAY_MS
from streams.sections import RiskSettings
from streams.state import Arena
from streams.windows import APPLIED, apply

ROWS = 8_192
ARENA_BYTES = 4 << 30


def _batches(table: pa.Table) -> Iterator[Columns]:
    """Decoded batches without what only alerts need."""
    offset = 0
    for part in table.to_batches(max_chunksize=ROWS):
        keys, values = messages(part)
        n = len(values)
        batch = Batch(
            topic="transactions",
            partition=0,
            offsets=np.arange(offset, offset + n, dtype=np.int64),
            timestamps=np.full(n, -1, np.int64),
            keys=list(keys),
            values=list(values),
            headers=None,
            next_offset=offset + n,
        )
        offset += n
        found = decode(batch, DAY_MS)
        bare = replace(batch, values=[None] * n)
        yield replace(found, batch=bare, docs=Documents([b"{}"] * len(found)))


def _label_values(labels: pa.Table) -> Iterator[bytes]:
    for part in labels.to_batches(max_chunksize=ROWS):
        yield from messages(part)[1]


def build(
    transactions: pa.Table,
    labels: pa.Table,
    *,
    pace: Pace | None = None,
    truth: dict[str, bool] | None = None,
    kinds: dict[str, str] | None = None,
) -> data.Dataset:
    """Decode, build the risk snapshots, apply. `pace`: as the settings have it, when none is given.

    `truth`, `kinds`: by transaction id.
    """
    pace = pace or Pace.of(RiskSettings())
    parts = list(_batches(transactions))
    known = decode_labels(_label_values(labels))
    builder = RiskBuilder(pace)
    for columns in parts:
        builder.add(columns)
    builder.add_labels(known)
    needed = pace.needed(parts)
    sheets = {}
    for period in needed:
        snapshot = builder.build(period)
        if not snapshot.empty:
            content = snapshot.to_bytes()
            sheets[period] = Sheet.of(content, digest_of(content))
    risk = RiskView(pace, sheets, needed[-1])
    arena = Arena(0, ARENA_BYTES)
    words: list[NDArray[np.uint64]] = []
    values: list[NDArray[np.float32]] = []
    accounts: list[str] = []
    names: list[str] = []
    currency: list[str] = []
    for columns in parts:
        arena.fill([(account, None) for account in arena.missing(columns.account_id)])
        work = apply(columns, arena, risk, history=False)
        arena.settled()
        kept = np.flatnonzero(work.status == APPLIED)
        words.append(columns.words[kept])
        values.append(work.features[kept])
        accounts += [columns.account_id[i] for i in kept.tolist()]
        names += [columns.transaction_id[i] for i in kept.tolist()]
        currency += [columns.currency[i] for i in kept.tolist()]
    label, label_time = LabelBook(known).newest(accounts, names)
    answer = np.full(len(names), -1, np.int8)
    if truth is not None:
        answer = np.array([truth.get(name, False) for name in names], np.int8)
    codes = ["none", *sorted(set((kinds or {}).values()))]
    code = {name: at for at, name in enumerate(codes)}
    kind = np.array([code[(kinds or {}).get(name, "none")] for name in names], np.int8)
    built = data.build(
        np.concatenate(words),
        np.concatenate(values),
        np.array(accounts),
        label,
        label_time,
        names=features.NAMES,
        feature_digest=features.DIGEST,
        truth=answer,
        kind=kind,
        kinds=codes,
        currency=currency,
    )
    return replace(built, about={"risk": pace.told()})
