"""What a training run will take, told before it starts: parameters, memory, time, serving cost.

In: a dataset, a shape, a recipe. Out: `Forecast`. Does not train: it times three updates of a model
that is thrown away, on the first rows, and multiplies. The time leaves out the judging.
"""

from __future__ import annotations

import time
from dataclasses import dataclass, replace
from typing import Final

import numpy as np
import torch
from torch.nn import functional

from model import processes, tokens
from model.data import ARRAYS, Dataset
from model.loop import Recipe, Source
from model.transformer import Shape, Transformer, cost

ROWS: Final = 20_000
CHUNKS: Final = 8
CACHED: Final = 10_000_000
"""Parameters up to which the weights stay in a core's cache."""
MULTIPLICATIONS_PER_S: Final = {True: 6.5e9, False: 3e9}
"""Of the CPU kernel on one core, weights in the cache or not; `benchmarks/score.py --presets`."""


@dataclass(frozen=True)
class Forecast:
    """Figures of one run; `seconds` is for all of its updates."""

    parameters: int
    multiplications: int
    training_mb: int
    seconds: float
    scores_per_s: float


def forecast(dataset: Dataset, shape: Shape, recipe: Recipe, device: str = "cpu") -> Forecast:
    """Time a few updates of this shape on the first rows of the dataset."""
    count = min(len(dataset), ROWS)
    arrays = {name: np.asarray(getattr(dataset, name)[:count]) for name in ARRAYS}
    some = replace(dataset, **arrays)  # type: ignore[arg-type]
    knots = tokens.quantile_knots(some.features[:2_000], shape.knots)
    source = Source(some, knots, device)
    with torch.random.fork_rng(devices=[]):
        model = Transformer(shape, knots).to(device).train()
        optimiser = torch.optim.AdamW(model.parameters())
        took = []
        for _ in range(3):
            began = time.monotonic()
            first = np.linspace(0, max(count - recipe.chunk, 0), CHUNKS).astype(np.int64)
            chunk, _ = source.chunk(first, recipe.chunk)
            value = functional.softplus(model.logit(model(chunk))).mean()
            optimiser.zero_grad()
            value.backward()  # type: ignore[no-untyped-call]
            parameters_s = time.monotonic()
            optimiser.step()
            ended = time.monotonic()
            share = recipe.batch / CHUNKS / processes.count()
            took.append((parameters_s - began) * share + ended - parameters_s)
    told = cost(shape, len(dataset.names))
    cached = told["parameters"] <= CACHED
    return Forecast(
        parameters=told["parameters"],
        multiplications=told["multiplications"],
        training_mb=told["training_mb"],
        seconds=min(took[1:]) * recipe.steps,
        scores_per_s=MULTIPLICATIONS_PER_S[cached] / told["multiplications"],
    )
