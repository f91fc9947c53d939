"""The comparison forms of `benchmarks/variants.py`: the model but for the part each changes."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import numpy as np
import pytest
import torch

from benchmarks import variants
from model.data import Dataset
from model.inputs import HISTORY
from model.loop import Source
from model.transformer import Transformer
from tests.model import streams_of_words as made

STARTS = np.array([0, 130, 260], np.int64)
EACH = 150


@pytest.fixture(scope="module")
def data() -> Dataset:
    """Its first feature has the name of a risk column, and is 0 now and then."""
    found = made.dataset(accounts=3, each=EACH)
    features = np.array(found.features)
    features[::7, 0] = 0
    names = (variants.RISK_COLUMNS[0], *found.names[1:])
    return replace(found, names=names, features=features)


def taken_over(variant: Any, model: Transformer) -> Any:
    """The variant with all weights of the model that have the same shape, and without waves."""
    state = variant.state_dict()
    own = {k: v for k, v in model.state_dict().items() if state[k].shape == v.shape}
    flat = {"wave_table": torch.zeros_like(state["wave_table"])}
    variant.load_state_dict({**state, **own, **flat})
    return variant.eval()


@torch.no_grad()
def logits(model: Transformer, data: Dataset) -> np.ndarray:
    source = getattr(model, "source", Source)(data, model.knots.numpy())
    chunk, rows = source.chunk(STARTS, 60)
    found = np.full(len(data), np.nan)
    found[rows] = model.logit(model(chunk)).numpy()
    return found


def told_apart(data: Dataset, left: np.ndarray, right: np.ndarray) -> np.ndarray:
    """Rows within their account where the two differ."""
    known = ~np.isnan(left)
    return np.asarray(data.place()[known][np.abs(left - right)[known] > 1e-5])


def test_nothing_changed_is_the_model(data: Dataset, model: Transformer) -> None:
    same = taken_over(variants.Variant(model.shape, model.knots.numpy()), model)
    assert not len(told_apart(data, logits(same, data), logits(model, data)))


def test_a_longer_history_differs_only_where_there_is_more(
    data: Dataset, model: Transformer
) -> None:
    long = taken_over(variants.LongHistory(model.shape, model.knots.numpy()), model)
    with torch.no_grad():
        for one, other in zip(long.layers, model.layers, strict=True):
            one.recency[:, -other.recency.shape[1] :] = other.recency
            one.recency[:, : -other.recency.shape[1]] = 0
    places = told_apart(data, logits(long, data), logits(model, data))
    assert places.min() > HISTORY - 4
    assert places.max() > HISTORY


def test_a_shorter_history_differs_only_beyond_it(data: Dataset, model: Transformer) -> None:
    short = taken_over(variants.Variant(model.shape, model.knots.numpy(), reach=16), model)
    assert told_apart(data, logits(short, data), logits(model, data)).min() == 17


def test_the_risk_of_past_events_counts_and_only_that(data: Dataset, model: Transformer) -> None:
    risky = taken_over(variants.RiskTokens(model.shape, model.knots.numpy()), model)
    told = logits(risky, data)
    with torch.no_grad():
        risky.risk_table.zero_()
    blind = logits(risky, data)
    assert not len(told_apart(data, blind, logits(model, data)))
    assert told_apart(data, told, blind).min() == 1  # the first of an account has no past
    assert set(variants.risk_codes(data)) == set(range(variants.RISK_CODES))


@pytest.mark.parametrize("waves", [0, variants.WAVES])
def test_an_encoding_reads_each_feature_and_knows_the_unknown(
    data: Dataset, model: Transformer, waves: int
) -> None:
    one = variants.Encoded(model.shape, model.knots.numpy(), waves)
    features = torch.arange(made.FEATURES)
    row = torch.zeros(made.FEATURES, 1, made.FEATURES, dtype=torch.long)
    none = one.embed_features(row[:1], torch.zeros(1, 1, made.FEATURES))
    row[features, 0, features] = 3
    known = one.embed_features(row, torch.full((made.FEATURES, 1, made.FEATURES), 0.25))
    assert ((known - none).norm(dim=-1) > 0).all()
    assert len(torch.unique((known - none).flatten(1), dim=0)) == made.FEATURES
