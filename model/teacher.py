"""A teacher: boosted trees say what a network should answer where no label was known.

In: a training set, rows whose labels the fit may use, rows without labels that it may learn from.
Out: a `Lesson`, that is what to answer on each row. Does not know how the network is fitted.

Of few labels trees make more than a network does; a network makes more of many rows, and of the
order of events. So trees are fitted on the labelled rows, score the others, and the network learns
from both: labels where they are known, the trees' probability elsewhere. The service still runs
one network. Source: Hinton, Vinyals, Dean, Distilling the Knowledge in a Neural Network (2015).
LightGBM comes with the extra `train`.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray

from model import baseline, derived
from model.data import DAY_MS, Dataset
from model.errors import DatasetError

Mask = NDArray[np.bool_]

TREES: Final[Mapping[str, Any]] = {
    "rounds": 500,
    "learning_rate": 0.03,
    "min_data_in_leaf": 20,
    "lambda_l2": 1.0,
}
"""Chosen on a week of labels (`model/LOG.md`); nothing is stopped early."""
BAGS: Final = 3
"""Fits of the trees on other samples; the mean of their log-odds is the teacher."""
LABEL_WEIGHT: Final = 5.0
"""Of a known label beside a told one: there are fewer, and they are true."""
BLOCK: Final = 65_536


@dataclass(frozen=True)
class Lesson:
    """What to answer on each row [n] of a training set.

    target: probability of fraud; weight: how much it counts, 0 not at all.
    """

    target: NDArray[np.float32]
    weight: NDArray[np.float32]

    @property
    def chosen(self) -> Mask:
        """Rows that count at all."""
        return np.asarray(self.weight > 0)


def labels_only(label: NDArray[np.int8], rows: Mask) -> Lesson:
    """No teacher: every chosen row's label, all of one weight."""
    return Lesson((label == 1).astype(np.float32), rows.astype(np.float32))


def unlabelled(dataset: Dataset, fit: Mask, judge: Mask, cut_ms: int) -> Mask:
    """Events before the fit that neither teach by their label nor judge.

    Those that somebody reported early are among them: without them the rest were too quiet.
    """
    return np.asarray((dataset.time < cut_ms) & ~fit & ~judge)


def lesson(
    dataset: Dataset,
    rows: Mask,
    others: Mask,
    seed: int = 0,
    threads: int = 1,
    bags: int = BAGS,
    trees: Mapping[str, Any] = TREES,
) -> Lesson:
    """Labels on `rows`, and what trees fitted on these say on `others`.

    `others` must hold none of `rows`: of rows that they grew on, trees only repeat the labels.
    Raises DatasetError if it does, or if it is empty.
    """
    if (rows & others).any():
        raise DatasetError("a row is both labelled and to be taught")
    if not others.any():
        raise DatasetError(
            "a teacher needs events without labels, and there are none before the fit",
            remedy="leave --teacher out",
        )
    target = (np.asarray(dataset.label) == 1).astype(np.float32)
    x, y = np.asarray(dataset.features[rows]), np.asarray(dataset.label)[rows]
    grown = [baseline.lightgbm(x, y, seed=seed + k, threads=threads, **trees) for k in range(bags)]
    wanted = np.flatnonzero(others)
    for start in range(0, len(wanted), BLOCK):
        some = wanted[start : start + BLOCK]
        seen = np.asarray(dataset.features[some])
        logit = np.mean([one.predict(seen, raw_score=True) for one in grown], axis=0)
        target[some] = 1 / (1 + np.exp(-logit))
    return Lesson(target, np.where(rows, LABEL_WEIGHT, others).astype(np.float32))


def softened(
    dataset: Dataset,
    rows: Mask,
    mix: float,
    seed: int = 0,
    folds: int = 5,
    trees: Mapping[str, Any] = TREES,
    days: int = 0,
    wide: bool = False,
) -> Lesson:
    """Labels on `rows`, each moved by `mix` towards what trees expect that never saw it.

    The rows are dealt into `folds`, one by one or by blocks of `days`: in a stream the payments of
    a day at one terminal share their features and their fate. Trees fitted on the others tell each
    fold's probability. Where labels are many but noisy this says how sure a row's label is, which
    the label does not. `wide`: they see the columns of `model/derived.py` too.
    """
    x = (
        derived.columns(dataset, dataset.place(), np.flatnonzero(rows))
        if wide
        else np.asarray(dataset.features[rows])
    )
    y = (np.asarray(dataset.label)[rows] == 1).astype(np.int8)
    by = (
        dataset.time[rows] // (days * DAY_MS)
        if days
        else np.random.default_rng(seed).permutation(len(y))
    )
    deal = by % folds
    expected = np.empty(len(y))
    for fold in range(folds):
        rest = deal != fold
        grown = baseline.lightgbm(x[rest], y[rest], seed=seed, **trees)
        expected[~rest] = grown.predict(x[~rest])
    target = np.zeros(len(dataset), np.float32)
    target[rows] = (1 - mix) * y + mix * expected
    return Lesson(target, rows.astype(np.float32))
