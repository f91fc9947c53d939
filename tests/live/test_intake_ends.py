"""How a worker's own faults end, and what a claim does that has to ask again."""

from __future__ import annotations

import asyncio
from collections.abc import Mapping

import pytest

from streams.errors import LogShort, StoreError
from streams.live.ranges import LogRange
from tests.live.test_intake import TP0, TP1, Case, Event, drive


@pytest.mark.parametrize(("error", "broken"), [(StoreError("no"), False), (KeyError("x"), True)])
def test_a_bug_may_lie_with_a_message_and_a_lost_store_does_not(
    error: Exception, broken: bool
) -> None:
    case = drive(Case(lambda number: error), Event(TP0, 0, 1))
    assert case.crashes == [error] and case.shares.broken is broken


def test_who_asks_again_leaves_out_what_is_being_revoked(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("streams.live.intake.ENDS_PAUSE_S", 0.001)
    case, asked = Case(), []

    def claimed(logs: Mapping[int, LogRange]) -> dict[int, int]:
        asked.append(sorted(logs))
        if len(asked) == 1:
            case.intake.close([TP0])
            raise LogShort("the log ends before the state")
        return dict.fromkeys(logs, 0)

    case.shares.claim = claimed  # type: ignore[method-assign]
    asyncio.run(case.intake._claim_again([TP0, TP1]))
    assert asked == [[0, 1], [1]]
    assert [sorted(each) for each in case.consumer.placed] == [[TP1]]


def test_what_another_worker_took_during_the_claim_is_left_alone() -> None:
    case = Case()
    case.shares.held = {1}
    drive(case, Event(TP0, 0, 1), Event(TP1, 0, 1))
    assert case.rounds == [[[b"0"]]] and case.crashes == []
    assert case.intake.given_up.keys() == {TP0}
    assert case.metric("stale_batches_total") == 1
