"""Where a feature's broken line may bend: quantiles, and the places where the fraud rate jumps.

In: feature rows, and their labels where there are some. Out: knots for a `Transformer`. Does not
know what a feature means. Labels must be those that the fit may see.

Quantiles follow the bulk. A rule of the world ("more than 220 is never legitimate") lies far out,
between two of them, and a line from one to the next blurs it. So each feature also gets the splits
of a small decision tree on it alone; a split is two knots, the neighbouring values on its two
sides, so that the line can jump there. (Target-aware bins: Gorishniy et al., On Embeddings for
Numerical Features in Tabular Deep Learning, 2022; the pair of knots is ours.)
"""

from __future__ import annotations

import heapq
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray

from model.tokens import UNKNOWN, quantile_knots

FEWEST: Final = 16
"""Knots that stay quantiles; half of those above become splits."""
GAIN: Final = 8.0
"""Nats of log likelihood that a split must buy; chance alone rarely buys 5."""
SIDE: Final = 10
"""Fewest rows on a side of a split."""


def _log_likelihood(frauds: Any, rows: Any) -> Any:
    """Of `frauds` among `rows` at their own rate."""
    p = np.clip(frauds / np.maximum(rows, 1), 1e-12, 1 - 1e-12)
    return frauds * np.log(p) + (rows - frauds) * np.log1p(-p)


def _best(x: NDArray[np.float32], hits: NDArray[np.int64], low: int, high: int) -> tuple[Any, int]:
    """(gain, row) of the best split of sorted rows [low, high) into [low, row) and [row, high).

    `hits` are the frauds before each row.
    """
    at = np.arange(low + SIDE, high - SIDE + 1)
    at = at[x[at - 1] < x[at]] if len(at) else at
    if not len(at):
        return 0.0, low
    left, whole = hits[at] - hits[low], hits[high] - hits[low]
    gain = (
        _log_likelihood(left, at - low)
        + _log_likelihood(whole - left, high - at)
        - _log_likelihood(whole, high - low)
    )
    best = int(np.argmax(gain))
    return float(gain[best]), int(at[best])


def splits(
    x: NDArray[np.float32], y: NDArray[np.int8], count: int
) -> list[tuple[np.float32, np.float32]]:
    """Up to `count` splits of one feature, best first: the neighbouring values on both sides."""
    known = x != UNKNOWN
    order = np.argsort(x[known], kind="stable")
    value = x[known][order]
    hits = np.concatenate([[0], np.cumsum(y[known][order] == 1, dtype=np.int64)])
    waiting: list[tuple[float, int, int, int]] = []

    def consider(low: int, high: int) -> None:
        gain, row = _best(value, hits, low, high)
        if gain >= GAIN:
            heapq.heappush(waiting, (-gain, row, low, high))

    consider(0, len(value))
    found: list[tuple[np.float32, np.float32]] = []
    while waiting and len(found) < count:
        _, row, low, high = heapq.heappop(waiting)
        found.append((value[row - 1], value[row]))
        consider(low, row)
        consider(row, high)
    return found


def knots_for(x: NDArray[np.float32], y: NDArray[np.int8], count: int) -> NDArray[np.float32]:
    """Knots [F, count], strictly rising, then infinities: splits first, quantiles in the rest."""
    most = max(count - FEWEST, 0) // 4
    wide, narrow = quantile_knots(x, count), quantile_knots(x, count - 2 * most)
    for f in range(x.shape[1]):
        pairs = splits(x[:, f], y, most)
        if pairs:
            both = np.unique(np.concatenate([narrow[f], np.ravel(pairs)])).astype(np.float32)
            wide[f] = np.inf
            wide[f, : len(both)] = both
    return wide
