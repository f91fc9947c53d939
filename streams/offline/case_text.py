"""One explained transaction of a training set, in an analyst's words.

In: what `model/case.py` found, the row's features, and its alerts where they were asked for.
Out: reasons and text. Does not know how a score, a contribution or a decision is made.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any, Final

import numpy as np

from model.inputs import COUNTS_SHIFT
from model.page import FIELD_WORDS
from model.stub import NoScorer, StubScorer
from streams.money import amount_text
from streams.reasons import reasons
from streams.schema import Decision, printable

if TYPE_CHECKING:
    from model.data import Dataset

VERDICTS: Final = {1: "fraud", 0: "legitimate"}
SHOWN: Final = ("event_type", "channel", "entry_mode", "mcc", "merchant_country")


def reasons_of(
    dataset: Dataset, row: int, found: Mapping[str, Any], threshold: float
) -> list[dict[str, Any]]:
    """The reasons an alert on this row would have, as docs/reasons.md lists them."""
    counts = bool((int(dataset.words[row, 0]) >> COUNTS_SHIFT) & 1)
    return reasons(
        np.asarray(dataset.features[row], np.float32), found["event"], counts,
        score=found["score"], threshold=threshold, contributions=found["groups"],
    )  # fmt: skip


def _event(event: Mapping[str, Any]) -> str:
    fields = [str(event[name]) for name in SHOWN if name in event]
    return ", ".join([event["time"], amount_text(event["amount"], event["currency"]), *fields])


def _because(found: Mapping[str, Any]) -> list[str]:
    """The reasons, those that lower the score apart; and what each part adds to it."""
    raising: list[str] = []
    lowering: list[str] = []
    for one in found["reasons"]:
        added = one["contribution"]
        line = f"  {one['text']}" + ("" if added is None else f" ({added:+.2f})")
        (lowering if added is not None and added < 0 else raising).append(line)
    lines = ["because", *raising] if raising else []
    lines += ["although", *lowering] if lowering else []
    lines.append("what each part adds, log-odds")
    groups = sorted(found["groups"].items(), key=lambda item: -abs(item[1]))
    lines.append("  " + ", ".join(f"{name} {added:+.2f}" for name, added in groups[:8]))
    return lines


def _alerted(alert: Mapping[str, Any], model: str) -> list[str]:
    """What the service said: the rules that matched, and by which bundle, if by another one."""
    by, score = alert["versions"]["model"], alert["score"]
    told = "no score" if score is None else f"score {score:.4f}"
    lines = [f"the service's alert: {alert['decision']}, {told} by {by}"]
    asked = [one["text"] for one in alert["reasons"] if one.get("code") == "RULE"]
    for rule in alert["rules"]:
        line = f"  rule {rule['rule_id']}, version {rule.get('version')}: {rule.get('outcome')}"
        # Its reasons name the rules that asked for it, in this order, as far as there is room.
        if rule.get("outcome") != Decision.APPROVE and asked:
            line += f", {asked.pop(0)}"
        lines.append(line)
    lines += [f"  {one['text']}" for one in alert["reasons"] if one.get("code") != "RULE"]
    if by != model:
        lines.append("  by another bundle than the one that explains below")
        if by not in (StubScorer.model_id, NoScorer.model_id):
            lines[-1] += f"; --set model.bundle={by} explains by that one"
    return lines


def _said(found: Mapping[str, Any]) -> list[str]:
    """The alerts, where they were asked for."""
    if "alerts" not in found:
        return []
    lines = [line for one in found["alerts"] for line in _alerted(one, found["model_id"])]
    none = "none on the topic: it was approved, is not scored yet, or its alert is no longer kept"
    return lines or [f"the service's alert: {none}"]


def to_text(found: Mapping[str, Any]) -> str:
    """Score and reasons where there are such, what the model looked at, similar cases; a line each.

    A bundle that was only pretrained gives no score.
    """
    who, model = found["transaction_id"], found["model_id"]
    if "score" in found:
        lines = [f"{who}: score {found['score']:.4f} by {model}"]
    else:
        lines = [f"{who}: no score, {model} is pretrained only; finetune fits one"]
    lines.append(f"  {_event(found['event'])}")
    lines += _said(found)
    if "score" in found:
        lines += _because(found)
    lines.append("past events the model looked at")
    lines += [
        f"  {one['back']} back ({100 * one['share']:.0f} %): {_event(one)}"
        for one in found["looked_at"]
    ] or ["  none: it is the account's first"]
    lines.append("most similar past cases")
    lines += [
        f"  {VERDICTS[one['label']]}, likeness {one['cosine']:.2f}: {_event(one)}"
        for one in found["similar"]
    ] or ["  none: no earlier payment of another account has a verdict"]
    for name, chances in found.get("likely", {}).items():
        told = ", ".join(f"{one['what']} {100 * one['chance']:.0f} %" for one in chances)
        lines.append(f"likely {name}: {told}")
    if "surprise" in found:
        surprise = found["surprise"].items()
        told = ", ".join(f"{FIELD_WORDS.get(name, name)} {nats:.2f}" for name, nats in surprise)
        lines.append(f"surprise, nats: {told}")
    if "alerts" not in found:
        lines.append("rules, and what was decided, are not in this: --alert shows them")
    return "\n".join(map(printable, lines))
