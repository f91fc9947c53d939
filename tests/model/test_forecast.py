"""What a plan tells of a run, held against what the run does. No test here looks at a clock."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from model import finetune, forecast, loop, unlabelled
from model.errors import DatasetError
from model.forecast import Job, Reading
from model.loop import Recipe
from model.pretrain import pretrain
from model.pretrained import to_bundle
from tests.model import streams_of_words as made
from tests.model.streams_of_words import SMALL


def second(work: Callable[[], object]) -> float:
    """In place of a clock."""
    work()
    return 1.0


@pytest.mark.parametrize(("steps", "every"), [(7, 3), (6, 3), (4, 0), (12, 0)])
def test_judging_is_counted_as_often_as_it_happens(
    steps: int, every: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    whole = made.dataset(12, 60)
    chosen = finetune.Blocks(whole.account < 8, whole.account >= 8)
    passes: list[int] = []
    real = finetune.logits_of

    def counted(model: Any, dataset: Any, rows: Any) -> Any:
        passes.append(len(rows))
        return real(model, dataset, rows)

    monkeypatch.setattr(finetune, "logits_of", counted)
    recipe = Recipe(steps=steps, every=every, chunk=8, batch=1)
    finetune.fit(whole, chosen, SMALL, recipe)
    assert passes == [int(chosen.judge.sum())] * (loop.evaluations(recipe) + 1)


@given(st.integers(1, 60), st.integers(0, 9), st.integers(0, 60))
def test_what_is_left_of_a_run_is_judged_as_often_as_it_happens(
    steps: int, every: int, done: int
) -> None:
    """A run that had ended and is to be longer now may go on from between two judgings."""
    recipe = Recipe(steps=steps, every=every)
    at = every or max(steps // 10, 1)
    left = [step for step in range(done + 1, steps + 1) if step % at == 0 or step == steps]
    assert loop.evaluations(recipe, done) == len(left)


def test_of_a_run_that_is_gone_on_with_only_what_is_left_takes_time(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    whole = made.dataset(12, 60)
    chosen = finetune.Blocks(whole.account < 8, whole.account >= 8)
    path, passes = tmp_path / "run.pt", list[int]()
    recipe = Recipe(steps=12, every=5, chunk=8, batch=1)

    def stop(step: int, _: object) -> None:
        if step == 6:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        finetune.fit(
            whole, chosen, SMALL, recipe, checkpoint=path.with_name("run.pt.0"), watch=stop
        )
    done = finetune.steps_done(path, 0, 2, teach=True)
    assert done == (5, 0, 0, 0), "the labels alone of two seeds, then taught"
    assert finetune.steps_done(None, 0, 2, teach=False) == (0, 0)
    monkeypatch.setattr(forecast, "_took", second)
    left = forecast.forecast(whole, SMALL, recipe, job=Job(done, 10))
    fresh = forecast.forecast(whole, SMALL, recipe, job=Job((0, 0, 0, 0), 10))
    assert left.updates_s == pytest.approx(fresh.updates_s * (48 - 5) / 48)
    real = finetune.logits_of

    def counted(model: Any, dataset: Any, rows: Any) -> Any:
        passes.append(len(rows))
        return real(model, dataset, rows)

    monkeypatch.setattr(finetune, "logits_of", counted)
    finetune.fit(whole, chosen, SMALL, recipe, checkpoint=path.with_name("run.pt.0"))
    assert fresh.judging_s - left.judging_s == 1
    assert len(passes) == fresh.judging_s / 4 - 1
    path.with_name("run.pt.0").write_bytes(b"no checkpoint")
    with pytest.raises(DatasetError, match=r"run\.pt\.0 does not fit"):
        finetune.steps_done(path, 0, 1, teach=False)


def test_every_part_of_a_run_is_in_its_plan(monkeypatch: pytest.MonkeyPatch) -> None:
    whole = made.dataset(12, 60)

    monkeypatch.setattr(forecast, "_took", second)
    monkeypatch.setattr(forecast, "_held_mb", lambda: 500)
    recipe = Recipe(steps=10, chunk=8, batch=forecast.CHUNKS)
    labelled = np.arange(len(whole))
    bare = forecast.forecast(whole, SMALL, recipe)
    assert (bare.updates_s, bare.judging_s, bare.trees_s) == (20.0, 0.0, 0.0)
    told = forecast.forecast(whole, SMALL, recipe, job=Job((0, 0), 100, labelled, 5))
    assert told.updates_s == 2 * bare.updates_s
    assert told.judging_s == 2 * (10 + 1)
    assert told.seconds == told.updates_s + told.judging_s + told.trees_s
    assert told.trees_s > 0 and told.reading_s == 0
    pretrained = pretrain(whole, whole.account < 8, SMALL, Recipe(steps=1, chunk=8, batch=1))
    reads = to_bundle(whole, pretrained, "base", whole.names)
    job = Job((0, 0), 100, labelled, 5, reading=Reading(reads, whole.account < 3))
    read = forecast.forecast(whole, SMALL, recipe, job=job)
    assert read.trees_s == told.trees_s and read.reading_s == pytest.approx(0.25)
    assert read.seconds == told.seconds + read.reading_s
    untaught = replace(job, labelled=None, others=0)
    assert forecast.forecast(whole, SMALL, recipe, job=untaught).reading_s == read.reading_s
    assert read.training_mb - told.training_mb >= 13 * forecast.HISTOGRAM_BYTES // 1_000_000 > 0
    beside = unlabelled.columns(reads, whole, labelled >= 0)
    assert beside.shape[1] == 13
    each = forecast.HISTOGRAM_BYTES + forecast.BINNED_BYTES * len(labelled)
    with_it, without = (
        forecast._added_bytes(whole, Job((0, 0), 100, labelled, 5, reading=one))
        for one in (job.reading, None)
    )
    assert with_it - without == 13 * each + 2 * beside.nbytes, "read, and what a fit is to tell"
    trees_mb = told.training_mb - bare.training_mb
    assert trees_mb >= len(whole.names) * forecast.HISTOGRAM_BYTES // 1_000_000 > 0
    assert bare.training_mb >= 500
    large = replace(
        whole, **{n: np.concatenate([getattr(whole, n)] * 200) for n in forecast.ARRAYS}
    )
    added = forecast.forecast(large, SMALL, recipe).training_mb - bare.training_mb
    assert added >= len(large) * 20 // 1_000_000 > 0
