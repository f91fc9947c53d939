"""Frauds that differ from ordinary life by the order of events alone: who can tell them?

    python -m benchmarks.order [--steps N] [--seeds N] [--rivals] [--threads N] [--json]

`fraudstream simulate` makes episodes whose final payment is a fraud or a legitimate twin, told
apart only by the order of the three payments before (streams/dev/simulate/order.py). All models are
fitted on the first weeks of the whole stream; the table is average precision among final payments
of the last weeks (one fraud to two twins, so blind ranking gives 0.33).
"""

from __future__ import annotations

import argparse
import json
import sys
import time
from dataclasses import replace
from typing import Any

import numpy as np
import torch

from model import baseline, finetune, metrics
from model.data import Dataset
from model.loop import Recipe, Source, train
from model.rivals import CausalAttention, Gru, logits_by_chunks
from model.transformer import PRESETS
from streams.dev.shipped import split, stream
from streams.dev.simulate import Plan

PLAN = Plan(
    events=240_000, accounts=2_500, days=100, seed=77, scenarios=("order",), fraud_rate=0.025
)


def rival(
    kind: Any, dataset: Dataset, chosen: finetune.Blocks, recipe: Recipe, rows: Any
) -> tuple[Any, float]:
    """Log-odds of a comparison model on `rows`, and seconds to train."""
    torch.manual_seed(recipe.seed)
    start = finetune.start(dataset, np.flatnonzero(chosen.fit), PRESETS["small"], None, recipe.seed)
    model = kind(PRESETS["small"], start.knots.numpy())
    source = Source(dataset, start.knots.numpy())
    label = np.asarray(dataset.label)
    judge_rows = np.flatnonzero(chosen.judge)

    def judge(current: Any, _: int) -> float:
        found = logits_by_chunks(current, source, judge_rows)
        return metrics.average_precision(label[judge_rows], found)

    began = time.monotonic()
    loss = finetune.fraud_loss(label, chosen.fit)
    train(model, source, chosen.fit, loss, recipe, judge, _tell)
    return logits_by_chunks(model, source, rows), time.monotonic() - began


def _tell(line: str) -> None:
    sys.stderr.write(line + "\n")


def main() -> None:
    """Print the table."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--steps", type=int, default=400)
    parser.add_argument("--seeds", type=int, default=1)
    parser.add_argument("--rivals", action="store_true", help="GRU and full attention too")
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--json", action="store_true")
    args = parser.parse_args()
    torch.set_num_threads(args.threads)
    dataset = stream(PLAN)
    fit, judge, test = split(dataset)
    chosen = finetune.Blocks(fit, judge)
    final = test & (np.asarray(dataset.kind) > 0)
    rows, y = np.flatnonzero(final), dataset.answer()[final]
    _tell(f"{len(dataset)} events, {int(fit.sum())} to fit, {len(rows)} final payments to test")
    x, label = np.asarray(dataset.features), np.asarray(dataset.label)
    trees = baseline.lightgbm(x[fit], label[fit], x[judge], label[judge])
    found: dict[str, list[float]] = {
        "LightGBM on windows": [metrics.average_precision(y, trees.predict(x[rows]))]
    }
    for seed in range(args.seeds):
        recipe = Recipe(steps=args.steps, seed=seed)
        shapes = {"target attention": PRESETS["small"]}
        shapes["no history"] = replace(PRESETS["small"], history=False)
        for name, shape in shapes.items():
            began = time.monotonic()
            one = finetune.fit(dataset, chosen, shape, recipe, tell=_tell)
            _tell(f"{name}: {time.monotonic() - began:.0f} s")
            logit = finetune.logits_of(one.model, dataset, rows).astype(np.float64)
            found.setdefault(name, []).append(metrics.average_precision(y, logit))
        if args.rivals:
            for name, kind in (("GRU 128", Gru), ("full causal attention", CausalAttention)):
                logit, seconds = rival(kind, dataset, chosen, recipe, rows)
                _tell(f"{name}: {seconds:.0f} s")
                found.setdefault(name, []).append(metrics.average_precision(y, logit))
    if args.json:
        print(json.dumps({"frauds": int(y.sum()), "events": len(y), "ap": found}))
        return
    print(f"{len(y)} final payments, {int(y.sum())} frauds; average precision among them")
    for name, values in found.items():
        print(f"{name:<24}" + "  ".join(f"{v:.4f}" for v in values))


if __name__ == "__main__":
    main()
