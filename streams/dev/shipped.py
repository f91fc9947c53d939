"""The bundle that is shipped: trained on simulated streams, measured on weeks it never saw.

In: nothing but the plans below. Out: a folder with the bundle, and its report. One command, the
same result again (seeded; torch's own sums may differ in the last bits between machines):

    python -m streams.dev.shipped model/bundles/default

Run it after any change of the feature list: bundles of another list are refused. With `--report`
the bundle stays as it is and only its report is made anew (after a change of what is measured).
Does not know how a demo uses the bundle. Streams of several densities and lengths are mixed, each
from its first event on, so that the model knows cold starts, quiet accounts and missing risk.
"""

from __future__ import annotations

import argparse
import sys
import time
from dataclasses import replace
from pathlib import Path
from typing import Any, Final

import numpy as np
import orjson
import torch

from model import bundle as bundles
from model import data, evaluate, finetune, unlabelled
from model.loop import Recipe
from model.measured import measure, segments
from model.pretrain import pretrain
from model.pretrained import to_bundle
from model.score import Scorer
from model.second import Surprise
from model.transformer import PRESETS
from streams import features
from streams.dev.simulate import Plan, simulate
from streams.dev.training_set import build
from streams.schema import DAY_MS

NAME: Final = "default"
MATURITY_DAYS: Final = 14
TEST_DAYS: Final = 14
JUDGE_DAYS: Final = 10
PLANS: Final = (
    Plan(events=320_000, accounts=4_000, days=100, seed=101),
    Plan(events=200_000, accounts=6_000, days=60, seed=102, fraud_rate=0.01),
    Plan(events=160_000, accounts=1_200, days=60, seed=103),
)
UNSEEN: Final = Plan(events=120_000, accounts=4_000, days=60, seed=104)
"""A whole stream with other accounts and merchants, for the report only."""
RECIPE: Final = Recipe(steps=1_500, chunk=64, batch=64, rate=3e-3, decay=0.3, seed=1, every=60)
BACKBONE: Final = Recipe(steps=600, chunk=64, batch=48, average=0.98)
"""Without labels, before the fit: what it finds surprising is the fit's second task."""
MAX_BYTES: Final = 5_000_000
THREADS: Final = 2
Rows = np.ndarray[Any, Any]


def stream(plan: Plan) -> data.Dataset:
    """A simulated stream as a training set, unreported events matured."""
    made = simulate(plan)
    truth = made.truth.to_pydict()
    found = build(
        made.transactions,
        made.labels,
        truth=dict(zip(truth["transaction_id"], truth["is_fraud"], strict=True)),
        kinds=dict(zip(truth["transaction_id"], truth["scenario"], strict=True)),
    )
    label, label_time = data.mature(
        found.label, found.label_time, found.time, MATURITY_DAYS * DAY_MS
    )
    return replace(found, label=label, label_time=label_time)


def split(part: data.Dataset) -> tuple[np.ndarray[Any, Any], ...]:
    """Masks (fit, judge, test) of one stream: by the labels known when its last weeks begin."""
    cut = int(part.time.max()) - TEST_DAYS * DAY_MS
    matured = cut - MATURITY_DAYS * DAY_MS
    middle = matured - JUDGE_DAYS * DAY_MS
    known = part.known_at(cut)
    inside = part.time < matured
    return (
        known & (part.time < middle),
        known & inside & (part.time >= middle),
        part.time >= cut,
    )


def _whole() -> tuple[data.Dataset, list[Rows]]:
    """All streams as one training set, and its masks (fit, judge, test)."""
    parts = [stream(plan) for plan in PLANS]
    masks = [split(part) for part in parts]
    return data.concat(parts), [np.concatenate([m[k] for m in masks]) for k in range(3)]


def backbone(
    whole: data.Dataset, before: Rows, tell: evaluate.Tell, recipe: Recipe = BACKBONE
) -> bundles.Bundle:
    """Fitted on these events without labels; to read by, not to serve."""
    made = pretrain(whole, before, PRESETS["small"], recipe, tell)
    return to_bundle(whole, made, "backbone", [""] * len(whole.names))


def train(folder: Path, whole: data.Dataset, masks: list[Rows], tell: evaluate.Tell) -> None:
    """Train and write the bundle."""
    fit, judge, test = masks
    chosen = finetune.Blocks(fit, judge)
    tell(f"{len(whole)} events, {int(fit.sum())} to fit, {int(judge.sum())} to judge")
    before = ~(judge | test)
    read = unlabelled.columns(backbone(whole, before, tell), whole, before)
    told = Surprise(read, before)
    found = finetune.fit(whole, chosen, PRESETS["small"], RECIPE, tell=tell, surprise=told)
    groups = [feature.group for feature in features.FEATURES]
    about = {
        "trained_on": "fraudstream simulate; plans in streams/dev/shipped.py",
        "card": "Simulated streams only: for the demo and for tests, not for real payments.",
    }
    bundles.write(finetune.to_bundle(whole, chosen, found, NAME, groups, about), folder)


def judged(
    folder: Path, whole: data.Dataset, masks: list[Rows], tell: evaluate.Tell
) -> dict[str, Any]:
    """The report of the bundle: on the last weeks of its streams, and on a stream it never saw."""
    size = sum(path.stat().st_size for path in folder.iterdir())
    assert size <= MAX_BYTES, size
    scorer = Scorer.load(folder)
    fit, judge, test = map(np.flatnonzero, masks)
    rows = evaluate.Split(fit, judge, test, np.asarray(whole.label))
    report = evaluate.report(scorer, whole, rows, threads=THREADS, tell=tell)
    other = stream(UNSEEN)
    everything = np.arange(len(other))
    scores = evaluate.score_rows(scorer, other, everything)
    report["unseen_stream"] = measure(other, everything, other.answer(), scores)
    report["unseen_segments"] = segments(other, everything, scores)
    report["bytes"] = size
    tell(f"done: {report['models']}")
    return {k: v for k, v in report.items() if k != "curves"}


def main(folder: Path, only_report: bool) -> None:
    """Train unless told not to, measure, write the report beside the bundle."""
    torch.set_num_threads(THREADS)
    began = time.monotonic()

    def tell(line: str) -> None:
        sys.stderr.write(f"{time.monotonic() - began:6.0f} s  {line}\n")
        sys.stderr.flush()

    whole, masks = _whole()
    path = folder.with_name(f"{folder.name}.report.json")
    if only_report:
        trained_s = orjson.loads(path.read_bytes())["trained_s"] if path.exists() else None
    else:
        train(folder, whole, masks, tell)
        trained_s = time.monotonic() - began
    report = {**judged(folder, whole, masks, tell), "trained_s": trained_s}
    path.write_bytes(orjson.dumps(report, option=orjson.OPT_INDENT_2) + b"\n")


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("folder", type=Path)
    parser.add_argument("--report", action="store_true", help="leave the bundle, measure it again")
    arguments = parser.parse_args()
    main(arguments.folder, arguments.report)
