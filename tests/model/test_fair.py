"""The rank that a fraud nobody can know of has on average: against slow words, and against luck."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from benchmarks.fair import BAD_DAYS, fair_rank, silence
from model.data import DAY_MS, Dataset
from model.inputs import PLACE_SHIFT
from tests.model import streams_of_words as made

DELAY = 7
KNOWN = 0
"""The column of a terminal's known frauds."""


def stream(seed: int, terminals: int) -> Dataset:
    """Payments of three months at a few terminals, a third of them frauds."""
    whole = made.dataset(accounts=6, each=40, seed=seed, plain=True)
    rng = np.random.default_rng(seed)
    words = whole.words.copy()
    place = rng.integers(0, terminals, len(words)).astype(np.uint64) * np.uint64(2**30 + 7)
    words[:, 3] = place << np.uint64(PLACE_SHIFT)
    x = whole.features.copy()
    x[:, KNOWN] = rng.choice([-1, 0, 0, 0, 2], len(x))
    truth = (rng.random(len(x)) < 1 / 3).astype(np.int8)
    names = ("terminal_30d_frauds", *whole.names[1:])
    return replace(whole, words=words, features=x, truth=truth, names=names)


@given(st.integers(0, 2**16), st.integers(1, 60))
def test_silence_lasts_since_the_last_payment_known_as_good(seed: int, terminals: int) -> None:
    d = stream(seed, terminals)
    rows = np.random.default_rng(seed).permutation(len(d))[:50]
    place = (d.words[:, 3] >> np.uint64(PLACE_SHIFT)).tolist()
    for row, days in zip(rows.tolist(), silence(d, rows, DELAY).tolist(), strict=True):
        asked = int(d.time[row]) - DELAY * DAY_MS
        good = [
            int(d.time[e])
            for e in range(len(d))
            if place[e] == place[row] and d.truth[e] == 0 and d.time[e] <= asked
        ]
        expected = (int(d.time[row]) - max(good)) / DAY_MS if good else BAD_DAYS
        assert days == min(expected, BAD_DAYS)


@given(st.integers(0, 2**16))
def test_it_is_where_drawn_frauds_lie_on_average(seed: int) -> None:
    """Of honest payments at quiet terminals one is drawn, each as often as its days of silence."""
    d = stream(seed, 20)
    rng = np.random.default_rng(seed)
    rows = np.sort(rng.permutation(len(d))[:150])
    p = rng.integers(0, 12, len(rows)) / 12
    honest = d.truth[rows] == 0
    quiet = np.flatnonzero(honest & (d.features[rows, KNOWN] <= 0))
    days = silence(d, rows, DELAY)
    expected = 0.0
    for one in quiet:
        above = (p[honest] < p[one]).mean() + (p[honest] == p[one]).mean() / 2
        expected += above * days[one] / days[quiet].sum()
    assert fair_rank(d, rows, p, DELAY) == pytest.approx(expected)
    moved = np.where(honest, p, rng.random(len(p)))
    assert fair_rank(d, rows, moved, DELAY) == fair_rank(d, rows, p, DELAY)
