"""The training loop: cuts chunks, takes steps, averages weights, saves checkpoints, tells the time.

In: a `Dataset`, the rows whose loss counts, a loss function. Out: a trained model. Does not know
what the loss is: `pretrain.py` and `finetune.py` give one.

A chunk is T consecutive rows of the sorted stream with a loss at every chosen one of them. Its
context is the REACH+2 rows before it; keys and values are local, so the context is exact and
position i sees what it would see in serving. Rows of another account are masked, so chunks may
cross accounts and nothing is padded.
"""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from itertools import islice
from pathlib import Path
from types import MappingProxyType
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from model import checkpoint as checkpoints
from model import processes, tokens
from model.data import Dataset
from model.errors import DatasetError
from model.transformer import Chunk, Transformer

Rows = NDArray[np.int64]


class Source:
    """A dataset as codes, ready to be cut into chunks. `columns` replaces the feature matrix."""

    reach = tokens.REACH
    """Most past events that a target sees."""

    def __init__(
        self,
        dataset: Dataset,
        knots: NDArray[np.float32],
        device: str = "cpu",
        columns: NDArray[np.float32] | None = None,
    ) -> None:
        self.digest = dataset.digest
        self.words = np.ascontiguousarray(dataset.words)
        self.place = dataset.place()
        self.codes = tokens.encode_stream(self.words, self.place)
        self.features = dataset.features if columns is None else columns
        self.knots = knots
        self.device = device
        self._offsets = np.array(tokens.RELATION_OFFSETS, np.int16)

    def __len__(self) -> int:
        return len(self.words)

    def chunk(self, first: Rows, count: int) -> tuple[Chunk, Rows]:
        """Codes of the chunks from each `first`, and the row of each target [B, T]."""
        n = len(self.words)
        rows = np.minimum(first[:, None] + np.arange(count), n - 1)
        around = first[:, None] + np.arange(-self.reach - 2, count)
        around = np.clip(around, 0, n - 1)
        relation = tokens.relate_chunk(self.words, self.place, first, count, self.reach)
        x = np.ascontiguousarray(self.features[rows.reshape(-1)], np.float32)
        row, weight = tokens.encode_features(x, self.knots)
        shape = (*rows.shape, x.shape[1])
        to = self._tensor
        made = Chunk(
            context=to(self.codes[around].astype(np.int64)),
            behind=to(np.minimum(self.place[around], 2).astype(np.int64)),
            reach=to(np.minimum(self.place[rows], self.reach).astype(np.int64)),
            relation=to(relation + self._offsets),
            row=to(row.astype(np.int64).reshape(shape)),
            weight=to(weight.reshape(shape)),
        )
        return made, rows

    def _tensor(self, array: NDArray[Any]) -> Tensor:
        return torch.from_numpy(array).to(self.device)


def cover(chosen: NDArray[np.bool_], count: int, shift: int = 0) -> Rows:
    """Chunk starts so that every chosen row lies in exactly one chunk; gaps are jumped over."""
    rows = np.flatnonzero(chosen)
    starts = []
    at = 0
    limit = -1
    if shift and len(rows):  # another cut each epoch: the first chunk is shorter
        starts.append(max(int(rows[0]) - shift, 0))
        limit = starts[0] + count
        at = int(np.searchsorted(rows, limit))
    while at < len(rows):
        starts.append(int(rows[at]))
        at = int(np.searchsorted(rows, starts[-1] + count))
    return np.array(starts, np.int64)


def wanted(chosen: NDArray[np.bool_], rows: Rows) -> NDArray[np.bool_]:
    """Which targets [B, T] of a chunk are chosen rows. The end of the stream, repeated to fill the
    last chunk, counts once: a repetition has itself as its past."""
    found: NDArray[np.bool_] = chosen[rows]
    found[:, 1:] &= rows[:, 1:] != rows[:, :-1]
    return found


@dataclass
class Recipe:
    """How to train. Budgets are in steps, so that a run's length does not hang on its data."""

    steps: int = 1_000
    chunk: int = 64
    batch: int = 64
    """Chunks a step."""
    rate: float = 3e-3
    table_rate: float = 1.0
    """Rate of the tables, as a multiple."""
    decay: float = 0.02
    warmup: float = 0.05
    average: float = 0.995
    """Weights served are an exponential average of the last steps'."""
    event_dropout: float = 0.1
    feature_dropout: float = 0.05
    clip: float = 1.0
    splits: bool = False
    """Fine-tuning: knots also where the fraud rate jumps (`model/knots.py`)."""
    hushed: bool = True
    """Fine-tuning: the size of places without known fraud says nothing (`model/quiet.py`)."""
    seed: int = 0
    every: int = 0
    """Steps between evaluations; 0 means a tenth of all."""


def evaluations(recipe: Recipe, done: int = 0) -> int:
    """How often a run is judged after so many steps: at each `every` of them, and at the end.

    What is done may have ended between two of them: it was then a run of fewer steps.
    """
    if done >= recipe.steps:
        return 0
    return -(-recipe.steps // _every(recipe)) - done // _every(recipe)


def _every(recipe: Recipe) -> int:
    return recipe.every or max(recipe.steps // 10, 1)


Loss = Callable[[Transformer, Chunk, Rows], Tensor]
Judge = Callable[[Transformer, int], float]
Tell = Callable[[str], None]
Watch = Callable[[int, dict[str, float]], None]
"""Called after each step with its number and what is known: loss; at times judged and left_s.

A run that its checkpoint holds to the end calls it once, with the last step and nothing known."""


@dataclass
class Progress:
    """What a run has come to; saved in its checkpoint."""

    step: int = 0
    best: float = -math.inf
    best_step: int = 0
    history: list[tuple[int, float]] = field(default_factory=list)


def groups_of(model: torch.nn.Module, recipe: Recipe) -> list[dict[str, Any]]:
    """Decay for matrices and tables; none for gains, biases, the recency terms and frequencies."""
    tables, plain, free = [], [], []
    for name, p in model.named_parameters():
        if "table" in name or "feature_step" in name:
            tables.append(p)
        elif p.ndim < 2 or "recency" in name or "frequency" in name:
            free.append(p)
        else:
            plain.append(p)
    rate = recipe.rate
    return [
        {"params": tables, "lr": rate * recipe.table_rate, "weight_decay": recipe.decay},
        {"params": plain, "lr": rate, "weight_decay": recipe.decay},
        {"params": free, "lr": rate, "weight_decay": 0.0},
    ]


def require_any(chosen: NDArray[np.bool_]) -> NDArray[np.bool_]:
    """The same. Raises DatasetError where nothing is chosen."""
    if not chosen.any():
        raise DatasetError(
            "none of the events is chosen to train on",
            remedy="give a later moment (--until), or a training set that holds earlier events",
        )
    return chosen


def _starts(chosen: NDArray[np.bool_], recipe: Recipe, rng: np.random.Generator) -> Iterator[Rows]:
    """Batches of chunk starts, epoch after epoch, each with another cut."""
    require_any(chosen)  # else no epoch would ever fill a batch
    held = np.zeros(0, np.int64)
    while True:
        while len(held) < recipe.batch:
            found = cover(chosen, recipe.chunk, int(rng.integers(0, recipe.chunk)))
            held = np.concatenate([held, rng.permutation(found)])
        yield held[: recipe.batch]
        held = held[recipe.batch :]


def _pace(done: float, warmup: float) -> float:
    """Share of the rate: a short rise, then half a cosine down to nothing."""
    return min(done / warmup + 0.01, 1.0) * 0.5 * (1 + math.cos(math.pi * done))


class Average:
    """Exponential average of weights, with a short memory at the start."""

    def __init__(self, model: torch.nn.Module, rate: float) -> None:
        self.rate = rate
        self.count = 0
        self.values = {k: v.detach().clone() for k, v in model.state_dict().items()}
        self._moving = [name for name, _ in model.named_parameters()]

    def device(self) -> str:
        """Where the weights are."""
        return str(next(iter(self.values.values())).device)

    def update(self, model: torch.nn.Module) -> None:
        self.count += 1
        rate = min(self.rate, 1 - 1 / (1 + self.count / 10))
        now = model.state_dict()
        for name in self._moving:
            self.values[name].lerp_(now[name], 1 - rate)


def train(
    model: Transformer,
    source: Source,
    chosen: NDArray[np.bool_],
    loss: Loss,
    recipe: Recipe,
    judge: Judge | None = None,
    tell: Tell = lambda _: None,
    checkpoint: Path | None = None,
    extra: torch.nn.Module | None = None,
    watch: Watch = lambda step, told: None,
    marks: Mapping[str, str] = MappingProxyType({}),
) -> Progress:
    """Fit `model` in place; it ends with the best averaged weights by `judge`, else the last.

    `extra` holds further parameters of the loss (heads), trained alongside; `marks` are digests of
    what `loss` and `judge` hold. With `checkpoint` the run is saved at every evaluation and, called
    again, goes on to the same result. Raises DatasetError when nothing is chosen, and as `resume`.
    """
    say = tell if processes.is_first() else lambda _: None
    whole = torch.nn.ModuleList([model] if extra is None else [model, extra])
    optimiser = torch.optim.AdamW(groups_of(whole, recipe), betas=(0.9, 0.98))
    rates = [g["lr"] for g in optimiser.param_groups]
    average = Average(whole, recipe.average)
    progress, best = Progress(), {k: v.clone() for k, v in whole.state_dict().items()}
    torch.manual_seed(recipe.seed * 1_000_003 + processes.number())
    starts = _starts(chosen, recipe, np.random.default_rng([recipe.seed, 0]))
    run = {} if checkpoint is None else checkpoints.identity(whole, source, chosen, recipe, marks)
    if checkpoint is not None and checkpoint.exists():
        held, best = checkpoints.resume(checkpoint, whole, optimiser, average, run, recipe.steps)
        progress = Progress(**held)
        say(f"going on from step {progress.step} of {recipe.steps}, as {checkpoint} holds it")
        starts = islice(starts, progress.step, None)
        if progress.step == recipe.steps:
            watch(progress.step, {})
    every = _every(recipe)
    model.event_dropout, model.feature_dropout = recipe.event_dropout, recipe.feature_dropout
    began, first, losses = time.monotonic(), progress.step, list[float]()
    while progress.step < recipe.steps:
        _set_rates(optimiser, rates, _pace(progress.step / recipe.steps, recipe.warmup))
        mine = next(starts)[processes.number() :: processes.count()]
        value = _step(model, whole, source.chunk(mine, recipe.chunk), loss, optimiser, recipe.clip)
        average.update(whole)
        progress.step += 1
        losses.append(_finite(value, progress.step))
        told = {"loss": value}
        if progress.step % every and progress.step < recipe.steps:
            watch(progress.step, told)
            continue
        mean, losses = sum(losses) / len(losses), []
        pace = (time.monotonic() - began) / (progress.step - first)
        left = pace * (recipe.steps - progress.step)
        line = f"step {progress.step}/{recipe.steps} loss {mean:.5f} left {left:.0f} s of this fit"
        if judge is not None:
            score = _judged(whole, average, lambda: judge(model, progress.step), source.device)
            told["judged"] = score
            progress.history.append((progress.step, score))
            line += f" judged {score:.5f}"
            if score > progress.best:
                progress.best, progress.best_step = score, progress.step
                best = {k: v.clone() for k, v in average.values.items()}
        else:
            best = average.values
        watch(progress.step, {**told, "left_s": left})
        say(line)
        if checkpoint is not None:
            checkpoints.save(checkpoint, whole, optimiser, average, progress, best, run)
    whole.load_state_dict(best)
    whole.eval()
    return progress


def _set_rates(optimiser: torch.optim.Optimizer, rates: list[float], share: float) -> None:
    for group, rate in zip(optimiser.param_groups, rates, strict=True):
        group["lr"] = rate * share


def _finite(loss: float, step: int) -> float:
    if not math.isfinite(loss):
        raise DatasetError(
            f"the loss is no finite number at step {step}",
            remedy="lower the rate; weights before it are in the checkpoint, if there is one",
        )
    return loss


def _step(
    model: Transformer,
    whole: torch.nn.Module,
    given: tuple[Chunk, Rows],
    loss: Loss,
    optimiser: torch.optim.Optimizer,
    clip: float,
) -> float:
    """One update; returns the loss."""
    whole.train()
    value = loss(model, *given)
    optimiser.zero_grad(set_to_none=True)
    value.backward()  # type: ignore[no-untyped-call]
    processes.average_gradients(whole.parameters())
    torch.nn.utils.clip_grad_norm_(whole.parameters(), clip)
    optimiser.step()
    return float(value.detach())


def _judged(
    whole: torch.nn.Module, average: Average, judge: Callable[[], float], device: str
) -> float:
    """What the first process's judge says of the averaged weights; the current ones stay."""
    now = {k: v.clone() for k, v in whole.state_dict().items()}
    whole.load_state_dict(average.values)
    whole.eval()
    with torch.no_grad():
        score = judge() if processes.is_first() else 0.0
    whole.load_state_dict(now)
    return processes.from_first(score, device)
