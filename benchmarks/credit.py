"""The account-risk head, end to end: default of credit card clients (Yeh, UCI), monthly events.

    python benchmarks/credit.py credit_default.parquet [--without] [--seeds N] [--json]

A client is an account with an event a month, oldest first: the bill is the amount, the repayment
status the category, the payment (as a code) the country. The last event carries the label. The
model is the fraud model: history through attention, the columns of the file and ratios of them as
window features. Stratified 5 folds, shuffle, seed 0, predictions pooled; mean of N fits a fold,
each stopped by another fifth of the training part. The labels it learns are moved towards what
trees expect that did not see them (`model/teacher.py`). LightGBM beside, on the same columns (N
fits too) and on those of the file. `--without` leaves the protected columns out for everybody. The
fairness table gives, at the threshold that refuses 20 %, true positive rate (equal opportunity)
and false positive rate (predictive equality) of each group. The scorecard tells clients' points.
"""

from __future__ import annotations

import argparse
import json
import sys
import time
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass, replace
from multiprocessing import get_context
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow.parquet as pq
import torch
from numpy.typing import NDArray
from sklearn.model_selection import StratifiedKFold

from benchmarks.ground import machine
from model import baseline, data, finetune, metrics, teacher
from model.fold import fold
from model.inputs import (
    AMOUNT_SHIFT,
    COUNTRY_SHIFT,
    EVENT_TYPES,
    HISTORY,
    TIME_SHIFT,
    TYPE_SHIFT,
)
from model.kernel import kernel_of
from model.loop import Recipe
from model.transformer import Shape

MONTHS = 6
PROTECTED = ("sex", "education", "marriage", "age")
STATUS = ("pay_0", "pay_2", "pay_3", "pay_4", "pay_5", "pay_6")
START_MS = 1_112_313_600_000
MONTH_MS = 30 * 86_400_000
STATUS_EVENT = EVENT_TYPES.index("status") + 1
SHAPE = Shape(width=64, layers=2, hidden=128, knots=24)
RECIPE = Recipe(
    steps=140, chunk=60, batch=64, rate=1.5e-3, every=20, decay=0.1,
    event_dropout=0.2, feature_dropout=0.2,
)  # fmt: skip
MIX = 0.7
TREES = {"rounds": 250, "learning_rate": 0.03, "num_leaves": 15}
"""How far labels are moved, and by which trees. Chosen on a quarter of the first fold's training
part: with it 0.7869, without 0.7857."""
PARTS = {
    "repayment status": ("pay_0", "pay_2", "pay_3", "pay_4", "pay_5", "pay_6", "late_"),
    "bills": ("bill_amt", "used"),
    "payments": ("pay_amt", "repaid", "paid_"),
    "limit": ("limit_bal",),
    "personal": PROTECTED,
}
"""Parts of the scorecard and the beginnings of their columns' names; history is the other part."""
MODELS = ("target attention", "LightGBM, same columns", "LightGBM, file's columns")
POINTS, DOUBLE, ODDS = 600, 20, 30
"""600 points are odds of 30 good to 1 bad; 20 points double them: the usual scale of scorecards."""


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


def _octaves(amount: NDArray[Any]) -> NDArray[np.uint64]:
    """Four codes an octave, from 1: a payment as a small number."""
    return (4 * np.log2(np.maximum(amount, 1))).astype(np.uint64) + np.uint64(1)


def clients(path: Path, protected: bool) -> Clients:
    """Six monthly events of every client, oldest first."""
    raw = pq.read_table(path)
    # Two clients have no age: unknown, as everywhere.
    table = {n: raw[n].fill_null(-1).to_numpy() for n in raw.column_names}
    n = raw.num_rows
    words = np.zeros((n, MONTHS, 4), np.uint64)
    for step in range(MONTHS):
        m = MONTHS - step  # suffix 6 is the oldest
        time = START_MS + step * MONTH_MS
        bill = np.maximum(table[f"bill_amt{m}"], 0).astype(np.uint64)
        status = (table[STATUS[m - 1]] + 3).astype(np.uint64)
        words[:, step, 0] = np.uint64(time << TIME_SHIFT | STATUS_EVENT << TYPE_SHIFT)
        words[:, step, 1] = (bill << np.uint64(AMOUNT_SHIFT)) | status
        words[:, step, 3] = _octaves(table[f"pay_amt{m}"]) << np.uint64(COUNTRY_SHIFT)
    x = columns(table, protected)
    features = np.full((n, MONTHS, len(x)), -1, np.float32)
    features[:, -1] = np.stack(list(x.values()), 1)
    y = table["default_next_month"].astype(np.int8)
    label = np.full((n, MONTHS), -1, np.int8)
    label[:, -1] = y
    rows = n * MONTHS
    dataset = data.build(
        words.reshape(rows, 4),
        features.reshape(rows, -1),
        np.repeat(np.arange(n), MONTHS),
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
    return Clients(dataset, np.arange(n) * MONTHS + MONTHS - 1, y, groups)


@dataclass(frozen=True)
class Task:
    """One fit of one fold."""

    path: Path
    protected: bool
    fold: int
    seed: int
    seeds: int


@dataclass(frozen=True)
class Fitted:
    """Log-odds of the fold's test clients by model; the scorecard of the first seed."""

    test: NDArray[np.int64]
    logits: dict[str, NDArray[np.float64]]
    card: dict[str, Any]
    cpu_s: float


def fitted(task: Task) -> Fitted:
    """Fit all models on the training part of a fold; nothing of its test part is looked at."""
    torch.set_num_threads(1)
    began = time.process_time()
    c = clients(task.path, task.protected)
    x = np.asarray(c.dataset.features)[c.last]
    outer = StratifiedKFold(5, shuffle=True, random_state=0)
    inside, test = list(outer.split(x, c.label))[task.fold]
    inner = StratifiedKFold(max(task.seeds, 5), shuffle=True, random_state=1)
    a, b = list(inner.split(inside, c.label[inside]))[task.seed]
    fit, judge = inside[a], inside[b]
    chosen = finetune.Blocks(_mask(c, fit), _mask(c, judge))
    lesson = teacher.softened(c.dataset, chosen.fit, MIX, task.seed, trees=TREES)
    one = finetune.fit(c.dataset, chosen, SHAPE, replace(RECIPE, seed=task.seed), lesson=lesson)
    logit = finetune.logits_of(one.model, c.dataset, c.last[test]).astype(np.float64)
    logits = {MODELS[0]: logit}
    raw = c.dataset.names.index("used1")  # the columns of the file stand before the ratios
    for name, width in zip(MODELS[1:], (x.shape[1], raw), strict=True):
        seen = x[:, :width]
        grown = baseline.lightgbm(
            seen[fit], c.label[fit], seen[judge], c.label[judge], task.seed,
            learning_rate=0.03, num_leaves=15, metric="auc",
        )  # fmt: skip
        logits[name] = np.asarray(grown.predict(seen[test], raw_score=True))
    card = scorecard(c, one.model, test, logit) if task.seed == 0 else {}
    return Fitted(test, logits, card, time.process_time() - began)


def predicted(
    c: Clients, path: Path, protected: bool, seeds: int, jobs: int, tell: Any
) -> tuple[dict[str, NDArray[np.float64]], dict[str, Any], float]:
    """Pooled out-of-fold scores of all models, a scorecard, and seconds of CPU."""
    logits = {name: np.zeros(len(c.last)) for name in MODELS}
    tasks = [Task(path, protected, fold, seed, seeds) for fold in range(5) for seed in range(seeds)]
    card: dict[str, Any] = {}
    spent = 0.0
    with ProcessPoolExecutor(jobs, mp_context=get_context("spawn")) as pool:
        for task, one in zip(tasks, pool.map(fitted, tasks), strict=True):
            for name, part in one.logits.items():
                logits[name][one.test] += part / seeds
            card = one.card or card
            spent += one.cpu_s
            told = {
                k: round(metrics.roc_auc(c.label[one.test], v), 4) for k, v in one.logits.items()
            }
            tell(f"fold {task.fold}, seed {task.seed}: {told}")
    logits["mean of both"] = (logits[MODELS[0]] + logits[MODELS[1]]) / 2
    return {name: 1 / (1 + np.exp(-one)) for name, one in logits.items()}, card, spent


def _mask(c: Clients, clients_: NDArray[np.int64]) -> NDArray[np.bool_]:
    found = np.zeros(len(c.dataset), bool)
    found[c.last[clients_]] = True
    return found


def scorecard(
    c: Clients, model: Any, test: NDArray[np.int64], logit: NDArray[np.float64]
) -> dict[str, Any]:
    """Points of three clients by part, against a client with the usual columns and no history.

    A part's points are what the score loses when the part becomes usual; what parts do together
    stands under `together`, so a line adds up.
    """
    order = test[np.argsort(logit, kind="stable")]  # `logit` is of the test clients only
    some = {"safest": order[0], "middle": order[len(order) // 2], "riskiest": order[-1]}
    rows = c.last[np.array(list(some.values()))]
    usual = np.median(np.asarray(c.dataset.features)[c.last], axis=0)
    batch = data.gather(c.dataset, c.dataset.place(), rows)
    folded = fold(model)
    kernel = kernel_of(folded)

    def points(features: NDArray[np.float32], history: bool = True) -> NDArray[np.float64]:
        out = np.empty(len(rows), np.float32)
        length = batch.length if history else np.zeros_like(batch.length)
        past = batch.history if history else np.zeros_like(batch.history)
        none = np.zeros((0, HISTORY), np.float32)
        kernel(batch.current, past, length, features, folded, out, none)
        return POINTS - (out.astype(float) + np.log(ODDS)) * DOUBLE / np.log(2)

    whole, parts = points(batch.features), {}
    bare = batch.features.copy()
    for part, starts in PARTS.items():
        chosen = [i for i, name in enumerate(c.dataset.names) if name.startswith(starts)]
        less = batch.features.copy()
        less[:, chosen] = usual[chosen]
        bare[:, chosen] = usual[chosen]
        parts[part] = whole - points(less)
    parts["history"] = whole - points(batch.features, history=False)
    start = points(bare, history=False)
    parts["together"] = whole - start - sum(parts.values())
    return {
        name: {
            "start": float(start[i]),
            **{part: float(v[i]) for part, v in parts.items()},
            "points": float(whole[i]),
            "defaulted": int(c.label[some[name]]),
        }
        for i, name in enumerate(some)
    }


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


def report(path: Path, protected: bool, seeds: int, jobs: int, tell: Any) -> dict[str, Any]:
    """Everything about one choice of columns."""
    c = clients(path, protected)
    scores, card, spent = predicted(c, path, protected, seeds, jobs, tell)
    ours = scores["target attention"]
    return {
        "models": {
            k: {
                "auc": metrics.roc_auc(c.label, s),
                "ap": metrics.average_precision(c.label, s),
                "brier": metrics.brier(c.label, s),
                "ece": metrics.calibration_error(c.label, s),
            }
            for k, s in scores.items()
        },
        "auc_minus": {
            k: metrics.bootstrap(c.label, ours, scores[k], metrics.roc_auc, 1_000)
            for k in scores
            if k.startswith("LightGBM")
        },
        "fairness": fairness(c, ours),
        "scorecard": card,
        "cpu_s": spent,
    }


def main() -> None:
    """Run and print."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("file", type=Path)
    parser.add_argument("--seeds", type=int, default=2, help="fits a fold, averaged")
    parser.add_argument("--jobs", type=int, default=2, help="processes")
    parser.add_argument("--without", action="store_true", help="without the protected columns")
    parser.add_argument("--json", action="store_true")
    args = parser.parse_args()

    def tell(line: str) -> None:
        sys.stderr.write(line + "\n")
        sys.stderr.flush()

    part = report(args.file, not args.without, args.seeds, args.jobs, tell)
    if args.json:
        print(json.dumps({**part, "machine": machine()}))
        return
    print(machine())
    print("without the protected columns" if args.without else "all columns")
    print(f"{args.seeds} fits a fold, {part['cpu_s']:.0f} s of CPU in all")
    for model, row in part["models"].items():
        print(f"  {model:<26}" + "  ".join(f"{k} {v:.4f}" for k, v in row.items()))
    for model, (middle, low, high) in part["auc_minus"].items():
        print(f"  AUC minus {model}: {middle:+.4f}, 95 % {low:+.4f} to {high:+.4f}")
    print("fairness, one threshold that refuses 20 %")
    for group, row in part["fairness"].items():
        print(f"  {group:<14}" + "  ".join(f"{k} {v:.3f}" for k, v in row.items()))
    print("scorecard, points")
    for client, row in part["scorecard"].items():
        print(f"  {client:<10}" + "  ".join(f"{k} {v:.0f}" for k, v in row.items()))


if __name__ == "__main__":
    main()
