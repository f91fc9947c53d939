"""One payment explained: which earlier cases are held beside it."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch
from numpy.typing import NDArray

from model import case
from model.data import gather
from model.device import DeviceScorer
from model.fold import fold
from model.inputs import HISTORY
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


def test_what_an_event_looked_at_is_the_mean_of_all_heads_and_layers(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """As torch weighs it; of an account's first event it is nothing."""
    whole = made.dataset(4, 90)
    scorer = Scorer(made.bundle(whole))
    batch = gather(whole, whole.place(), np.arange(85, 100))
    assert set(batch.length.tolist()) > {0, HISTORY}
    weighed, softmax = list[NDArray[np.float32]](), torch.softmax

    def noted(*given: Any) -> torch.Tensor:
        found = softmax(*given)
        weighed.append(found[..., :-1].mean(1).numpy())
        return found

    monkeypatch.setattr(torch, "softmax", noted)
    logits = np.empty(len(batch), np.float32)
    DeviceScorer(fold(scorer.bundle.model()), "cpu", len(batch)).score(batch, logits)
    found = scorer.attention(batch)
    assert len(weighed) == scorer.bundle.shape.layers
    assert found == pytest.approx(np.mean(weighed, 0), abs=1e-5)
    assert (found.sum(1) > 0).tolist() == (batch.length > 0).tolist()
