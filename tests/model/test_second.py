"""The second task moves the network by what was read, and leaves no trace in what is served."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from numpy.typing import NDArray

from model import finetune, loop, second
from model.bundle import weights_of
from model.data import Dataset
from model.errors import DatasetError
from model.loop import Recipe
from model.second import Second, Surprise
from model.teacher import labels_only
from tests.model import streams_of_words as made
from tests.model.streams_of_words import SMALL

ROWS = np.array([[0, 1, 2, 3], [4, 5, 5, 5]])
"""The second chunk ends with the stream."""


@pytest.fixture
def told() -> Surprise:
    columns = np.random.default_rng(0).normal(3, 2, (6, 2)).astype(np.float32)
    return Surprise(columns, np.array([True, True, False, True, True, True]))


def term(told: Surprise) -> float:
    torch.manual_seed(0)
    h = torch.randn(2, 4, 8)
    return Second(8, told)(h, ROWS).item()


def test_the_term_is_the_mean_over_the_events_that_were_read(told: Surprise) -> None:
    torch.manual_seed(0)
    h = torch.randn(2, 4, 8)
    one = Second(8, told)
    known = told.columns[told.rows].astype(np.float64)
    target = (told.columns - known.mean(0)) / known.std(0)
    said = one.head(h).detach().numpy()
    each = [
        np.mean([0.5 * x * x if abs(x) < 1 else abs(x) - 0.5 for x in said[at] - target[row]])
        for at, row in (((0, 0), 0), ((0, 1), 1), ((0, 3), 3), ((1, 0), 4), ((1, 1), 5))
    ]
    assert one(h, ROWS).item() == pytest.approx(second.WEIGHT * np.mean(each), rel=1e-5)


def test_units_do_not_count_nor_events_that_nobody_read(told: Surprise) -> None:
    base = term(told)
    assert term(replace(told, columns=told.columns * 100 + 7)) == pytest.approx(base, rel=1e-4)
    odd = told.columns.copy()
    odd[2] = 1e6
    assert term(replace(told, columns=odd)) == base
    odd[1] += 1
    assert term(replace(told, columns=odd)) != base


def test_columns_that_never_change_are_no_fault(told: Surprise) -> None:
    even = np.full_like(told.columns, 0.1)
    assert np.isfinite(term(replace(told, columns=even)))


def columns_of(whole: Dataset) -> NDArray[np.float32]:
    """What an event has to say: two of its features."""
    return np.array(whole.features[:, :2], np.float32)


def test_it_is_learnt_from_events_without_a_label_and_holds_on_others() -> None:
    whole = made.dataset(40, 120, plain=True)
    few, unseen = whole.place() % 16 == 0, whole.account >= 30
    lesson = labels_only(np.asarray(whole.label), few & ~unseen)
    model = finetune.start(whole, np.flatnonzero(lesson.chosen), SMALL, None, 0)
    task = Second(SMALL.width, Surprise(columns_of(whole), ~unseen))
    source = loop.Source(whole, model.knots.numpy())
    chunk, rows = source.chunk(np.flatnonzero(unseen)[::60], 60)

    def held_out() -> float:
        task.rows = unseen
        with torch.no_grad():
            found = task(model.eval()(chunk), rows).item()
        task.rows = ~unseen
        return float(found)

    before = held_out()
    recipe = Recipe(steps=100, chunk=32, batch=16, rate=1e-2, average=0.9)
    loop.train(model, source, lesson.chosen, finetune.lesson_loss(lesson, task), recipe, extra=task)
    assert held_out() < before / 2


def fitted(surprise: Surprise | None, path: Path | None = None) -> finetune.Fit:
    """Two updates."""
    whole = made.dataset(12, 60)
    chosen = finetune.Blocks(whole.account < 8, whole.account >= 8)
    recipe = Recipe(steps=2, chunk=16, batch=4)
    return finetune.fit(whole, chosen, SMALL, recipe, checkpoint=path, surprise=surprise)


def test_a_run_goes_on_with_the_same_surprise_only_and_serves_what_it_did(tmp_path: Path) -> None:
    whole, path = made.dataset(12, 60), tmp_path / "run.pt"
    told = Surprise(columns_of(whole), whole.account < 8)
    alone, once = fitted(None), fitted(told, path)
    assert (fitted(told, path).logit == once.logit).all() and (alone.logit != once.logit).any()
    sizes = [{k: v.shape for k, v in weights_of(one.model).items()} for one in (alone, once)]
    assert sizes[0] == sizes[1], "the bundle holds nothing of the second task"
    for other in (None, replace(told, columns=told.columns + 1)):
        with pytest.raises(DatasetError, match="of a run with"):
            fitted(other, path)
