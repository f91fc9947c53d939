"""Measures of scores on rows of a training set, as a whole and by segment.

In: a `Dataset`, rows, scores. Out: figures by name. Does not know which model gave the scores, nor
whether the rows are such as it never saw. Money is of the currency that most of the rows are in.
"""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

from model import metrics
from model.calibrate import threshold_for_budget
from model.data import DAY_MS, Dataset
from model.inputs import CHANNEL_MASK, CHANNEL_SHIFT, CHANNELS

BUDGET = 0.005
"""Share of events that become alerts, where nobody says otherwise."""
Rows = NDArray[np.int64]
Scores = NDArray[np.float64]


def measure(
    dataset: Dataset, rows: Rows, y: NDArray[Any], scores: Scores, budget: float = BUDGET
) -> dict[str, float]:
    """All measures of scores on rows, against `y`: 1 fraud, 0 legitimate."""
    _, counted = dataset.main_currency(rows)
    return metrics.summary(
        y,
        scores,
        np.asarray(dataset.account)[rows],
        dataset.time[rows] // DAY_MS,
        np.where(counted, dataset.amount[rows], 0).astype(np.float64),
        budget,
    )


def _segment_masks(dataset: Dataset, rows: Rows) -> dict[str, NDArray[np.bool_]]:
    """Parts of the rows by what an analyst would ask for; each kind beside all ordinary rows."""
    words = np.asarray(dataset.words)[rows]
    kind, place = np.asarray(dataset.kind)[rows], dataset.place()[rows]
    untold = (kind == 0) & (dataset.answer()[rows] == 1)
    ordinary = (kind == 0) & ~untold
    found: dict[str, NDArray[np.bool_]] = {
        f"kind {name}": ordinary | (kind == code)
        for code, name in enumerate(dataset.kinds)
        if code > 0
    }
    if found and untold.any():
        found["kind not told"] = ordinary | untold
    channel = (words[:, 0] >> np.uint64(CHANNEL_SHIFT)).astype(np.int64) & CHANNEL_MASK
    for code, name in enumerate(CHANNELS, 1):
        found[f"channel {name}"] = channel == code
    found |= _amounts(dataset, rows)
    found["history 0-9"] = place < 10
    found["history 10-63"] = (place >= 10) & (place < 64)
    found["history 64+"] = place >= 64
    return found


def _amounts(dataset: Dataset, rows: Rows) -> dict[str, NDArray[np.bool_]]:
    """Below the median, up to the 0.9 quantile, above; a currency that fewer are in is in none."""
    _, counted = dataset.main_currency(rows)
    amount = dataset.amount[rows]
    # Whole units: a name says exactly where its part begins. Where both are one, the last is it.
    low, high = np.ceil(np.quantile(amount[counted], [0.5, 0.9]))
    return {
        f"amount below {low:,.0f}": counted & (amount < low),
        f"amount from {low:,.0f}": counted & (amount >= low) & (amount < high),
        f"amount from {high:,.0f}": counted & (amount >= high),
    }


def segments(
    dataset: Dataset, rows: Rows, scores: Scores, budget: float = BUDGET
) -> dict[str, dict[str, float]]:
    """By kind of case, channel, amount and length of history; one alert threshold for all.

    Recall by segment is equal opportunity, the false positive rate predictive equality. What needs
    a fraud is NaN in a segment without one.
    """
    y = dataset.answer()[rows]
    alert = scores >= threshold_for_budget(scores, budget) if len(scores) else scores > 0
    found = {}
    for name, inside in _segment_masks(dataset, rows).items():
        if inside.any():
            bad, good = inside & (y == 1), inside & (y == 0)
            found[name] = {
                "events": float(inside.sum()),
                "frauds": float(bad.sum()),
                "ap": metrics.average_precision(y[inside], scores[inside]),
                "auc": metrics.roc_auc(y[inside], scores[inside]),
                "recall_budget": float(alert[bad].mean()) if bad.any() else float("nan"),
                "fpr_budget": float(alert[good].mean()) if good.any() else float("nan"),
            }
    return found
