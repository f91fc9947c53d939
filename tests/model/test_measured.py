"""Measures and segments of rows: what adds up, and money of one currency."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest

from model.data import Dataset
from model.measured import measure, segments
from tests.model import streams_of_words as made


@pytest.fixture(scope="module")
def data() -> Dataset:
    return made.dataset(accounts=24, each=150, plain=True)


def test_segments_hold_every_row_once_and_count_alerts(data: Dataset) -> None:
    rows = np.flatnonzero(data.time >= np.quantile(data.time, 0.6))
    found = segments(data, rows, np.random.default_rng(0).random(len(rows)), 0.1)
    parts = [row for name, row in found.items() if name.startswith("history")]
    assert sum(row["events"] for row in parts) == len(rows)
    frauds = sum(row["frauds"] for row in parts)
    caught = sum(row["recall_budget"] * row["frauds"] for row in parts)
    false = sum(row["fpr_budget"] * (row["events"] - row["frauds"]) for row in parts)
    assert frauds == (data.answer()[rows] == 1).sum()
    assert caught + false == pytest.approx(0.1 * len(rows), abs=2)


def test_small_amounts_are_parts_of_their_own(data: Dataset) -> None:
    """0.50 to 1.19: rounded to whole units all three parts would have one name."""
    words = np.array(data.words)
    minor = np.random.default_rng(0).integers(50, 120, len(data)).astype(np.uint64)
    words[:, 1] = (words[:, 1] & np.uint64(0x3FFF)) | (minor << np.uint64(14))
    rows = np.arange(len(data))
    found = segments(replace(data, words=words), rows, np.linspace(0, 1, len(rows)))
    parts = {name: row["events"] for name, row in found.items() if name.startswith("amount")}
    assert len(parts) == 3
    assert sum(parts.values()) == len(rows)
    low = int(next(iter(parts)).split()[-1])
    assert next(iter(parts.values())) == (minor < low).sum()


def test_a_segment_without_fraud_keeps_its_false_positives(data: Dataset) -> None:
    rows = np.arange(len(data))
    clean = replace(data, label=np.where(data.place() < 10, 0, data.label).astype(np.int8))
    one = segments(clean, rows, (data.place() < 10).astype(float), 0.5)["history 0-9"]
    assert one["frauds"] == 0
    assert one["fpr_budget"] == 1.0
    assert np.isnan([one["ap"], one["auc"], one["recall_budget"]]).all()


def test_a_kind_of_fraud_does_not_hold_the_frauds_whose_kind_nobody_told(data: Dataset) -> None:
    """Half of the frauds have a kind: the others are a part of their own, and in no other."""
    rows, frauds = np.arange(len(data)), np.flatnonzero(np.asarray(data.label) == 1)
    kind = np.zeros(len(data), np.int8)
    kind[frauds[::2]] = 1 + np.arange(len(frauds[::2])) % 2
    told = replace(data, kind=kind, kinds=("none", "mule", "order"))
    found = segments(told, rows, np.linspace(0, 1, len(rows)))
    parts = {name: row["frauds"] for name, row in found.items() if name.startswith("kind")}
    assert parts == {
        "kind mule": (kind == 1).sum(),
        "kind order": (kind == 2).sum(),
        "kind not told": len(frauds) - (kind > 0).sum(),
    }


def test_money_is_of_the_currency_that_most_rows_are_in(data: Dataset) -> None:
    """A fifth of the rows are in another, a thousand times the amounts: they would be all money."""
    other = np.arange(len(data)) % 5 == 0
    words = np.array(data.words)
    words[other, 1] = (words[other, 1] & np.uint64(0x3FFF)) | (
        (words[other, 1] >> np.uint64(14)) * np.uint64(1_000) << np.uint64(14)
    )
    told = replace(data, words=words, currency=other.astype(np.int16), currencies=("EUR", "NGN"))
    rows, y = np.arange(len(data)), np.asarray(data.label)
    scores = np.random.default_rng(1).random(len(data))
    assert told.main_currency(rows)[0] == "EUR"
    money = np.where(other, 0, data.amount)
    alert = scores >= np.sort(scores)[-len(data) // 10]
    expected = money[alert & (y == 1)].sum() / money[y == 1].sum()
    assert measure(told, rows, y, scores, 0.1)["value_budget"] == pytest.approx(expected)
    parts = {n: r for n, r in segments(told, rows, scores).items() if n.startswith("amount")}
    assert sum(row["events"] for row in parts.values()) == (~other).sum()
    most = max(int(name.split()[-1].replace(",", "")) for name in parts)
    assert most <= data.amount[~other].max()
    # Of the other alone, it is the one.
    assert told.main_currency(np.flatnonzero(other))[0] == "NGN"
