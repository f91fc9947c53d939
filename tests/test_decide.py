"""Thresholds and rules to decisions."""

from __future__ import annotations

import numpy as np
import pytest

from streams.decide import APPROVE, BLOCK, REVIEW, Thresholds, decide, risk_level, threshold_of
from streams.rules import Match, Rule
from streams.schema import Decision

T = Thresholds(0.3, 0.8)


def rule(name: str, outcome: Decision, lowers: bool = False) -> Rule:
    return Rule(name, 1, outcome, (), (), "", lowers)


def match(name: str, outcome: Decision, *rows: int, lowers: bool = False) -> Match:
    return Match(rule(name, outcome, lowers), np.array(rows, np.int64))


def test_at_the_threshold_counts() -> None:
    scores = np.array([0.0, 0.29999, 0.3, 0.79999, 0.8, 1.0, np.nan])
    found = decide(scores, T, [])
    assert found.decision.tolist() == [0, 0, 1, 1, 2, 2, 0] and found.rules == {}


def test_the_strictest_wins() -> None:
    scores = np.array([0.1, 0.1, 0.5, 0.9])
    found = decide(
        scores,
        T,
        [match("a", Decision.REVIEW, 1, 3), match("b", Decision.BLOCK, 1, 2)],
    )
    assert found.decision.tolist() == [APPROVE, BLOCK, BLOCK, BLOCK]
    assert {row: [each.rule_id for each in rules] for row, rules in found.rules.items()} == {
        1: ["a", "b"],
        2: ["b"],
        3: ["a"],
    }


def test_approve_lowers_only_when_stated_and_only_the_score() -> None:
    scores = np.array([0.9, 0.9, 0.9, np.nan])
    found = decide(
        scores,
        T,
        [
            match("plain", Decision.APPROVE, 0),
            match("lowers", Decision.APPROVE, 1, 2, 3, lowers=True),
            match("review", Decision.REVIEW, 2),
        ],
    )
    assert found.decision.tolist() == [BLOCK, APPROVE, REVIEW, APPROVE]


@pytest.mark.parametrize(
    ("decision", "score", "level"),
    [
        (REVIEW, 0.1, "low"),
        (REVIEW, float("nan"), "low"),
        (REVIEW, 0.3, "medium"),
        (BLOCK, 0.1, "high"),
        (BLOCK, 0.89, "high"),
        (BLOCK, 0.9, "critical"),
    ],
)
def test_risk_levels(decision: int, score: float, level: str) -> None:
    assert risk_level(decision, score, T) == level


def test_the_threshold_is_that_of_the_decision() -> None:
    assert threshold_of(REVIEW, T) == 0.3 and threshold_of(BLOCK, T) == 0.8
    with pytest.raises(AssertionError):
        Thresholds(0.9, 0.1)
