"""From a replayed batch to result rows: one row a message, in offset order.

In: a `Step`. Out: the columns that `results.py` writes. Does not know files or settings.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
import orjson
import pyarrow as pa
from numpy.typing import NDArray

from model.inputs import CHANNEL_MASK, CHANNEL_SHIFT, COUNTRY_MASK, COUNTRY_SHIFT
from streams.alerts import DECISIONS
from streams.codes import CHANNEL_CODES, COUNTRY_CODES
from streams.entry import LATE, Entry
from streams.offline.replay import Step
from streams.offline.results import BASE, DEAD, DUPLICATE, ERASED, OUTCOMES, SCORED
from streams.windows import APPLIED

_REASON = "reason"
_TYPES = {field.name: field.type for field in BASE}
_OUTCOMES = pa.array(OUTCOMES)
_DECISIONS = pa.array([decision.value for decision in DECISIONS])


def _by_code(codes: Mapping[str | None, int]) -> pa.Array:
    """The name of each code of an event word; null for 0 and for codes that nothing has."""
    names: list[str | None] = [None] * (max(codes.values()) + 1)
    for name, code in codes.items():
        names[code] = name
    return pa.array(names, pa.string())


_CHANNELS = _by_code(CHANNEL_CODES)
_COUNTRIES = _by_code(COUNTRY_CODES)


def rows(step: Step) -> dict[str, pa.Array]:
    """Columns of `results.schema(len(step.entries))`, of equal length."""
    columns = step.work.columns
    n = len(columns.batch)
    applied = np.flatnonzero(step.work.status == APPLIED)
    at = columns.row[applied]
    found = _own(step)
    if len(applied) < n:
        place = np.full(n, -1, np.int64)
        place[at] = applied
        taken = pa.array(place, mask=place < 0)
        found = {name: column.take(taken) for name, column in found.items()}
    found["offset"] = pa.array(columns.batch.offsets)
    found["outcome"], found["reason"] = _outcomes(step, at)
    for k, each in enumerate(step.entries):
        _judged(found, k, each, at, n)
    return found


def _own(step: Step) -> dict[str, pa.Array]:
    """What is known of each accepted transaction."""
    work, columns = step.work, step.work.columns
    values: dict[str, Any] = {
        "transaction_id": columns.transaction_id,
        "account_id": columns.account_id,
        "event_time": columns.event_time,
        "amount": columns.amount,
        "currency": columns.currency,
        "channel": _CHANNELS.take(
            pa.array(_bits(columns.words[:, 0], CHANNEL_SHIFT, CHANNEL_MASK))
        ),
        "country": _COUNTRIES.take(
            pa.array(_bits(columns.words[:, 3], COUNTRY_SHIFT, COUNTRY_MASK))
        ),
        "late": work.late,
        "edge": work.edge,
        "feature_digest": work.digest,
        "risk": work.risk_versions,
    }
    return {
        name: column if isinstance(column, pa.Array) else pa.array(column, _TYPES[name])
        for name, column in values.items()
    }


def _bits(words: NDArray[np.uint64], shift: int, mask: int) -> pa.Array:
    return pa.array(((words >> np.uint64(shift)) & np.uint64(mask)).astype(np.uint16))


def _named(codes: NDArray[np.int8], names: pa.Array) -> pa.Array:
    """The name of each code; null where the code is negative."""
    indices = pa.array(codes, mask=codes < 0)
    return pa.DictionaryArray.from_arrays(indices, names).dictionary_decode()


def _outcomes(step: Step, at: NDArray[Any]) -> tuple[pa.Array, pa.Array]:
    """What became of each message, and the reason of the dead ones."""
    columns = step.work.columns
    n = len(columns.batch)
    outcome = np.full(n, OUTCOMES.index(DUPLICATE), np.int8)
    outcome[at] = OUTCOMES.index(SCORED)
    outcome[[row for row, _ in columns.tombstones]] = OUTCOMES.index(ERASED)
    dead = _dead(step)
    if not dead:
        return _named(outcome, _OUTCOMES), pa.nulls(n, pa.string())
    reason: list[str | None] = [None] * n
    for row, why in dead.items():
        outcome[row] = OUTCOMES.index(DEAD)
        reason[row] = why
    return _named(outcome, _OUTCOMES), pa.array(reason, pa.string())


def _dead(step: Step) -> dict[int, str]:
    """Row and reason of each dead letter. Every judge refuses the same messages."""
    entry = next((each for each in step.entries if each is not None), None)
    if entry is None or not entry.dead:
        return {}
    places = np.searchsorted(step.work.columns.batch.offsets, [each.offset for each in entry.dead])
    reasons = [dict(each.headers)[_REASON].decode() for each in entry.dead]
    return dict(zip(places.tolist(), reasons, strict=True))


def _judged(
    found: dict[str, pa.Array], k: int, entry: Entry | None, at: NDArray[Any], n: int
) -> None:
    """Columns of model k."""
    scores, codes = np.full(n, np.nan), np.full(n, -1, np.int8)
    alert_ids: list[str | None] = [None] * n
    reasons: list[str | None] = [None] * n
    if entry is not None:
        assert len(entry) == len(at)
        scores[at] = entry.scores
        codes[at] = entry.codes % LATE
        for place, packed in entry.alerts:
            alert, row = orjson.loads(packed), int(at[place])
            alert_ids[row] = alert["alert_id"]
            reasons[row] = orjson.dumps(alert["reasons"]).decode()
    found[f"score_{k}"] = pa.array(scores)
    found[f"decision_{k}"] = _named(codes, _DECISIONS)
    found[f"alert_id_{k}"] = pa.array(alert_ids, pa.string())
    found[f"reasons_{k}"] = pa.array(reasons, pa.string())
