"""The way of one micro-batch, in reading order. Live and replay call these and nothing else.

In: raw batches, the arena's records, risk snapshots, a scorer, a policy. Out: an outbox entry and
the records that changed. Pure: no clock, no random, no I/O. Does not know whether Kafka, a
recording or a file is the source, nor where records and entries are kept.

    columns = read_all(batches, forgotten, max_future_ms)   one pass over several partitions
    ... the caller fills the arenas with the records they miss ...
    work    = [advance(c, arena, risk, history) for c in columns]
    scores  = score(scorer, work)          one padded batch over several partitions
    outcome = [settle(w, s, policy) for w, s in zip(work, scores)]
    ... the caller commits the arenas' writes and the outcomes' entries, then delivers ...

The only importers are `live/agents.py` and `offline/replay.py`: that is online/offline parity.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np
from numpy.typing import NDArray

from model.inputs import AnyScorer, stack
from streams.batch import Batch
from streams.columns import Columns, select
from streams.decode import decode_all
from streams.privacy import account_digest
from streams.risk import RiskView
from streams.schema import Reject
from streams.settle import Outcome, Policy, settle
from streams.state import Arena
from streams.windows import Work, apply, scoring_batch

__all__ = ["Outcome", "Policy", "Work", "advance", "read", "read_all", "score", "settle"]


def read(batch: Batch, forgotten: Mapping[bytes, int], max_future_ms: int) -> Columns:
    """Decode a batch and withhold what belongs to erased accounts.

    `forgotten` maps an account's digest to the offset of its erasure on this partition; earlier
    events of the account, and events before a tombstone in the batch itself, become rejects.
    """
    return read_all([batch], [forgotten], max_future_ms)[0]


def read_all(
    batches: Sequence[Batch], forgotten: Sequence[Mapping[bytes, int]], max_future_ms: int
) -> list[Columns]:
    """`read` for batches of several partitions, in one pass."""
    found = decode_all(batches, max_future_ms)
    return [_withheld(columns, each) for columns, each in zip(found, forgotten, strict=True)]


def _withheld(columns: Columns, forgotten: Mapping[bytes, int]) -> Columns:
    if not forgotten and not columns.tombstones:
        return columns
    until = dict(forgotten)
    for row, account in columns.tombstones:
        # A batch that is read again may hold an older tombstone than the marker knows.
        name = account_digest(account)
        until[name] = max(until.get(name, -1), int(columns.batch.offsets[row]))
    offsets = columns.batch.offsets[columns.row]
    cuts = [until.get(account_digest(account), -1) for account in columns.account_id]
    keep = offsets >= np.array(cuts, np.int64)
    return select(columns, keep, Reject.FORGOTTEN, "the account was erased")


def advance(columns: Columns, arena: Arena, risk: RiskView | None, *, history: bool = True) -> Work:
    """Erase what the batch's tombstones name, then apply its events in order.

    The arena must hold the records of `arena.missing(columns.account_id)`. With `history` False
    the gather of past events is left out, for scorers that do not look at them.
    """
    for _, account in columns.tombstones:
        arena.erase(account)
    return apply(columns, arena, risk, history=history)


def score(scorer: AnyScorer, works: Sequence[Work]) -> list[NDArray[np.float64]]:
    """Scores for each work, from one batch over all of them; float64 [len(work)] each."""
    sizes = [len(work.columns) for work in works]
    if not sum(sizes):
        return [np.zeros(0) for _ in works]
    scores = scorer.score(stack([scoring_batch(work) for work in works]))
    assert scores.shape == (sum(sizes),)
    return np.split(scores, np.cumsum(sizes)[:-1])
