"""Evaluation of a bundle on rows it never saw: measures, segments, comparisons, one HTML page.

In: a scorer, a `Dataset`, the rows that test and (for the comparisons) those that train. Out: a
report as a dictionary, and the same as HTML with plots. Does not know where the rows come from.

Two guards against leaks: a model fitted on shuffled labels must rank at random, and a result above
what can be known at all (`ceiling`, where the stream's makers told it) is called a leak.
"""

from __future__ import annotations

import base64
import html
import io
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from model import baseline, metrics
from model.data import Dataset, gather
from model.inputs import AMOUNT_SHIFT
from model.score import Scorer

DAY_MS = 86_400_000
Rows = NDArray[np.int64]
Scores = NDArray[np.float64]


@dataclass(frozen=True)
class Split:
    """Rows: `fit` and `judge` for the comparison models, `test` for everybody."""

    fit: Rows
    judge: Rows
    test: Rows


def score_rows(scorer: Scorer, dataset: Dataset, rows: Rows, block: int = 8_192) -> Scores:
    """Calibrated scores of rows, with histories gathered as the service has them."""
    place = dataset.place()
    parts = [
        scorer.score(gather(dataset, place, rows[at : at + block]))
        for at in range(0, len(rows), block)
    ]
    return np.concatenate(parts) if parts else np.zeros(0)


def _context(dataset: Dataset, rows: Rows) -> dict[str, NDArray[Any]]:
    words = np.asarray(dataset.words)[rows]
    return {
        "cards": np.asarray(dataset.account)[rows],
        "days": dataset.time[rows] // DAY_MS,
        "amounts": (words[:, 1] >> np.uint64(AMOUNT_SHIFT)).astype(np.float64),
    }


def measure(dataset: Dataset, rows: Rows, scores: Scores) -> dict[str, float]:
    """All measures of scores on rows, against the truth where known."""
    c = _context(dataset, rows)
    return metrics.summary(dataset.answer()[rows], scores, c["cards"], c["days"], c["amounts"])


def segments(dataset: Dataset, rows: Rows, scores: Scores) -> dict[str, dict[str, float]]:
    """By kind of case (each kind against all ordinary rows), and by length of history."""
    y, kind, place = dataset.answer()[rows], np.asarray(dataset.kind)[rows], dataset.place()[rows]
    found = {}
    chosen: dict[str, NDArray[np.bool_]] = {
        f"kind {name}": (kind == 0) | (kind == code)
        for code, name in enumerate(dataset.kinds)
        if code > 0
    }
    chosen["history 0-9"] = place < 10
    chosen["history 10-63"] = (place >= 10) & (place < 64)
    chosen["history 64+"] = place >= 64
    for name, inside in chosen.items():
        if y[inside].any():
            found[name] = {
                "events": float(inside.sum()),
                "frauds": float(y[inside].sum()),
                "ap": metrics.average_precision(y[inside], scores[inside]),
                "auc": metrics.roc_auc(y[inside], scores[inside]),
            }
    return found


def weekly(dataset: Dataset, rows: Rows, scores: Scores) -> list[dict[str, float]]:
    """Prequential: the measures of each week, in order."""
    y = dataset.answer()[rows]
    week = dataset.time[rows] // (7 * DAY_MS)
    found = []
    for one in np.unique(week):
        inside = week == one
        if y[inside].any():
            ap = metrics.average_precision(y[inside], scores[inside])
            row = {"week": float(one - week.min()), "events": float(inside.sum()), "ap": ap}
            found.append({**row, "auc": metrics.roc_auc(y[inside], scores[inside])})
    return found


def comparisons(dataset: Dataset, split: Split, threads: int = 1) -> dict[str, Scores]:
    """Scores of the models that are always printed beside."""
    x, y = np.asarray(dataset.features), np.asarray(dataset.label)
    trees = baseline.lightgbm(
        x[split.fit], y[split.fit], x[split.judge], y[split.judge], threads=threads
    )
    linear = baseline.Logistic(x[split.fit], y[split.fit])
    test = x[split.test]
    return {
        "LightGBM on windows": np.asarray(trees.predict(test)),
        "logistic regression": linear.predict(test),
    }


def shuffled_check(dataset: Dataset, split: Split, rounds: int = 5, cap: int = 50_000) -> float:
    """Mean AUC on the test rows of trees fitted on shuffled labels: near 0.5, or something leaks.

    Several rounds, because frauds lie together: one random tree ranks them all high or all low.
    """
    x, y = np.asarray(dataset.features), np.asarray(dataset.label)
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


def report(
    scorer: Scorer,
    dataset: Dataset,
    split: Split,
    *,
    ceiling: Mapping[str, float] | None = None,
    compare: bool = True,
    threads: int = 1,
) -> dict[str, Any]:
    """Everything about a bundle on these test rows."""
    scores = score_rows(scorer, dataset, split.test)
    y = dataset.answer()[split.test]
    models = {"this bundle": scores}
    if compare:
        models |= comparisons(dataset, split, threads)
    measured = {name: measure(dataset, split.test, s) for name, s in models.items()}
    found: dict[str, Any] = {
        "model_id": scorer.model_id,
        "data_digest": dataset.digest,
        "models": measured,
        "segments": segments(dataset, split.test, scores),
        "weeks": weekly(dataset, split.test, scores),
        "reliability": metrics.reliability(y, scores).tolist(),
    }
    if compare:
        x = np.asarray(dataset.features)
        fit, test = split.fit[:: max(len(split.fit) // 100_000, 1)], split.test
        label = np.asarray(dataset.label)
        name, ap = baseline.best_single_feature(x[fit], label[fit], x[test], y, dataset.names)
        found["best_single_feature"] = {"name": name, "ap": ap}
        found["shuffled_label_auc"] = shuffled_check(dataset, split)
        trees = models["LightGBM on windows"]
        rows = metrics.bootstrap(y, scores, trees, metrics.average_precision)
        found["ap_minus_lightgbm"] = dict(zip(("difference", "low", "high"), rows, strict=True))
    if ceiling:
        ours = measured["this bundle"]
        over = {k: ours[k] for k, v in ceiling.items() if ours[k] > v}
        found["ceiling"] = {"limits": dict(ceiling), "leak_suspected": over}
    curves = {name: _curve(y, s) for name, s in models.items()}
    found["curves"] = curves
    return found


def _curve(y: NDArray[Any], scores: Scores, points: int = 200) -> list[tuple[float, float]]:
    """(recall, precision) at rising recall."""
    hit = y[np.argsort(-scores, kind="stable")] > 0
    found = np.cumsum(hit)
    at = np.unique(np.linspace(0, len(hit) - 1, len(hit)).astype(int)[hit])
    at = at[:: max(len(at) // points, 1)]
    return [(float(found[i] / hit.sum()), float(found[i] / (i + 1))) for i in at]


def _plot(found: Mapping[str, Any]) -> str:
    """Precision-recall and reliability as a PNG in base64."""
    import matplotlib

    matplotlib.use("Agg")
    from matplotlib import pyplot

    figure, (left, right) = pyplot.subplots(1, 2, figsize=(11, 4.2))
    for name, points in found["curves"].items():
        left.plot(*zip(*points, strict=True), label=f"{name}: {found['models'][name]['ap']:.3f}")
    left.set(xlabel="recall", ylabel="precision", xlim=(0, 1), ylim=(0, 1.02))
    left.legend(title="average precision", fontsize=8)
    table = np.array(found["reliability"])
    right.plot([1e-5, 1], [1e-5, 1], color="grey", linewidth=0.8)
    right.plot(np.maximum(table[:, 0], 1e-5), np.maximum(table[:, 1], 1e-5), "o-")
    right.set(xscale="log", yscale="log", xlabel="mean score", ylabel="share of fraud")
    figure.tight_layout()
    page = io.BytesIO()
    figure.savefig(page, format="png", dpi=110)
    pyplot.close(figure)
    return base64.b64encode(page.getvalue()).decode()


def _table(title: str, rows: Mapping[str, Mapping[str, float]]) -> str:
    names = list(dict.fromkeys(k for row in rows.values() for k in row))
    head = "".join(f"<th>{html.escape(n)}</th>" for n in names)
    body = "".join(
        f"<tr><th>{html.escape(name)}</th>"
        + "".join(f"<td>{row[k]:.4g}</td>" if k in row else "<td></td>" for k in names)
        + "</tr>"
        for name, row in rows.items()
    )
    return f"<h2>{html.escape(title)}</h2><table><tr><th></th>{head}</tr>{body}</table>"


def to_html(found: Mapping[str, Any]) -> str:
    """One page, without references to anything outside it."""
    style = (
        "body{font:14px sans-serif;margin:2em;max-width:75em}table{border-collapse:collapse}"
        "td,th{padding:3px 8px;border-bottom:1px solid #ddd;text-align:right}"
    )
    weeks = {f"week {row['week']:.0f}": row for row in found["weeks"]}
    notes = {
        key: found[key]
        for key in ("best_single_feature", "shuffled_label_auc", "ap_minus_lightgbm", "ceiling")
        if key in found
    }
    return (
        f"<!doctype html><meta charset=utf-8><title>{html.escape(found['model_id'])}</title>"
        f"<style>{style}</style><h1>{html.escape(found['model_id'])}</h1>"
        f"<img alt='precision and recall; reliability' src='data:image/png;base64,{_plot(found)}'>"
        + _table("Models", found["models"])
        + _table("Segments", found["segments"])
        + _table("Weeks", weeks)
        + "<h2>Checks</h2><pre>"
        + html.escape("\n".join(f"{k}: {v}" for k, v in notes.items()))
        + "</pre>"
    )
