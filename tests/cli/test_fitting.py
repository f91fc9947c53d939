"""Which days a fit is made on, as the flags have it."""

from __future__ import annotations

import pytest

from model.errors import DatasetError
from model.finetune import MIN_FRAUDS
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
