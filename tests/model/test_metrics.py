"""Measures against scikit-learn and against cases small enough to count by hand."""

from __future__ import annotations

import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from sklearn.metrics import (
    average_precision_score,
    brier_score_loss,
    log_loss,
    roc_auc_score,
)

from model import metrics
from model.calibrate import threshold_for_budget

pairs = st.lists(
    st.tuples(st.integers(0, 1), st.integers(0, 8).map(lambda k: k / 8)), min_size=2, max_size=60
).filter(lambda rows: 0 < sum(label for label, _ in rows) < len(rows))


@given(pairs)
def test_ranking_measures_equal_scikit_learn(rows: list[tuple[int, float]]) -> None:
    labels = np.array([label for label, _ in rows])
    scores = np.array([score for _, score in rows])
    assert metrics.average_precision(labels, scores) == pytest.approx(
        average_precision_score(labels, scores)
    )
    assert metrics.roc_auc(labels, scores) == pytest.approx(roc_auc_score(labels, scores))
    assert metrics.brier(labels, scores) == pytest.approx(brier_score_loss(labels, scores))


def test_budgets_count_what_they_catch() -> None:
    labels = np.array([1, 0, 1, 0, 0, 0, 0, 0, 0, 1])
    scores = np.array([0.9, 0.8, 0.7, 0.6, 0.5, 0.4, 0.3, 0.2, 0.1, 0.0])
    assert metrics.recall_at_budget(labels, scores, 3) == pytest.approx(2 / 3)
    assert metrics.recall_at_fpr(labels, scores, 0.0) == pytest.approx(1 / 3)
    assert metrics.recall_at_fpr(labels, scores, 1 / 7) == pytest.approx(2 / 3)


@given(st.integers(0, 99))
def test_budgets_do_not_hang_on_the_order_of_rows_with_one_score(seed: int) -> None:
    """Sorted by account as a training set is, a model of few scores was as good as its order."""
    labels, scores = np.array([0, 0, 0, 1, 1, 0]), np.array([0.9, 0.5, 0.5, 0.5, 0.5, 0.1])
    order = np.random.default_rng(seed).permutation(6)
    labels, scores, amounts = labels[order], scores[order], np.array([1, 1, 1, 30, 10, 1])[order]
    ids = np.arange(6)
    assert metrics.recall_at_budget(labels, scores, 3) == pytest.approx(0.5)
    assert metrics.value_detected(labels, scores, amounts, 3) == pytest.approx(0.5)
    told = metrics.summary(labels, scores, ids, ids, amounts, budget=0.5)
    assert told["precision_budget"] == pytest.approx(1 / 3)
    assert metrics.recall_at_budget(labels, scores, 60) == 1.0
    one_day = np.zeros(6, int)
    assert metrics.card_precision(labels, scores, ids, one_day, 3) == pytest.approx(1 / 3)


def test_a_budget_is_as_many_alerts_as_its_threshold_lets_through() -> None:
    """0.29 of 100 events is 29 of them, though 0.29 * 100 is a little less in binary."""
    rows, labels = np.arange(100), np.ones(100, int)
    told = metrics.summary(labels, rows / 100, rows, rows, rows, budget=0.29)
    assert told["recall_budget"] == pytest.approx(0.29)
    assert (rows / 100 >= threshold_for_budget(rows / 100, 0.29)).sum() == 29


def test_card_precision_takes_a_card_once_a_day() -> None:
    labels = np.array([1, 1, 0, 0, 1])
    scores = np.array([0.9, 0.8, 0.7, 0.1, 0.9])
    cards = np.array([1, 1, 2, 3, 4])
    days = np.array([0, 0, 0, 0, 1])
    # Day 0: the two highest cards are 1 (compromised) and 2 (fine); day 1: card 4 of two places.
    assert metrics.card_precision(labels, scores, cards, days, 2) == pytest.approx(0.5)


def test_calibration_error_is_the_mean_gap() -> None:
    labels = np.array([0] * 80 + [1] * 20)
    assert metrics.calibration_error(labels, np.full(100, 0.2), bins=1) == pytest.approx(0.0)
    assert metrics.calibration_error(labels, np.full(100, 0.5), bins=1) == pytest.approx(0.3)


def test_one_class_has_no_ranking() -> None:
    scores = np.array([0.1, 0.2])
    assert math.isnan(metrics.average_precision(np.zeros(2, int), scores))
    assert math.isnan(metrics.roc_auc(np.ones(2, int), scores))
    assert math.isnan(metrics.value_detected(np.zeros(2, int), scores, np.array([5, 7]), 1))


def test_few_frauds_leave_an_interval() -> None:
    """Of 200 resamples of 4 frauds among 5,000 some four hold none."""
    rng = np.random.default_rng(1)
    labels = np.zeros(5_000, np.int8)
    labels[:4] = 1
    one, other = labels + rng.random(5_000), rng.random(5_000)
    difference, low, high = metrics.bootstrap(labels, one, other, metrics.average_precision)
    assert 0 < low <= difference <= high <= 1
    none = metrics.bootstrap(np.zeros(50, np.int8), one[:50], other[:50], metrics.average_precision)
    assert np.isnan(none).all()


def drawn(scores: list[float], alerts: int, row: int) -> float:
    """How likely a row is among the alerts, those of one score drawn by lot."""
    above = sum(score > scores[row] for score in scores)
    return min(max((alerts - above) / scores.count(scores[row]), 0.0), 1.0)


@given(
    st.lists(st.tuples(st.integers(0, 1), st.integers(0, 8), st.integers(0, 3)), min_size=1,
             max_size=40),
    st.integers(1, 40),
)  # fmt: skip
def test_what_alerts_catch_is_counted_row_by_row(
    rows: list[tuple[int, int, int]], alerts: int
) -> None:
    """In a mean over every order of the rows of one score."""
    n, budget = len(rows), min(alerts / len(rows), 1.0)
    alerts = min(alerts, n)
    scores = [score / 8 for _, score, _ in rows]
    frauds = [i for i in range(n) if rows[i][0]]
    labels, money = np.array([row[0] for row in rows]), np.array([row[2] for row in rows])
    ids = np.arange(n)
    told = metrics.summary(labels, np.array(scores), ids, ids // 7, money, budget)
    caught = [drawn(scores, alerts, i) for i in range(n)]
    assert (told["events"], told["frauds"]) == (n, len(frauds))
    assert told["precision_budget"] == pytest.approx(sum(caught[i] for i in frauds) / alerts)
    # A card an event, so a hundred cards of a day are all of them.
    by_day = [sum(labels[ids // 7 == day]) / 100 for day in set(ids // 7)]
    assert told["cp100"] == pytest.approx(np.mean(by_day))
    if not frauds:
        assert math.isnan(told["recall_budget"]) and math.isnan(told["value_budget"])
        return
    assert told["recall_budget"] == pytest.approx(sum(caught[i] for i in frauds) / len(frauds))
    lost = sum(rows[i][2] for i in frauds)
    stopped = sum(caught[i] * rows[i][2] for i in frauds)
    assert told["value_budget"] == pytest.approx(stopped / lost if lost else math.nan, nan_ok=True)
    assert ("value_budget" in metrics.defined(told)) is (lost > 0)


@given(pairs, st.integers(0, 60))
def test_recall_at_a_false_positive_rate_is_the_best_threshold_that_keeps_it(
    rows: list[tuple[int, float]], false: int
) -> None:
    labels, scores = np.array([row[0] for row in rows]), np.array([row[1] for row in rows])
    rate = false / int((labels == 0).sum())
    recalls = [
        float((scores[labels == 1] >= cut).mean())
        for cut in (*scores, 2.0)
        if (scores[labels == 0] >= cut).mean() <= rate
    ]
    assert metrics.recall_at_fpr(labels, scores, rate) == pytest.approx(max(recalls))


@given(pairs, st.integers(1, 5), st.integers(1, 6))
def test_the_precision_of_cards_is_that_of_their_worst_payment_of_a_day(
    rows: list[tuple[int, float]], k: int, of: int
) -> None:
    """Card `i % of`, day `i // 9`; a place that no card takes is one in vain."""
    shares = []
    for start in range(0, len(rows), 9):
        cards: dict[int, list[tuple[int, float]]] = {}
        for i in range(start, min(start + 9, len(rows))):
            cards.setdefault(i % of, []).append(rows[i])
        worst = [max(score for _, score in each) for each in cards.values()]
        bad = [any(label for label, _ in each) for each in cards.values()]
        shares.append(sum(drawn(worst, k, c) * bad[c] for c in range(len(bad))) / k)
    labels, scores = np.array([row[0] for row in rows]), np.array([row[1] for row in rows])
    ids = np.arange(len(rows))
    found = metrics.card_precision(labels, scores, ids % of, ids // 9, k)
    assert found == pytest.approx(np.mean(shares))


@given(pairs)
def test_how_far_probabilities_are_off_is_what_it_says(rows: list[tuple[int, float]]) -> None:
    labels, scores = np.array([row[0] for row in rows]), np.array([row[1] for row in rows])
    ids = np.arange(len(rows))
    told = metrics.summary(labels, scores, ids, ids, ids)
    # scikit-learn cuts at the least number above 0, this at a billionth.
    assert told["log_loss"] == pytest.approx(log_loss(labels, np.clip(scores, 1e-9, 1 - 1e-9)))
    order = np.argsort(scores, kind="stable")
    gaps = [
        abs(scores[part].sum() - labels[part].sum())
        for part in np.array_split(order, min(15, len(rows)))
    ]
    assert told["ece"] == pytest.approx(sum(gaps) / len(rows))
    assert told["brier"] == metrics.brier(labels, scores)
    table = metrics.reliability(labels, scores, bins=4)
    assert table[:, 2].sum() == len(rows) and np.ptp(table[:, 2]) <= 1
    assert table[:, 0] @ table[:, 2] == pytest.approx(scores.sum())
    assert table[:, 1] @ table[:, 2] == pytest.approx(labels.sum())


def test_no_rows_measure_nothing_and_one_class_ranks_nothing() -> None:
    none = np.zeros(0)
    told = metrics.summary(none.astype(int), none, none.astype(int), none.astype(int), none)
    assert {name for name, value in told.items() if not math.isnan(value)} == {
        "events", "frauds", "precision_budget",
    }  # fmt: skip
    ids = np.arange(3)
    ranked = ("auc", "recall_fpr_0.1%", "recall_fpr_0.01%")
    for label, frauds in ((0, ("ap", "recall_budget", "value_budget")), (1, ())):
        told = metrics.summary(np.full(3, label), ids / 4, ids, ids, ids)
        undefined = {name for name, value in told.items() if math.isnan(value)}
        assert undefined == {*ranked, *frauds}


@pytest.mark.parametrize(("more", "least", "lesser"), [(0, 1, 2), (1, 0, 1)])
def test_a_rate_is_the_one_it_is_named_for(more: int, least: int, lesser: int) -> None:
    """Of 20,000 honest payments 0.01 % are 2, and 0.1 % are 20; frauds lie below these, or below
    one more, and the third below all."""
    labels = np.zeros(20_003, np.int8)
    labels[[2 + more, 21 + more, -1]] = 1
    ids = np.arange(len(labels))
    told = metrics.summary(labels, ids[::-1] / len(ids), ids, ids // 9_999, ids)
    assert told["recall_fpr_0.01%"] == pytest.approx(least / 3)
    assert told["recall_fpr_0.1%"] == pytest.approx(lesser / 3)


def test_an_interval_is_as_wide_as_the_error_of_a_mean() -> None:
    rng = np.random.default_rng(0)
    labels = rng.integers(0, 2, 500)
    one, other = rng.random(500), rng.random(500)
    difference, low, high = metrics.bootstrap(labels, one, other, metrics.brier, rounds=3_000)
    each = (one - labels) ** 2 - (other - labels) ** 2
    reach = 1.96 * each.std() / np.sqrt(500)
    assert difference == pytest.approx(each.mean())
    assert high - difference == pytest.approx(reach, rel=0.07)
    assert difference - low == pytest.approx(reach, rel=0.07)


def test_a_gap_of_average_precision_is_that_of_a_slow_bootstrap() -> None:
    """Scores are rounded, so some of both classes and models lie at one place."""
    rng = np.random.default_rng(3)
    labels = (rng.random(4_000) < 0.03).astype(np.int8)
    one = np.round(rng.normal(size=4_000) + 2.5 * labels, 1)
    other = np.round(one + rng.normal(size=4_000), 1)
    slow = metrics.bootstrap(labels, one, other, metrics.average_precision, rounds=1_500)
    quick = metrics.ap_gap(labels, one, other, rounds=1_500)
    assert quick[0] == pytest.approx(slow[0], abs=1e-12)
    assert quick[1:] == pytest.approx(slow[1:], abs=0.06 * (slow[2] - slow[1]))
    assert metrics.ap_gap(labels, one, one) == (0.0, 0.0, 0.0)
    assert np.isnan(metrics.ap_gap(labels * 0, one, other)).all()
    few = np.zeros(50, np.int8)
    few[0] = 1  # every third resample has no fraud
    assert np.isfinite(metrics.ap_gap(few, one[:50], other[:50])).all()
