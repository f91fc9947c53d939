"""The teacher's columns: right by a slow count, and blind to what comes after."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import numpy as np
import pytest

from model import derived
from model.data import Dataset
from tests.model import streams_of_words as made

NAMES = ("amount", "lifetime_mean", "mean_7d", *(
    f"terminal_{d}d_{what}" for d in (1, 7, 30) for what in ("transactions", "frauds")
))  # fmt: skip


def stream() -> Dataset:
    whole = made.dataset(4, 150)
    rng = np.random.default_rng(5)
    x = np.asarray(whole.features[:, : len(NAMES)]).copy()
    x[:, :3] = rng.integers(1, 900, (len(x), 3))
    counts = np.sort(rng.integers(0, 30, (len(x), 3)), axis=1)
    x[:, 3::2], x[:, 4::2] = counts, counts // 3
    x[::7, 3:] = -1
    return replace(whole, features=x, names=NAMES)


def slowly(whole: Dataset, i: int) -> list[float]:
    """The same of one row's past, by lists."""
    place = int(whole.place()[i])
    past = [i - r for r in range(1, min(place, 64) + 1)]
    if len(past) < derived.FEWEST:
        return [-1.0] * derived.PAST
    amount = (whole.words[:, 1] >> np.uint64(14)).astype(float)
    usual = max(sorted(amount[past])[len(past) // 2], 1.0)
    age = {j: (whole.time[i] - whole.time[j]) / made.DAY_MS for j in past}
    high = [j for j in past if amount[j] > derived.HIGH * usual]
    within = {d: [j for j in past if age[j] < d] for d in derived.DAYS}
    excess = [max(min(amount[j] / usual, 10.0) - 2.0, 0.0) for j in within[14]]
    found = [
        amount[i] / usual,
        age[high[0]] if high else -1.0,
        float(np.mean(excess)) if excess else -1.0,
    ]
    for d in derived.DAYS:
        count = len(set(high) & set(within[d]))
        found += [float(count), count / len(within[d]) if within[d] else -1.0]
    return found


def test_the_past_of_an_account_is_counted_as_a_slow_count_does() -> None:
    whole = stream()
    rows = np.arange(0, len(whole), 3)
    found = derived.columns(whole, whole.place(), rows)
    past = found[:, len(NAMES) : len(NAMES) + derived.PAST]
    assert (past[:, 3] > 0).any()
    for k, i in enumerate(rows):
        assert past[k].tolist() == pytest.approx(slowly(whole, int(i)), rel=1e-5), i


def test_a_terminal_s_weeks_are_told_apart() -> None:
    whole = stream()
    found = derived.columns(whole, whole.place(), np.arange(len(whole)))
    x: dict[str, Any] = {name: whole.features[:, f] for f, name in enumerate(NAMES)}
    assert (found[:, : len(NAMES)] == whole.features).all()
    amount, week, *risk = found[:, len(NAMES) + derived.PAST :].T
    assert amount == pytest.approx(x["amount"] / x["lifetime_mean"])
    assert week == pytest.approx(x["mean_7d"] / x["lifetime_mean"])
    known = x["terminal_30d_frauds"] >= 0
    payments = x["terminal_30d_transactions"] - x["terminal_7d_transactions"]
    frauds = x["terminal_30d_frauds"] - x["terminal_7d_frauds"]
    assert (risk[0] == np.where(known, payments, -1)).all()
    assert (risk[1] == np.where(known, frauds, -1)).all()
    some = known & (payments > 0)
    assert risk[2][some] == pytest.approx(frauds[some] / payments[some])
    assert (risk[2][~some] == -1).all()
    good = x["terminal_7d_transactions"] - x["terminal_7d_frauds"]
    assert (risk[7] == np.where(known, good, -1)).all()


def test_what_comes_after_an_event_changes_nothing() -> None:
    whole = stream()
    rows = np.arange(0, 100)
    later = np.asarray(whole.words).copy()
    later[101:150, 1] += np.uint64(1 << 40)
    changed = replace(whole, words=later)
    before, after = (derived.columns(one, one.place(), rows) for one in (whole, changed))
    assert (before == after).all()
