"""What a replay's results are worth: measures over the events that can be judged.

In: `Events`. Out: measures as plain dictionaries, money in minor units of the events' currency.
Does not know how the results came about, nor how a report looks.

`by_moment` judges again at the end of each week, as a person would have seen it then.
"""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

from model import metrics
from streams.drift import population_stability
from streams.labels import FRAUD, LabelBook
from streams.offline import results
from streams.offline.judged import Events, known_enough
from streams.schema import DAY_MS

CARDS_A_DAY = 100
FALSE_POSITIVE_RATES = (0.001, 0.0001)
MIN_SEGMENT = 100
LOOK_BACK_DAYS = 28
"""`by_moment` judges the events of so many days that could be judged."""


def overall(events: Events, k: int) -> dict[str, Any]:
    """Ranking, calibration and alert measures of model k over all events."""
    label, score, flagged = events.label, events.score[k], events.decision[k] > 0
    days = len(np.unique(events.day))
    workload = float(events.all_alert[k].sum() / len(np.unique(events.all_day)))
    frauds, caught, alerts = int(label.sum()), int(label[flagged].sum()), int(flagged.sum())
    lost, blocked = events.lost, events.decision[k] == 2
    detected = results.total(lost[flagged])
    looked_at = int((flagged & events.counted).sum())
    return {
        "events": len(events),
        "days": days,
        "frauds": frauds,
        "average_precision": metrics.average_precision(label, score),
        "roc_auc": metrics.roc_auc(label, score),
        "card_precision_100": metrics.card_precision(
            label, score, events.account, events.day, CARDS_A_DAY
        ),
        **{
            f"recall_at_fpr_{rate:g}": metrics.recall_at_fpr(label, score, rate)
            for rate in FALSE_POSITIVE_RATES
        },
        "recall_at_budget": metrics.recall_at_budget(
            label, score, events.terms.budget_a_day * days
        ),
        "brier": metrics.brier(label, score),
        "calibration_error": metrics.calibration_error(label, score),
        "alerts": alerts,
        "alerts_a_day": workload,
        "blocked": int(blocked.sum()),
        "precision": caught / alerts if alerts else float("nan"),
        "recall": caught / frauds if frauds else float("nan"),
        "fraud_amount": results.total(lost),
        "fraud_amount_detected": detected,
        "value_saved": detected - looked_at * events.review_cost_minor,
        "legitimate_amount_blocked": results.total(events.amount[blocked & (label == 0)]),
    }


def by_week(events: Events, k: int) -> list[dict[str, Any]]:
    """The same few measures for each week of event time."""
    weeks = []
    for week in np.unique(events.day // 7):
        part = events.day // 7 == week
        label, score = events.label[part], events.score[k][part]
        flagged = events.decision[k][part] > 0
        weeks.append(
            {
                "first_day": int(week) * 7,
                "events": int(part.sum()),
                "frauds": int(label.sum()),
                "average_precision": metrics.average_precision(label, score),
                "alerts": int(flagged.sum()),
                "recall": float(label[flagged].sum() / label.sum()) if label.any() else None,
            }
        )
    return weeks


def by_day(events: Events, k: int) -> list[dict[str, int]]:
    """Alerts of each day of event time, those among them known as fraud, and all known frauds."""
    days, every = np.unique(events.all_day, return_inverse=True)
    judged, flagged = np.searchsorted(days, events.day), events.decision[k] > 0
    counts = (
        np.bincount(place, weights, len(days)).astype(int).tolist()
        for place, weights in (
            (every, events.all_alert[k]),
            (judged, flagged & (events.label == FRAUD)),
            (judged, events.label),
        )
    )
    return [
        {"day": day, "alerts": alerts, "caught": caught, "frauds": frauds}
        for day, alerts, caught, frauds in zip(days.tolist(), *counts, strict=True)
    ]


def by_moment(events: Events, book: LabelBook, k: int) -> list[dict[str, Any]]:
    """What could be known at the end of each week of the alerts of the weeks before.

    At each moment: the events of the last 28 days that could be judged then, by the labels known
    then (`then`), and the same by `as_of` (`since`); what is disputed by `as_of` is in neither.
    """
    week = 7 * DAY_MS
    first = (int(events.time.min()) // week + 1) * week
    found = []
    for moment in range(first, events.as_of + week, week):
        at = min(moment, events.as_of)
        begin = at - (LOOK_BACK_DAYS + events.delay_days) * DAY_MS
        rows = np.flatnonzero((events.time >= begin) & (events.time < at))
        known = book.at(events.key[rows], at)
        kept = known_enough(events.time[rows], known, at, events.delay_days)
        rows, label = rows[kept], (known[kept] == FRAUD).astype(np.int8)
        if not len(rows):
            continue
        found.append(
            {
                "moment": at,
                "events": len(rows),
                "then": _short(events, rows, label, k),
                "since": _short(events, rows, events.label[rows], k),
            }
        )
    return found


def _short(
    events: Events, rows: NDArray[np.int64], label: NDArray[np.int8], k: int
) -> dict[str, Any]:
    flagged = events.decision[k][rows] > 0
    frauds, caught = int(label.sum()), int(label[flagged].sum())
    return {
        "frauds": frauds,
        "average_precision": metrics.average_precision(label, events.score[k][rows]),
        "precision": caught / int(flagged.sum()) if flagged.any() else None,
        "recall": caught / frauds if frauds else None,
    }


def by_segment(events: Events, k: int) -> list[dict[str, Any]]:
    """Per segment: false positive rate (predictive equality) and recall (equal opportunity).

    Terms: Hardt, Price, Srebro, Equality of Opportunity in Supervised Learning (2016); Corbett-
    Davies et al., Algorithmic Decision Making and the Cost of Fairness (2017).
    """
    flagged = events.decision[k] > 0
    rows = []
    for name, (codes, names) in sorted(events.segments.items()):
        for code, value in sorted(enumerate(names), key=lambda pair: pair[1]):
            part = codes == code
            bad, good = part & (events.label == 1), part & (events.label == 0)
            if part.sum() < MIN_SEGMENT:
                continue
            rows.append(
                {
                    "segment": name,
                    "value": value,
                    "events": int(part.sum()),
                    "frauds": int(bad.sum()),
                    "false_positive_rate": float(flagged[good].mean()) if good.any() else None,
                    "recall": float(flagged[bad].mean()) if bad.any() else None,
                }
            )
    return rows


def cost_curve(events: Events, k: int, points: int = 60) -> list[dict[str, float]]:
    """Missed fraud plus the cost of alerts, for thresholds from strict to open."""
    score = events.score[k]
    order = np.argsort(-score, kind="stable")
    caught = np.cumsum(events.lost[order], dtype=np.float64)
    looked_at = np.cumsum(events.counted[order])
    counts = np.unique(np.geomspace(1, len(events), points).astype(np.int64))
    return [
        {
            "threshold": float(score[order[n - 1]]),
            "alerts": int(n),
            "cost": float(caught[-1] - caught[n - 1] + looked_at[n - 1] * events.review_cost_minor),
        }
        for n in counts
    ]


def drift(events: Events, k: int) -> dict[str, float]:
    """PSI of the last third of the days against the first (NaN of one), and the champion."""
    days = np.unique(events.day)
    third = max(1, len(days) // 3)
    first, last = events.day <= days[third - 1], events.day >= days[-third]
    score = events.score[k]
    over_time = (
        population_stability(score[first], score[last]).psi if len(days) > 1 else float("nan")
    )
    return {
        "over_time": over_time,
        "against_champion": population_stability(events.score[0], score).psi,
    }


def difference(events: Events, k: int) -> dict[str, Any]:
    """Alerts of the champion and of model k: both, only one; with their frauds and money."""
    mine, other = events.decision[0] > 0, events.decision[k] > 0

    def part(chosen: NDArray[np.bool_]) -> dict[str, int | float]:
        return {
            "alerts": int(chosen.sum()),
            "frauds": int(events.label[chosen].sum()),
            "fraud_amount": results.total(events.lost[chosen]),
        }

    return {
        "both": part(mine & other),
        "only_champion": part(mine & ~other),
        "only_challenger": part(~mine & other),
    }


def ap_gap(events: Events, k: int) -> dict[str, float]:
    """Average precision of model k less the champion's, and how much of that may be chance."""
    told = metrics.ap_gap(events.label, events.score[k], events.score[0])
    return dict(zip(("difference", "low", "high"), told, strict=True))
