"""What a fit begins with, and which rows its bundle keeps, held against slow words for it."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
import torch

from model import finetune, tokens
from model.bundle import GOLDEN, Bundle, weights_of
from model.data import Dataset
from model.errors import DatasetError
from model.knots import knots_for
from tests.model import streams_of_words as made
from tests.model.streams_of_words import SMALL

WIDE = replace(SMALL, knots=32)
"""With room for splits among the quantiles."""


@pytest.fixture(scope="module")
def whole() -> Dataset:
    return made.dataset(12, 60)


@pytest.fixture(scope="module")
def base(whole: Dataset) -> Bundle:
    pretrained = made.model(whole, WIDE, seed=1)
    return Bundle(
        name="base",
        shape=pretrained.shape,
        weights=weights_of(pretrained),
        names=whole.names,
        feature_digest=whole.feature_digest,
        groups=("one",) * made.FEATURES,
        usual=np.zeros(made.FEATURES, np.float32),
        calibration=((-1.0, -1.0), (1.0, 1.0)),
    )


@pytest.mark.parametrize("splits", [False, True])
def test_a_fit_begins_with_all_of_its_base_but_what_its_own_rows_tell(
    whole: Dataset, base: Bundle, splits: bool
) -> None:
    """Knots and the rate of frauds are those of its rows; no other row is looked at."""
    few = whole.account < 6
    odd = replace(
        whole,
        features=np.where(few[:, None], whole.features, np.float32(50)),
        label=np.where(few, whole.label, 1 - whole.label).astype(np.int8),
    )
    rows = np.flatnonzero(few)
    state = finetune.start(odd, rows, WIDE, base, 0, splits).state_dict()
    x, y = whole.features[rows], whole.label[rows]
    plain, split = tokens.quantile_knots(x, WIDE.knots), knots_for(x, y, WIDE.knots)
    assert (plain != split).any()
    assert (state["knots"].numpy() == (split if splits else plain)).all()
    assert state["head.bias"].item() == pytest.approx(np.log((y == 1).mean()))
    own = {"knots", "feature_step", "head.bias"}
    for name in set(base.weights) - own:
        assert torch.equal(state[name], torch.from_numpy(base.weights[name])), name
    fresh = finetune.start(odd, rows, WIDE, None, 0, splits).state_dict()
    assert torch.equal(state["feature_step"], fresh["feature_step"])
    assert not torch.equal(state["event_table"], fresh["event_table"])
    again = finetune.start(odd, rows, WIDE, None, 0, splits).state_dict()
    assert all(torch.equal(again[name], value) for name, value in fresh.items())


def test_a_base_of_another_shape_is_refused(whole: Dataset, base: Bundle) -> None:
    with pytest.raises(DatasetError, match=r"the pretrained bundle has shape .*, wanted"):
        finetune.start(whole, np.arange(60), SMALL, base, 0)


def test_rows_without_a_fraud_begin_with_a_finite_rate(whole: Dataset) -> None:
    calm = replace(whole, label=np.zeros(len(whole), np.int8))
    bias = finetune.start(calm, np.arange(60), SMALL, None, 0).head.bias.item()
    assert bias == pytest.approx(np.log(1e-5))


def test_golden_rows_lie_evenly_over_the_scores_and_two_have_no_past(whole: Dataset) -> None:
    """The lowest and the highest are among them, and only rows that were judged."""
    rows = np.flatnonzero(whole.account >= 4)
    logit = np.random.default_rng(0).permutation(len(rows)).astype(np.float32)
    found = finetune.golden_rows(whole, rows, logit)
    assert len(found) == GOLDEN
    # The response is not known when a score is wanted: rows are found by the words beside it.
    ranks = dict(zip(map(tuple, whole.words[rows, 1:].tolist()), logit.tolist(), strict=True))
    assert len(ranks) == len(rows), "no two events are alike"
    chosen = [ranks[tuple(word[1:])] for word in found.current[: GOLDEN - 2].tolist()]
    assert chosen[0] == 0 and chosen[-1] == len(rows) - 1
    assert np.ptp(np.diff(chosen)) <= 1
    assert found.length[GOLDEN - 2 :].tolist() == [0, 0]
    assert len(np.unique(found.current[GOLDEN - 2 :], axis=0)) == 2


def test_what_is_usual_is_the_median_of_legitimate_rows(whole: Dataset) -> None:
    """Of each feature, over the rows of the fit; of many rows, over every so many of them."""
    few, fraud = whole.account < 6, whole.label == 1
    x = np.where((few & ~fraud)[:, None], whole.features, np.float32(50))
    odd, rows = replace(whole, features=x), np.flatnonzero(few)
    legitimate = np.flatnonzero(few & ~fraud)
    assert finetune.usual_values(odd, rows).tolist() == np.median(x[legitimate], 0).tolist()
    third = finetune.usual_values(odd, rows, cap=len(legitimate) // 3)
    assert third.tolist() == np.median(x[legitimate[::3]], 0).tolist()
