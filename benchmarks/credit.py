"""The account-risk head, end to end: default of credit card clients (Yeh, UCI), monthly events.

    python benchmarks/credit.py credit_default.parquet [--seeds N] [--json]

A client is an account with two events a month, oldest first: the bill (its repayment status as the
category) and the payment. The last event carries the label. The model is the fraud model:
history through attention, the columns of the file as window features. Stratified 5 folds, shuffle,
seed 0, predictions pooled; LightGBM on all columns beside; both also without the protected columns.
The fairness table gives, at the threshold that refuses 20 %, each group's true positive rate (equal
opportunity) and false positive rate (predictive equality)..
"""

from __future__ import annotations

import argparse
import json
import sys
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow.parquet as pq
import torch
from numpy.typing import NDArray
from sklearn.model_selection import StratifiedKFold

from model import baseline, data, finetune, metrics
from model.loop import Recipe
from model.transformer import Shape

MONTHS = 6
PROTECTED = ("sex", "education", "marriage", "age")
STATUS = ("pay_0", "pay_2", "pay_3", "pay_4", "pay_5", "pay_6")
START_MS = 1_112_313_600_000
MONTH_MS = 30 * 86_400_000
TYPES = {"authorization": 1, "refund": 4, "status": 6}
SHAPE = Shape(width=64, layers=2, hidden=128, knots=24)
RECIPE = Recipe(
    steps=330, chunk=60, batch=64, rate=1.5e-3, every=30, decay=0.1,
    event_dropout=0.2, feature_dropout=0.2,
)  # fmt: skip


@dataclass(frozen=True)
class Clients:
    """The file as a training set; `last` are the labelled rows, one a client, in file order."""

    dataset: data.Dataset
    last: NDArray[np.int64]
    label: NDArray[np.int8]
    groups: dict[str, NDArray[np.int64]]


def columns(table: dict[str, NDArray[Any]], protected: bool) -> dict[str, NDArray[np.float32]]:
    """The file's columns, and ratios that a tree would find and a table row cannot."""
    names = [n for n in table if n != "default_next_month" and n != "id"]
    found = {n: table[n] for n in names if protected or n not in PROTECTED}
    limit = table["limit_bal"].astype(float)
    bills = np.stack([table[f"bill_amt{m}"] for m in range(1, MONTHS + 1)]).astype(float)
    paid = np.stack([table[f"pay_amt{m}"] for m in range(1, MONTHS + 1)]).astype(float)
    status = np.stack([table[n] for n in STATUS]).astype(float)
    for m in range(MONTHS):
        found[f"used{m + 1}"] = bills[m] / limit
    for m in range(MONTHS - 1):
        found[f"repaid{m + 1}"] = paid[m] / np.maximum(bills[m + 1], 1_000)
    found["used_mean"] = bills.mean(0) / limit
    found["paid_mean"] = paid.mean(0) / limit
    found["late_months"] = (status > 0).sum(0)
    found["late_most"] = status.max(0)
    found["late_sum"] = np.maximum(status, 0).sum(0)
    found["paid_least"] = paid.min(0)
    # -1 means "unknown" to the model, and "paid in full" here: shift it out of the way.
    return {n: (v + 0.001 * (v == -1)).astype(np.float32) for n, v in found.items()}


def clients(path: Path, protected: bool) -> Clients:
    """Two events a month of every client."""
    raw = pq.read_table(path)
    table = {n: raw[n].to_numpy() for n in raw.column_names}
    n = raw.num_rows
    words = np.zeros((n, 2 * MONTHS, 4), np.uint64)
    for step in range(MONTHS):
        m = MONTHS - step  # suffix 6 is the oldest
        time = START_MS + step * MONTH_MS
        bill = np.maximum(table[f"bill_amt{m}"], 0).astype(np.uint64)
        paid = np.maximum(table[f"pay_amt{m}"], 0).astype(np.uint64)
        status = (table[STATUS[m - 1]] + 3).astype(np.uint64)
        for k, (kind, amount) in enumerate((("status", bill), ("refund", paid))):
            at = 2 * step + k
            words[:, at, 0] = (np.uint64(time + k * 86_400_000) << np.uint64(20)) | np.uint64(
                TYPES[kind] << 17
            )
            words[:, at, 1] = (amount << np.uint64(14)) | status
    x = columns(table, protected)
    features = np.full((n, 2 * MONTHS, len(x)), -1, np.float32)
    features[:, -1] = np.stack(list(x.values()), 1)
    y = table["default_next_month"].astype(np.int8)
    label = np.full((n, 2 * MONTHS), -1, np.int8)
    label[:, -1] = y
    rows = n * 2 * MONTHS
    dataset = data.build(
        words.reshape(rows, 4),
        features.reshape(rows, -1),
        np.repeat(np.arange(n), 2 * MONTHS),
        label.reshape(rows),
        np.zeros(rows, np.int64),
        names=tuple(x),
        feature_digest="credit",
    )
    age = np.digitize(table["age"], [30, 40, 50])
    groups = {
        "sex": table["sex"].astype(np.int64),
        "education": np.clip(table["education"], 1, 4).astype(np.int64),
        "age band": age.astype(np.int64),
    }
    return Clients(dataset, np.arange(n) * 2 * MONTHS + 2 * MONTHS - 1, y, groups)


def predicted(c: Clients, seeds: int, tell: Any) -> dict[str, NDArray[np.float64]]:
    """Pooled out-of-fold scores of our model and of LightGBM. Inner fifths stop the training."""
    n = len(c.last)
    x = np.asarray(c.dataset.features)[c.last]
    ours, trees, both = np.zeros(n), np.zeros(n), np.zeros(n)
    outer = StratifiedKFold(5, shuffle=True, random_state=0)
    for number, (inside, test) in enumerate(outer.split(x, c.label)):
        logits, tree_logits = [], []
        inner = StratifiedKFold(max(seeds, 5), shuffle=True, random_state=1)
        for seed, (a, b) in enumerate(inner.split(inside, c.label[inside])):
            if seed >= seeds:
                break
            fit, judge = inside[a], inside[b]
            masks = []
            for rows in (fit, judge):
                mask = np.zeros(len(c.dataset), bool)
                mask[c.last[rows]] = True
                masks.append(mask)
            chosen = finetune.Blocks(*masks)
            recipe = replace(RECIPE, seed=seed)
            one = finetune.fit(c.dataset, chosen, SHAPE, recipe, tell=tell)
            logits.append(finetune.logits_of(one.model, c.dataset, c.last[test]).astype(float))
            grown = baseline.lightgbm(
                x[fit], c.label[fit], x[judge], c.label[judge], seed, learning_rate=0.03,
                num_leaves=15, metric="auc",
            )  # fmt: skip
            tree_logits.append(np.asarray(grown.predict(x[test], raw_score=True)))
        ours[test] = 1 / (1 + np.exp(-np.mean(logits, 0)))
        trees[test] = 1 / (1 + np.exp(-np.mean(tree_logits, 0)))
        both[test] = 1 / (1 + np.exp(-(np.mean(logits, 0) + np.mean(tree_logits, 0)) / 2))
        tell(f"fold {number}: {metrics.roc_auc(c.label[test], ours[test]):.4f}")
    return {"target attention": ours, "LightGBM": trees, "both": both}


def fairness(c: Clients, s: NDArray[np.float64], refused: float = 0.2) -> dict[str, Any]:
    """Per group: share refused, true and false positive rate at one threshold for all."""
    high = s >= np.quantile(s, 1 - refused)
    found = {}
    for name, group in c.groups.items():
        for one in np.unique(group):
            inside = group == one
            found[f"{name} {one}"] = {
                "clients": int(inside.sum()),
                "refused": float(high[inside].mean()),
                "true positive rate": float(high[inside & (c.label == 1)].mean()),
                "false positive rate": float(high[inside & (c.label == 0)].mean()),
            }
    return found


def main() -> None:
    """Run and print."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("file", type=Path)
    parser.add_argument("--seeds", type=int, default=2, help="models a fold, averaged")
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--without", action="store_true", help="also without protected columns")
    parser.add_argument("--json", action="store_true")
    args = parser.parse_args()
    torch.set_num_threads(args.threads)

    def tell(line: str) -> None:
        sys.stderr.write(line + "\n")
        sys.stderr.flush()

    found: dict[str, Any] = {}
    for protected in (True, False) if args.without else (True,):
        c = clients(args.file, protected)
        scores = predicted(c, args.seeds, tell)
        name = "all columns" if protected else "without protected columns"
        ours, trees = scores["target attention"], scores["LightGBM"]
        found[name] = {
            "models": {
                k: {
                    "auc": metrics.roc_auc(c.label, s),
                    "ap": metrics.average_precision(c.label, s),
                    "brier": metrics.brier(c.label, s),
                    "ece": metrics.calibration_error(c.label, s),
                }
                for k, s in scores.items()
            },
            "auc minus LightGBM": metrics.bootstrap(c.label, ours, trees, metrics.roc_auc),
            "fairness": fairness(c, ours),
        }
    if args.json:
        print(json.dumps(found))
        return
    for name, part in found.items():
        print(name)
        for model, row in part["models"].items():
            print(f"  {model:<20}" + "  ".join(f"{k} {v:.4f}" for k, v in row.items()))
        low, high = part["auc minus LightGBM"][1:]
        print(
            f"  AUC minus LightGBM: {part['auc minus LightGBM'][0]:+.4f} [{low:+.4f}, {high:+.4f}]"
        )
        for group, row in part["fairness"].items():
            print(f"    {group:<14}" + "  ".join(f"{k} {v:.3f}" for k, v in row.items()))


if __name__ == "__main__":
    main()
