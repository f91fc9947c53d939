"""PSI: zero for the same scores, the textbook value for a known shift, finite for empty bins."""

from __future__ import annotations

import math

import numpy as np
import pytest

from streams.drift import population_stability


def test_same_scores_do_not_drift() -> None:
    scores = np.linspace(0, 1, 1_000)
    assert population_stability(scores, scores[::-1].copy()).psi == 0.0


def test_known_shift_has_the_formula_s_value() -> None:
    reference = np.array([0.1] * 50 + [0.9] * 50)
    current = np.array([0.1] * 20 + [0.9] * 80)
    drift = population_stability(reference, current, bins=2)
    expected = (0.2 - 0.5) * math.log(0.2 / 0.5) + (0.8 - 0.5) * math.log(0.8 / 0.5)
    assert drift.psi == pytest.approx(expected)


def test_disjoint_scores_are_a_finite_shift() -> None:
    drift = population_stability(np.linspace(0, 0.1, 500), np.linspace(0.9, 1, 500))
    assert math.isfinite(drift.psi)
    assert drift.psi > 0.25


@pytest.mark.parametrize("most", [0.3, 1.0])
def test_scores_above_a_pile_have_moved(most: float) -> None:
    """A champion without a model scores all alike; what beat it read as stable."""
    pile = int(most * 1_000)
    reference = np.concatenate([np.zeros(pile), np.linspace(0.5, 1, 1_000 - pile)])
    assert population_stability(reference, reference).psi == 0.0
    for moved in (0.2, -0.2):
        current = np.where(reference == 0, moved, reference)
        assert population_stability(reference, current).psi > 0.25


def test_an_empty_side_is_refused() -> None:
    with pytest.raises(ValueError, match="both sides"):
        population_stability(np.zeros(0), np.ones(3))
