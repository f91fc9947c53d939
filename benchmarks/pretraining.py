"""What pretraining without labels buys, by the share of the labels that are known.

    python -m benchmarks.pretraining [--events 150000] [--shares 0.001,0.01,0.1,1] [--steps 160]
        [--pretrain 240] [--json]

A simulated stream, all scenarios. One backbone is pretrained on every event before the test weeks,
without labels. Then, for each share, that share of the accounts keeps its labels, and two models
are fitted on them, from the backbone and from nothing, same rows, steps and seeds. LightGBM on the
same rows beside. Average precision on the last weeks, all accounts; no early stopping, the average
of the last weights. One stream, and few frauds at the smallest shares: read differences under 0.02
as nothing.
"""

from __future__ import annotations

import argparse
import json
import sys
import time
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from model import baseline, finetune, metrics
from model.bundle import Bundle
from model.data import Dataset
from model.loop import Recipe, Source, train
from model.pretrain import pretrain
from model.pretrained import to_bundle
from model.transformer import PRESETS
from streams.dev.shipped import split, stream
from streams.dev.simulate import Plan

EVENTS_AN_ACCOUNT = 94


def plan(events: int) -> Plan:
    """The simulated stream."""
    accounts = events // EVENTS_AN_ACCOUNT
    return Plan(events=events, accounts=accounts, days=90, seed=79, fraud_rate=0.005)


SHAPE = PRESETS["small"]
TREES = {"rounds": 200, "learning_rate": 0.03, "min_data_in_leaf": 20}


def backbone(d: Dataset, before: NDArray[np.bool_], steps: int) -> Bundle:
    """Fitted without labels on the rows before the test weeks."""
    recipe = Recipe(steps=steps, chunk=64, batch=48, average=0.98)
    made = pretrain(d, before, SHAPE, recipe, _tell)
    _tell(f"pretrained, nats by field: {made.nats}")
    return to_bundle(d, made, "backbone", ["g"] * len(d.names))


def fitted(
    d: Dataset, rows: NDArray[np.bool_], base: Bundle | None, steps: int, seed: int
) -> NDArray[np.float64]:
    """AP-ready log-odds of every row."""
    model = finetune.start(d, np.flatnonzero(rows), SHAPE, base, seed)
    source = Source(d, model.knots.numpy())
    recipe = Recipe(steps=steps, chunk=64, batch=32, average=0.98, seed=seed)
    train(model, source, rows, finetune.fraud_loss(np.asarray(d.label), rows), recipe)
    return finetune.logits_of(model, d, np.arange(len(d))).astype(np.float64)


def kept(d: Dataset, fit: NDArray[np.bool_], share: float, seed: int) -> NDArray[np.bool_]:
    """The rows to fit of a share of the accounts, at least 3 of them with a fraud among them."""
    account, label = np.asarray(d.account), np.asarray(d.label)
    rng = np.random.default_rng(seed)
    bad = rng.permutation(np.unique(account[fit & (label == 1)]))
    good = rng.permutation(np.setdiff1d(np.unique(account), bad))
    some = np.concatenate(
        [bad[: max(round(share * len(bad)), 3)], good[: max(round(share * len(good)), 3)]]
    )
    return fit & np.isin(account, some)


def _tell(line: str) -> None:
    sys.stderr.write(line + "\n")
    sys.stderr.flush()


def main() -> None:
    """Print the table."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--shares", default="0.001,0.01,0.1,1")
    parser.add_argument("--events", type=int, default=150_000)
    parser.add_argument("--pretrain", type=int, default=240)
    parser.add_argument("--steps", type=int, default=160)
    parser.add_argument("--seeds", type=int, default=2)
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--json", action="store_true")
    args = parser.parse_args()
    torch.set_num_threads(args.threads)
    d = stream(plan(args.events))
    fit, judge, test = split(d)
    fit |= judge
    rows, y = np.flatnonzero(test), d.answer()[test]
    base = backbone(d, d.time < d.time[test].min(), args.pretrain)
    x, label = np.asarray(d.features), np.asarray(d.label)
    table: list[dict[str, Any]] = []
    for share in map(float, args.shares.split(",")):
        line: dict[str, Any] = {"share": share, "from nothing": [], "pretrained": [], "trees": []}
        for seed in range(args.seeds):
            some = kept(d, fit, share, seed)
            line["events"], line["frauds"] = int(some.sum()), int((label[some] == 1).sum())
            began = time.process_time()
            for name, start in (("from nothing", None), ("pretrained", base)):
                steps = args.steps if share >= 0.1 else args.steps // 2
                logit = fitted(d, some, start, steps, seed)
                line[name].append(metrics.average_precision(y, logit[rows]))
            trees = baseline.lightgbm(x[some], label[some], seed=seed, **TREES)
            line["trees"].append(metrics.average_precision(y, trees.predict(x[rows])))
            _tell(f"{line}, {time.process_time() - began:.0f} CPU s")
        table.append(line)
    if args.json:
        print(json.dumps(table))
        return
    print(f"{len(d)} events, {len(rows)} to test with {int(y.sum())} frauds; average precision")
    print(
        f"{'labels':>8}{'events':>9}{'frauds':>8}  {'pretrained':<18}{'from nothing':<18}LightGBM"
    )
    for line in table:
        told = ["  ".join(f"{v:.3f}" for v in line[k]) for k in ("pretrained", "from nothing")]
        trees_told = "  ".join(f"{v:.3f}" for v in line["trees"])
        head = f"{line['share']:>8.1%}{line['events']:>9}{line['frauds']:>8}"
        print(f"{head}  {told[0]:<18}{told[1]:<18}{trees_told}")


if __name__ == "__main__":
    main()
