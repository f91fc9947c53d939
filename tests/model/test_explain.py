"""A feature group taken away is away: neither features nor the event's own words tell it."""

from __future__ import annotations

import numpy as np
import pytest
from numpy.typing import NDArray

from model import bundle as bundles
from model import explain
from model.data import DAY_MS
from model.inputs import TIME_SHIFT, ScoringBatch
from model.score import Scorer

HOUR_MS = 3_600_000


@pytest.fixture(scope="module")
def scorer() -> Scorer:
    return Scorer.load(bundles.shipped())


def golden(scorer: Scorer, copies: int) -> ScoringBatch:
    """One payment with a long past, `copies` times."""
    assert scorer.bundle.golden is not None
    one = explain.batch_row(scorer.bundle.golden, int(np.argmax(scorer.bundle.golden.length)))
    return ScoringBatch(
        np.repeat(one.current, copies, 0),
        np.repeat(one.history, copies, 0),
        np.repeat(one.length, copies, 0),
        np.repeat(one.features, copies, 0),
    )


def times(words: NDArray[np.uint64]) -> NDArray[np.int64]:
    return (words >> np.uint64(TIME_SHIFT)).astype(np.int64)


def at(words: NDArray[np.uint64], time: NDArray[np.int64]) -> NDArray[np.uint64]:
    low = words & np.uint64((1 << TIME_SHIFT) - 1)
    return np.asarray((time.astype(np.uint64) << np.uint64(TIME_SHIFT)) | low)


def test_what_a_group_adds_is_the_score_without_it(
    scorer: Scorer, monkeypatch: pytest.MonkeyPatch
) -> None:
    """And all scores of the alerts are asked for at once: on a GPU a call costs more than a row."""
    assert scorer.bundle.golden is not None
    batch, calls, ask = scorer.bundle.golden, list[int](), scorer.logits

    def logits(rows: ScoringBatch) -> NDArray[np.float32]:
        calls.append(len(rows))
        return ask(rows)

    monkeypatch.setattr(scorer, "logits", logits)
    told = explain.contributions(scorer, batch)
    assert len(calls) == 1
    base = ask(batch).astype(np.float64)
    for group in explain.groups_of(scorer):
        less = ask(explain.without(scorer, batch, group)).astype(np.float64)
        assert [one[group] for one in told] == (base - less).tolist()


@pytest.mark.parametrize("past", [False, True])
def test_without_the_clock_no_hour_is_read(scorer: Scorer, past: bool) -> None:
    """The same account, an hour later each time, scores the same once the clock is taken away."""
    batch, names = golden(scorer, 168), scorer.bundle.names
    later = np.arange(168)[:, None] * HOUR_MS
    batch.current[:, :1] = at(batch.current[:, :1], times(batch.current[:, :1]) + later)
    batch.history[:, :, 0] = at(batch.history[:, :, 0], times(batch.history[:, :, 0]) + later)
    time = times(batch.current[:, 0])
    batch.features[:, names.index("hour")] = time // HOUR_MS % 24
    batch.features[:, names.index("weekday")] = (time // DAY_MS + 3) % 7
    if not past:
        batch.length[:] = 0
    assert np.ptp(scorer.logits(batch)) > 0.01
    less = explain.without(scorer, batch, "clock")
    assert np.ptp(scorer.logits(less)) == 0
    gone = times(less.current[:, :1]) - times(less.history[:, :, 0])
    assert (gone == times(batch.current[:, :1]) - times(batch.history[:, :, 0])).all()
    usual = dict(zip(names, scorer.bundle.usual.tolist(), strict=True))
    when = times(less.current[:, 0])
    assert (when // HOUR_MS % 24 == round(usual["hour"])).all()
    assert ((when // DAY_MS + 3) % 7 == round(usual["weekday"])).all()


def test_without_the_tempo_no_gap_is_read(scorer: Scorer) -> None:
    """The same past, longer ago each time, scores the same once the tempo is taken away."""
    batch, names = golden(scorer, 24), scorer.bundle.names
    gaps = (2.0 ** np.linspace(7, 30, 24)).astype(np.int64)[:, None]
    old = times(batch.history[:, :, 0])
    moved = times(batch.current[:, :1]) - gaps + old - old[:, -1:]
    batch.history[:, :, 0] = at(batch.history[:, :, 0], moved)
    batch.features[:, names.index("since_last_s")] = gaps[:, 0] / 1_000
    assert np.ptp(scorer.logits(batch)) > 0.01
    less = explain.without(scorer, batch, "tempo")
    assert np.ptp(scorer.logits(less)) == 0
    assert (less.current == batch.current).all()
    usual = dict(zip(names, scorer.bundle.usual.tolist(), strict=True))["since_last_s"]
    gap = times(less.current[:, 0]) - times(less.history[:, -1, 0])
    assert (gap == round(usual * 1_000)).all()


@pytest.mark.parametrize(
    ("group", "gone"),
    [
        ("amount", {1: ((1 << 50) - 1) << 14}),
        ("kind", {0: (1 << 20) - 1, 1: (1 << 14) - 1}),
        ("place", {3: ((1 << 10) - 1) << 22}),
        ("novelty", {3: ((1 << 32) - 1) << 32 | (1 << 22) - 1}),
        ("velocity", {}),
    ],
)
def test_a_group_leaves_its_own_bits_of_the_event_and_no_others(
    scorer: Scorer, group: str, gone: dict[int, int]
) -> None:
    """The amount becomes what is usual, the others "not given"; the past stays as it was."""
    batch = scorer.bundle.golden
    assert batch is not None
    less = explain.without(scorer, batch, group)
    usual = dict(zip(scorer.bundle.names, scorer.bundle.usual.tolist(), strict=True))["amount"]
    for word in range(4):
        bits = np.uint64(gone.get(word, 0))
        assert (batch.current[:, word] & bits).any() or not bits
        left = np.uint64(int(usual) << 14 if group == "amount" and bits else 0)
        assert (less.current[:, word] == (batch.current[:, word] & ~bits | left)).all()
    assert (less.history == batch.history).all() and (less.length == batch.length).all()
    own = np.array([one == group for one in scorer.bundle.groups])
    assert (less.features[:, ~own] == batch.features[:, ~own]).all()
    assert (less.features[:, own] == scorer.bundle.usual[own]).all()
