"""A cost matrix: what each decision costs on a fraud and on an honest payment, and the thresholds
from which a decision is the cheapest.

In: three costs in one unit, calibrated probabilities. Out: thresholds, money. Does not know where
the rows come from. Only calibrated probabilities at true prevalence make these thresholds right.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray


@dataclass(frozen=True, slots=True)
class Costs:
    """The entries of the matrix that are not zero; a fraud that is blocked costs nothing.

    review: somebody looks at a payment, whatever it turns out to be (a fraud is stopped then)
    block:  an honest payment is blocked
    missed: a fraud passes
    """

    review: float
    block: float
    missed: float

    def __post_init__(self) -> None:
        """Raises ValueError."""
        if not all(0 < cost < math.inf for cost in asdict(self).values()):
            raise ValueError("a cost is a number above 0")

    def thresholds(self) -> dict[str, float]:
        """From which probability on to review and to block.

        At probability p a pass is expected to cost p * missed, a review `review`, a block
        (1 - p) * block; each decision is taken where it is the cheapest. Where a review never is,
        both thresholds are the same. Source: Elkan, The foundations of cost-sensitive learning
        (2001), section 2.
        """
        block_over_pass = self.block / (self.block + self.missed)
        review_over_pass = self.review / self.missed
        block_over_review = max(1 - self.review / self.block, 0.0)
        if review_over_pass >= block_over_review:
            return {"cost_review": block_over_pass, "cost_block": block_over_pass}
        return {"cost_review": review_over_pass, "cost_block": block_over_review}

    def spent(self, y: NDArray[Any], p: NDArray[np.float64], review: float, block: float) -> float:
        """What the decisions at these thresholds cost on rows with labels `y` (1 fraud)."""
        fraud, blocked, alert = y > 0, p >= block, p >= min(review, block)
        money = self.missed * (fraud & ~alert).sum() + self.block * (blocked & ~fraud).sum()
        return float(money + self.review * (alert & ~blocked).sum())

    def told(self, y: NDArray[Any], p: NDArray[np.float64]) -> dict[str, Any]:
        """What the thresholds cost a thousand of these events, beside deciding nothing at all."""
        per_thousand = 1_000 / len(y)
        cuts = self.thresholds()
        spent = self.spent(y, p, cuts["cost_review"], cuts["cost_block"])
        return {
            "matrix": asdict(self),
            "thresholds": cuts,
            "per_thousand": {
                "these thresholds": per_thousand * spent,
                "no decisions": per_thousand * self.spent(y, p, np.inf, np.inf),
            },
        }


def to_text(told: Mapping[str, Any]) -> str:
    """The line of what `Costs.told` found, for a terminal."""
    spent, cuts = told["per_thousand"], told["thresholds"]
    return (
        f"a thousand events cost {spent['these thresholds']:.2f} when reviewed from"
        f" {cuts['cost_review']:.3f} and blocked from {cuts['cost_block']:.3f};"
        f" {spent['no decisions']:.2f} without decisions"
    )


def told_in(about: Mapping[str, Any]) -> Costs | None:
    """The matrix that a bundle was made with; None for a bundle without one, or an odd one."""
    try:
        matrix = dict(about["costs"]["matrix"])
        return Costs(**{name: float(value) for name, value in matrix.items()})
    except (KeyError, TypeError, ValueError):
        return None
