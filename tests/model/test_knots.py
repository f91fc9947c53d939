"""Knots: a limit in the tail is found, noise is left alone, and the line can jump at a split."""

from __future__ import annotations

import math

import numpy as np
import pytest

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


def nats(y: list[int]) -> float:
    """Log likelihood of labels at their own rate."""
    hits, n = sum(y), len(y)
    return sum(k * math.log(k / n) for k in (hits, n - hits) if k)


Part = tuple[float, int, list[tuple[float, int]]]


def cut(rows: list[tuple[float, int]]) -> Part:
    """What the best split of sorted rows buys, and where it is."""
    y = [one for _, one in rows]
    at = range(knots.SIDE, len(rows) - knots.SIDE + 1)
    buys = [(nats(y[:k]) + nats(y[k:]) - nats(y), -k) for k in at if rows[k - 1][0] < rows[k][0]]
    gain, k = max(buys, default=(0.0, 0))
    return gain, -k, rows


@pytest.mark.parametrize("seed", range(6))
def test_splits_are_those_of_a_tree_that_grows_where_it_gains_most(seed: int) -> None:
    """Few values and many: never between equals, nor with too few rows on a side."""
    rng = np.random.default_rng(seed)
    top = 40 if seed % 2 else 400
    x = rng.integers(-1, top, 900).astype(np.float32)
    odds = np.where(x * 7 // top % 2 == 1, 0.8, 0.05)
    y = rng.choice([0, 1, -1], 900, p=[0.8, 0.1, 0.1]).astype(np.int8)
    y[rng.random(900) < odds] = 1
    known = x != tokens.UNKNOWN
    order = np.argsort(x[known], kind="stable")
    pairs = zip(x[known][order].tolist(), (y[known][order] == 1).tolist(), strict=True)
    parts, expected = [cut([(a, int(b)) for a, b in pairs])], []
    while len(expected) < 5:
        best = max(parts, key=lambda part: part[0])
        gain, k, rows = best
        if gain < knots.GAIN:
            break
        expected.append((rows[k - 1][0], rows[k][0]))
        parts.remove(best)
        parts += [cut(rows[:k]), cut(rows[k:])]
    assert len(expected) > 2
    for count in range(1, 6):
        assert knots.splits(x, y, count) == expected[:count]
