"""Where frauds that nothing points at would be ranked on average: the Handbook's AUC without luck.

In: a training set of the Handbook's stream, rows of a test week and their scores. Out: the rank of
such a fraud. Does not know the model, nor where the frauds of that week are.

In that stream (Fraud Detection Handbook, chapter 3) two terminals drawn from all alike go bad each
day, and every payment at them is a fraud for 28 days. So of a terminal without a known fraud all
that can be known is since when its payments have not been known as good: it may have gone bad on
each of these days, on each alike. That many days are what each of its payments counts as the place
of a fraud, whichever 22 terminals a week it was that luck drew.
"""

from __future__ import annotations

from typing import Final

import numpy as np
from numpy.typing import NDArray

from model import data
from model.inputs import PLACE_SHIFT
from streams.schema import DAY_MS

BAD_DAYS: Final = 28
"""So long a terminal stays bad: of longer silence no more can follow."""
TIME_BITS: Final = 41
"""Of an event time in ms."""


def unsuspected(d: data.Dataset, rows: NDArray[np.int64]) -> NDArray[np.bool_]:
    """Payments at terminals of which no fraud is known."""
    return ~(d.features[rows, d.names.index("terminal_30d_frauds")] > 0)


def silence(d: data.Dataset, rows: NDArray[np.int64], delay_days: int) -> NDArray[np.float64]:
    """Days since the last payment at the row's terminal that is known as good, at most BAD_DAYS."""
    place = np.unique(np.asarray(d.words)[:, 3] >> np.uint64(PLACE_SHIFT), return_inverse=True)[1]
    moment = (place.astype(np.int64) << TIME_BITS) + d.time
    good = np.sort(moment[np.asarray(d.truth) == 0])
    asked = moment[rows] - delay_days * DAY_MS
    last = np.searchsorted(good, asked, "right") - 1
    found = good[np.maximum(last, 0)]
    same = (last >= 0) & (found >> TIME_BITS == place[rows])
    return np.where(same, np.minimum((moment[rows] - found) / DAY_MS, BAD_DAYS), float(BAD_DAYS))


def fair_rank(
    d: data.Dataset, rows: NDArray[np.int64], p: NDArray[np.float64], delay_days: int
) -> float:
    """The share of honest payments that a fraud at a terminal without a known one is ranked above,
    on average. Uses scores of honest payments alone."""
    honest = np.asarray(d.truth)[rows] == 0
    quiet = honest & unsuspected(d, rows)
    below = np.sort(p[honest])
    rank = sum(np.searchsorted(below, p[quiet], side) for side in ("left", "right")) / 2
    return float(np.average(rank / len(below), weights=silence(d, rows[quiet], delay_days)))
