"""PSI: zero for the same scores, the textbook value for a known shift, finite for empty bins."""

from __future__ import annotations

import math
import statistics
from bisect import bisect_right

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from streams.drift import population_stability

piles = st.lists(
    st.sampled_from([0.0, 0.0, 0.0, 0.5, 1.0]) | st.floats(0, 1), min_size=1, max_size=60
)


@given(piles, piles)
def test_psi_by_its_definition(reference: list[float], current: list[float]) -> None:
    """Ten bins between the deciles; a decile that comes twice has a bin of its own."""
    drift = population_stability(np.array(reference), np.array(current))
    deciles = [float(each) for each in np.quantile(reference, np.linspace(0, 1, 11)[1:-1])]
    if len(reference) > 1:
        assert deciles == pytest.approx(statistics.quantiles(reference, n=10, method="inclusive"))
    edges = set(deciles)
    edges |= {math.nextafter(each, math.inf) for each in deciles if deciles.count(each) > 1}
    assert drift.edges.tolist() == sorted(edges)
    psi = 0.0
    for bin_, (p, q) in enumerate(zip(drift.reference, drift.current, strict=True)):
        expected = [
            max(sum(bisect_right(sorted(edges), x) == bin_ for x in some) / len(some), 1e-4)
            for some in (reference, current)
        ]
        assert [p, q] == expected
        psi += (expected[1] - expected[0]) * math.log(expected[1] / expected[0])
    assert len(drift.reference) == len(edges) + 1
    assert drift.psi == pytest.approx(psi)


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
    for sides in ((np.zeros(0), np.ones(3)), (np.ones(3), np.zeros(0))):
        with pytest.raises(ValueError, match="both sides"):
            population_stability(*sides)
