"""Why an account was flagged: the few things an analyst should read, weightiest first.

In: one event's features and fields, the rules that matched it and, when there is one, the model's
contribution of each feature group. Out: at most MAX_REASONS reasons, chosen by the numbers alone.
Does not know how a feature or a finding is made, nor what is decided. docs/reasons.md lists the
codes.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray

from streams.features import UNKNOWN
from streams.findings import WINDOW_WORDS, Case, Finding, findings
from streams.rules import Rule
from streams.schema import MAX_REASONS, Decision
from streams.weighed import WINDOW, shown

Contributions = Mapping[str, float]
"""Log-odds that each feature group adds to the score; more is more like fraud."""

GROUP_WORDS: Final = {
    "tempo": "the time since the last payment",
    "amount": "the amount",
    "declines": "declined payments before",
    "novelty": "what is new for the account",
    "place": "the place",
    "clock": "the hour",
    "kind": "the kind of payment",
    "merchant_risk": "this merchant's past",
    "terminal_risk": "this terminal's past",
    "history": "the order of the account's last payments",
}
WEIGHTY: Final = 0.25
"""Log-odds from which a group that no check speaks for is named by itself."""


def reasons(
    features: NDArray[np.float32],
    doc: Mapping[str, Any],
    counts: bool,
    *,
    score: float,
    threshold: float,
    rules: Sequence[Rule] = (),
    contributions: Contributions | None = None,
) -> list[dict[str, Any]]:
    """The reasons of one alert: rules that asked for it, then findings, weightiest first.

    With contributions, a finding weighs what its feature group adds to the score, and a weighty
    group that no finding speaks for is named by itself; without, findings weigh by strength.
    There is always at least one reason: when nothing else speaks, the score itself.
    """
    case = Case(features.tolist(), doc, counts)
    found = findings(case)
    if contributions is not None:
        found.extend(_unspoken(case, found, contributions))
    known = contributions or {}

    def weight(finding: Finding) -> tuple[float, float, str]:
        return (-max(known.get(finding.group, 0.0), 0.0), -finding.strength, finding.code)

    said = [
        _reason("RULE", rule.description or f"rule {rule.rule_id}", None, None, None)
        for rule in rules
        if rule.outcome is not Decision.APPROVE
    ]
    said += [
        _reason(
            finding.code,
            finding.text,
            None if contributions is None else known.get(finding.group),
            finding.value,
            finding.baseline,
        )
        for finding in sorted(found, key=weight)
    ]
    if not said:
        text = f"score {score:.3f}, threshold {threshold:.3f}"
        said.append(_reason("SCORE", text, None, score, threshold))
    return said[:MAX_REASONS]


def _unspoken(case: Case, found: Sequence[Finding], contributions: Contributions) -> list[Finding]:
    """Weighty groups that no finding speaks for; findings of any window speak for all windows."""
    spoken = {finding.group for finding in found}
    windows = any(group.startswith(WINDOW) for group in spoken)
    extra = []
    for group, added in contributions.items():
        if added < WEIGHTY or group in spoken or (windows and group.startswith(WINDOW)):
            continue
        words = GROUP_WORDS.get(group)
        if group.startswith(WINDOW):
            window = group.removeprefix(WINDOW)
            words = f"the payments of the last {WINDOW_WORDS.get(window, '30 days')}"
        seen = shown(case, group)
        text = f"the model weighs {words or group}" + (f": {seen.text}" if seen.text else "")
        extra.append(Finding("MODEL", group, 0.0, text, seen.value, seen.baseline))
    return extra


def _reason(
    code: str,
    text: str,
    contribution: float | None,
    value: float | None,
    baseline: float | None,
) -> dict[str, Any]:
    return {
        "code": code,
        "text": text,
        "contribution": None if contribution is None else round(contribution, 4),
        "value": _short(value),
        "baseline": _short(baseline),
    }


def _short(value: float | None) -> float | None:
    """Six significant digits: enough to read, and float32 noise does not show."""
    if value is None or value == UNKNOWN:
        return None
    return float(f"{value:.6g}")
