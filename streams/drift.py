"""Score drift: the population stability index (PSI) between two sets of scores.

In: two float arrays. Out: one number, and the shares it is made of. Pure.
PSI = sum over bins of (q - p) * ln(q / p); by the industry's habit below 0.1 is stable, above 0.25
is a shift (Siddiqi, Credit Risk Scorecards, 2006). Fraud scores pile up near 0, so the bins are
quantiles of the reference, not equal widths. A score that is several quantiles at once, as where
all are the same, gets a bin of its own: what lies above it has moved.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

BINS = 10
STABLE, SHIFTED = 0.1, 0.25
_FLOOR = 1e-4
"""Share given to an empty bin, so that the logarithm is finite."""


@dataclass(frozen=True, slots=True)
class Drift:
    """psi, inner bin edges float64 [b-1], shares of reference and current float64 [b]."""

    psi: float
    edges: NDArray[np.float64]
    reference: NDArray[np.float64]
    current: NDArray[np.float64]


def population_stability(
    reference: NDArray[np.float64], current: NDArray[np.float64], bins: int = BINS
) -> Drift:
    """PSI of `current` against `reference`. Raises ValueError when either is empty."""
    if not len(reference) or not len(current):
        raise ValueError("PSI needs scores on both sides")
    quantiles = np.quantile(reference, np.linspace(0, 1, bins + 1)[1:-1])
    edges, times = np.unique(quantiles, return_counts=True)
    edges = np.union1d(edges, np.nextafter(edges[times > 1], np.inf))
    shares = []
    for scores in (reference, current):
        counts = np.bincount(np.searchsorted(edges, scores, side="right"), minlength=len(edges) + 1)
        shares.append(np.maximum(counts / len(scores), _FLOOR))
    p, q = shares
    return Drift(float(np.sum((q - p) * np.log(q / p))), edges, p, q)
