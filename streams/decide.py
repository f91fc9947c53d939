"""From scores and rules to decisions: approve, review or block, and how grave it is.

In: calibrated scores, thresholds, the rules' matches. Out: one decision and risk level a row.
Does not know how a score or a rule came about, nor what an alert says.

The score's own decision is block from `block` up, review from `review` up, else approve; without a
score (rules only) it is approve. An approve rule with `lowers` lowers the score's own decision to
approve; no approve rule ever lowers what another rule asks for. The result is the strictest of the
score's own decision and of all rules that match.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final

import numpy as np
from numpy.typing import NDArray

from streams.rules import Match, Rule
from streams.schema import Decision

APPROVE, REVIEW, BLOCK = range(3)
DECISIONS: Final = tuple(Decision)
CODES: Final = {decision: code for code, decision in enumerate(DECISIONS)}
LEVELS: Final = ("low", "medium", "high", "critical")


@dataclass(frozen=True, slots=True)
class Thresholds:
    """On the calibrated score; at or above the threshold counts."""

    review: float
    block: float

    def __post_init__(self) -> None:
        assert 0 <= self.review <= self.block <= 1

    def __str__(self) -> str:
        return f"review {self.review:g}, block {self.block:g}"


@dataclass(frozen=True, slots=True)
class Verdicts:
    """decision: uint8 [n] codes; rules: the matching rules of each row that has any."""

    decision: NDArray[np.uint8]
    rules: dict[int, list[Rule]]


def decide(
    scores: NDArray[np.float64], thresholds: Thresholds, matches: Sequence[Match]
) -> Verdicts:
    """Decide every row. A NaN score is no score."""
    with np.errstate(invalid="ignore"):
        own = (scores >= thresholds.review).astype(np.uint8)
        own += scores >= thresholds.block
    asked = np.zeros(len(scores), np.uint8)
    by_row: dict[int, list[Rule]] = {}
    for match in matches:
        if match.rule.outcome is not Decision.APPROVE:
            asked[match.rows] = np.maximum(asked[match.rows], CODES[match.rule.outcome])
        elif match.rule.lowers:
            own[match.rows] = APPROVE
        for row in match.rows.tolist():
            by_row.setdefault(row, []).append(match.rule)
    return Verdicts(np.maximum(own, asked), by_row)


def threshold_of(decision: int, thresholds: Thresholds) -> float:
    """The threshold that belongs to a decision."""
    return thresholds.block if decision == BLOCK else thresholds.review


def risk_level(decision: int, score: float, thresholds: Thresholds) -> str:
    """How grave an alert is.

    low: a rule asks for review, the score does not; medium: the score is in the review band;
    high: block; critical: block, and the score is in the upper half of the block band.
    """
    if decision == BLOCK:
        return LEVELS[3] if score >= (thresholds.block + 1) / 2 else LEVELS[2]
    return LEVELS[1] if score >= thresholds.review else LEVELS[0]
