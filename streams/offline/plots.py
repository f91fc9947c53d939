"""Plots of a backtest as SVG text, the same bytes for the same numbers.

In: measures. Out: SVG. Does not know the page they stand on.
"""

from __future__ import annotations

import io
from collections.abc import Sequence
from datetime import UTC, datetime
from typing import Any

import matplotlib as mpl
import numpy as np
from matplotlib.figure import Figure
from matplotlib.ticker import StrMethodFormatter
from numpy.typing import NDArray

from model import metrics
from streams.money import units
from streams.offline.judged import Events
from streams.schema import DAY_MS

COLOURS = ("#1f5fa8", "#d1662b", "#3d8b4f", "#7d4fa3", "#8a6d3b", "#b03a5b")
WIDTH, HEIGHT = 6.4, 3.2
MAX_POINTS = 400
LEAST = 1e-6
"""The lowest score and share on the axes of the calibration."""
mpl.rcParams.update(
    {
        "svg.hashsalt": "fraudstream",
        "svg.fonttype": "none",
        "font.family": "sans-serif",
        "font.size": 9,
        "axes.spines.top": False,
        "axes.spines.right": False,
        "axes.grid": True,
        "grid.alpha": 0.25,
    }
)


def _svg(figure: Figure) -> str:
    out = io.StringIO()
    figure.savefig(out, format="svg", metadata={"Date": None, "Creator": None}, bbox_inches="tight")
    text = out.getvalue()
    return text[text.index("<svg") :]


def _axes(title: str, x: str, y: str) -> tuple[Figure, Any]:
    figure = Figure(figsize=(WIDTH, HEIGHT))
    axes = figure.subplots()
    axes.set_title(title, loc="left", fontsize=10, fontweight="bold")
    axes.set_xlabel(x)
    axes.set_ylabel(y)
    return figure, axes


def _ranks(count: int) -> NDArray[np.int64]:
    """Which ranks to draw: all of the first few, where the alerts are, and ever fewer after."""
    return np.unique(np.geomspace(1, count, MAX_POINTS).astype(np.int64)) - 1


def precision_recall(events: Events, names: Sequence[str]) -> str:
    """Precision over recall, one line a model; a dot where its threshold for alerts is."""
    figure, axes = _axes("Precision and recall", "recall", "precision")
    for k, name in enumerate(names):
        order = np.argsort(-events.score[k], kind="stable")
        hits = np.cumsum(events.label[order])
        total = max(1, int(hits[-1]))
        drawn = _ranks(len(hits))
        recall, precision = hits[drawn] / total, hits[drawn] / (drawn + 1)
        axes.plot(recall, precision, color=COLOURS[k % len(COLOURS)], label=name)
        flagged = events.decision[k] > 0
        if flagged.any():
            caught = events.label[flagged].sum()
            point = (caught / total, caught / flagged.sum())
            axes.plot(*point, "o", color=COLOURS[k % len(COLOURS)])
    axes.set_xlim(0, 1)
    axes.set_ylim(0, 1.02)
    axes.legend(frameon=False)
    return _svg(figure)


def calibration(events: Events, names: Sequence[str]) -> str:
    """Share of fraud over mean score, bins of equal count, both axes logarithmic.

    Lower scores are drawn at the least one: no stream is long enough to tell them apart.
    """
    figure, axes = _axes("Calibration", "mean score of the bin", "share of fraud")
    axes.plot([LEAST, 1], [LEAST, 1], color="#999999", linewidth=1, linestyle="--")
    for k, name in enumerate(names):
        table = metrics.reliability(events.label, events.score[k])
        table = table[(table[:, 0] > 0) & (table[:, 1] > 0)]
        axes.plot(
            np.maximum(table[:, 0], LEAST),
            table[:, 1],
            "o-",
            color=COLOURS[k % len(COLOURS)],
            label=name,
        )
    axes.set_xscale("log")
    axes.set_yscale("log")
    axes.set_xlim(LEAST / 2, 2)
    axes.legend(frameon=False)
    return _svg(figure)


def weekly(weeks: Sequence[Sequence[dict[str, Any]]], names: Sequence[str]) -> str:
    """Average precision by week."""
    figure, axes = _axes("Average precision by week", "week starting", "AP")
    for k, name in enumerate(names):
        days = [
            datetime.fromtimestamp(week["first_day"] * DAY_MS / 1_000, UTC).strftime("%d %b")
            for week in weeks[k]
        ]
        values = [week["average_precision"] for week in weeks[k]]
        axes.plot(range(len(days)), values, "o-", color=COLOURS[k % len(COLOURS)], label=name)
        step = -(-len(days) // 6)  # so that dates do not meet
        axes.set_xticks(range(0, len(days), step), days[::step])
    axes.set_ylim(0, 1.02)
    axes.legend(frameon=False)
    return _svg(figure)


def daily(days: Sequence[Sequence[dict[str, int]]], names: Sequence[str]) -> str:
    """Alerts of each day at the thresholds."""
    figure, axes = _axes("Alerts a day", "day", "alerts")
    for k, name in enumerate(names):
        shown = [each["day"] for each in days[k]]
        alerts = [each["alerts"] for each in days[k]]
        axes.plot(shown, alerts, color=COLOURS[k % len(COLOURS)], label=name, linewidth=1.2)
    _dated(axes, [each["day"] for each in days[0]])
    axes.set_ylim(bottom=0)
    axes.legend(frameon=False)
    return _svg(figure)


def moments(found: Sequence[Sequence[dict[str, Any]]], names: Sequence[str]) -> str:
    """Precision of the alerts of the last weeks: as known then, and in hindsight (dotted)."""
    figure, axes = _axes("Precision of the alerts, as known then", "at the end of", "precision")
    for k, name in enumerate(names):
        at = [each["moment"] / DAY_MS for each in found[k]]
        for what, style, label in (("then", "-", name), ("since", ":", f"{name}, in hindsight")):
            values = [each[what]["precision"] for each in found[k]]
            shown = [float("nan") if value is None else value for value in values]
            axes.plot(at, shown, style, color=COLOURS[k % len(COLOURS)], label=label)
    _dated(axes, [each["moment"] / DAY_MS for each in found[0]])
    axes.set_ylim(0, 1.02)
    axes.legend(frameon=False)
    return _svg(figure)


def _dated(axes: Any, days: Sequence[float]) -> None:
    """Days since 1970 as dates, a few of them."""
    if not days:
        return
    marks = np.unique(np.linspace(min(days), max(days), 6).astype(np.int64)).tolist()
    words = [datetime.fromtimestamp(day * DAY_MS / 1_000, UTC).strftime("%d %b") for day in marks]
    axes.set_xticks(marks, words)


def costs(curves: Sequence[Sequence[dict[str, float]]], names: Sequence[str], currency: str) -> str:
    """Missed fraud plus the cost of looking, over the number of alerts."""
    figure, axes = _axes("Cost", "alerts", f"missed fraud + cost of alerts, {currency}")
    for k, name in enumerate(names):
        alerts = [point["alerts"] for point in curves[k]]
        cost = [units(point["cost"], currency) for point in curves[k]]
        axes.plot(alerts, cost, color=COLOURS[k % len(COLOURS)], label=name)
    axes.set_xscale("log")
    axes.yaxis.set_major_formatter(StrMethodFormatter("{x:,.0f}"))
    axes.legend(frameon=False)
    return _svg(figure)
