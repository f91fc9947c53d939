"""From a replayed batch to result rows: one row a message, in offset order.

In: a `Step`. Out: the columns that `results.py` writes. Does not know files or settings.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import orjson

from streams.alerts import DECISIONS
from streams.entry import LATE, Entry
from streams.offline.replay import Step
from streams.offline.results import BASE, DEAD, DUPLICATE, ERASED, SCORED
from streams.settle import APPLIED

_REASON = "reason"


def rows(step: Step) -> dict[str, Any]:
    """Columns of `results.schema(len(step.entries))`; lists and arrays of equal length."""
    columns = step.work.columns
    n = len(columns.batch)
    found: dict[str, Any] = {field.name: [None] * n for field in BASE}
    found["offset"] = columns.batch.offsets
    outcome = np.full(n, DUPLICATE, object)
    applied = np.flatnonzero(step.work.status == APPLIED)
    at = columns.row[applied]
    outcome[at] = SCORED
    for row, _ in columns.tombstones:
        outcome[row] = ERASED
    places = {int(offset): i for i, offset in enumerate(columns.batch.offsets)}
    entry = next((each for each in step.entries if each is not None), None)
    for dead in () if entry is None else entry.dead:
        row = places[dead.offset]
        outcome[row] = DEAD
        found["reason"][row] = dict(dead.headers)[_REASON].decode()
    found["outcome"] = outcome
    own: dict[str, list[Any]] = {
        "transaction_id": columns.transaction_id,
        "account_id": columns.account_id,
        "event_time": columns.event_time.tolist(),
        "amount": columns.amount.tolist(),
        "currency": columns.currency,
        "channel": [document.get("channel") for document in columns.docs],
        "country": [document.get("merchant_country") for document in columns.docs],
        "late": step.work.late.tolist(),
        "edge": step.work.edge.tolist(),
        "feature_digest": step.work.digest.tolist(),
        "risk": list(step.work.risk_versions),
    }
    whole = len(applied) == n
    for name, values in own.items():
        if whole:
            found[name] = values
            continue
        target = found[name]
        for row, index in zip(at.tolist(), applied.tolist(), strict=True):
            target[row] = values[index]
    for k, each in enumerate(step.entries):
        _judged(found, k, each, at, n)
    return found


def _judged(found: dict[str, Any], k: int, entry: Entry | None, at: Any, n: int) -> None:
    """Columns of model k."""
    scores = np.full(n, np.nan)
    decisions = np.full(n, None, object)
    alert_ids = np.full(n, None, object)
    reasons = np.full(n, None, object)
    if entry is not None:
        assert len(entry) == len(at)
        scores[at] = entry.scores
        names = np.array([decision.value for decision in DECISIONS], object)
        decisions[at] = names[entry.codes % LATE]
        for place, packed in entry.alerts:
            alert = orjson.loads(packed)
            alert_ids[at[place]] = alert["alert_id"]
            reasons[at[place]] = orjson.dumps(alert["reasons"]).decode()
    found[f"score_{k}"] = scores
    found[f"decision_{k}"] = decisions
    found[f"alert_id_{k}"] = alert_ids
    found[f"reasons_{k}"] = reasons
