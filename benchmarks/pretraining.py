"""What pretraining without labels buys, by the share of the labels that are known.

    python -m benchmarks.pretraining [--events 300000] [--shares 0.001,0.01,0.1,1] [--seeds 2]
        [--pretrain 600] [--steps 400] [--json]

A simulated stream, all scenarios. One backbone is pretrained on every event before the test weeks,
without labels. Then, for each share, that share of the accounts keeps its labels. Two networks are
fitted on these labels alone, and two are taught by trees as well, as `finetune` does it: once
without the backbone, and once as with `--base`, with the second task to tell how surprising each
event is to it (`model/second.py`), and by trees that see that, too. All begin anew: with the
backbone's weights to begin from they ended no better (`model/LOG.md`, 2026-11-29). Same rows, steps
and seeds; what trees alone make of it with and without surprise stands beside, and the
anomaly score, which needs no label. Average precision on the last weeks, all
accounts; no early stopping, the average of the last weights. One stream, and few frauds at the
smallest shares: read differences under 0.02 as nothing.
"""

from __future__ import annotations

import argparse
import json
import sys
import time
from collections.abc import Iterator
from dataclasses import replace
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from model import finetune, metrics, teacher, unlabelled
from model.data import Dataset
from model.loop import Recipe, Source, train
from model.second import Second, Surprise
from model.teacher import Lesson
from model.transformer import PRESETS
from streams.dev.shipped import BACKBONE, backbone, split, stream
from streams.dev.simulate import Plan

Rows = NDArray[np.int64]
EVENTS_AN_ACCOUNT = 94
SHAPE = PRESETS["small"]
WAYS = (
    "labels alone",
    "labels, surprise",
    "taught",
    "taught, surprise",
    "trees",
    "trees, surprise",
)
"""Columns."""


def plan(events: int) -> Plan:
    """The simulated stream."""
    accounts = events // EVENTS_AN_ACCOUNT
    return Plan(events=events, accounts=accounts, days=90, seed=79, fraud_rate=0.005)


def fitted(
    d: Dataset,
    lesson: Lesson,
    surprise: Surprise | None,
    steps: int,
    seed: int,
    rows: Rows,
) -> NDArray[np.float64]:
    """Log-odds of `rows` by a network that learnt the lesson."""
    learnt = np.flatnonzero(lesson.chosen)
    model = finetune.start(d, learnt, SHAPE, None, seed)
    second = None if surprise is None else Second(SHAPE.width, surprise)
    source = Source(d, model.knots.numpy())
    recipe = Recipe(steps=steps, chunk=64, batch=32, average=0.98, seed=seed)
    loss = finetune.lesson_loss(lesson, second)
    train(model, source, lesson.chosen, loss, recipe, extra=second)
    return finetune.logits_of(model, d, rows).astype(np.float64)


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


def of_labels(
    d: Dataset,
    some: NDArray[np.bool_],
    before: NDArray[np.bool_],
    read: NDArray[np.float32],
    steps: int,
    seed: int,
    rows: Rows,
) -> Iterator[tuple[str, NDArray[np.float64]]]:
    """By way, the log-odds of `rows` of what is fitted on the labels of `some`; `before`: all
    events that may teach."""
    alone = teacher.labels_only(np.asarray(d.label), some)
    second = Surprise(read, before)
    yield WAYS[0], fitted(d, alone, None, steps, seed, rows)
    yield WAYS[1], fitted(d, alone, second, steps, seed, rows)
    for taught, trees, task in ((WAYS[2], WAYS[4], None), (WAYS[3], WAYS[5], second)):
        beside = None if task is None else read
        # The rows of the test are told, too, and learnt from by nobody: that is what trees make.
        told = teacher.lesson(d, some, ~some, seed, mix=teacher.MIX, beside=beside)
        p = told.target[rows].astype(np.float64)
        yield trees, np.log(p) - np.log1p(-p)
        lesson = Lesson(told.target, np.where(before, told.weight, 0).astype(np.float32))
        yield taught, fitted(d, lesson, task, steps, seed, rows)


def main() -> None:
    """Print the table."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--shares", default="0.001,0.01,0.1,1")
    parser.add_argument("--events", type=int, default=300_000)
    parser.add_argument("--pretrain", type=int, default=600)
    parser.add_argument("--steps", type=int, default=400)
    parser.add_argument("--seeds", type=int, default=2)
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--json", action="store_true")
    args = parser.parse_args()
    torch.set_num_threads(args.threads)
    d = stream(plan(args.events))
    fit, judge, test = split(d)
    fit |= judge
    rows, y = np.flatnonzero(test), d.answer()[test]
    before = d.time < d.time[test].min()
    base = backbone(d, before, _tell, replace(BACKBONE, steps=args.pretrain))
    read = unlabelled.columns(base, d, np.ones(len(d), bool))
    unlabelled_ap = metrics.average_precision(y, read[rows, -1].astype(np.float64))
    _tell(f"anomaly score, no label: {unlabelled_ap:.3f}")
    table: list[dict[str, Any]] = []
    for share in map(float, args.shares.split(",")):
        line: dict[str, Any] = {"share": share} | {way: [] for way in WAYS}
        for seed in range(args.seeds):
            some = kept(d, fit, share, seed)
            line["events"] = int(some.sum())
            line["frauds"] = int((np.asarray(d.label)[some] == 1).sum())
            steps = args.steps if share >= 0.1 else args.steps // 2
            began = time.process_time()
            for way, logit in of_labels(d, some, before, read, steps, seed, rows):
                line[way].append(metrics.average_precision(y, logit))
                _tell(f"{share:.1%} seed {seed}: {way} {line[way][-1]:.3f}")
            _tell(f"{time.process_time() - began:.0f} CPU s")
        table.append(line)
    if args.json:
        print(json.dumps({"anomaly": unlabelled_ap, "shares": table}))
        return
    print(
        f"{len(d)} events, {len(rows)} to test with {int(y.sum())} frauds; average precision;"
        f" anomaly score, no label: {unlabelled_ap:.3f}"
    )
    print(f"{'labels':>8}{'events':>9}{'frauds':>8}  " + "".join(f"{way:<19}" for way in WAYS))
    for line in table:
        told = "".join(f"{'  '.join(f'{v:.3f}' for v in line[way]):<19}" for way in WAYS)
        print(f"{line['share']:>8.1%}{line['events']:>9}{line['frauds']:>8}  {told}")


if __name__ == "__main__":
    main()
