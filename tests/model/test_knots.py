"""Knots: a limit in the tail is found, noise is left alone, and the line can jump at a split."""

from __future__ import annotations

import numpy as np

from model import knots, tokens


def planted(limit: float) -> tuple[np.ndarray, np.ndarray]:
    """A long-tailed feature whose values above `limit` are always fraud, beside one of noise."""
    rng = np.random.default_rng(0)
    x = rng.gamma(2.0, 30.0, (20_000, 2)).astype(np.float32)
    y = ((x[:, 0] > limit) | (rng.random(len(x)) < 0.002)).astype(np.int8)
    return x, y


def test_a_limit_in_the_tail_is_found_and_the_line_can_jump_there() -> None:
    x, y = planted(217.0)
    assert 20 < (x[:, 0] > 217).sum() < 500
    below, above = x[x[:, 0] <= 217, 0].max(), x[x[:, 0] > 217, 0].min()
    assert (below, above) in knots.splits(x[:, 0], y, 4)
    found = knots.knots_for(x, y, 32)
    row, weight = tokens.encode_features(np.array([[below, 1], [above, 1]], np.float32), found)
    assert row[1, 0] == row[0, 0] + 1
    assert weight[:, 0].tolist() == [0, 0]


def test_noise_and_streams_without_fraud_keep_their_quantiles() -> None:
    x, y = planted(217.0)
    plain = tokens.quantile_knots(x, 32)
    assert (knots.knots_for(x, y, 32)[1] == plain[1]).all()
    assert (knots.knots_for(x, np.zeros_like(y), 32) == plain).all()
    assert (knots.knots_for(x, y, 16) == tokens.quantile_knots(x, 16)).all()


def test_knots_rise_strictly_whatever_the_values() -> None:
    rng = np.random.default_rng(1)
    x = rng.integers(-1, 6, (3_000, 3)).astype(np.float32)
    y = (x[:, 0] > 3).astype(np.int8)
    x[:, 2] = -1
    for line in knots.knots_for(x, y, 32):
        known = line[np.isfinite(line)]
        assert (np.diff(known) > 0).all()
        assert np.isinf(line[len(known) :]).all()
    assert knots.splits(x[:, 2], y, 4) == []
