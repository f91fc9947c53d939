"""Columns for a teacher: what the feature list holds, put so that trees see it in one split.

In: rows of a training set. Out: their features and, beside them, ratios to the account's own usual
amount, how often and how lately it spent far more than that, and what the delayed counts of a
terminal say about the weeks apart. Does not know labels, nor any model.

Trees cut one column at a time: a ratio or a difference of two columns costs them many cuts, and
each cut many frauds. Only a teacher gets these columns, so no bundle and no service depends on
them: the network learns from its answers, and has the history to find the same in.
"""

from __future__ import annotations

from typing import Any, Final

import numpy as np
from numba import njit
from numpy.typing import NDArray

from model.data import DAY_MS, Dataset
from model.inputs import AMOUNT_SHIFT, HISTORY, TIME_SHIFT
from model.tokens import UNKNOWN

HIGH: Final = 2.5
"""Times the median: an amount that an account rarely spends (three deviations, if half the mean is
one)."""
FEWEST: Final = 8
"""Past events below which the usual amount is not known."""
DAYS: Final = (7, 14, 28)
PAST: Final = 3 + 2 * len(DAYS)
SPEND: Final = ("mean_24h", "mean_7d", "mean_30d", "max_24h", "max_7d", "max_30d", "std_7d")
"""Windows whose amounts are held against the mean of the account's whole life."""
RISK: Final = ("merchant", "terminal")


@njit(cache=True, nogil=True)
def _of_the_past(
    words: NDArray[np.uint64],
    place: NDArray[np.int32],
    rows: NDArray[np.int64],
    out: NDArray[np.float32],
) -> None:
    """Per row: amount over the median of the last events; days since the last high one; the mean
    excess within the second of DAYS; then per window the number and the share of high ones."""
    shift, time_shift = np.uint64(AMOUNT_SHIFT), np.uint64(TIME_SHIFT)
    amount = np.empty(HISTORY)
    age = np.empty(HISTORY)
    for k in range(len(rows)):
        i = rows[k]
        count = min(place[i], HISTORY)
        out[k] = UNKNOWN
        if count < FEWEST:
            continue
        now = np.int64(words[i, 0] >> time_shift)
        for j in range(count):
            amount[j] = np.float64(words[i - 1 - j, 1] >> shift)
            age[j] = (now - np.int64(words[i - 1 - j, 0] >> time_shift)) / DAY_MS
        usual = max(np.sort(amount[:count])[count // 2], 1.0)
        out[k, 0] = np.float64(words[i, 1] >> shift) / usual
        excess = 0.0
        for d in range(len(DAYS)):
            seen = high = 0
            for j in range(count):
                if age[j] < DAYS[d]:
                    seen += 1
                    high += amount[j] > HIGH * usual
                    if d == 1:
                        excess += max(min(amount[j] / usual, 10.0) - 2.0, 0.0)
            out[k, 3 + 2 * d] = high
            out[k, 4 + 2 * d] = high / seen if seen else UNKNOWN
            if d == 1 and seen:
                out[k, 2] = excess / seen
        for j in range(count):
            if amount[j] > HIGH * usual:
                out[k, 1] = age[j]
                break


def _ratio(a: Any, b: Any, known: Any) -> Any:
    """a / b where known and b is positive, else UNKNOWN."""
    known = known & (b > 0)
    return np.where(known, a / np.where(known, b, 1), UNKNOWN)


def _weeks_apart(x: dict[str, Any], entity: str) -> list[Any]:
    """Counts of a merchant or terminal on the days that only the longer window holds, the share of
    fraud there, and the payments of each window that nobody reported."""
    found = []
    count = {
        (d, what): x[f"{entity}_{d}d_{what}"]
        for d in (1, 7, 30)
        for what in ("transactions", "frauds")
    }
    known = count[30, "transactions"] >= 0
    for long, short in ((30, 7), (7, 1)):
        apart = {
            what: count[long, what] - np.maximum(count[short, what], 0)
            for what in ("transactions", "frauds")
        }
        found += [np.where(known, apart[what], UNKNOWN) for what in apart]
        found.append(_ratio(apart["frauds"], apart["transactions"], known))
    for d in (1, 7, 30):
        good = count[d, "transactions"] - count[d, "frauds"]
        found.append(np.where(known, good, UNKNOWN))
    return found


def columns(
    dataset: Dataset, place: NDArray[np.int32], rows: NDArray[np.int64]
) -> NDArray[np.float32]:
    """Features of `rows` and the derived columns beside them, float32 [n, F + D].

    Columns of features that the set does not have are left out. `place` is `dataset.place()`.
    """
    features = np.asarray(dataset.features[rows], np.float32)
    x = {name: features[:, f] for f, name in enumerate(dataset.names)}
    past = np.empty((len(rows), PAST), np.float32)
    _of_the_past(np.asarray(dataset.words), place, rows.astype(np.int64), past)
    found: list[Any] = []
    if "lifetime_mean" in x:
        life = x["lifetime_mean"]
        found += [_ratio(x[n], life, x[n] >= 0) for n in ("amount", *SPEND) if n in x]
    for entity in RISK:
        if f"{entity}_30d_frauds" in x:
            found += _weeks_apart(x, entity)
    added = [np.asarray(one, np.float32)[:, None] for one in found]
    return np.concatenate([features, past, *added], 1)
