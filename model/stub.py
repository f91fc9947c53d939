"""Scorers without a model: one for tests and load runs, one where rules decide alone.

In: a `ScoringBatch`. Out: a number for each row, or none. Does not know bundles, nor torch: a
process that wants no model starts in a fraction of the time.
"""

from __future__ import annotations

from typing import Final

import numpy as np
from numba import njit
from numpy.typing import NDArray

from model.inputs import ScoringBatch


class StubScorer:
    """A score for tests and load runs: a pure function of the feature bits, no training.

    Any change of any feature changes the score, so equal scores prove equal features. About one
    row in fifty scores above 0.3.
    """

    needs_history: Final = False
    fell_back: Final = False
    model_id: Final = "stub@1"

    def __init__(self, feature_digest: str = "") -> None:
        self.feature_digest = feature_digest

    def score(self, batch: ScoringBatch) -> NDArray[np.float64]:
        """Pseudo-probabilities, float64 [n]."""
        return _stub(batch.features.view(np.uint32))

    def explain(self, batch: ScoringBatch) -> list[dict[str, float]]:
        """Nothing to tell."""
        return [{} for _ in range(len(batch))]


class NoScorer:
    """No score of any row: rules decide alone."""

    needs_history: Final = False
    fell_back: Final = False
    model_id: Final = "none"

    def score(self, batch: ScoringBatch) -> NDArray[np.float64]:
        """NaN, float64 [n]: the decision knows it as no score."""
        return np.full(len(batch), np.nan)


@njit(cache=True, nogil=True)
def _stub(bits: NDArray[np.uint32]) -> NDArray[np.float64]:
    out = np.empty(len(bits), np.float64)
    for i in range(len(bits)):
        state = np.uint64(0x9E3779B97F4A7C15)
        for f in range(bits.shape[1]):
            state = (state ^ np.uint64(bits[i, f])) * np.uint64(0xBF58476D1CE4E5B9)
            state ^= state >> np.uint64(29)
        p = np.float64(state >> np.uint64(11)) * (1.0 / 9007199254740992.0)
        for _ in range(6):  # to the power of 64: rare high scores
            p = p * p
        out[i] = p
    return out
