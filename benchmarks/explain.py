"""Are explanations faithful, and what do they cost? Deletion and insertion curves of the alerts.

    python benchmarks/explain.py [--alerts N] [--bundle DIR] [--json]

Alerts are the payments of a simulated stream that the bundle scores above the review threshold.
Each order of feature groups is walked twice: groups are taken away from the first on (deletion: the
score should fall fast, a small area is good), and given back from the first on to a payment without
any (insertion: it should rise fast, a large area is good). Orders: ours, gradient x input on the
same groups, and the mean of five random ones.
"""

from __future__ import annotations

import argparse
import json
import time
from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import torch

from benchmarks.ground import machine
from model import bundle as bundles
from model import data, evaluate, explain
from model.inputs import ScoringBatch
from model.score import Scorer
from streams.dev.shipped import UNSEEN, stream

Orders = Sequence[Sequence[str]]
REVIEW = 0.3
RANDOM = 5


def alerts(scorer: Scorer, count: int) -> ScoringBatch:
    """The newest payments of a stream the bundle never saw that would be alerts."""
    found = stream(replace(UNSEEN, events=60_000, accounts=2_000))
    rows = np.argsort(found.time, kind="stable")
    scores = evaluate.score_rows(scorer, found, rows)
    return data.gather(found, found.place(), rows[scores >= REVIEW][-count:])


def area(curve: Any) -> float:
    """Mean height of a curve over the share of groups."""
    return float(np.trapezoid(curve) / (len(curve) - 1))


def both(scorer: Scorer, batch: ScoringBatch, orders: Orders) -> dict[str, Any]:
    """Both curves and their areas."""
    deletion = explain.curve(scorer, batch, orders)
    insertion = explain.curve(scorer, batch, orders, insert=True)
    return {
        "deletion": area(deletion),
        "insertion": area(insertion),
        "deletion_curve": deletion.tolist(),
        "insertion_curve": insertion.tolist(),
    }


def cost_ms(one: Callable[[ScoringBatch], Any], batch: ScoringBatch) -> float:
    """CPU milliseconds an alert, alerts one by one."""
    one(explain.batch_row(batch, 0))
    began = time.process_time()
    for i in range(len(batch)):
        one(explain.batch_row(batch, i))
    return (time.process_time() - began) / len(batch) * 1_000


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--alerts", type=int, default=300)
    parser.add_argument("--bundle", type=Path, default=bundles.shipped())
    parser.add_argument("--json", action="store_true")
    args = parser.parse_args()
    torch.set_num_threads(1)
    scorer = Scorer.load(args.bundle)
    batch = alerts(scorer, args.alerts)
    groups = explain.groups_of(scorer)
    rng = np.random.default_rng(0)
    shuffled = [
        both(scorer, batch, [rng.permutation(groups).tolist() for _ in range(len(batch))])
        for _ in range(RANDOM)
    ]
    table: dict[str, dict[str, Any]] = {
        "ours": both(
            scorer, batch, [explain.order_of(one) for one in explain.contributions(scorer, batch)]
        ),
        "gradient x input": both(
            scorer,
            batch,
            [explain.order_of(one) for one in explain.gradient_times_input(scorer, batch)],
        ),
        "random": {k: np.mean([one[k] for one in shuffled], 0).tolist() for k in shuffled[0]},
    }
    found = {
        "model_id": scorer.model_id,
        "alerts": len(batch),
        "groups": len(groups),
        "mean_score": float(scorer.score(batch).mean()),
        "orders": table,
        "explain_ms": cost_ms(scorer.explain, batch),
        "machine": machine(),
    }
    if args.json:
        print(json.dumps(found))
        return
    print(f"{found['machine']}")
    print(
        f"{found['model_id']}, {len(batch)} alerts, mean score {found['mean_score']:.3f}, "
        f"{len(groups)} groups"
    )
    print(f"{'order':<20}{'deletion (low is good)':>24}{'insertion (high is good)':>26}")
    for name, row in table.items():
        print(f"{name:<20}{row['deletion']:>24.3f}{row['insertion']:>26.3f}")
    for name, row in table.items():
        first = "  ".join(f"{v:.2f}" for v in row["deletion_curve"][:6])
        print(f"score after 0, 1, 2, ... groups taken away, {name}: {first}")
    print(f"CPU a single explanation: {found['explain_ms']:.2f} ms")


if __name__ == "__main__":
    main()
