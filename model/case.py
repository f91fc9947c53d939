"""One transaction of a training set explained: for `fraudstream explain` and the analyst's page.

In: a scorer, a dataset, a row. Out: a dictionary of plain numbers. Does not know words for groups.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import xxhash

from model.data import Dataset, gather
from model.explain import contributions, similar
from model.inputs import HISTORY, ID_SHIFT
from model.score import Scorer

MAX_CASES = 2_000
"""Labelled frauds searched for similar ones, the newest."""


def row_of(dataset: Dataset, transaction_id: str) -> int | None:
    """The row of a transaction, by the 48 bits of its id that the words keep."""
    wanted = np.uint64(max(xxhash.xxh3_64_intdigest(transaction_id.encode()) >> 16, 1))
    found = np.flatnonzero((np.asarray(dataset.words[:, 2]) >> np.uint64(ID_SHIFT)) == wanted)
    return int(found[0]) if len(found) else None


def explain_row(scorer: Scorer, dataset: Dataset, row: int) -> dict[str, Any]:
    """Score, log-odds by group, attention (the event before first), three similar past frauds."""
    batch = gather(dataset, dataset.place(), np.array([row]))
    label = np.asarray(dataset.label)
    frauds = np.flatnonzero(label == 1)
    newest = frauds[np.argsort(dataset.time[frauds], kind="stable")][-MAX_CASES:]
    near = similar(scorer.bundle.model(), dataset, row, np.sort(newest))
    attention = scorer.attention(batch)[0][::-1][: min(int(batch.length[0]), HISTORY)]
    return {
        "score": float(scorer.score(batch)[0]),
        "groups": contributions(scorer, batch)[0],
        "attention": [float(a) for a in attention],
        "similar": [{"row": r, "cosine": c, "label": int(label[r])} for r, c in near],
    }
