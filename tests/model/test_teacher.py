"""The teacher: what it may see, what it tells, and that a network learns more with it."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import numpy as np
import pytest
import torch

from model import baseline, finetune, loop, metrics, teacher
from model.errors import DatasetError
from model.loop import Recipe, Source
from model.transformer import Chunk
from tests.model import streams_of_words as made
from tests.model.streams_of_words import SMALL

FEW = {"rounds": 60, "learning_rate": 0.1, "min_data_in_leaf": 10}


def test_the_teacher_sees_no_label_but_those_of_the_fit() -> None:
    whole = made.dataset(12, 150)
    rows = whole.account < 6
    flipped = replace(whole, label=np.where(rows, whole.label, 1 - whole.label).astype(np.int8))
    found = [teacher.lesson(one, rows, ~rows, bags=1, trees=FEW) for one in (whole, flipped)]
    assert (found[0].target == found[1].target).all()
    assert (found[0].target[rows] == whole.label[rows]).all()
    told = found[0].target[~rows]
    assert ((told > 0) & (told < 1)).all()
    assert metrics.roc_auc(whole.label[~rows], told.astype(float)) > 0.8
    assert (found[0].weight > 0).all()


def test_a_row_is_labelled_or_taught_and_some_are_taught() -> None:
    whole = made.dataset(6, 60)
    rows = whole.account < 3
    with pytest.raises(DatasetError, match="both"):
        teacher.lesson(whole, rows, whole.account < 4)
    with pytest.raises(DatasetError, match="without labels"):
        teacher.lesson(whole, rows, np.zeros(len(whole), bool))


def test_what_is_taught_lies_before_the_fit_and_outside_both_blocks() -> None:
    whole = made.dataset(12, 150)
    cut = int(np.quantile(whole.time, 0.9))
    plan = finetune.Plan.newest(whole, cut, 10, 5 * made.DAY_MS)
    chosen = finetune.blocks(whole, plan)
    others = teacher.unlabelled(whole, chosen.fit, chosen.judge, cut)
    assert others.any()
    assert not (others & (chosen.fit | chosen.judge)).any()
    assert whole.time[others].max() < cut


def test_what_softens_a_label_never_saw_it() -> None:
    whole = made.dataset(12, 150)
    rows = whole.account < 8
    one = int(np.flatnonzero(rows)[3])
    label = np.array(whole.label)
    label[one] = 1 - label[one]
    flipped = replace(whole, label=label)
    before, after = (teacher.softened(each, rows, 0.7, trees=FEW) for each in (whole, flipped))
    assert abs(after.target[one] - before.target[one]) == pytest.approx(0.3)
    assert not before.target[~rows].any() and not before.weight[~rows].any()
    moved = before.target[rows] - 0.3 * whole.label[rows]
    assert metrics.roc_auc(whole.label[rows], moved.astype(float)) > 0.8


def test_trees_see_what_is_given_beside_the_features() -> None:
    """For both: events without a label, and labels that are softened."""
    whole = made.dataset(12, 150)
    rows = whole.account < 8
    hidden = np.random.default_rng(0).integers(0, 2, len(whole))
    odd = replace(whole, label=hidden.astype(np.int8))  # no feature tells of it
    beside = hidden[:, None].astype(np.float32)
    for given, found in ((None, False), (beside, True)):
        told = teacher.lesson(odd, rows, ~rows, mix=1.0, bags=1, trees=FEW, beside=given).target
        for some in (rows, ~rows):
            assert (metrics.roc_auc(hidden[some], told[some].astype(float)) > 0.9) is found


def test_threads_grow_the_same_trees_and_all_of_them(monkeypatch: pytest.MonkeyPatch) -> None:
    whole = made.dataset(12, 60)
    rows = whole.account < 8
    asked: list[int] = []
    grow = baseline.lightgbm

    def counted(*given: Any, threads: int, **other: Any) -> Any:
        asked.append(threads)
        return grow(*given, threads=threads, **{**other, "rounds": 20})

    monkeypatch.setattr(baseline, "lightgbm", counted)
    told: list[str] = []
    one, two = (
        teacher.lesson(whole, rows, ~rows, threads=n, mix=0.9, tell=told.append) for n in (1, 2)
    )
    assert (one.target == two.target).all()
    fits = teacher.SOFT_FOLDS + teacher.BAGS
    assert asked == [1] * fits + [2] * fits
    assert len(told) == 2 * fits, "whoever waits is told after each"


@pytest.mark.parametrize("taught", [False, True])
def test_the_work_that_a_plan_tells_is_done(taught: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    whole = made.dataset(8, 60)
    rows = whole.account < 4
    others = ~rows & taught
    done = np.zeros(3, int)

    class Trees:
        def __init__(self, rounds: int) -> None:
            self.rounds = rounds

        def predict(self, x: Any, raw_score: bool) -> Any:
            done[2] += len(x) * self.rounds
            return np.zeros(len(x))

    def grow(x: Any, y: Any, rounds: int, **other: Any) -> Trees:
        done[:2] += len(x), len(x) * rounds
        return Trees(rounds)

    monkeypatch.setattr(baseline, "lightgbm", grow)
    teacher.lesson(whole, rows, others, mix=0.9)
    assert tuple(done) == teacher.work(int(rows.sum()), int(others.sum()))


def test_what_is_told_is_the_mean_of_the_log_odds_row_by_row(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """In whatever blocks the rows are told; a row that is neither counts for nothing."""
    whole = made.dataset(8, 60)
    rows, others = whole.account < 3, whole.account > 4
    seeds: list[int] = []

    class Trees:
        def __init__(self, seed: int) -> None:
            self.seed = seed

        def predict(self, x: Any, raw_score: bool) -> Any:
            assert raw_score
            return x[:, 0] * self.seed

    def grow(x: Any, y: Any, seed: int, **other: Any) -> Trees:
        assert (x == whole.features[rows]).all() and (y == whole.label[rows]).all()
        seeds.append(seed)
        return Trees(seed)

    monkeypatch.setattr(baseline, "lightgbm", grow)
    monkeypatch.setattr(teacher, "BLOCK", 7)
    found = teacher.lesson(whole, rows, others, seed=4, bags=3)
    assert seeds == [4, 5, 6], "other samples"
    logit = whole.features[:, 0].astype(float) * 5
    said = np.where(rows, whole.label, 1 / (1 + np.exp(-logit)))
    assert found.target[rows | others] == pytest.approx(said[rows | others], abs=1e-6)
    assert (found.weight == np.where(rows, teacher.LABEL_WEIGHT, np.where(others, 1, 0))).all()
    assert (found.chosen == (rows | others)).all()


class Fixed(torch.nn.Module):
    """A model that answers what it is told to."""

    def __init__(self, logit: torch.Tensor) -> None:
        super().__init__()
        self.said = logit

    def forward(self, chunk: Chunk | None) -> torch.Tensor:
        return self.said

    def logit(self, h: torch.Tensor) -> torch.Tensor:
        return h


def test_the_loss_is_the_weighted_sum_that_it_says() -> None:
    lesson = teacher.Lesson(
        target=np.array([1.0, 0.2, 0.5], np.float32),
        weight=np.array([3.0, 1.0, 0.0], np.float32),
    )
    said = torch.tensor([[0.3, -0.7, 2.0, 2.0]])
    rows = np.array([[0, 1, 2, 2]])
    found = finetune.lesson_loss(lesson)(Fixed(said), None, rows)  # type: ignore[arg-type]
    labelled = 3 * np.log1p(np.exp(-0.3))
    told = 0.2 * np.log1p(np.exp(0.7)) + 0.8 * np.log1p(np.exp(-0.7))
    assert float(found) == pytest.approx((labelled + told) / (2.0 * 2), rel=1e-5)


def test_rows_dealt_by_days_are_told_by_trees_of_other_days() -> None:
    whole = made.dataset(12, 150)
    rows = whole.account < 8
    block = whole.time // (7 * made.DAY_MS) % 2
    flipped = replace(
        whole, label=np.where(block == 0, whole.label, 1 - whole.label).astype(np.int8)
    )
    before, after = (
        teacher.softened(each, rows, 1.0, folds=2, trees=FEW, days=7) for each in (whole, flipped)
    )
    odd, even = rows & (block == 1), rows & (block == 0)
    assert (before.target[odd] == after.target[odd]).all()
    assert (before.target[even] != after.target[even]).any()


def test_a_network_repeats_its_teacher_where_nobody_labelled() -> None:
    """On accounts that neither of them saw; without a teacher it would say something else."""
    whole = made.dataset(40, 120, plain=True)
    rows, others = whole.account < 8, (whole.account >= 8) & (whole.account < 30)
    lesson = teacher.lesson(whole, rows, whole.account >= 8, bags=1, trees=FEW)
    unseen = np.flatnonzero(whole.account >= 30)
    told = np.log(lesson.target[unseen] / (1 - lesson.target[unseen]))
    taught = teacher.Lesson(lesson.target, np.where(rows | others, lesson.weight, 0))
    recipe = Recipe(steps=60, chunk=32, batch=16, rate=1e-2, average=0.9)
    alike = []
    for one in (teacher.labels_only(whole.label, rows), taught):
        model = finetune.start(whole, np.flatnonzero(rows), SMALL, None, 0)
        source = Source(whole, model.knots.numpy())
        loop.train(model, source, one.chosen, finetune.lesson_loss(one), recipe)
        alike.append(float(np.corrcoef(finetune.logits_of(model, whole, unseen), told)[0, 1]))
    assert alike[1] > alike[0] + 0.2, alike
