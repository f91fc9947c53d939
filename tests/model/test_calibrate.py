"""Calibration where a fit went badly: the rate of the block is told all the same."""

from __future__ import annotations

import numpy as np
import pytest

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
