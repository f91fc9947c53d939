"""Measures of a fraud score: ranking, calibration, and what an alert budget catches.

In: labels (0, 1) and scores as numpy arrays. Out: floats. Does not know models or files.
A measure that the labels do not define (one class only) is NaN, never a guess.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray

Floats = NDArray[np.float64]
Labels = NDArray[np.integer]


def _ranked(labels: Labels, scores: Floats) -> tuple[Floats, Floats]:
    """Cumulative true and false positives at each distinct score, highest score first."""
    order = np.argsort(-scores, kind="stable")
    hits = labels[order].astype(np.float64)
    ends = np.flatnonzero(np.append(np.diff(scores[order]) != 0, True))
    true = np.cumsum(hits)[ends]
    return true, (ends + 1) - true


def average_precision(labels: Labels, scores: Floats) -> float:
    """AP = sum over thresholds of (R_n - R_{n-1}) P_n, ties as one threshold (as scikit-learn)."""
    if not len(labels) or not labels.any():
        return float("nan")
    true, false = _ranked(labels, scores)
    precision = true / (true + false)
    recall_steps = np.diff(true, prepend=0.0) / true[-1]
    return float(np.sum(recall_steps * precision))


def roc_auc(labels: Labels, scores: Floats) -> float:
    """Area under the ROC curve by trapezoids, ties as one threshold."""
    if not len(labels) or labels.all() or not labels.any():
        return float("nan")
    true, false = _ranked(labels, scores)
    recall = np.concatenate([[0.0], true / true[-1]])
    fallout = np.concatenate([[0.0], false / false[-1]])
    return float(np.trapezoid(recall, fallout))


def recall_at_fpr(labels: Labels, scores: Floats, fpr: float) -> float:
    """The largest recall with a false positive rate of at most `fpr`."""
    if not len(labels) or labels.all() or not labels.any():
        return float("nan")
    true, false = _ranked(labels, scores)
    allowed = false / false[-1] <= fpr
    return float(true[allowed][-1] / true[-1]) if allowed.any() else 0.0


def alerts_of(budget: float, events: int) -> int:
    """How many whole alerts a share of so many events is."""
    return int(budget * events + 1e-9)  # 0.07 * 100 is 7.000000000000001, 0.29 * 100 below 29


def highest(scores: Floats, alerts: int) -> Floats:
    """How much of each row is among the `alerts` highest scores: 1, 0, or of those with the very
    score where they end an equal part, as if drawn by lot; their order says nothing of a model."""
    if alerts >= len(scores):
        return np.ones(len(scores))
    last = np.partition(scores, len(scores) - alerts)[len(scores) - alerts]
    above, alike = scores > last, scores == last
    part: Floats = above + alike * ((alerts - above.sum()) / alike.sum())
    return part


def recall_at_budget(labels: Labels, scores: Floats, alerts: int) -> float:
    """The share of frauds among the `alerts` highest scores (`highest`)."""
    if not len(labels) or not labels.any():
        return float("nan")
    return float(highest(scores, alerts)[labels > 0].sum() / labels.sum())


def card_precision(
    labels: Labels, scores: Floats, cards: NDArray[np.integer], days: NDArray[np.integer], k: int
) -> float:
    """CP@k: per day, the share of compromised cards among the k `highest` cards; mean of the days.

    A card's score is its highest of the day; it is compromised if any of its events that day is
    fraud. Source: Le Borgne et al., Fraud Detection Handbook (2022), chapter 4, which also lets a
    card that was found leave the days after: here it stays, as it does where nobody blocks it.
    """
    if not len(labels):
        return float("nan")
    shares = []
    for day in np.unique(days):
        chosen = days == day
        _, inverse = np.unique(cards[chosen], return_inverse=True)
        n = int(inverse.max()) + 1
        best, bad = np.full(n, -np.inf), np.zeros(n, bool)
        np.maximum.at(best, inverse, scores[chosen])
        np.logical_or.at(bad, inverse, labels[chosen] > 0)
        shares.append(highest(best, k)[bad].sum() / k)
    return float(np.mean(shares))


def brier(labels: Labels, scores: Floats) -> float:
    """Mean squared difference of probability and outcome."""
    return float(np.mean((scores - labels) ** 2)) if len(labels) else float("nan")


def reliability(labels: Labels, scores: Floats, bins: int = 15) -> NDArray[np.float64]:
    """Reliability table over bins of equal count: rows of (mean score, share of fraud, count)."""
    order = np.argsort(scores, kind="stable")
    rows = [
        (float(scores[part].mean()), float(labels[part].mean()), float(len(part)))
        for part in np.array_split(order, min(bins, len(order)))
        if len(part)
    ]
    return np.array(rows).reshape(-1, 3)


def calibration_error(labels: Labels, scores: Floats, bins: int = 15) -> float:
    """ECE: mean absolute gap of score and share of fraud over bins of equal count."""
    if not len(labels):
        return float("nan")
    table = reliability(labels, scores, bins)
    return float(np.sum(np.abs(table[:, 0] - table[:, 1]) * table[:, 2]) / table[:, 2].sum())


def log_loss(labels: Labels, scores: Floats) -> float:
    """Mean negative log likelihood."""
    if not len(labels):
        return float("nan")
    p = np.clip(scores, 1e-9, 1 - 1e-9)
    return float(-np.mean(np.where(labels > 0, np.log(p), np.log(1 - p))))


def value_detected(labels: Labels, scores: Floats, amounts: NDArray[Any], alerts: int) -> float:
    """The share of the defrauded amount among the `alerts` highest scores; NaN where that is 0, as
    where all frauds are in a currency that is not counted."""
    fraud = labels > 0
    lost = amounts[fraud].sum(dtype=np.float64)
    if not lost:
        return float("nan")
    return float((amounts * highest(scores, alerts))[fraud].sum(dtype=np.float64) / lost)


def bootstrap(
    labels: Labels, one: Floats, other: Floats, measure: Any, rounds: int = 200, seed: int = 0
) -> tuple[float, float, float]:
    """(difference, 2.5 %, 97.5 %) of a measure between two scores on the same resampled rows.

    A resample on which the measure is not defined (one without a fraud, where frauds are few) is
    skipped; all three are NaN where it is defined on none.
    """
    rng = np.random.default_rng(seed)
    found = []
    for _ in range(rounds):
        rows = rng.integers(0, len(labels), len(labels))
        found.append(measure(labels[rows], one[rows]) - measure(labels[rows], other[rows]))
    told = np.asarray(found)[np.isfinite(found)]
    if not len(told):
        return float("nan"), float("nan"), float("nan")
    low, high = np.quantile(told, [0.025, 0.975])
    return float(measure(labels, one) - measure(labels, other)), float(low), float(high)


def ap_gap(
    labels: Labels, one: Floats, other: Floats, rounds: int = 200, seed: int = 0
) -> tuple[float, float, float]:
    """`bootstrap` of average precision, for many millions of rows: nothing is sorted in a round.

    Rows that no fraud's score parts, of either model, count as one cell: in a resample it holds a
    Poisson number of them, with their number as its mean. Source: Chamandy et al., Estimating
    Uncertainty for Massive Data Streams (2012).
    """
    fraud = labels > 0
    if not fraud.any():
        return float("nan"), float("nan"), float("nan")
    cuts = [np.unique(scores[fraud]) for scores in (one, other)]
    above = [
        len(cut) - np.searchsorted(cut, scores, side="right")
        for cut, scores in zip(cuts, (one, other), strict=True)
    ]
    cell = above[0] * (len(cuts[1]) + 1) + above[1]
    sides = [np.unique(cell[part], return_counts=True) for part in (fraud, ~fraud)]
    bad, good = (np.divmod(cells, len(cuts[1]) + 1) for cells, _ in sides)

    def gap(counts: Sequence[NDArray[np.int64]]) -> float:
        mine, theirs = (_ap_of_cells(bad[k], good[k], counts, len(cuts[k])) for k in range(2))
        return mine - theirs

    whole = [counts for _, counts in sides]
    rng = np.random.default_rng(seed)
    drawn = ([rng.poisson(counts) for counts in whole] for _ in range(rounds))
    found = [gap(counts) for counts in drawn if counts[0].any()]
    low, high = np.quantile(found, [0.025, 0.975])
    return gap(whole), float(low), float(high)


def _ap_of_cells(
    bad: NDArray[np.int64],
    good: NDArray[np.int64],
    counts: Sequence[NDArray[np.int64]],
    cuts: int,
) -> float:
    """AP of so many frauds and others a cell; `bad` and `good`: how many `cuts` lie above each."""
    true = np.cumsum(np.bincount(bad, counts[0], cuts))
    false = np.cumsum(np.bincount(good, counts[1], cuts + 1))[:cuts]
    precision = true / np.maximum(true + false, 1.0)
    return float(np.sum(np.diff(true, prepend=0.0) / true[-1] * precision))


GAINS: Final = (
    "auc",
    "ap",
    "cp100",
    "recall_fpr_0.1%",
    "recall_fpr_0.01%",
    "recall_budget",
    "precision_budget",
    "value_budget",
)
"""Measures of `summary` of which more is better: those that a ceiling can be put on."""


def defined(measures: Mapping[str, float]) -> dict[str, float]:
    """Those that the labels define: NaN is no JSON."""
    return {name: value for name, value in measures.items() if math.isfinite(value)}


def summary(
    labels: Labels,
    scores: Floats,
    cards: NDArray[np.integer],
    days: NDArray[np.integer],
    amounts: NDArray[Any],
    budget: float = 0.005,
) -> dict[str, float]:
    """The measures of a report, by name. `budget` is the share of events that become alerts."""
    alerts = max(alerts_of(budget, len(labels)), 1)
    return {
        "events": float(len(labels)),
        "frauds": float((labels > 0).sum()),
        "auc": roc_auc(labels, scores),
        "ap": average_precision(labels, scores),
        "cp100": card_precision(labels, scores, cards, days, 100),
        "recall_fpr_0.1%": recall_at_fpr(labels, scores, 0.001),
        "recall_fpr_0.01%": recall_at_fpr(labels, scores, 0.0001),
        "recall_budget": recall_at_budget(labels, scores, alerts),
        "precision_budget": float(highest(scores, alerts)[labels > 0].sum() / alerts),
        "value_budget": value_detected(labels, scores, amounts, alerts),
        "brier": brier(labels, scores),
        "log_loss": log_loss(labels, scores),
        "ece": calibration_error(labels, scores),
    }
