"""What a replay's results are worth: one table of events with labels, and measures over it.

In: result rows and label messages. Out: `Events`, and measures as plain dictionaries.
Does not know how the results came about, nor how a report looks.

A label counts from its `label_time` on. `as_of` is the moment of judgement: labels that became
known later do not exist. An event without a label known by then counts as legitimate if it is older
than the label delay, else it is left out: nobody could know yet.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from numpy.typing import NDArray

from model import metrics
from streams.drift import population_stability
from streams.errors import ConfigError
from streams.labels import LabelBook
from streams.offline import results
from streams.schema import DAY_MS

CARDS_A_DAY = 100
BUDGET_A_DAY = 50
FALSE_POSITIVE_RATES = (0.001, 0.0001)
MIN_SEGMENT = 100
REVIEW_COST_MINOR = 500
"""What looking at one alert costs, for the cost curve: 5 units of currency."""


@dataclass(frozen=True, slots=True)
class Events:
    """Scored events with a judgement, arrays of one length n.

    day: int32 days since 1970; label: int8, 1 fraud, 0 legitimate; amount: int64 minor units
    account, channel, country: int32 codes; names of the last two beside them
    score: float64 [models, n]; decision: int8 [models, n], 0 approve, 1 review, 2 block
    """

    partition: NDArray[np.int32]
    offset: NDArray[np.int64]
    day: NDArray[np.int32]
    label: NDArray[np.int8]
    amount: NDArray[np.int64]
    account: NDArray[np.int32]
    segments: dict[str, tuple[NDArray[np.int32], list[str]]]
    score: NDArray[np.float64]
    decision: NDArray[np.int8]
    unlabelled: int
    as_of: int
    judged_from: int = 0

    def __len__(self) -> int:
        return len(self.day)


def gather(
    out: Path,
    labels: Iterable[bytes],
    models: int,
    *,
    as_of: int | None,
    delay_days: int,
    judge_from: int = 0,
) -> Events:
    """Read the results of a replay and join the labels known by `as_of` (default: all of them).

    Raises ConfigError when nothing is left to judge.
    """
    book = LabelBook.of(labels)
    columns = [
        "offset",
        "outcome",
        "transaction_id",
        "account_id",
        "event_time",
        "amount",
        "channel",
        "country",
    ]
    for k in range(models):
        columns += [f"score_{k}", f"decision_{k}"]
    table = results.read(out, columns)
    table = table.filter(pc.equal(table["outcome"], results.SCORED))
    table = table.filter(pc.greater_equal(table["event_time"], judge_from))
    moment = book.latest if as_of is None else as_of
    fraud = book.known(table["account_id"], table["transaction_id"], moment)
    times = table["event_time"].to_numpy()
    judged = (fraud >= 0) | (times < moment - delay_days * DAY_MS)
    if not judged.any():
        raise ConfigError(
            "no event can be judged: no label is known and none is older than the label delay",
            remedy="record the labels too, or give --labels FILE",
        )
    kept = table.filter(pa.array(judged))
    account = kept["account_id"].combine_chunks().dictionary_encode()
    return Events(
        partition=kept["partition"].to_numpy(),
        offset=kept["offset"].to_numpy(),
        day=(times[judged] // DAY_MS).astype(np.int32),
        label=(fraud[judged] == 1).astype(np.int8),
        amount=kept["amount"].to_numpy(),
        account=account.indices.to_numpy(),
        segments={name: _codes(kept[name]) for name in ("channel", "country")},
        score=np.stack([kept[f"score_{k}"].to_numpy() for k in range(models)]),
        decision=np.stack([_decisions(kept[f"decision_{k}"]) for k in range(models)]),
        unlabelled=int(len(table) - judged.sum()),
        as_of=int(moment),
        judged_from=judge_from,
    )


def _codes(column: pa.ChunkedArray) -> tuple[NDArray[np.int32], list[str]]:
    coded = pc.fill_null(column, "not given").combine_chunks().dictionary_encode()
    return coded.indices.to_numpy(), coded.dictionary.to_pylist()


def _decisions(column: pa.ChunkedArray) -> NDArray[np.int8]:
    order = pa.array(["approve", "review", "block"])
    found: NDArray[np.int8] = pc.index_in(column, order).to_numpy().astype(np.int8)
    return found


def overall(events: Events, k: int) -> dict[str, Any]:
    """Ranking, calibration and alert measures of model k over all events."""
    label, score, flagged = events.label, events.score[k], events.decision[k] > 0
    days = len(np.unique(events.day))
    frauds, caught = int(label.sum()), int(label[flagged].sum())
    lost = events.amount * label
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
        "recall_at_budget": metrics.recall_at_budget(label, score, BUDGET_A_DAY * days),
        "brier": metrics.brier(label, score),
        "calibration_error": metrics.calibration_error(label, score),
        "alerts": int(flagged.sum()),
        "alerts_a_day": float(flagged.sum() / days),
        "blocked": int((events.decision[k] == 2).sum()),
        "precision": caught / int(flagged.sum()) if flagged.any() else float("nan"),
        "recall": caught / frauds if frauds else float("nan"),
        "fraud_amount": int(lost.sum()),
        "fraud_amount_detected": int(lost[flagged].sum()),
        "legitimate_amount_blocked": int(
            events.amount[(events.decision[k] == 2) & (label == 0)].sum()
        ),
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
    caught = np.cumsum((events.amount * events.label)[order])
    counts = np.unique(np.geomspace(1, len(events), points).astype(np.int64))
    return [
        {
            "threshold": float(score[order[n - 1]]),
            "alerts": int(n),
            "cost": float(caught[-1] - caught[n - 1] + n * REVIEW_COST_MINOR),
        }
        for n in counts
    ]


def drift(events: Events, k: int) -> dict[str, float]:
    """PSI of the last third of the days against the first third, and against the champion."""
    days = np.unique(events.day)
    third = max(1, len(days) // 3)
    first, last = events.day < days[third], events.day >= days[-third]
    score = events.score[k]
    over_time = (
        population_stability(score[first], score[last]).psi
        if first.any() and last.any()
        else float("nan")
    )
    return {
        "over_time": over_time,
        "against_champion": population_stability(events.score[0], score).psi,
    }


def difference(events: Events, k: int) -> dict[str, Any]:
    """Alerts of the champion and of model k: both, only one; with their frauds and money."""
    mine, other = events.decision[0] > 0, events.decision[k] > 0

    def part(chosen: NDArray[np.bool_]) -> dict[str, int]:
        return {
            "alerts": int(chosen.sum()),
            "frauds": int(events.label[chosen].sum()),
            "fraud_amount": int((events.amount * events.label)[chosen].sum()),
        }

    return {
        "both": part(mine & other),
        "only_champion": part(mine & ~other),
        "only_challenger": part(~mine & other),
    }
