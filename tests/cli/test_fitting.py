"""Which days a fit is made on and how long, as the flags have it."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import numpy as np
import pytest

from model import data, finetune
from model.errors import DatasetError
from model.finetune import MIN_FRAUDS, Blocks
from streams.cli import fitting
from streams.cli.fitting import fit_plan
from tests.model import streams_of_words as made


def test_judging_days_that_nobody_asked_for_widen_where_frauds_are_few(
    capsys: pytest.CaptureFixture[str],
) -> None:
    whole = made.dataset(12, 150)
    _, plan, chosen = fit_plan(whole, None, 0.0, None, 0.0, 0.5)
    assert plan.judge_to - plan.judge_from > made.DAY_MS
    assert (whole.label[chosen.judge] == 1).sum() >= MIN_FRAUDS
    assert "few frauds: the newest" in capsys.readouterr().err
    with pytest.raises(DatasetError, match=r"judge by more days \(--judge-days\)"):
        fit_plan(whole, None, 0.0, 0.5, 0.0, 0.5)


def test_a_stream_of_hours_widens_by_less_than_a_day() -> None:
    """A whole day back would leave too few to fit on."""
    whole = made.dataset(12, 150)
    end = int(whole.time.max()) + 1
    frauds = np.sort(whole.time[whole.label == 1])
    late = int(frauds[-MIN_FRAUDS]) + 1
    assert (frauds >= late - made.DAY_MS).sum() > MIN_FRAUDS
    plan = finetune.Plan(int(frauds[-2 * MIN_FRAUDS]), late, late, end, end + 10 * made.DAY_MS)
    chosen = finetune.blocks(whole, finetune.widened(whole, plan))
    found = [(whole.label[part] == 1).sum() for part in (chosen.fit, chosen.judge)]
    assert found == [MIN_FRAUDS, MIN_FRAUDS]


def test_a_set_that_lacks_a_kind_is_told_so_before_any_day_is_tried(
    capsys: pytest.CaptureFixture[str],
) -> None:
    """Three times other days were tried, and the last error spoke of days, too."""
    whole = made.dataset(12, 150)
    frauds = replace(whole, label=np.ones(len(whole), np.int8))
    with pytest.raises(DatasetError, match=r"no event is known to be legitimate, 1,?800 are"):
        fit_plan(frauds, None, None, None, 14.0, 0.5)
    clean = replace(whole, label=np.zeros(len(whole), np.int8))
    with pytest.raises(DatasetError, match=r"has 0 known frauds, 40 are needed.*--labels FILE"):
        fit_plan(clean, None, None, None, 14.0, 0.5)
    assert capsys.readouterr().err == ""


def test_what_is_done_instead_comes_with_its_reason_alone(
    capsys: pytest.CaptureFixture[str],
) -> None:
    """Its remedy would undo what was done instead."""
    fit_plan(made.dataset(12, 150), None, None, None, 0.0, 40.0)
    said = capsys.readouterr().err
    assert "no days are left for a test, all labels are used: " in said
    assert "--" not in said


def test_days_that_are_yet_to_come_are_not_learnt(capsys: pytest.CaptureFixture[str]) -> None:
    """Every later test of such a bundle was said to flatter it, and what was not yet due was told
    by `evaluate` alone."""
    whole = made.dataset(12, 150)
    fraud, wait = whole.label == 1, 14.0
    silent = whole.time + int(wait) * made.DAY_MS
    whole = replace(whole, label_time=np.where(fraud, whole.label_time, silent))
    newest = int(whole.time.max()) + 1
    far = newest + 400 * made.DAY_MS
    assert fitting.seen_until(whole, far) == newest
    assert fitting.seen_until(whole, newest - 5) == newest - 5
    _, plan, chosen = fit_plan(whole, far, None, None, wait, 0.5)
    assert plan.cut_ms == far
    assert fitting.learnt_until(whole, plan, None) == data.now(whole) < far
    learnt = chosen.fit | chosen.judge
    early = int((learnt & ~fraud & (silent >= data.now(whole))).sum())
    said = capsys.readouterr().err
    assert f"note: {early:,} of {learnt.sum():,} events of the fit have no label" in said
    fit_plan(whole, data.now(whole) - 1, None, None, 0.0, 0.5)
    assert "note: " not in capsys.readouterr().err


def test_of_several_processes_the_first_tells_what_is_done_instead(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Each told it, before they had met."""
    told = []
    for rank in ("0", "1"):
        monkeypatch.setenv("RANK", rank)
        fit_plan(made.dataset(12, 150), None, 0.0, None, 0.0, 0.5)
        fit_plan(made.dataset(12, 150), None, None, None, 0.0, 40.0)
        told.append(capsys.readouterr().err)
    assert "few frauds" in told[0] and "no days are left" in told[0]
    assert told[1] == ""


def test_updates_follow_the_events_that_are_learnt_from() -> None:
    """Six passes in updates of 4,096 events, those that trees answer among them."""

    def blocks(fit: int) -> Blocks:
        mask = np.arange(1_000_000) < fit
        return Blocks(fit=mask, judge=~mask)

    def steps(chosen: Blocks, others: Any = None) -> int:
        return fitting.recipe_of(chosen, others, None, 0, False).steps

    assert steps(blocks(600_000)) == 879
    assert steps(blocks(600_000), np.arange(1_000_000) >= 900_000) == 1_026
    assert steps(blocks(5_000)) == fitting.MIN_STEPS
