"""What pretraining alone is worth: surprise as an anomaly score, and what an account does next.

    python benchmarks/heads.py [--steps N] [--events N] [--seed N] [--json]

A simulated stream; the backbone is pretrained on all but its last two weeks without any label, and
read on these. Anomaly: AP and AUC of the anomaly score and of -log p by field, against the true
frauds; beside it the amount and scikit-learn's isolation forest on the window features, which see
no label either. Propensity: hit@1 and hit@3 of merchant group, channel and amount band of the next
event, beside the account's own frequencies, and beside those of its whole life (the event itself
left out): what any model could reach if tastes never changed and order told nothing.
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
from sklearn.ensemble import IsolationForest

from benchmarks.ground import machine
from model import metrics, tokens, unlabelled
from model.data import Dataset
from model.loop import Recipe
from model.pretrain import pretrain
from model.pretrained import to_bundle
from model.transformer import PRESETS
from streams.dev.shipped import TEST_DAYS, stream
from streams.dev.simulate import Plan
from streams.schema import DAY_MS

PLAN = Plan(events=200_000, accounts=2_500, days=90, seed=909)


def _tell(line: str) -> None:
    sys.stderr.write(line + "\n")
    sys.stderr.flush()


def by_kind(dataset: Any, rows: Any, score: Any) -> dict[str, float]:
    """AP of one kind of fraud among all ordinary events."""
    kind = np.asarray(dataset.kind)[rows]
    found = {}
    for code, name in enumerate(dataset.kinds):
        inside = (kind == 0) | (kind == code)
        y = dataset.answer()[rows][inside]
        if code and y.any():
            found[name] = metrics.average_precision(y, np.asarray(score, np.float64)[inside])
    return found


def whole_life(dataset: Dataset, rows: Any) -> dict[str, dict[str, float]]:
    """hit@k of the frequencies of the account's other events, past and future."""
    codes = tokens.encode_stream(np.ascontiguousarray(dataset.words), dataset.place())
    account = np.asarray(dataset.account)
    found = {}
    for name in unlabelled.PROPENSITY:
        truth = unlabelled.answer_of(codes, name)
        counts = np.zeros((int(account.max()) + 1, unlabelled.count_of(name)), np.float32)
        np.add.at(counts, (account, truth), np.float32(1))
        own = counts[account[rows]]
        own[np.arange(len(rows)), truth[rows]] -= 1
        hits = {k: unlabelled.hit_at_k(own, truth[rows], k) for k in unlabelled.HITS}
        found[name] = {f"whole life hit@{k}": hit for k, hit in hits.items()}
    return found


def main() -> None:
    """Run and print."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--steps", type=int, default=300)
    parser.add_argument("--events", type=int, default=PLAN.events)
    parser.add_argument("--seed", type=int, default=PLAN.seed)
    parser.add_argument("--json", action="store_true")
    args = parser.parse_args()
    torch.set_num_threads(1)
    dataset = stream(replace(PLAN, events=args.events, seed=args.seed))
    cut = int(dataset.time.max()) - TEST_DAYS * DAY_MS
    rows = np.flatnonzero(dataset.time >= cut)
    before = dataset.time < cut
    _tell(f"{len(dataset)} events, {len(rows)} to test")
    began = time.process_time()
    found = pretrain(dataset, before, PRESETS["small"], Recipe(steps=args.steps), _tell)
    seconds = time.process_time() - began
    bundle = to_bundle(dataset, found, "heads", dataset.names)
    reading = unlabelled.read(bundle, dataset, rows)
    report: dict[str, Any] = {
        "events": len(rows),
        "frauds": int((dataset.answer()[rows] == 1).sum()),
        "train_cpu_s": seconds,
        "anomaly": unlabelled.anomaly(dataset, rows, reading),
        "propensity": unlabelled.propensities(dataset, rows, reading),
        "by_kind": by_kind(dataset, rows, unlabelled.anomaly_score(reading)),
        "machine": machine(),
    }
    for name, hits in whole_life(dataset, rows).items():
        report["propensity"][name] |= hits
    x, y = np.asarray(dataset.features), dataset.answer()[rows]
    sample = np.flatnonzero(before)[:: max(int(before.sum()) // 50_000, 1)]
    forest = IsolationForest(n_estimators=200, random_state=0, n_jobs=1).fit(x[sample])
    rivals = {
        "isolation forest on the windows": -forest.score_samples(x[rows]),
        "the amount": x[rows, dataset.names.index("amount")].astype(np.float64),
    }
    for name, score in rivals.items():
        report["anomaly"][name] = {
            "ap": metrics.average_precision(y, score),
            "auc": metrics.roc_auc(y, score),
        }
    if args.json:
        print(json.dumps(report))
        return
    print(f"{report['machine']}")
    print(
        f"pretrained without labels, {args.steps} updates, {seconds:.0f} s of CPU; "
        f"{report['events']:,} events of the last {TEST_DAYS} days, {report['frauds']} frauds"
    )
    for name, row in report["anomaly"].items():
        print(f"  {name:<34}AP {row['ap']:.4f}  AUC {row['auc']:.4f}")
    print(
        "  AP of the anomaly score by kind: "
        + ", ".join(f"{k} {v:.3f}" for k, v in report["by_kind"].items())
    )
    for name, row in report["propensity"].items():
        print(f"  {name:<18}" + "  ".join(f"{k} {v:.4f}" for k, v in row.items()))


if __name__ == "__main__":
    main()
