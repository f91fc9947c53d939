"""Places without a known fraud: their sizes are dealt anew, and a fit learns nothing of them."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
from hypothesis import given
from hypothesis import strategies as st

from model import finetune, metrics, quiet
from model.data import Dataset
from model.loop import Recipe
from tests.model import streams_of_words as made
from tests.model.streams_of_words import SMALL

NAMES = (
    "terminal_30d_frauds",
    "terminal_7d_transactions",
    "terminal_30d_mean_amount",
    "terminal_30d_fraud_share",
    "merchant_30d_frauds",
    "merchant_1d_transactions",
    *(f"f{i}" for i in range(6, made.FEATURES)),
)
TERMINAL, MERCHANT = (0, [1, 2, 3]), (4, [5])
"""Known frauds of a place, and the columns of its size."""


def stream(seed: int, accounts: int = 4, each: int = 50) -> Dataset:
    """Places with 0, 1 or 2 known frauds, or of which nothing is known."""
    whole = made.dataset(accounts, each, seed, plain=True)
    x = whole.features.copy()
    rng = np.random.default_rng(seed)
    for known, sizes in (TERMINAL, MERCHANT):
        x[:, known] = rng.choice([-1, 0, 0, 0, 1, 2], len(x))
        x[np.ix_(x[:, known] == -1, sizes)] = -1
    return replace(whole, features=x, names=NAMES)


@given(st.integers(0, 2**16), st.integers(0, 2**16))
def test_only_sizes_of_quiet_places_move_and_each_goes_as_a_whole(seed: int, deal: int) -> None:
    whole = stream(seed)
    rows = np.random.default_rng(seed + 1).random(len(whole)) < 0.7
    before = whole.features.copy()
    x = quiet.hushed(whole, rows, deal).features
    assert (whole.features == before).all()
    assert (quiet.hushed(whole, rows, deal).features == x).all()
    same = np.ones(x.shape, np.bool_)
    for known, sizes in (TERMINAL, MERCHANT):
        moved = rows & (before[:, known] == 0)
        same[np.ix_(moved, sizes)] = False
        old, new = before[np.ix_(moved, sizes)], x[np.ix_(moved, sizes)]
        assert sorted(old.tolist()) == sorted(new.tolist())
        assert moved.sum() < 10 or (old != new).any()
    assert (x[same] == before[same]).all()


def test_a_set_without_such_columns_is_left_as_it_is() -> None:
    whole = made.dataset(2, 20)
    assert quiet.hushed(whole, np.ones(len(whole), np.bool_)) is whole


def test_a_fit_ranks_quiet_places_by_their_size_only_when_it_is_let() -> None:
    """Frauds lie at large places, none of which has a fraud that is known already."""
    whole = stream(3, 40, 250)
    x = whole.features.copy()
    x[:, 0] = 0
    x[:, 1] = np.random.default_rng(4).normal(0, 2, len(x))
    label = (x[:, 1] > 2).astype(np.int8)
    whole = replace(whole, features=x, label=label)
    middle, end = int(np.quantile(whole.time, 0.7)), int(whole.time.max()) + 1
    chosen = finetune.blocks(whole, finetune.Plan(0, middle, middle, end, end + 10 * made.DAY_MS))

    def ranked(hushed: bool) -> float:
        recipe = Recipe(steps=30, chunk=64, batch=16, rate=1e-2, every=30, hushed=hushed)
        found = finetune.fit(whole, chosen, SMALL, recipe)
        return metrics.roc_auc(label[found.rows], found.logit)

    assert ranked(False) > 0.95
    assert abs(ranked(True) - 0.5) < 0.15
