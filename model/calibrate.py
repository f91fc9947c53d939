"""Log-odds to probabilities, and probabilities to thresholds. Fitted on matured rows only.

In: log-odds and labels of a block the model was not fitted on. Out: knots for a bundle, thresholds.
Does not know where the rows come from. Labels must be at their true prevalence.
"""

from __future__ import annotations

from itertools import pairwise

import numpy as np
from numpy.typing import NDArray

from model.metrics import alerts_of

Knots = tuple[tuple[float, float], ...]
IDENTITY: Knots = ((-1.0, -1.0), (1.0, 1.0))
FLAT = 1e-3
"""The least slope of a line: it has to rise."""


def platt(
    logit: NDArray[np.float32], y: NDArray[np.int8], rounds: int = 100
) -> tuple[float, float]:
    """Slope and offset by Newton's method, with one pseudo-count of each class against extremes.

    It begins with the rate for all: from the log-odds as they are, which may lie far off it, the
    first step is wild. A step is halved until the likelihood rises: on log-odds that lie close
    together the full one may leap away.
    Source: Lin, Lin, Weng, A note on Platt's probabilistic outputs (2007).
    """
    x = np.asarray(logit, np.float64)
    positives = float((y == 1).sum())
    target = np.where(y == 1, (positives + 1) / (positives + 2), 1 / (len(y) - positives + 2))

    def nats(line: NDArray[np.float64]) -> float:
        z = line[0] * x + line[1]
        return float((np.logaddexp(0, z) - target * z).sum())

    rate = float(target.mean())
    usual = float(np.log(rate / (1 - rate)))
    line = np.array([0.0, usual])
    held = nats(line)
    for _ in range(rounds):
        p = 1 / (1 + np.exp(-np.clip(line[0] * x + line[1], -40, 40)))
        w = p * (1 - p)
        g = np.array([((p - target) * x).sum(), (p - target).sum()])
        off = (w * x).sum()
        h = np.array([[(w * x * x).sum() + 1e-6, off], [off, w.sum() + 1e-6]])
        step = np.linalg.solve(h, g)
        size = 1.0
        while size > 1e-6 and nats(line - size * step) > held:
            size /= 2
        if size <= 1e-6:
            break
        line = line - size * step
        held = nats(line)
        if np.abs(size * step).max() < 1e-9:
            break
    if line[0] < FLAT:  # it ranks no better than chance: nearly the rate for all
        return FLAT, usual - FLAT * float(x.mean())
    return float(line[0]), float(line[1])


def knots(logit: NDArray[np.float32], y: NDArray[np.int8], bins: int = 12) -> Knots:
    """A rising broken line: Platt's line, bent towards the observed rates where there are enough.

    Knots stand at equal shares of the frauds; each moves towards its observed log-odds by
    n / (n + 20), n the frauds around it, and the whole is made to rise. Few frauds, or all at one
    place, leave Platt's line.
    """
    assert np.isfinite(logit).all()
    a, b = platt(logit, y)
    frauds = np.sort(np.asarray(logit, np.float64)[y == 1])
    low, high = float(np.min(logit)), float(np.max(logit))
    bins = min(bins, len(frauds) // 20)
    edges = np.unique(np.quantile(frauds, np.linspace(0, 1, bins + 1))) if bins >= 2 else frauds[:0]
    if len(edges) < 2:
        return ((-10.0, a * -10 + b), (10.0, a * 10 + b))
    edges[0], edges[-1] = low - 1e-3, high + 1e-3
    found: list[tuple[float, float]] = []
    for left, right in pairwise(edges):
        inside = (logit >= left) & (logit < right)
        n, k = int(inside.sum()), int((y[inside] == 1).sum())
        if n == 0:
            continue
        p = 1 / (1 + np.exp(-np.clip(a * np.asarray(logit, np.float64)[inside] + b, -40, 40)))
        expected = float(p.mean())
        observed = (k + expected) / (n + 1)
        shift = np.log(observed / (1 - observed)) - np.log(expected / (1 - expected))
        mean = float((p * logit[inside]).sum() / p.sum())
        found.append((mean, a * mean + b + shift * k / (k + 20)))
    return _rising(found, a)


def _rising(found: list[tuple[float, float]], slope: float) -> Knots:
    """Each knot lifted above the one before, one at nearly the same place left out; the ends go on
    with the slope of Platt's line."""
    xs, ys = [found[0][0]], [found[0][1]]
    for x, y in found[1:]:
        if x > xs[-1] + 1e-4:
            xs.append(x)
            ys.append(max(y, ys[-1] + 1e-4 * (x - xs[-2])))
    first = (xs[0] - 5.0, ys[0] - 5.0 * slope)
    last = (xs[-1] + 5.0, ys[-1] + 5.0 * slope)
    return (first, *zip(xs, ys, strict=True), last)


def threshold_for_budget(p: NDArray[np.float64], share: float) -> float:
    """The threshold from which on `share` of events lie, or fewer where many are alike there, or
    where there are so few events that one more would be too many."""
    allowed = alerts_of(share, len(p))
    if allowed >= len(p):
        return float(p.min())
    beyond = np.sort(p)[::-1][allowed]  # the highest that is no alert any more
    return max(float(np.quantile(p, 1 - share)), float(np.nextafter(beyond, np.inf)))
