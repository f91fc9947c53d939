"""The model card of a bundle: what it is for, what it was made from, what it cannot do.

In: a dataset, the plan and blocks of a fit. Out: a dictionary for the manifest (`about.card`). Does
not know what was measured: that stands beside it, under `about.judged`.
Source of the headings: Mitchell et al., Model Cards for Model Reporting (2019).
"""

from __future__ import annotations

from typing import Any

import numpy as np

from model.data import Dataset
from model.finetune import Blocks, Plan

LIMITS = (
    "Scores mean something only on streams like the one it was trained on.",
    "History beyond 64 events reaches it through the windows alone.",
    "Calibrated on the judging block: watch its drift, and calibrate again when prevalence moves.",
)


def card(
    dataset: Dataset, plan: Plan, chosen: Blocks, base: str | None, taught: int | None = None
) -> dict[str, Any]:
    """Times are ms UTC, event times except `labels_known_before`.

    `taught`: trees softened the labels, and told what to answer on so many events without one.
    """
    label = np.asarray(dataset.label)

    def block(rows: Any, start: int, end: int) -> dict[str, int]:
        frauds = int((label[rows] == 1).sum())
        return {"from": start, "to": end, "events": int(rows.sum()), "frauds": frauds}

    return {
        "use": "Ranks payments for review and blocking; a person or a rule decides.",
        "inputs": "The event, the account's last 64 events, window and merchant risk features. "
        "No name, no account identity.",
        "fitted_on": block(chosen.fit, plan.train_from, plan.train_to),
        "judged_on": block(chosen.judge, plan.judge_from, plan.judge_to),
        "labels_known_before": plan.cut_ms,
        "pretrained_from": base,
        "taught_by_trees": {"events": taught, "labels": "those of fitted_on"}
        if taught is not None
        else None,
        "limits": list(LIMITS),
    }
