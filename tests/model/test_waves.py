"""Waves on the feature tables: trained as curves, served as rows, the same function."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from numpy.typing import NDArray

from model import tokens
from model.data import Dataset
from model.fold import fold
from model.loop import Recipe, Source, groups_of
from model.transformer import Shape, Transformer
from model.waves import WAVES, Waved
from tests.model import streams_of_words as made

SHAPE = Shape(width=64, knots=16)


@pytest.fixture(scope="module")
def data() -> Dataset:
    return made.dataset()


@pytest.fixture(scope="module")
def knots(data: Dataset) -> NDArray[np.float32]:
    """One feature has a single knot, one has three, the rest have sixteen."""
    found = tokens.quantile_knots(np.asarray(data.features), SHAPE.knots)
    found[0, 1:] = np.inf
    found[1, 3:] = np.inf
    return found


@pytest.fixture(scope="module")
def waved(knots: NDArray[np.float32]) -> Waved:
    """Waves, steps and all else large enough to matter."""
    torch.manual_seed(0)
    model = Waved(SHAPE, knots)
    with torch.no_grad():
        model.head.weight *= 12
        model.feature_step *= 5
        model.wave_table *= 10
    return model.eval()


def test_what_is_baked_is_the_same_function(data: Dataset, waved: Waved) -> None:
    source = Source(data, waved.knots.numpy())
    chunk, _ = source.chunk(np.array([0, 100, 300]), 64)
    plain = waved.baked()
    assert type(plain) is Transformer
    assert set(plain.state_dict()) == set(Transformer(SHAPE, waved.knots.numpy()).state_dict())
    with torch.no_grad():
        ours, theirs = (torch.sigmoid(one.logit(one(chunk))) for one in (waved, plain))
        steps_alone = torch.sigmoid(plain.logit(_without_waves(waved)(chunk)))
    assert (ours - theirs).abs().max() < 1e-6
    assert (ours - steps_alone).abs().max() > 1e-2, "the waves are part of it"
    for one, other in zip(fold(waved), fold(plain), strict=True):
        assert np.array_equal(one, other)


def _without_waves(waved: Waved) -> Transformer:
    plain = Transformer(SHAPE, waved.knots.numpy()).eval()
    state = waved.state_dict()
    plain.load_state_dict({name: state[name] for name in plain.state_dict()})
    return plain


def test_baking_leaves_the_run_as_it_was(waved: Waved) -> None:
    """A judge bakes in the middle of a run: nothing is drawn, and no weight is shared."""
    before = torch.get_rng_state()
    held = {name: value.clone() for name, value in waved.state_dict().items()}
    with torch.no_grad():
        for one in waved.baked().parameters():
            one.fill_(7.0)
    assert torch.equal(torch.get_rng_state(), before)
    for name, value in waved.state_dict().items():
        assert torch.equal(value, held[name]), name


def test_unknown_has_no_wave_and_knots_that_are_not_there_are_finite(waved: Waved) -> None:
    with torch.no_grad():
        table, steps = waved.feature_table(), Transformer.feature_table(waved)
    assert torch.equal(table[:, 0], steps[:, 0])
    assert torch.isfinite(table).all()


def test_frequencies_do_not_decay(waved: Waved) -> None:
    """Drawn towards zero they would become a constant, whatever the data says."""
    groups = groups_of(waved, Recipe(decay=0.5))
    named = {id(one): group["weight_decay"] for group in groups for one in group["params"]}
    assert named[id(waved.frequency)] == 0
    assert named[id(waved.wave_table)] == 0.5
    assert waved.frequency.shape[1] == WAVES
