"""Calibration where a fit went badly: the rate of the block is told all the same."""

from __future__ import annotations

import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from sklearn.linear_model import LogisticRegression

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


@given(st.integers(0, 1_000), st.floats(-8, 2), st.floats(0.3, 3))
def test_the_line_is_a_logistic_regression_with_one_more_of_each_class(
    seed: int, centre: float, apart: float
) -> None:
    """As scikit-learn fits it to each row twice: as a fraud and as none, weighted by its target."""
    rng = np.random.default_rng(seed)
    y = np.resize(np.array([1, 0, 0, 0], np.int8), 200)
    logit = rng.normal(centre, apart, 200).astype(np.float32) + np.float32(apart) * y
    fraud = np.where(y == 1, 51 / 52, 1 / 152)
    both = LogisticRegression(C=np.inf, tol=1e-10, max_iter=1_000).fit(
        np.tile(logit[:, None].astype(float), (2, 1)),
        np.repeat([1, 0], 200),
        sample_weight=np.concatenate([fraud, 1 - fraud]),
    )
    expected = (both.coef_[0, 0], both.intercept_[0])
    assert calibrate.platt(logit, y) == pytest.approx(expected, rel=1e-3, abs=1e-3)


def test_where_frauds_are_many_the_line_bends_to_what_was_observed() -> None:
    """Log-odds that stop rising: a straight line is off there, and knots are hardly."""
    rng = np.random.default_rng(0)
    logit = rng.normal(-2, 2, 40_000).astype(np.float32)
    truth = 1 / (1 + np.exp(-np.minimum(logit, -1)))
    y = (rng.random(len(logit)) < truth).astype(np.int8)
    slope, offset = calibrate.platt(logit, y)
    straight = np.abs(1 / (1 + np.exp(-(slope * logit + offset))) - truth).mean()
    line = calibrate.knots(logit, y)
    assert len(line) == 12 + 2, "a knot a bin, and the ends"
    assert np.abs(to_probability(logit, line) - truth).mean() < straight / 3
    for (x, z), (beyond, end) in ((line[0], line[1]), (line[-2], line[-1])):
        assert (end - z) / (beyond - x) == pytest.approx(slope)
    # Few frauds say nothing of a bend.
    few = np.flatnonzero(y == 1)[39:]
    rest = np.delete(np.arange(len(y)), few)
    slope, offset = calibrate.platt(logit[rest], y[rest])
    straight_on = ((-10.0, offset - 10 * slope), (10.0, offset + 10 * slope))
    assert calibrate.knots(logit[rest], y[rest]) == straight_on


@pytest.mark.parametrize(("centre", "apart"), [(-3.0, 4.0), (-3.0, 1.0), (2.0, 8.0)])
def test_a_knot_moves_towards_what_was_observed_around_it(centre: float, apart: float) -> None:
    """Above Platt's line where there were more frauds than it says, also where all were frauds."""
    rng = np.random.default_rng(0)
    y = (rng.random(3_000) < 0.1).astype(np.int8)
    logit = rng.normal(centre, 1, 3_000).astype(np.float32) + np.float32(apart) * y
    slope, offset = calibrate.platt(logit, y)
    said = 1 / (1 + np.exp(-(slope * logit + offset)))
    line = calibrate.knots(logit, y)
    inner = line[1:-1]
    edges = np.quantile(logit[y == 1], np.linspace(0, 1, len(inner) + 1))
    edges[0], edges[-1] = -np.inf, np.inf
    for (x, z), left, right in zip(inner, edges, edges[1:], strict=False):
        inside = (logit >= left) & (logit < right)
        more = y[inside].sum() - said[inside].sum()
        if abs(more) > 0.01:
            assert (z - slope * x - offset) * more > 0


rising = st.lists(
    st.tuples(st.floats(0.01, 5), st.floats(0.01, 5)), min_size=2, max_size=6
).map(lambda steps: tuple(map(tuple, np.cumsum(steps, axis=0) - 8)))  # fmt: skip


@given(rising, st.lists(st.floats(-60, 60, width=32), min_size=1, max_size=20))
def test_a_probability_is_the_logistic_of_the_broken_line(
    line: calibrate.Knots, at: list[float]
) -> None:
    """Whose outer parts go on beyond its ends."""
    logit = np.array(at, np.float32)
    for x, p in zip(logit.tolist(), to_probability(logit, line).tolist(), strict=True):
        inner = [k for k in range(len(line) - 1) if k == 0 or x >= line[k][0]]
        (left, low), (right, high) = line[inner[-1]], line[inner[-1] + 1]
        z = low + (x - left) * (high - low) / (right - left)
        assert p == pytest.approx(1 / (1 + math.exp(-min(max(z, -40), 40))), rel=1e-9)
