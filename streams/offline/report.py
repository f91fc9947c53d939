"""The backtest report: one HTML page that needs nothing else, and the same numbers as JSON.

In: the measures of a backtest. Out: text, for a terminal too. Does not know how they came about.
The page has no script, no font and no picture from elsewhere; it fits a phone and a printer.
"""

from __future__ import annotations

import html
import math
from collections.abc import Sequence
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from model.page import events_are
from streams.money import amount_text, units
from streams.offline import differing, evaluation

CSS = Path(__file__).with_name("report.css")

ROWS = (
    ("average_precision", "Average precision", "ratio"),
    ("roc_auc", "AUC ROC", "ratio"),
    ("card_precision_100", "Card precision@100 a day", "ratio"),
    ("recall_at_fpr_0.001", "Recall at 0.1 % false positives", "share"),
    ("recall_at_fpr_0.0001", "Recall at 0.01 % false positives", "share"),
    ("recall_at_budget", "Recall at {budget_a_day} alerts a day on average", "share"),
    ("alerts_a_day", "Alerts a day at the thresholds", "number"),
    ("precision", "Precision of the alerts", "share"),
    ("recall", "Recall of the alerts", "share"),
    ("fraud_amount_detected", "Fraud money caught", "money"),
    ("fraud_amount", "Fraud money in all", "money"),
    (
        "value_saved",
        "Value saved: caught, less {review_cost:g} for each alert in {currency}",
        "money",
    ),
    ("legitimate_amount_blocked", "Good money blocked", "money"),
    ("brier", "Brier score", "small"),
    ("calibration_error", "Calibration error (ECE)", "small"),
)


def _shown(value: Any, kind: str) -> str:
    if value is None or (isinstance(value, float) and math.isnan(value)):
        return "–"
    if kind == "share":
        return f"{100 * value:.1f} %"
    if kind == "rate":
        return f"{100 * value:.2f} %"
    if kind == "small":
        return f"{value:.5f}"
    if kind == "number":
        return f"{value:,.1f}"
    if kind == "ratio":
        return f"{value:.3f}"
    return f"{value:,}" if isinstance(value, int) else html.escape(str(value))


def _money(value: float, currency: str) -> str:
    """Minor units as whole ones of the currency, without its name."""
    return f"{units(value, currency):,.0f}"


def _table(head: Sequence[str], rows: Sequence[Sequence[str]], kind: str = "numbers") -> str:
    """`kind` "words" has a last column of text; on a phone its rows become blocks."""
    names = [html.escape(name) for name in head]
    top = "".join(f"<th>{name}</th>" for name in names)
    body = "".join(
        "<tr>"
        + "".join(
            f'<td data-head="{name}">{cell}</td>' for name, cell in zip(names, row, strict=True)
        )
        + "</tr>"
        for row in rows
    )
    return f'<div class="scroll"><table class="{kind}"><tr>{top}</tr>{body}</table></div>'


def _cards(first: dict[str, Any]) -> str:
    caught = first["fraud_amount_detected"] / first["fraud_amount"] if first["fraud_amount"] else 0
    shown = (
        (_shown(first["events"], "count"), "events judged"),
        (_shown(first["frauds"], "count"), "frauds known"),
        (_shown(first["alerts_a_day"], "number"), "alerts a day"),
        (_shown(first["recall"], "share"), "of frauds caught"),
        (_shown(caught, "share"), "of fraud money caught"),
        (_shown(first["precision"], "share"), "of alerts are fraud"),
    )
    cards = "".join(f'<div class="card"><b>{a}</b><span>{b}</span></div>' for a, b in shown)
    return f'<div class="cards">{cards}</div>'


def _segments(models: Sequence[dict[str, Any]]) -> str:
    """Rates of every model side by side; the segments are the same for all."""
    if not models[0]["segments"]:
        return f"<p>No segment has {evaluation.MIN_SEGMENT:,} events.</p>"
    head = ["Segment", "Events", "Frauds"]
    for model in models:
        head += [f"False positives, {model['name']}", f"Recall, {model['name']}"]
    body = []
    for place, row in enumerate(models[0]["segments"]):
        line = [
            html.escape(f"{row['segment']}: {row['value']}"),
            _shown(row["events"], "count"),
            _shown(row["frauds"], "count"),
        ]
        for model in models:
            own = model["segments"][place]
            line += [_shown(own["false_positive_rate"], "rate"), _shown(own["recall"], "share")]
        body.append(line)
    return _table(head, body)


def _moments(models: Sequence[dict[str, Any]]) -> str:
    """What was known at the end of each week, beside what is known since."""
    rows = []
    for model in models:
        for each in model["moments"]:
            then, since = each["then"], each["since"]
            rows.append(
                [
                    _date(each["moment"]),
                    html.escape(model["name"]),
                    _shown(each["events"], "count"),
                    f"{then['frauds']:,} / {since['frauds']:,}",
                    *(
                        f"{_shown(then[name], kind)} / {_shown(since[name], kind)}"
                        for name, kind in (
                            ("average_precision", "ratio"),
                            ("precision", "share"),
                            ("recall", "share"),
                        )
                    ),
                ]
            )
    head = ("At the end of", "Model", "Events judged", "Frauds known", "AP", "Precision", "Recall")
    return _table(head, rows)


def _date(moment_ms: int) -> str:
    return datetime.fromtimestamp(moment_ms / 1_000, UTC).strftime("%d %b %Y")


def _differences(models: Sequence[dict[str, Any]], currency: str) -> str:
    rows = []
    for model in models[1:]:
        for side, words in (
            ("both", "in both"),
            ("only_champion", f"only {models[0]['name']}"),
            ("only_challenger", f"only {model['name']}"),
        ):
            part = model["difference"][side]
            rows.append(
                (
                    html.escape(words),
                    _shown(part["alerts"], "count"),
                    _shown(part["frauds"], "count"),
                    _money(part["fraud_amount"], currency),
                )
            )
    return _table(("Alerts", "Number", "Frauds", f"Fraud money, {currency}"), rows)


def _examples(models: Sequence[dict[str, Any]]) -> str:
    rows = [
        (
            html.escape(example["alerted_by"]),
            html.escape(example["transaction_id"]),
            html.escape(amount_text(example["amount"], example["currency"])),
            _shown(example["champion"], "ratio"),
            _shown(example["challenger"], "ratio"),
            html.escape(example["label"]),
            html.escape(example["why"]),
        )
        for model in models[1:]
        for example in model.get("examples", ())
    ]
    head = ("Alerted only by", "Transaction", "Amount", "Champion", "Challenger", "Label", "Why")
    return _table(head, rows, "words") if rows else ""


def _measures(summary: dict[str, Any]) -> str:
    models, currency = summary["models"], summary["currency"]

    def shown(value: Any, kind: str) -> str:
        return _money(value, currency) if kind == "money" else _shown(value, kind)

    rows = [
        (
            html.escape(words.format(**summary["terms"], currency=currency)),
            *(shown(model["overall"].get(key), kind) for model in models),
        )
        for key, words, kind in ROWS
    ]
    return _table(("Measure", *(model["name"] for model in models)), rows)


def _about_money(summary: dict[str, Any]) -> str:
    """What the sums of money hold."""
    others = summary["amounts_left_out"]
    text = f"Money in whole {summary['currency']}"
    if not others:
        return f"{text}."
    rest = "in other currencies and in no sum of money, but in all the rest."
    return f"{text}; {events_are(others)} {rest}"


def told(models: Sequence[dict[str, Any]]) -> list[str]:
    """For a terminal: a line of each model, which one ranks better, and what is odd about them."""
    first = models[0]["overall"]
    lines = [f"{first['events']:,} events judged, {first['frauds']:,} of them known as fraud"]
    lines += [
        "{}: AP {average_precision:.3f}, AUC {roc_auc:.3f}, {alerts_a_day:.1f} alerts a day, "
        "precision {precision:.3f}, recall {recall:.3f}".format(_named(one), **one["overall"])
        for one in models
    ]
    lines += _gaps(models)
    if len({one["model_id"] for one in models}) < len(models):
        lines.append("warning: the same bundle under several names; `fraudstream models list`")
    if not models[0]["overall"]["frauds"]:
        lines.append("no fraud is known among the events judged: measures that need one are nan")
    return lines


def _named(model: dict[str, Any]) -> str:
    """The name that was given, and the bundle that it stood for: `default` is another one after
    each promotion."""
    name, found = str(model["name"]), str(model["model_id"])
    return name if name == found else f"{name} ({found})"


def _gaps(models: Sequence[dict[str, Any]]) -> list[str]:
    """Of each challenger whether it ranks better than the champion, and how sure that is."""
    lines, champion = [], models[0]["name"]
    for model in models[1:]:
        gap = model["ap_minus_champion"]
        if math.isnan(gap["difference"]):
            continue
        if gap["low"] <= 0 <= gap["high"]:
            verdict = f"and {champion} cannot be told apart by how they rank"
        else:
            verdict = f"ranks {'better' if gap['low'] > 0 else 'worse'} than {champion}"
        lines.append(
            f"{model['name']} {verdict}: average precision {gap['difference']:+.4f}, 95 % interval"
            f" {gap['low']:+.4f} to {gap['high']:+.4f}"
        )
    return lines


def page(summary: dict[str, Any], plots: Sequence[str]) -> str:
    """The report. `summary` is what the JSON beside it holds."""
    models = summary["models"]
    currency = summary["currency"]
    drift = [
        (
            html.escape(m["name"]),
            _shown(m["drift"]["over_time"], "ratio"),
            _shown(m["drift"]["against_champion"], "ratio"),
        )
        for m in models
    ]
    parts = [
        "<!doctype html><html lang=en><meta charset=utf-8>",
        "<meta name=viewport content='width=device-width, initial-scale=1'>",
        f"<title>Backtest</title><style>{CSS.read_text()}</style>",
        "<h1>Backtest</h1>",
        *(
            f"<p class=note>{html.escape(line)}</p>"
            for line in (summary["headline"], summary["refused"], *summary["flattered"])
            if line
        ),
        _cards(models[0]["overall"]),
        "<h2>Measures</h2>",
        _measures(summary),
        *(f"<p class=note>{html.escape(line)} (paired bootstrap).</p>" for line in _gaps(models)),
        f"<p class=note>{html.escape(_about_money(summary))}</p>",
        "<h2>Plots</h2><div class=plots>",
        *(f"<figure>{plot}</figure>" for plot in plots),
        "</div>",
    ]
    if len(models) > 1:
        parts += [
            "<h2>Which alerts differ</h2>",
            _differences(models, currency),
            "<p class=note>The widest gaps of scores follow; all of them are in "
            f"{differing.FILE}.</p>",
            _examples(models),
        ]
    parts += [
        "<h2>Score drift</h2><p class=note>Population stability index; below 0.1 is stable, above "
        "0.25 is a shift.</p>",
        _table(
            ("Model", "Last third of the days against the first", "Against the champion"), drift
        ),
        "<h2>Segments</h2><p class=note>False positives: the share of good payments with an alert; "
        "equal over the segments it is called predictive equality. Recall: the share of frauds "
        "with an alert; equal, it is called equal opportunity.</p>",
        _segments(models),
        "<h2>What was known when</h2><p class=note>The events of the four weeks that could be "
        "judged at each moment: by the labels known then / by those known since. What is disputed "
        "at the end is left out.</p>",
        _moments(models),
        f"<h2>How this was made</h2><p class=note>{html.escape(summary['method'])}</p></html>",
    ]
    return "\n".join(parts)
