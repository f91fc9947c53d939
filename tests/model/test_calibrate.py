"""Calibration where a fit went badly: the rate of the block is told all the same."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from model import calibrate
from model.score import calibrate as to_probability

FRAUDS = np.random.default_rng(1).random(4_000) < 0.03


@pytest.mark.parametrize("centre", [-12.0, -4.0, 3.0])
def test_what_ranks_worse_than_chance_is_calibrated_to_the_rate(centre: float) -> None:
    """Platt's slope was raised to just above nothing, its offset left where the slope had been."""
    logit = (centre + np.random.default_rng(0).normal(size=4_000) - 0.5 * FRAUDS).astype(np.float32)
    y = FRAUDS.astype(np.int8)
    slope, offset = calibrate.platt(logit, y)
    assert slope == calibrate.FLAT
    p = 1 / (1 + np.exp(-(slope * logit + offset)))
    assert p.mean() == pytest.approx(y.mean(), rel=0.01)


@pytest.mark.parametrize(
    ("centre", "apart"), [(10.0, 0.01), (10.0, 1.0), (40.0, 5.0), (-60.0, 5.0)]
)
def test_log_odds_far_from_the_rate_are_calibrated(centre: float, apart: float) -> None:
    """Newton's method began with the log-odds as they are, where a logistic curve is flat."""
    noise = np.random.default_rng(0).normal(centre, apart, 4_000)
    logit, y = (noise + 2 * apart * FRAUDS).astype(np.float32), FRAUDS.astype(np.int8)
    p = to_probability(logit, calibrate.knots(logit, y))
    assert p.mean() == pytest.approx(y.mean(), rel=0.1)


@given(st.lists(st.integers(0, 30), min_size=1, max_size=60), st.floats(1e-6, 1))
def test_the_threshold_of_a_budget_never_lets_more_through(tens: list[int], share: float) -> None:
    """Of 50 events half a per cent is none; a threshold between the two highest let one through."""
    p = np.array(tens, float) / 30
    assert (p >= calibrate.threshold_for_budget(p, share)).mean() <= share + 1e-9


@pytest.mark.parametrize(("events", "share", "alerts"), [(1_500, 0.002, 3), (100, 0.29, 29)])
def test_the_threshold_of_a_budget_lets_through_what_it_may(
    events: int, share: float, alerts: int
) -> None:
    p = np.random.default_rng(2).permutation(events) / events
    assert (p >= calibrate.threshold_for_budget(p, share)).sum() == alerts


def test_a_budget_of_all_events_leaves_none_out() -> None:
    p = np.array([0.5, 0.1, 0.1, 0.9])
    assert calibrate.threshold_for_budget(p, 1.0) == 0.1
    assert (p >= calibrate.threshold_for_budget(p, 0.75)).sum() == 2  # the third has an equal
