"""The evaluation report as one HTML page that needs nothing else: plots, tables, what to look at.

In: the dictionary of `model/evaluate.py` or `model/unlabelled.py`. Out: text. Does not know how any
number came about.
"""

from __future__ import annotations

import base64
import html
import io
import math
from collections.abc import Mapping, Sequence
from datetime import UTC, datetime
from typing import Any, Final

import numpy as np

from model.inputs import NO_CURRENCY

STYLE: Final = """
body{font:15px/1.45 system-ui,sans-serif;margin:0 auto;max-width:66em;padding:1.5em;color:#1c2733}
h1{font-size:1.5em;margin:0}h2{font-size:1.1em;margin:2em 0 .4em;border-top:1px solid #d8dee4;
padding-top:.8em}p{margin:.3em 0;color:#4a5763}.wide{overflow-x:auto}
.plots{display:grid;grid-template-columns:repeat(auto-fit,minmax(min(19em,100%),1fr));gap:1em}
.plots img{width:100%}
table{border-collapse:collapse;font-size:13px;font-variant-numeric:tabular-nums}
td,th{padding:4px 9px;border-bottom:1px solid #e6eaee;text-align:right;white-space:nowrap}
tbody th,thead th:first-child{text-align:left;font-weight:500}thead th{color:#4a5763}
tbody th{position:sticky;left:0;background:#fff}
tbody tr:first-child.ours th,tbody tr:first-child.ours td{background:#eef4fb;font-weight:600}
.bad{color:#a8261f;font-weight:600}
@media(max-width:40em){body{padding:1em}thead th,tbody th{white-space:normal}
tbody th{max-width:8.5em;overflow-wrap:break-word}td,th{padding:4px 6px}}
"""
COLOURS: Final = ("#1f5fa8", "#d1662b", "#8a8f98", "#3d8b4f", "#7d4fa3")
WORDS: Final = {
    "events": "events",
    "frauds": "frauds",
    "auc": "AUC ROC",
    "ap": "average precision",
    "cp100": "card precision@100 a day",
    "recall_fpr_0.1%": "recall at 0.1 % FPR",
    "recall_fpr_0.01%": "recall at 0.01 % FPR",
    "recall_budget": "recall at the budget",
    "precision_budget": "precision at the budget",
    "value_budget": "value caught at the budget",
    "fpr_budget": "FPR at the budget",
    "brier": "Brier",
    "log_loss": "log loss",
    "ece": "ECE",
    "lightgbm_refitted_ap": "AP of LightGBM fitted anew",
    "alerts_a_day": "alerts a day",
}
FIELD_WORDS: Final = {
    "kind": "kind of event",
    "way": "channel and entry mode",
    "amount": "amount",
    "mcc": "merchant category",
    "country": "country",
    "gap": "time since the event before",
}
"""Of the fields that pretraining predicts."""
WHOLE: Final = ("events", "frauds", "week", "rows")
SMALL: Final = ("brier", "ece", "log_loss", "fpr_budget")


def _cell(name: str, value: Any) -> str:
    if isinstance(value, str):
        return html.escape(value)
    if value is None or math.isnan(value):
        return "–"
    if name in WHOLE:
        return f"{value:,.0f}"
    if name == "alerts_a_day":
        return f"{value:,.1f}"
    return f"{value:.5f}" if name in SMALL else f"{value:.3f}"


def table(
    title: str, rows: Mapping[str, Mapping[str, Any]], note: str = "", *, ours: bool = False
) -> str:
    """A heading, a note and a table; empty without rows. `ours` marks the first row."""
    if not rows:
        return ""
    names = list(dict.fromkeys(k for row in rows.values() for k in row))
    head = "".join(f"<th>{html.escape(WORDS.get(n, n.replace('_', ' ')))}</th>" for n in names)
    body = "".join(
        f"<tr{' class=ours' if ours else ''}><th>{html.escape(name.replace('_', ' '))}</th>"
        + "".join(f"<td>{_cell(k, row[k])}</td>" if k in row else "<td></td>" for k in names)
        + "</tr>"
        for name, row in rows.items()
    )
    said = f"<p>{html.escape(note)}</p>" if note else ""
    return (
        f"<h2>{html.escape(title)}</h2>{said}<div class=wide><table><thead><tr><th></th>{head}"
        f"</tr></thead><tbody>{body}</tbody></table></div>"
    )


def _turned(rows: Mapping[str, Mapping[str, Any]]) -> dict[str, dict[str, Any]]:
    """Measures as rows and models as columns: many measures fit a narrow page."""
    names = list(dict.fromkeys(k for row in rows.values() for k in row))
    return {
        WORDS.get(name, name): {model: _cell(name, row.get(name)) for model, row in rows.items()}
        for name in names
    }


def _plots(found: Mapping[str, Any]) -> str:
    """Precision and recall, reliability, and the weeks: a PNG each, so that a phone stacks them."""
    weeks = found["weeks"]
    figure, one = _figure("Precision and recall (average precision)")
    for colour, (name, points) in zip(COLOURS, found["curves"].items(), strict=False):
        ap = found["models"][name]["ap"]
        one.plot(*zip(*points, strict=True), color=colour, lw=1.6, label=f"{name}: {ap:.3f}")
    one.set(xlabel="recall", ylabel="precision", xlim=(0, 1), ylim=(0, 1.03))
    one.legend(fontsize=8, frameon=False)
    images = [_image(figure, "precision by recall of each model")]

    figure, one = _figure("Reliability (bins with fraud in them, of 15)")
    bins = np.array(found["reliability"])[:, :2]
    bins = bins[(bins > 0).all(1)]  # a share of nothing has no place on a logarithmic axis
    low = 10 ** np.floor(np.log10(bins.min())) if len(bins) else 0.01
    one.plot([low, 1], [low, 1], color="#8a8f98", lw=0.9)
    one.plot(bins[:, 0], bins[:, 1], "o-", color=COLOURS[0], lw=1.2, ms=4)
    one.set(xscale="log", yscale="log", xlabel="mean score", ylabel="share of fraud")
    images.append(_image(figure, "share of fraud by mean score"))

    figure, one = _figure("Average precision by week")
    for colour, key, name in (
        (COLOURS[0], "ap", "this bundle, growing older"),
        (COLOURS[1], "lightgbm_refitted_ap", "LightGBM fitted anew each week"),
    ):
        shown = [(row["week"] + 1, row[key]) for row in weeks if key in row]
        if shown:
            one.plot(*zip(*shown, strict=True), "o-", color=colour, ms=4, label=name)
    one.set(xlabel="week of the test", ylim=(0, 1.03), xticks=[r["week"] + 1 for r in weeks])
    if weeks:
        one.legend(fontsize=8, frameon=False)
    images.append(_image(figure, "average precision by week"))
    return f"<div class=plots>{''.join(images)}</div>"


def _figure(title: str) -> tuple[Any, Any]:
    """A figure with one plot."""
    from matplotlib.figure import Figure

    figure = Figure(figsize=(4.6, 4.1), layout="constrained")
    one = figure.subplots()
    one.set_title(title, loc="left", fontsize=10)
    one.spines[["top", "right"]].set_visible(False)
    one.grid(alpha=0.25)
    return figure, one


def _image(figure: Any, alt: str) -> str:
    """A figure as an img with its bytes inside."""
    png = io.BytesIO()
    figure.savefig(png, format="png", dpi=150, metadata={"Software": None})
    data = base64.b64encode(png.getvalue()).decode()
    return f"<img alt='{alt}' src='data:image/png;base64,{data}'>"


def _checks(found: Mapping[str, Any]) -> str:
    """The guards in sentences."""
    said = []
    for key, name in (("lightgbm", "LightGBM"), ("logistic", "logistic regression")):
        if d := found.get(f"ap_minus_{key}"):
            said.append(
                f"Average precision minus that of {name}: {d['difference']:+.3f}, 95 % interval "
                f"{d['low']:+.3f} to {d['high']:+.3f} (paired bootstrap over events)."
            )
    if not math.isnan(found.get("shuffled_label_auc", math.nan)):
        said.append(
            f"Trees fitted on shuffled labels: mean AUC {found['shuffled_label_auc']:.3f}; far "
            "from 0.5 something else than the label tells of fraud."
        )
    if "best_single_feature" in found:
        one = found["best_single_feature"]
        said.append(f"Best single feature: {one['name']}, average precision {one['ap']:.3f}.")
    shown = "".join(f"<li>{html.escape(line)}</li>" for line in said)
    if "ceiling" in found:
        limits = ", ".join(f"{k} {v:g}" for k, v in found["ceiling"]["limits"].items())
        over = found["ceiling"]["leak_suspected"]
        verdict = "not exceeded" if not over else f"exceeded ({', '.join(over)}): find the leak"
        mark = " class=bad" if over else ""
        shown += f"<li{mark}>What can be known at all ({html.escape(limits)}): {verdict}.</li>"
    return f"<h2>Checks</h2><ul>{shown}</ul>" if shown else ""


def whole(title: str, lines: Sequence[str], body: str) -> str:
    """The page around the body."""
    said = "".join(f"<p>{html.escape(line)}</p>" for line in lines)
    return (
        "<!doctype html><html lang=en><meta charset=utf-8>"
        "<meta name=viewport content='width=device-width'>"
        f"<title>{html.escape(title)}</title><style>{STYLE}</style>"
        f"<h1>{html.escape(title)}</h1>{said}{body}</html>\n"
    )


def day(ms: int) -> str:
    """The UTC day of a moment."""
    return datetime.fromtimestamp(ms / 1000, UTC).strftime("%Y-%m-%d")


def flattered(found: Mapping[str, Any]) -> str | None:
    """Why the figures may be better than the bundle is; None where nothing speaks for it."""
    known, until = found.get("known_to_the_fit", False), found.get("base_learnt_until")
    if known is False:
        return None
    if until is not None:
        return (
            f"the bundle that it began with had learnt events, without labels, up to {day(until)};"
            " if of this stream, the figures flatter it"
        )
    which = "these test days" if known else "test days like these; if of the same stream"
    return f"the fit knew of {which}, the figures flatter the bundle"


def to_html(found: Mapping[str, Any]) -> str:
    """The page of a bundle's evaluation."""
    ours, tested = found["models"]["this bundle"], found["tested"]
    lines = [
        f"Tested on {ours['events']:,.0f} events, {day(tested['from_ms'])} to "
        f"{day(tested['to_ms'])}, {ours['frauds']:,.0f} of them fraud. "
        f"Alert budget: {100 * found['budget']:g} % of the events.",
    ]
    if told := flattered(found):
        lines.append(f"{told[0].upper()}{told[1:]}.")
    if found.get("immature"):
        lines.append(f"{found['immature']:,} have no label yet and count as legitimate.")
    weeks = {f"week {row['week'] + 1:.0f}": dict(row) for row in found["weeks"]}
    for row in weeks.values():
        row.pop("week")
    body = (
        _plots(found)
        + table(
            "Models",
            _turned(found["models"]),
            f"All on the same test events.{_value(found)}",
        )
        + _checks(found)
        + table("The bundle's thresholds", found["thresholds"], "Set before the test, kept here.")
        + _costs(found)
        + table(
            "Segments",
            found["segments"],
            "One threshold for all: recall is equal opportunity, FPR predictive equality. A kind "
            f"of fraud stands beside all ordinary events. {_amounts(found)}.",
        )
        + table(
            "Weeks",
            weeks,
            "The bundle as it is, and trees fitted on what was known by then; the first twelve.",
        )
    )
    return whole(found["model_id"], lines, body)


def events_are(count: int) -> str:
    """ "1 event is", "2 events are"."""
    return "1 event is" if count == 1 else f"{count:,} events are"


def _value(found: Mapping[str, Any]) -> str:
    """Whose money is caught; an earlier report does not say."""
    others = found.get("amounts_left_out", 0)
    text = f" Value caught is that of {found.get('currency')}: {events_are(others)} in others."
    return text if others else ""


def _amounts(found: Mapping[str, Any]) -> str:
    """What amounts are told in."""
    currency, others = found.get("currency", NO_CURRENCY), found.get("amounts_left_out", 0)
    told = "Amounts are in minor units" + ("" if currency == NO_CURRENCY else f" of {currency}")
    if others:
        told += f"; {others:,} events in other currencies are in no part by amount"
    return told


def _costs(found: Mapping[str, Any]) -> str:
    """What the decisions cost, where a cost matrix is given."""
    if "costs" not in found:
        return ""
    told = found["costs"]
    matrix = ", ".join(f"{name} {value:g}" for name, value in told["matrix"].items())
    rows = {name: {"cost": value} for name, value in told["per_thousand"].items()}
    return table("Cost of a thousand events", rows, f"Cost matrix: {matrix}.")


def unlabelled_html(found: Mapping[str, Any]) -> str:
    """The page of a pretrained bundle."""
    tested = found["tested"]
    lines = [
        f"{found['events']:,} events, {day(tested['from_ms'])} to {day(tested['to_ms'])}, "
        f"{found['frauds']:,} of them known as fraud. No label was used to train."
    ]
    body = table(
        "Surprise as an anomaly score",
        {
            f"surprise: {FIELD_WORDS[name]}" if name in FIELD_WORDS else name: row
            for name, row in found["anomaly"].items()
        },
        "-log p of each field given the account's past, in nats"
        + (", ranked against the frauds" if found["frauds"] else "")
        + ". The first row is the score to take without labels.",
        ours=True,
    ) + table(
        "What the account does next",
        found["propensity"],
        "hit@k: the true class is among the k likeliest. Beside it, the account's own frequencies.",
    )
    return whole(found["model_id"], lines, body)
