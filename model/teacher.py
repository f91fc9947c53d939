"""A teacher: boosted trees say what a network should answer where no label was known.

In: a training set, rows whose labels the fit may use, rows without labels that it may learn from.
Out: a `Lesson`, that is what to answer on each row. Does not know how the network is fitted.

Of few labels trees make more than a network does; a network makes more of many rows, and of the
order of events. So trees are fitted on the labelled rows, score the others, and the network learns
from both: labels where they are known, the trees' probability elsewhere. The service still runs
one network.

Trees see window features, and what is given beside them: how surprising each event is to a
pretrained backbone, which has read the history. That is most of what a pretraining buys where
labels are few (`model/LOG.md`, 2026-11-29).

Source: Hinton, Vinyals, Dean, Distilling the Knowledge in a Neural Network (2015). LightGBM comes
with the extra `train`.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any, Final, NamedTuple

import numpy as np
from numpy.typing import NDArray

from model import baseline, derived
from model.data import DAY_MS, Dataset
from model.errors import DatasetError

Mask = NDArray[np.bool_]
Columns = NDArray[np.float32]
Tell = Callable[[str], None]
"""Takes a line for whoever waits."""

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
MIX: Final = 0.9
"""How far a label is moved towards what trees expect (`model/LOG.md`, 2026-11-27)."""
SOFT_TREES: Final[Mapping[str, Any]] = {**TREES, "rounds": 200, "learning_rate": 0.05}
SOFT_FOLDS: Final = 4
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


def _quiet(line: str) -> None:
    """Tells nobody."""


def _seen(dataset: Dataset, rows: Mask | NDArray[np.int64], beside: Columns | None) -> Columns:
    """What trees see of the rows."""
    x = np.asarray(dataset.features[rows])
    return x if beside is None else np.concatenate([x, beside[rows]], 1)


def unlabelled(dataset: Dataset, fit: Mask, judge: Mask, cut_ms: int) -> Mask:
    """Events before the fit that neither teach by their label nor judge.

    Those that somebody reported early are among them: without them the rest were too quiet.
    """
    return np.asarray((dataset.time < cut_ms) & ~fit & ~judge)


def _grown(
    x: Any,
    y: Any,
    seed: int,
    threads: int,
    bags: int,
    trees: Mapping[str, Any],
    tell: Tell = _quiet,
) -> Any:
    """Fits that differ in their samples alone."""
    grown = []
    for k in range(bags):
        grown.append(baseline.lightgbm(x, y, seed=seed + k, threads=threads, **trees))
        tell(f"teacher: fit {k + 1} of {bags} for events without a label")
    return grown


def _told(grown: Any, x: Any) -> Any:
    """The probability that the mean of their log-odds says."""
    logit = np.mean([one.predict(x, raw_score=True) for one in grown], axis=0)
    return 1 / (1 + np.exp(-logit))


class Work(NamedTuple):
    """What trees have to do: rows given to fits, and rows times trees that grow or answer."""

    given: int
    grown: int
    told: int


def work(rows: int, others: int) -> Work:
    """The work of a `lesson` on so many rows that softens their labels."""
    soft, rounds = int(SOFT_TREES["rounds"]), int(TREES["rounds"]) * BAGS
    rest = rows * (SOFT_FOLDS - 1)
    if not others:
        return Work(rest, rest * soft, rows * soft)
    return Work(rest + rows * BAGS, rest * soft + rows * rounds, rows * soft + others * rounds)


def lesson(
    dataset: Dataset,
    rows: Mask,
    others: Mask,
    seed: int = 0,
    threads: int = 1,
    bags: int = BAGS,
    trees: Mapping[str, Any] = TREES,
    mix: float = 0.0,
    tell: Tell = _quiet,
    beside: Columns | None = None,
) -> Lesson:
    """Labels on `rows`, and what trees fitted on these say on `others`.

    `others` must hold none of `rows`: of rows that they grew on, trees only repeat the labels.
    `mix` above 0 softens the labels too, and then `others` may be empty.
    `tell` gets a line after each fit of trees, which take most of the time. `beside`: more columns
    [n, k] that trees see.
    Raises DatasetError if they overlap, or if there is nothing to teach.
    """
    if (rows & others).any():
        raise DatasetError("a row is both labelled and to be taught")
    if mix == 0 and not others.any():
        raise DatasetError(
            "a teacher needs events without labels, and there are none before the fit"
        )
    label = np.asarray(dataset.label)
    learnt = labels_only(label, rows)
    if mix > 0:
        learnt = softened(
            dataset, rows, mix, seed, SOFT_FOLDS, SOFT_TREES, threads=threads, tell=tell,
            beside=beside,
        )  # fmt: skip
    target = learnt.target
    if others.any():
        x = _seen(dataset, rows, beside)
        grown = _grown(x, label[rows], seed, threads, bags, trees, tell)
        wanted = np.flatnonzero(others)
        for start in range(0, len(wanted), BLOCK):
            some = wanted[start : start + BLOCK]
            target[some] = _told(grown, _seen(dataset, some, beside))
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
    bags: int = 1,
    threads: int = 1,
    tell: Tell = _quiet,
    beside: Columns | None = None,
) -> Lesson:
    """Labels on `rows`, each moved by `mix` towards what trees expect that never saw it.

    The rows are dealt into `folds`, one by one or by blocks of `days`: in a stream the payments of
    a day at one terminal share their features and their fate. Trees fitted on the others tell each
    fold's probability. Where labels are many but noisy this says how sure a row's label is, which
    the label does not. `wide`: they see the columns of `model/derived.py` too, else those of
    `beside` [n, k]. `bags`: fits a fold. `threads` change the time, not the bits.
    """
    x = (
        derived.columns(dataset, dataset.place(), np.flatnonzero(rows))
        if wide
        else _seen(dataset, rows, beside)
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
        grown = _grown(x[rest], y[rest], seed, threads, bags, trees)
        expected[~rest] = _told(grown, x[~rest])
        tell(f"teacher: labels softened, part {fold + 1} of {folds}")
    target = np.zeros(len(dataset), np.float32)
    target[rows] = (1 - mix) * y + mix * expected
    return Lesson(target, rows.astype(np.float32))
