"""Evaluation of a bundle on rows it never saw: measures, segments, weeks, comparisons.

In: a scorer, a `Dataset`, the rows that test and (for the comparisons) those that train. Out: a
report as a dictionary. Does not know where the rows come from, nor how a page shows them
(`model/page.py`).

Two guards against leaks: a model fitted on shuffled labels must rank at random, and a result above
what can be known at all (`ceiling`, where the stream's makers told it) is called a leak.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from model import baseline, metrics
from model.costs import Costs
from model.costs import to_text as costs_text
from model.data import DAY_MS, Dataset, as_of, gather, now
from model.errors import DatasetError
from model.measured import BUDGET, Rows, Scores, measure, segments
from model.score import Scorer

MATURITY_MS = 14 * DAY_MS
"""Age from which an event without a label is legitimate, where nobody says otherwise."""
RIVALS = {
    "ap_minus_lightgbm": ("LightGBM on windows", "trees"),
    "ap_minus_logistic": ("logistic regression", "logistic regression"),
}
"""Differences that are measured: the comparison model, and its short name."""
MAX_WEEKS = 12
MAX_FIT = 100_000
"""Rows that a comparison model of the weekly table and of the shuffled labels is fitted on."""
EMBEDDING_EVENTS = 150_000
"""Events whose embedding is computed to fit the trees that read it: accounts are left out above."""
Tell = Callable[[str], None]


@dataclass(frozen=True)
class Split:
    """Rows: `fit` and `judge` for the comparison models, `test` for everybody.

    `label`: of all rows, as the labels stood when the comparison models are fitted.
    """

    fit: Rows
    judge: Rows
    test: Rows
    label: NDArray[np.int8]


def score_rows(scorer: Scorer, dataset: Dataset, rows: Rows, block: int = 8_192) -> Scores:
    """Calibrated scores of rows, with histories gathered as the service has them."""
    place = dataset.place()
    parts = [
        scorer.score(gather(dataset, place, rows[at : at + block]))
        for at in range(0, len(rows), block)
    ]
    return np.concatenate(parts) if parts else np.zeros(0)


def prequential(
    dataset: Dataset,
    split: Split,
    scores: Scores,
    *,
    compare: bool = False,
    threads: int = 1,
    maturity_ms: int = MATURITY_MS,
    tell: Tell = lambda _: None,
) -> list[dict[str, float]]:
    """Week after week of the test rows: the bundle as it is, growing older, and trees fitted anew.

    The trees of a week know what a fit at its first moment could know: matured events whose label
    has an earlier label_time, the newest fifth to stop by. So the delay of labels counts for both.
    """
    y, time = dataset.answer()[split.test], dataset.time
    moment = time[split.test]
    first = int(moment.min()) if len(moment) else 0
    week = (moment - first) // (7 * DAY_MS)
    found = []
    for one in np.unique(week)[:MAX_WEEKS].tolist():
        inside = week == one
        if not y[inside].any():
            continue
        row = {
            "week": float(one),
            "events": float(inside.sum()),
            "frauds": float(y[inside].sum()),
            "ap": metrics.average_precision(y[inside], scores[inside]),
            "auc": metrics.roc_auc(y[inside], scores[inside]),
        }
        if compare:
            tell(f"week {one + 1}: LightGBM fitted on what was known by then")
            cut = first + one * 7 * DAY_MS
            again = _refitted(dataset, cut, maturity_ms, split.test[inside], threads)
            if again is not None:
                row["lightgbm_refitted_ap"] = metrics.average_precision(y[inside], again)
        found.append(row)
    return found


def _refitted(
    dataset: Dataset, cut_ms: int, maturity_ms: int, rows: Rows, threads: int
) -> Scores | None:
    """Scores of trees fitted on what was known at `cut_ms`; None where that was too little.

    Of events that had not matured by then only those are known that somebody reported, nearly all
    of them fraud: trees would learn that what is new is fraud.
    """
    then = as_of(dataset, cut_ms, maturity_ms)
    matured = dataset.time < cut_ms - maturity_ms
    known = np.flatnonzero(then.known_at(cut_ms) & matured)
    known = known[np.argsort(dataset.time[known], kind="stable")][-MAX_FIT:]
    x, y = dataset.features, np.asarray(then.label)
    fit, judge = known[: len(known) * 4 // 5], known[len(known) * 4 // 5 :]
    if y[fit].sum() < 20 or y[judge].sum() < 5:
        return None
    trees = baseline.lightgbm(x[fit], y[fit], x[judge], y[judge], threads=threads)
    return np.asarray(trees.predict(x[rows]))


def embedding_trees(scorer: Scorer, dataset: Dataset, split: Split, threads: int = 1) -> Scores:
    """LightGBM on the window features and the model's vector of each event, on the test rows."""
    from model.explain import vectors

    model = scorer.bundle.model()
    account = np.asarray(dataset.account)
    both = len(split.fit) + len(split.judge)
    step = max(-(-both // EMBEDDING_EVENTS), 1)
    fit, judge = (rows[account[rows] % step == 0] for rows in (split.fit, split.judge))
    label = split.label
    if label[fit].sum() == 0 or label[judge].sum() == 0:
        fit, judge = split.fit, split.judge

    def x(rows: Rows) -> NDArray[np.float32]:
        return np.concatenate([dataset.features[rows], vectors(model, dataset, rows)], 1)

    trees = baseline.lightgbm(x(fit), label[fit], x(judge), label[judge], threads=threads)
    return np.asarray(trees.predict(x(split.test)))


def comparisons(dataset: Dataset, split: Split, threads: int = 1) -> dict[str, Scores]:
    """Scores of the models that are always printed beside."""
    x, y = np.asarray(dataset.features), split.label
    trees = baseline.lightgbm(
        x[split.fit], y[split.fit], x[split.judge], y[split.judge], threads=threads
    )
    linear = baseline.Logistic(x[split.fit], y[split.fit])
    test = x[split.test]
    return {
        "LightGBM on windows": np.asarray(trees.predict(test)),
        "logistic regression": linear.predict(test),
    }


def shuffled_check(
    dataset: Dataset, split: Split, rounds: int = 5, cap: int = MAX_FIT // 2
) -> float:
    """Mean AUC on the test rows of trees fitted on shuffled labels: near 0.5, or something leaks.

    Several rounds, because frauds lie together: one random tree ranks them all high or all low.
    """
    x, y = np.asarray(dataset.features), split.label
    answer, found = dataset.answer()[split.test], []
    for seed in range(rounds):
        rng = np.random.default_rng(seed)
        fit = rng.permutation(split.fit)[:cap]
        judge = rng.permutation(split.judge)[:cap]
        trees = baseline.lightgbm(
            x[fit], rng.permutation(y[fit]), x[judge], rng.permutation(y[judge]), seed
        )
        found.append(metrics.roc_auc(answer, trees.predict(x[split.test])))
    return float(np.mean(found))


def require_fraud(dataset: Dataset) -> None:
    """Raise DatasetError where no choice of test days could help: nothing is known to be fraud."""
    if not (dataset.answer() == 1).any():
        raise DatasetError(
            "the training set has no known fraud, so there is nothing to measure",
            remedy="give `fraudstream dataset` the labels (--labels FILE), or record for longer",
        )


def report(
    scorer: Scorer,
    dataset: Dataset,
    split: Split,
    *,
    ceiling: Mapping[str, float] | None = None,
    compare: bool = True,
    threads: int = 1,
    budget: float = BUDGET,
    maturity_ms: int = MATURITY_MS,
    tell: Tell = lambda _: None,
    costs: Costs | None = None,
) -> dict[str, Any]:
    """Everything about a bundle on these test rows; `tell` hears of each stage as it begins."""
    tell(f"scoring {len(split.test):,} events")
    scores = score_rows(scorer, dataset, split.test)
    y = dataset.answer()[split.test]
    models = {"this bundle": scores}
    if compare:
        tell(f"LightGBM and logistic regression on {len(split.fit):,} events")
        models |= comparisons(dataset, split, threads)
        tell("LightGBM with the bundle's vector of each event")
        models["LightGBM with the embedding"] = embedding_trees(scorer, dataset, split, threads)
    measured = {name: measure(dataset, split.test, y, s, budget) for name, s in models.items()}
    weeks = prequential(
        dataset, split, scores, compare=compare, threads=threads, maturity_ms=maturity_ms, tell=tell
    )
    moment = dataset.time[split.test]
    cuts = dict(scorer.bundle.thresholds) | ({} if costs is None else costs.thresholds())
    card = scorer.bundle.about.get("card")
    currency, counted = dataset.main_currency(split.test)
    found: dict[str, Any] = {
        "model_id": scorer.model_id,
        "taught_by_trees": isinstance(card, dict) and bool(card.get("taught_by_trees")),
        "data_digest": dataset.digest,
        "tested": {"from_ms": int(moment.min()), "to_ms": int(moment.max())},
        "budget": budget,
        "currency": currency,
        "amounts_left_out": int((~counted).sum()),
        "models": measured,
        "segments": segments(dataset, split.test, scores, budget),
        "weeks": weeks,
        "thresholds": at_thresholds(cuts, y, scores, moment),
        "reliability": metrics.reliability(y, scores).tolist(),
    }
    if costs is not None:
        found["costs"] = costs.told(y, scores)
    if compare:
        tell("checks: the best single feature, trees on shuffled labels, paired bootstrap")
        found |= _checks(dataset, split, y)
        found |= _differences(y, models)
    if ceiling:
        ours = measured["this bundle"]
        over = {k: ours[k] for k, v in ceiling.items() if ours[k] > v}
        found["ceiling"] = {"limits": dict(ceiling), "leak_suspected": over}
    found["curves"] = {name: _curve(y, s) for name, s in models.items()}
    return found


def immature(dataset: Dataset, rows: NDArray[np.int64], wait_ms: int) -> int:
    """How many of these events count as legitimate (`data.mature`) though what is known of the
    stream, its labels too, ended before the wait for theirs did."""
    due = dataset.time[rows] + wait_ms
    quiet = (dataset.truth[rows] < 0) & (np.asarray(dataset.label)[rows] == 0)
    quiet &= np.asarray(dataset.label_time)[rows] == due
    return int((quiet & (due >= now(dataset))).sum())


def at_thresholds(
    cuts: Mapping[str, float], y: NDArray[Any], scores: Scores, moment: NDArray[np.int64]
) -> dict[str, dict[str, float]]:
    """What thresholds that were set before the test do on the test rows.

    Alerts a day are told of the time from the first event to the last; NaN where that is none.
    """
    days = float(moment.max() - moment.min()) / DAY_MS if len(moment) else 0.0
    found = {}
    for name, threshold in cuts.items():
        alert = scores >= threshold
        found[name] = {
            "threshold": float(threshold),
            "alerts_a_day": float(alert.sum()) / days if days > 0 else float("nan"),
            "precision": float((y[alert] > 0).mean()) if alert.any() else float("nan"),
            "recall": float(alert[y > 0].mean()) if (y > 0).any() else float("nan"),
        }
    return found


def _checks(dataset: Dataset, split: Split, y: NDArray[Any]) -> dict[str, Any]:
    """Guards against leaks."""
    x, label = dataset.features, split.label
    fit = split.fit[:: max(len(split.fit) // MAX_FIT, 1)]
    name, ap = baseline.best_single_feature(
        np.asarray(x[fit]), label[fit], np.asarray(x[split.test]), y, dataset.names
    )
    return {
        "best_single_feature": {"name": name, "ap": ap},
        "shuffled_label_auc": shuffled_check(dataset, split),
    }


def _differences(y: NDArray[Any], models: Mapping[str, Scores]) -> dict[str, dict[str, float]]:
    """Whether the differences to the comparison models are more than chance."""
    found, ours = {}, models["this bundle"]
    for key, (name, _) in RIVALS.items():
        told = metrics.bootstrap(y, ours, models[name], metrics.average_precision)
        if np.isfinite(told).all():
            found[key] = dict(zip(("difference", "low", "high"), told, strict=True))
    return found


def _curve(y: NDArray[Any], scores: Scores, points: int = 200) -> list[tuple[float, float]]:
    """(recall, precision) at rising recall."""
    hit = y[np.argsort(-scores, kind="stable")] > 0
    found = np.cumsum(hit)
    at = np.flatnonzero(hit)
    at = at[:: max(len(at) // points, 1)]
    return [(float(found[i] / hit.sum()), float(found[i] / (i + 1))) for i in at]


def to_text(found: Mapping[str, Any]) -> str:
    """A line a model, for a terminal, and whether the bundle is better than the trees."""
    shown = ("ap", "auc", "cp100", "recall_budget", "ece", "brier")
    lines = [
        f"{name}: " + ", ".join(f"{k} {row[k]:.4f}" for k in shown if np.isfinite(row[k]))
        for name, row in found["models"].items()
    ]
    ahead = []
    for key, (name, short) in RIVALS.items():
        if key in found:
            d = found[key]
            lines.append(
                f"ap of this bundle less that of {name}: {d['difference']:+.4f}, "
                f"95 % {d['low']:+.4f} to {d['high']:+.4f}"
            )
            ahead += [short] if d["high"] < 0 else []
    if ahead:
        # Trees may have taught and lost to the labels: then the bundle does not tell of them.
        teach = "" if found["taught_by_trees"] else ", or --teacher where trees did not teach"
        verb = "is" if ahead == ["logistic regression"] else "are"
        lines.append(
            f"{' and '.join(ahead)} {verb} ahead: fit with more labelled frauds or more --steps"
            f"{teach}"
        )
    if "costs" in found:
        lines.append(costs_text(found["costs"]))
    return "\n".join(lines)
