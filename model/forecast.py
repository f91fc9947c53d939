"""What a training run will take, told before it starts: parameters, memory, time, serving cost.

In: a dataset, a shape, a recipe, and what else the run does. Out: `Forecast`. Does not train: on a
few rows it times updates of a model that is thrown away, its judging, and trees, and multiplies.

Memory is what this process has held so far (the libraries and the dataset among it) and what comes
on top. Not in the time: calibration and writing, and how much slower a busy machine gets.
"""

from __future__ import annotations

import resource
import sys
import time
from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Final

import numpy as np
import torch
from numpy.typing import NDArray
from torch.nn import functional

from model import baseline, processes, teacher, tokens, unlabelled
from model.bundle import Bundle
from model.data import ARRAYS, Dataset
from model.finetune import logits_of
from model.loop import Recipe, Source, evaluations
from model.transformer import Shape, Transformer, cost
from model.waves import Waved

ROWS: Final = 20_000
CHUNKS: Final = 8
JUDGED: Final = 2_048
READ: Final = 4_096
GROWN: Final = 4_000
TREES: Final = 40
"""Rows that are judged, read, or that trees are grown on, and how many of these, to time them."""
CACHED: Final = 10_000_000
"""Parameters up to which the weights stay in a core's cache."""
MULTIPLICATIONS_PER_S: Final = {True: 6.5e9, False: 3e9}
"""Of the CPU kernel on one core, weights in the cache or not; `benchmarks/score.py --presets`."""
CODES_BYTES: Final = 2 * len(tokens.FIELDS) + 4 + 24
"""A row of `Source`: codes, place, and what is made on the way."""
HISTOGRAM_BYTES: Final = 31 * 1_023 * 16
"""Of LightGBM, a feature: leaves x bins x sums of two gradients."""
BINNED_BYTES: Final = 17
"""Of LightGBM, a feature of a row: two copies, their bins, and what they are made from. Measured on
32,000 and 192,000 rows."""


@dataclass(frozen=True)
class Reading:
    """A pretrained bundle, whose surprise the fits learn to tell and trees see, and the rows that
    it reads."""

    bundle: Bundle
    rows: NDArray[np.bool_]


@dataclass(frozen=True)
class Job:
    """What a run does beside the updates of one fit."""

    done: tuple[int, ...] = (0,)
    """Of each fit the steps that a checkpoint holds: only what is left takes time."""
    judged: int = 0
    """Rows that judge at each evaluation."""
    labelled: NDArray[np.int64] | None = None
    """Rows that trees grow on to teach; None without a teacher."""
    others: int = 0
    """Rows without a label that trees answer."""
    threads: int = 1
    reading: Reading | None = None
    """None without a pretrained bundle."""


@dataclass(frozen=True)
class Forecast:
    """Figures of a whole run."""

    parameters: int
    multiplications: int
    training_mb: int
    updates_s: float
    judging_s: float
    trees_s: float
    reading_s: float
    scores_per_s: float

    @property
    def seconds(self) -> float:
        """All of it."""
        return self.updates_s + self.judging_s + self.trees_s + self.reading_s


def forecast(
    dataset: Dataset, shape: Shape, recipe: Recipe, device: str = "cpu", job: Job | None = None
) -> Forecast:
    """Time each part of the run on a few rows of the dataset."""
    job = job or Job()
    some = _begin(dataset, ROWS)
    knots = tokens.quantile_knots(some.features[:2_000], shape.knots)
    with torch.random.fork_rng(devices=[]):
        model = Waved(shape, knots).to(device)
        update_s = _update_s(model, Source(some, knots, device), recipe)
    done = [min(steps, recipe.steps) for steps in job.done]
    judging_s = 0.0
    if job.judged:
        # of the best weights once more
        passes = sum(evaluations(recipe, steps) + 1 for steps in done)
        judging_s = passes * _judging_s(model.cpu().eval(), dataset, job.judged)
    trees_s = 0.0 if job.labelled is None else _trees_s(dataset, job)
    told = cost(shape, len(dataset.names))
    return Forecast(
        parameters=told["parameters"],
        multiplications=told["multiplications"],
        training_mb=_held_mb() + (told["training_bytes"] + _added_bytes(dataset, job)) // 1_000_000,
        updates_s=update_s * sum(recipe.steps - steps for steps in done),
        judging_s=judging_s,
        trees_s=trees_s,
        reading_s=_reading_s(dataset, job),
        scores_per_s=MULTIPLICATIONS_PER_S[told["parameters"] <= CACHED] / told["multiplications"],
    )


def _begin(dataset: Dataset, count: int) -> Dataset:
    """The first rows."""
    arrays = {name: np.asarray(getattr(dataset, name)[:count]) for name in ARRAYS}
    return replace(dataset, **arrays)  # type: ignore[arg-type]


def _held_mb() -> int:
    """The most memory that this process has held yet."""
    unit = 1 if sys.platform == "darwin" else 1_024
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * unit // 1_000_000


def _added_bytes(dataset: Dataset, job: Job) -> int:
    """What grows with the rows, beside the arrays that are read already."""
    added = len(dataset) * CODES_BYTES
    if job.judged:  # a fit on labels deals some columns anew, in a copy
        added += dataset.features.nbytes
    if job.labelled is not None:
        columns = len(dataset.names) + (0 if job.reading is None else unlabelled.COLUMNS)
        added += columns * (HISTOGRAM_BYTES + BINNED_BYTES * len(job.labelled))
    if job.reading is not None:  # of every row as it was read, and as a fit is to tell it
        added += 2 * 4 * unlabelled.COLUMNS * len(dataset)
    return added


def _took(work: Callable[[], object]) -> float:
    began = time.monotonic()
    work()
    return time.monotonic() - began


def _update_s(model: Transformer, source: Source, recipe: Recipe) -> float:
    """Seconds of an update: the first of three is left out, it compiles."""
    optimiser = torch.optim.AdamW(model.train().parameters())
    last = max(len(source) - recipe.chunk, 0)
    first = np.linspace(0, last, CHUNKS).astype(np.int64)

    def backward() -> None:
        chunk, _ = source.chunk(first, recipe.chunk)
        value = functional.softplus(model.logit(model(chunk))).mean()
        optimiser.zero_grad()
        value.backward()  # type: ignore[no-untyped-call]
        float(value.detach())

    took = [(_took(backward), _took(optimiser.step)) for _ in range(3)]
    share = recipe.batch / CHUNKS / processes.count()
    return sum(chunks_s * share + step_s for chunks_s, step_s in took[1:]) / 2


def _judging_s(model: Transformer, dataset: Dataset, judged: int) -> float:
    """Seconds of a pass over the judging rows: what it costs whatever their number, and each."""
    rows = np.arange(min(judged, JUDGED, len(dataset)))
    logits_of(model, dataset, rows[:1])  # compiles
    fixed_s = _took(lambda: logits_of(model, dataset, rows[:1]))
    some_s = _took(lambda: logits_of(model, dataset, rows))
    return fixed_s + max(some_s - fixed_s, 0.0) * judged / len(rows)


def _trees_s(dataset: Dataset, job: Job) -> float:
    """Seconds of all the trees, by those of a few on some rows: the cost is even in both."""
    assert job.labelled is not None
    label = np.asarray(dataset.label)
    some = job.labelled[:: max(len(job.labelled) // GROWN, 1)]
    frauds = job.labelled[label[job.labelled] == 1][: GROWN // 100]  # without any no tree grows
    rows = np.union1d(some, frauds)
    x, y = np.asarray(dataset.features[rows]), (label[rows] == 1).astype(np.int8)

    def grow(rounds: int) -> object:
        settings = {**teacher.SOFT_TREES, "rounds": rounds}
        return baseline.lightgbm(x, y, threads=job.threads, **settings)

    grow(1)  # loads the library
    binned_s = _took(lambda: grow(1))
    grown_s = max(_took(lambda: grow(1 + TREES)) - binned_s, 0.0) / TREES
    trees = grow(TREES)
    told_s = _took(lambda: trees.predict(x, raw_score=True)) / TREES  # type: ignore[attr-defined]
    work = teacher.work(len(job.labelled), job.others)
    return (work.given * binned_s + work.grown * grown_s + work.told * told_s) / len(rows)


def _reading_s(dataset: Dataset, job: Job) -> float:
    """Seconds in which a pretrained bundle reads how surprising events are."""
    if job.reading is None:
        return 0.0
    bundle, read = job.reading.bundle, job.reading.rows
    some = _begin(dataset, READ)
    rows = np.arange(len(some))
    unlabelled.columns(bundle, some, rows == 0)  # compiles
    took = _took(lambda: unlabelled.columns(bundle, some, rows >= 0))
    return took * int(read.sum()) / len(rows)
