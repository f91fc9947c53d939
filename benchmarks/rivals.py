"""Target attention beside its rivals and its own parts: quality and speed, on the same rows.

    python -m benchmarks.rivals [--handbook handbook.parquet] [--seeds 3] [--ablations] [--json]

Sets: `order` (frauds told apart by the order of events alone; rows judged: the final payments),
`simulated` (all scenarios of `fraudstream simulate`) and, when its file is named, `handbook` (one
test week that is older than every week of benchmarks/handbook.py, labels known when it begins).
Every model gets the same rows, steps and recipe, no early stopping, and the average of its last
weights. Table: average precision of each seed, its mean over seeds beside target attention's with
a paired bootstrap of the test rows (mean log-odds of the seeds), and scores a second on one core
(CPU time): the serving kernel for what is served, torch over 64 + 1 events for the others.
`--stream SEED` draws another simulated stream.
`--ablations` takes the parts out one by one instead (`benchmarks/variants.py`); `--only` names some
of the models, the shipped one is always among them.
"""

from __future__ import annotations

import argparse
import json
import sys
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from benchmarks import handbook
from benchmarks.score import rate
from benchmarks.variants import (
    WAVES,
    Encoded,
    LongHistory,
    OwnKeys,
    PlaceSizes,
    RiskTokens,
    Variant,
)
from model import baseline, finetune, metrics, quiet
from model.data import Dataset, gather
from model.fold import fold
from model.inputs import HISTORY
from model.kernel import kernel_of
from model.loop import Recipe, Source, train
from model.rivals import CausalAttention, Gru, logits_by_chunks
from model.transformer import PRESETS, Transformer
from model.waves import Waved
from streams.dev.shipped import split, stream
from streams.dev.simulate import Plan

ORDER = Plan(
    events=150_000, accounts=1_600, days=90, seed=77, scenarios=("order",), fraud_rate=0.025
)
SIMULATED = Plan(events=150_000, accounts=1_600, days=90, seed=78)
FOLD = 5
"""Its test week is matured before the first test week of benchmarks/handbook.py begins."""
RECIPE = Recipe(chunk=64, batch=48, rate=3e-3, table_rate=3.0, average=0.98)
SHIPPED = "target attention (shipped)"
Rows = NDArray[np.int64]


@dataclass(frozen=True)
class Set:
    """A stream, the rows to fit, the rows of the table, and the recipe for all models."""

    dataset: Dataset
    fit: NDArray[np.bool_]
    test: Rows
    recipe: Recipe
    trees: Mapping[str, Any] = field(default_factory=lambda: {"rounds": 300, "learning_rate": 0.03})
    """Settings of LightGBM beside."""


Maker = Callable[[NDArray[np.float32]], Any]
SMALL = PRESETS["small"]
RIVALS: dict[str, Maker] = {
    SHIPPED: lambda k: Waved(SMALL, k),
    "target attention, plain": lambda k: Variant(SMALL, k, conv=False, recency=False),
    "GRU 128": lambda k: Gru(SMALL, k),
    "full causal attention": lambda k: CausalAttention(SMALL, k),
    "no history": lambda k: Waved(replace(SMALL, history=False), k),
}
ABLATIONS: dict[str, Maker] = {
    SHIPPED: RIVALS[SHIPPED],
    "without windows": lambda k: Waved(replace(SMALL, windows=False), k),
    "L = 16": lambda k: Variant(SMALL, k, reach=16),
    "1 layer": lambda k: Waved(replace(SMALL, layers=1), k),
    "3 layers": lambda k: Waved(replace(SMALL, layers=3), k),
    "width 32": lambda k: Waved(replace(SMALL, width=32), k),
    "width 64": lambda k: Waved(replace(SMALL, width=64), k),
    "without recency start": lambda k: Variant(SMALL, k, recency=False),
    "without convolution": lambda k: Variant(SMALL, k, conv=False),
    "without time terms": lambda k: Variant(SMALL, k, since=False),
    "own keys a layer": lambda k: OwnKeys(SMALL, k),
    "L = 256": lambda k: LongHistory(SMALL, k),
    "risk in the tokens": lambda k: RiskTokens(SMALL, k),
    "sizes of quiet places": lambda k: PlaceSizes(SMALL, k),
    "features as steps": lambda k: Transformer(SMALL, k),
    "features as numbers": lambda k: Encoded(SMALL, k, 0),
    "features as waves alone": lambda k: Encoded(SMALL, k, WAVES),
}


def order_set() -> Set:
    """Final payments of the last weeks."""
    d = stream(ORDER)
    fit, judge, test = split(d)
    rows = np.flatnonzero(test & (np.asarray(d.kind) > 0))
    return Set(d, fit | judge, rows, replace(RECIPE, steps=240))


def simulated_set(seed: int) -> Set:
    """All events of the last weeks."""
    d = stream(replace(SIMULATED, seed=seed))
    fit, judge, test = split(d)
    return Set(d, fit | judge, np.flatnonzero(test), replace(RECIPE, steps=160))


def handbook_set(path: Path, work: Path | None) -> Set:
    """A week before those of the protocol's table, fitted on every label known then."""
    d = handbook.opened(path, work)
    fold_ = handbook.fold_of(d, FOLD)
    recipe = replace(RECIPE, steps=400, table_rate=6.0, splits=True)
    fit = handbook.chosen_rows(d, fold_, "full")
    return Set(d, fit, fold_.test, recipe, handbook.TREES["full"])


def fitted(make: Maker, one: Set, seed: int) -> Any:
    """A model of the set's recipe."""
    label = np.asarray(one.dataset.label)
    rows, splits = np.flatnonzero(one.fit), one.recipe.splits
    start = finetune.start(one.dataset, rows, SMALL, None, seed, splits)
    torch.manual_seed(seed)
    model = make(start.knots.numpy())
    with torch.no_grad():
        model.head.bias.copy_(start.head.bias)
    cut, hushed = getattr(model, "source", Source), getattr(model, "hushed", True)
    heard = quiet.hushed(one.dataset, one.fit, seed) if hushed else one.dataset
    loss = finetune.fraud_loss(label, one.fit)
    recipe = replace(one.recipe, seed=seed)
    train(model, cut(heard, start.knots.numpy()), one.fit, loss, recipe)
    return model.eval(), cut(one.dataset, start.knots.numpy())


def speed(model: Any, source: Source, dataset: Dataset) -> float:
    """Scores a second on one core."""
    rows = np.flatnonzero(source.place >= HISTORY)[:1_024]
    if type(model) in (Transformer, Waved) and model.shape.history:
        folded = fold(model)
        kernel, b = kernel_of(folded), gather(dataset, source.place, rows)
        out, none = np.empty(len(rows), np.float32), np.zeros((0, HISTORY), np.float32)
        parts = (b.current, b.history, b.length, b.features, folded, out, none)
        return rate(lambda: kernel(*parts), len(rows), 3)
    chunk, _ = source.chunk(rows[:128], 1)
    with torch.no_grad():
        return rate(lambda: model.logit(model(chunk)), 128, 3)


def compared(one: Set, makers: dict[str, Maker], seeds: int) -> dict[str, dict[str, Any]]:
    """By model: AP of each seed, scores a second, and the mean log-odds' AP less the shipped's."""
    d, y = one.dataset, one.dataset.answer()[one.test]
    found: dict[str, dict[str, Any]] = {}
    means: dict[str, NDArray[np.float64]] = {}
    for name, make in makers.items():
        logits, per_s, began = [], 0.0, time.process_time()
        for seed in range(seeds):
            model, source = fitted(make, one, seed)
            logits.append(logits_by_chunks(model, source, one.test))
            per_s = speed(model, source, d) if seed == 0 else per_s
        means[name] = np.mean(logits, axis=0)
        spent = (time.process_time() - began) / seeds
        found[name] = {
            "ap": [metrics.average_precision(y, s) for s in logits],
            "auc": [metrics.roc_auc(y, s) for s in logits],
            "scores_per_s": per_s,
            "cpu_s": spent,
        }
        _tell(f"{name}: {found[name]}")
    x, label = np.asarray(d.features), np.asarray(d.label)
    trees = baseline.lightgbm(x[one.fit], label[one.fit], **one.trees)
    means["LightGBM"] = trees.predict(x[one.test])
    found["LightGBM"] = {
        "ap": [metrics.average_precision(y, means["LightGBM"])],
        "scores_per_s": rate(lambda: trees.predict(x[:2_048], num_threads=1), 2_048, 3),
    }
    for name, score in means.items():
        if name != SHIPPED:
            pair = (score, means[SHIPPED])
            found[name]["less_shipped"] = metrics.bootstrap(y, *pair, metrics.average_precision)
    return found


def _tell(line: str) -> None:
    sys.stderr.write(line + "\n")
    sys.stderr.flush()


def shown(name: str, found: dict[str, dict[str, Any]]) -> None:
    """One table."""
    print(f"{name:<28}{'AP of each seed':<26}{'less the shipped (95 %)':<30}{'scores/s':>9}")
    for model, got in found.items():
        ap = " ".join(f"{v:.4f}" for v in got["ap"])
        less = got.get("less_shipped")
        told = f"{less[0]:+.4f} ({less[1]:+.4f} to {less[2]:+.4f})" if less else ""
        print(f"{model:<28}{ap:<26}{told:<30}{got['scores_per_s']:>9,.0f}")


def main() -> None:
    """Run and print."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--handbook", type=Path)
    parser.add_argument("--work", type=Path, help="keeps the Handbook's training set between runs")
    parser.add_argument("--sets", help="by commas; all of which the data is there")
    parser.add_argument("--stream", type=int, default=SIMULATED.seed, help="seed of `simulated`")
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--ablations", action="store_true")
    parser.add_argument("--only", default="", help="names of models, by commas")
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--json", action="store_true")
    args = parser.parse_args()
    torch.set_num_threads(args.threads)
    makers: dict[str, Callable[[], Set]] = {
        "order": order_set,
        "simulated": lambda: simulated_set(args.stream),
    }
    if args.handbook is not None:
        makers["handbook"] = lambda: handbook_set(args.handbook, args.work)
    models = ABLATIONS if args.ablations else RIVALS
    if args.only:
        models = {name: models[name] for name in dict.fromkeys([SHIPPED, *args.only.split(",")])}
    sets = args.sets.split(",") if args.sets else list(makers)
    if unknown := set(sets) - set(makers):
        parser.error(f"no set {', '.join(sorted(unknown))}; there are {', '.join(makers)}")
    every = {}
    for name in sets:
        _tell(name)
        every[name] = compared(makers[name](), models, args.seeds)
        if not args.json:
            shown(name, every[name])
    if args.json:
        print(json.dumps(every))


if __name__ == "__main__":
    main()
