"""One payment explained: which earlier cases are held beside it."""

from __future__ import annotations

import numpy as np
import pytest

from model import case
from model.score import Scorer
from tests.model import streams_of_words as made


def test_cases_are_the_newest_before_the_event_not_of_the_whole_stream(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """With more later cases than are searched, an early payment had none beside it."""
    monkeypatch.setattr(case, "MAX_CASES", 20)
    whole = made.dataset(12, 60)
    time, account = whole.time, np.asarray(whole.account)
    row = int(np.argsort(time)[len(whole) // 4])
    others = (time < time[row]) & (account != account[row])
    found = case.explain_row(Scorer(made.bundle(whole)), whole, row)["similar"]
    assert len(found) == 3
    for one in found:
        assert others[one["row"]]
        same = others & (whole.label == one["label"])
        assert time[one["row"]] >= np.sort(time[same])[-20:][0]
