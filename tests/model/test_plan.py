"""Which rows a fit of a moment may learn from and is judged by, held against slow words for it."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
from hypothesis import assume, given
from hypothesis import strategies as st

from model import bundle as bundles
from model import finetune
from model.data import DAY_MS, Dataset
from model.errors import DatasetError
from model.finetune import MIN_FRAUDS, Plan
from model.inputs import TIME_SHIFT
from tests.model import streams_of_words as made

N = 160
BASE = made.dataset(1, N)


def stream(seed: int, apart: int) -> Dataset:
    """Events `apart` ms from one another at most, many at one moment; labels known at once, after
    as long, or never."""
    rng = np.random.default_rng(seed)
    time = np.sort(made.START_MS + rng.integers(0, 40, N) * apart)
    label = rng.choice([-1, 0, 1, 1], N).astype(np.int8)
    words = np.array(BASE.words)
    low = words[:, 0] & np.uint64((1 << TIME_SHIFT) - 1)
    words[:, 0] = (time.astype(np.uint64) << np.uint64(TIME_SHIFT)) | low
    when = np.where(label < 0, -1, time + rng.integers(0, 4, N) * apart)
    return replace(BASE, words=words, label=label, label_time=when)


streams = st.tuples(st.integers(0, 2**16), st.sampled_from([DAY_MS // 7, DAY_MS // 2, DAY_MS]))


@given(streams, st.integers(2, 44), st.integers(0, 3), st.sampled_from([0, 1, 2.5]))
def test_a_plan_judges_by_the_newest_days_that_silence_has_settled(
    given: tuple[int, int], moment: int, wait: int, days: float
) -> None:
    """Whatever was known by then, and no more: events and labels that fall on the very moment of
    the fit, or of the end of the wait, are too late by one."""
    whole, apart = stream(*given), given[1]
    cut, wait = made.START_MS + moment * apart, wait * apart
    rows = list(zip(whole.time.tolist(), whole.label, whole.label_time, strict=True))
    settled = [t for t, y, when in rows if y == 0 and when < cut and t < cut - wait]
    if not settled:
        with pytest.raises(DatasetError, match="no event was known to be legitimate"):
            Plan.newest(whole, cut, days, wait)
        return
    plan = Plan.newest(whole, cut, days, wait)
    end = max(settled) + 1
    middle = end - int(days * DAY_MS)
    assert plan == Plan(min(t for t, *_ in rows), middle, middle, end, cut)


@given(streams, st.integers(0, 40), st.integers(0, 40), st.integers(1, 44))
def test_blocks_hold_what_was_known_and_each_row_of_their_days(
    given: tuple[int, int], middle: int, end: int, moment: int
) -> None:
    """From the first moment of each on, up to the last exclusive."""
    whole, apart = stream(*given), given[1]
    first, mid, last, cut = (made.START_MS + k * apart for k in (3, middle, end, moment))
    plan = Plan(first, mid, mid, last, cut)
    known = [y >= 0 and when < cut for y, when in zip(whole.label, whole.label_time, strict=True)]
    wanted = [
        np.array([k and low <= t < high for k, t in zip(known, whole.time, strict=True)])
        for low, high in ((first, mid), (mid, last))
    ]
    frauds = [int((whole.label[rows] == 1).sum()) for rows in wanted]
    for count, name in zip(frauds, ("training", "judging"), strict=True):
        if count < MIN_FRAUDS:
            with pytest.raises(DatasetError, match=f"the {name} block has {count} known frauds"):
                finetune.blocks(whole, plan)
            return
    found = finetune.blocks(whole, plan)
    assert (found.fit == wanted[0]).all() and (found.judge == wanted[1]).all()


def widened_slowly(plan: Plan, frauds: list[int]) -> Plan:
    """By whole days, else to the fraud that makes them enough; never to leave too few to learn."""

    def count(low: int, high: int) -> int:
        return sum(low <= t < high for t in frauds)

    if count(plan.train_from, plan.judge_to) < MIN_FRAUDS:
        return plan
    start = plan.judge_from
    while count(max(start, plan.train_from), plan.judge_to) < MIN_FRAUDS:
        start -= DAY_MS
    held = sorted(t for t in frauds if plan.train_from <= t < plan.judge_to)
    for back in (start, held[-MIN_FRAUDS]) if start < plan.judge_from else ():
        if count(plan.train_from, back) >= MIN_FRAUDS:
            return replace(plan, train_to=back, judge_from=back)
    return plan


@given(streams, st.integers(0, 40), st.integers(1, 44))
def test_a_judging_block_goes_back_no_further_than_it_must(
    given: tuple[int, int], middle: int, moment: int
) -> None:
    whole, apart = stream(*given), given[1]
    first, mid, end, cut = (made.START_MS + k * apart for k in (1, middle, 36, moment))
    plan = Plan(first, mid, mid, end, cut)
    frauds = whole.time[(whole.label == 1) & (whole.label_time < cut)].tolist()
    assert finetune.widened(whole, plan) == widened_slowly(plan, frauds)


@given(streams, st.integers(18, 22), st.integers(38, 42), st.sampled_from([-2 * DAY_MS, -1, 0, 1]))
def test_a_judging_block_goes_back_where_frauds_are_just_enough(
    given: tuple[int, int], judged: int, held: int, off: int
) -> None:
    whole = stream(*given)
    end = int(whole.time.max()) + 1
    cut = end + 10 * DAY_MS
    times = whole.time[whole.label == 1].tolist()
    assume(len(times) > held)
    first, mid = times[-held], times[-judged] + off
    plan = Plan(first, mid, mid, end, cut)
    assert finetune.widened(whole, plan) == widened_slowly(plan, times)


@pytest.mark.parametrize("less", ["", "training", "judging"])
def test_so_many_frauds_are_enough_and_one_less_is_not(less: str) -> None:
    label = np.zeros(N, np.int8)
    label[: MIN_FRAUDS - (less == "training")] = 1
    label[N - MIN_FRAUDS + (less == "judging") :] = 1
    whole = replace(BASE, label=label)
    middle, end = int(whole.time[N // 2]), int(whole.time[-1]) + 1
    plan = Plan(int(whole.time[0]), middle, middle, end, end + 10 * DAY_MS)
    if less:
        with pytest.raises(DatasetError, match=f"the {less} block has {MIN_FRAUDS - 1} known"):
            finetune.blocks(whole, plan)
    else:
        assert (finetune.blocks(whole, plan).fit == (np.arange(N) < N // 2)).all()


def test_labels_that_are_all_legitimate_make_a_plan() -> None:
    whole = replace(BASE, label=np.zeros(N, np.int8), label_time=BASE.time)
    assert Plan.newest(whole, judge_days=1).judge_to == int(whole.time[-1]) + 1


def test_a_set_without_any_label_is_told_so() -> None:
    whole = replace(BASE, label=np.full(N, -1, np.int8))
    with pytest.raises(DatasetError, match="no row of the training set has a label"):
        Plan.newest(whole)


def test_what_a_bundle_has_seen_is_read_from_what_it_tells() -> None:
    """The time that it tells, else the moment of its fit; of an odd one, nothing is known."""
    plan = Plan(1, 2, 3, 4, 5)
    told = dict(plan.__dict__)
    bundle = bundles.read(bundles.shipped())

    def until(**about: object) -> int:
        return finetune.learnt_until(replace(bundle, about=about))

    assert finetune.learnt_until(None) == until() == 0
    assert until(plan=told) == 5
    assert until(plan=told, learnt_until=7) == 7
    assert finetune.plan_in({"plan": told}) == plan
    for odd in (None, 5, "soon", [1], {"train_from": 1}, {**told, "cut_ms": "soon"},
                {**told, "more": 1}, {**told, "cut_ms": float("inf")}):  # fmt: skip
        assert finetune.plan_in({"plan": odd}) is None
        assert until(plan=odd) == 0
