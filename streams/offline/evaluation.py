"""What a replay's results are worth: one table of events with labels, and measures over it.

In: result rows and label messages. Out: `Events`, and measures as plain dictionaries.
Does not know how the results came about, nor how a report looks.

A label counts from its `label_time` on. `as_of` is the moment of judgement: labels that became
known later do not exist. An event without a label known by then counts as legitimate if it is older
than the label delay, else it is left out: nobody could know yet. So is what is disputed.
`by_moment` asks the same at the end of each week, as a person would have seen it then.

An event takes some 70 bytes of memory and 10 a model; its strings are read and dropped by the way.
"""

from __future__ import annotations

from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from numpy.typing import NDArray

from model import metrics
from streams.drift import population_stability
from streams.errors import ConfigError
from streams.labels import FRAUD, NOT_KNOWN, LabelBook, transaction_keys
from streams.offline import results
from streams.schema import DAY_MS

CARDS_A_DAY = 100
FALSE_POSITIVE_RATES = (0.001, 0.0001)
MIN_SEGMENT = 100
LOOK_BACK_DAYS = 28
"""`by_moment` judges the events of so many days that could be judged."""


@dataclass(frozen=True, slots=True)
class Terms:
    """What a user may set. review_cost_minor: what looking at one alert costs, in minor units."""

    budget_a_day: int = 50
    review_cost_minor: int = 500


DEFAULT_TERMS = Terms()


@dataclass(frozen=True, slots=True)
class Events:
    """Scored events with a judgement, arrays of one length n.

    key: uint64, the transaction's hash (`labels.transaction_keys`); time: int64 ms UTC
    label: int8, 1 fraud, 0 legitimate, as known by `as_of`; amount: int64 minor units
    account, channel, country: int32 codes; names of the last two beside them
    score: float64 [models, n]; decision: int8 [models, n], 0 approve, 1 review, 2 block
    """

    partition: NDArray[np.int32]
    offset: NDArray[np.int64]
    key: NDArray[np.uint64]
    time: NDArray[np.int64]
    label: NDArray[np.int8]
    amount: NDArray[np.int64]
    account: NDArray[np.int32]
    segments: dict[str, tuple[NDArray[np.int32], list[str]]]
    score: NDArray[np.float64]
    decision: NDArray[np.int8]
    unlabelled: int
    as_of: int
    delay_days: int
    judged_from: int = 0
    terms: Terms = DEFAULT_TERMS

    @property
    def day(self) -> NDArray[np.int32]:
        """Days since 1970."""
        days: NDArray[np.int32] = (self.time // DAY_MS).astype(np.int32)
        return days

    def __len__(self) -> int:
        return len(self.day)


class _Codes:
    """Strings to numbers, the same over all row groups."""

    def __init__(self) -> None:
        self._known: dict[str | None, int] = {}

    def of(self, column: pa.ChunkedArray) -> NDArray[np.int32]:
        """The code of each string; null is one of them."""
        coded = column.combine_chunks().dictionary_encode(null_encoding="encode")
        names = coded.dictionary.to_pylist()
        codes = [self._known.setdefault(name, len(self._known)) for name in names]
        found: NDArray[np.int32] = np.array(codes, np.int32)[coded.indices.to_numpy()]
        return found

    def names(self) -> list[str]:
        """By code."""
        return ["not given" if name is None else name for name in self._known]


_ID = "transaction_id"
_COLUMNS = ("offset", "outcome", _ID, "account_id", "event_time", "amount")
_SEGMENTS = ("channel", "country")


def nothing_to_judge() -> ConfigError:
    """Why there is nothing to measure where nobody ever said anything."""
    return ConfigError(
        "no event can be judged: no label is known and none is older than the label delay",
        remedy="record the labels too, or give --labels FILE",
    )


def _none_judged(scored: int, moment: int, delay_days: int, judge_from: int) -> ConfigError:
    """Why there is nothing to measure though there are labels, or a moment of judgement."""
    if not scored:
        since = f" from {_utc(judge_from)} on" if judge_from else ""
        return ConfigError(
            f"no event can be judged: no accepted transaction{since}",
            remedy="give an earlier --judge-from" if since else "name another recording or file",
        )
    return ConfigError(
        f"no event can be judged: at {_utc(moment)} none of the {scored:,} events had a verdict,"
        f" and none without a label was older than {delay_days} days",
        remedy="give a later --as-of, or labels of these transactions with --labels",
    )


def _utc(moment_ms: int) -> str:
    return datetime.fromtimestamp(moment_ms / 1_000, UTC).strftime("%d %B %Y %H:%M UTC")


def gather(
    out: Path,
    book: LabelBook,
    models: int,
    *,
    as_of: int | None,
    delay_days: int,
    judge_from: int = 0,
    terms: Terms = DEFAULT_TERMS,
) -> Events:
    """Read the results of a replay and join the labels known by `as_of` (default: all of them).

    Raises ConfigError when nothing is left to judge.
    """
    columns = [*_COLUMNS, *_SEGMENTS]
    columns += [f"{name}_{k}" for k in range(models) for name in ("score", "decision")]
    moment = book.latest if as_of is None else as_of
    codes = {name: _Codes() for name in ("account_id", *_SEGMENTS)}
    parts: dict[str, list[NDArray[Any]]] = {}
    scored = judged = 0
    for shard, whole in results.tables(out, columns):
        table = whole.filter(pc.equal(whole["outcome"], results.SCORED))
        table = table.filter(pc.greater_equal(table["event_time"], judge_from))
        scored += len(table)
        key = transaction_keys(*(table[name].to_pylist() for name in ("account_id", _ID)))
        known = book.at(key, moment)
        kept = _judged(table["event_time"].to_numpy(), known, moment, delay_days)
        if as_of is not None:  # a label may be too early; its event had not happened all the same
            kept &= table["event_time"].to_numpy() <= moment
        table = table.filter(pa.array(kept))
        judged += len(table)
        part = {
            "partition": np.full(len(table), shard, np.int32),
            "key": key[kept],
            "label": (known[kept] == FRAUD).astype(np.int8),
            **{name: each.of(table[name]) for name, each in codes.items()},
            **{name: table[name].to_numpy() for name in ("offset", "event_time", "amount")},
            **{f"score_{k}": table[f"score_{k}"].to_numpy() for k in range(models)},
            **{f"decision_{k}": _decisions(table[f"decision_{k}"]) for k in range(models)},
        }
        for name, values in part.items():
            parts.setdefault(name, []).append(values)
    if not judged:
        raise _none_judged(scored, int(moment), delay_days, judge_from)
    joined = {name: np.concatenate(parts.pop(name)) for name in list(parts)}
    return Events(
        **{name: joined[name] for name in ("partition", "offset", "key", "label", "amount")},
        time=joined["event_time"],
        account=joined["account_id"],
        segments={name: (joined[name], codes[name].names()) for name in _SEGMENTS},
        score=np.nan_to_num([joined[f"score_{k}"] for k in range(models)]),  # NaN: rules alone
        decision=np.stack([joined[f"decision_{k}"] for k in range(models)]),
        unlabelled=scored - judged,
        as_of=int(moment),
        delay_days=delay_days,
        judged_from=judge_from,
        terms=terms,
    )


def _judged(
    times: NDArray[np.int64], known: NDArray[np.int8], moment: int, delay_days: int
) -> NDArray[np.bool_]:
    """Which events can be judged at a moment, given what is known of each by then."""
    silent = (known == NOT_KNOWN) & (times < moment - delay_days * DAY_MS)
    judged: NDArray[np.bool_] = (known >= 0) | silent
    return judged


def _decisions(column: pa.ChunkedArray) -> NDArray[np.int8]:
    order = pa.array(["approve", "review", "block"])
    found: NDArray[np.int8] = pc.index_in(column, order).to_numpy().astype(np.int8)
    return found


def overall(events: Events, k: int) -> dict[str, Any]:
    """Ranking, calibration and alert measures of model k over all events."""
    label, score, flagged = events.label, events.score[k], events.decision[k] > 0
    days = len(np.unique(events.day))
    frauds, caught, alerts = int(label.sum()), int(label[flagged].sum()), int(flagged.sum())
    lost, blocked = events.amount * label, events.decision[k] == 2
    detected = results.total(lost[flagged])
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
        "alerts_a_day": alerts / days,
        "blocked": int(blocked.sum()),
        "precision": caught / alerts if alerts else float("nan"),
        "recall": caught / frauds if frauds else float("nan"),
        "fraud_amount": results.total(lost),
        "fraud_amount_detected": detected,
        "value_saved": detected - alerts * events.terms.review_cost_minor,
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
    """Alerts, frauds among them and all frauds of each day of event time."""
    days, place = np.unique(events.day, return_inverse=True)
    flagged = events.decision[k] > 0
    counts = (
        np.bincount(place, weights, len(days)).astype(int).tolist()
        for weights in (flagged, flagged & (events.label == FRAUD), events.label)
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
        kept = _judged(events.time[rows], known, at, events.delay_days)
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
    caught = np.cumsum((events.amount * events.label)[order], dtype=np.float64)
    counts = np.unique(np.geomspace(1, len(events), points).astype(np.int64))
    return [
        {
            "threshold": float(score[order[n - 1]]),
            "alerts": int(n),
            "cost": float(caught[-1] - caught[n - 1] + n * events.terms.review_cost_minor),
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
            "fraud_amount": results.total((events.amount * events.label)[chosen]),
        }

    return {
        "both": part(mine & other),
        "only_champion": part(mine & ~other),
        "only_challenger": part(~mine & other),
    }
