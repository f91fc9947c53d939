"""A cost matrix's thresholds against every decision at every probability."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from model.costs import Costs, told_in

money = st.floats(0.01, 1_000)
matrices = st.builds(Costs, review=money, block=money, missed=money)


@given(matrices, st.floats(0, 1))
def test_each_decision_is_taken_where_it_is_the_cheapest(costs: Costs, p: float) -> None:
    cuts = costs.thresholds()
    expected = {
        "pass": p * costs.missed,
        "review": costs.review,
        "block": (1 - p) * costs.block,
    }
    taken = "pass" if p < cuts["cost_review"] else "review" if p < cuts["cost_block"] else "block"
    assert expected[taken] <= min(expected.values()) * (1 + 1e-9) + 1e-9
    assert 0 < cuts["cost_review"] <= cuts["cost_block"] <= 1


def test_a_review_that_never_pays_leaves_one_threshold() -> None:
    cuts = Costs(review=30, block=10, missed=90).thresholds()
    assert cuts == {"cost_review": pytest.approx(0.1), "cost_block": pytest.approx(0.1)}


@given(matrices, st.integers(0, 1_000))
def test_what_is_spent_is_the_sum_over_events(costs: Costs, seed: int) -> None:
    rng = np.random.default_rng(seed)
    p, y = rng.random(50), rng.integers(0, 2, 50)
    review, block = np.sort(rng.random(2))
    p[:2] = review, block  # a threshold is where a decision begins
    spent = 0.0
    for probability, fraud in zip(p, y, strict=True):
        if probability >= block:
            spent += 0 if fraud else costs.block
        elif probability >= review:
            spent += costs.review
        elif fraud:
            spent += costs.missed
    assert costs.spent(y, p, review, block) == pytest.approx(spent)
    told = costs.told(y, p)["per_thousand"]
    assert told["no decisions"] == pytest.approx(20 * costs.missed * y.sum())


@pytest.mark.parametrize("odd", [0.0, -1.0, np.inf, np.nan])
@pytest.mark.parametrize("name", ["review", "block", "missed"])
def test_a_cost_is_a_number_above_nothing(name: str, odd: float) -> None:
    with pytest.raises(ValueError, match="a number above 0"):
        Costs(**{"review": 1.0, "block": 1.0, "missed": 1.0, name: odd})


def test_calibrated_scores_make_them_the_best_thresholds() -> None:
    """On events that are fraud as often as their score says, no other pair costs less."""
    rng = np.random.default_rng(0)
    p = rng.beta(0.2, 2, 200_000)
    y = (rng.random(len(p)) < p).astype(np.int8)
    costs = Costs(review=4, block=25, missed=60)
    cuts = costs.thresholds()
    own = costs.spent(y, p, cuts["cost_review"], cuts["cost_block"])
    grid = np.linspace(0.01, 1, 34)
    best = min(costs.spent(y, p, low, high) for low in grid for high in grid if low <= high)
    assert own < best * 1.005
    assert own < 0.5 * costs.told(y, p)["per_thousand"]["no decisions"] * len(y) / 1_000


def test_a_bundle_tells_the_matrix_it_was_made_with() -> None:
    costs = Costs(review=4, block=25, missed=120)
    assert told_in({"costs": costs.told(np.ones(1), np.ones(1))}) == costs
    nothing = {"review": 1, "block": 1, "missed": 0}
    for odd in (
        {},
        {"costs": None},
        {"costs": {"matrix": nothing}},
        {"costs": {"matrix": {"review": "x"}}},
        {"costs": [1]},
    ):
        assert told_in(odd) is None
