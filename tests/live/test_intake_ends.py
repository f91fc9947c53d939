"""How a worker's own faults end, and what a claim does that has to ask again."""

from __future__ import annotations

import asyncio
from collections.abc import Mapping, Sequence

import pytest
from faust.types import TP

from streams.errors import LogShort, StoreError
from streams.live.ranges import LogRange
from tests.live.test_intake import LOGS, TP0, TP1, Case, Event, drive
from tests.live.test_partitions import Case as Shared


@pytest.mark.parametrize(("error", "broken"), [(StoreError("no"), False), (KeyError("x"), True)])
def test_a_bug_may_lie_with_a_message_and_a_lost_store_does_not(
    error: Exception, broken: bool
) -> None:
    case = drive(Case(lambda number: error), Event(TP0, 0, 1))
    assert case.crashes == [error] and case.shares.broken is broken


@pytest.mark.parametrize("knows", [True, False])
def test_a_broker_that_does_not_know_its_logs_end_yet_is_asked_again(
    knows: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("streams.live.intake.ENDS_PAUSE_S", 0.001)
    monkeypatch.setattr("streams.live.intake.ENDS_WAIT_S", 60.0 if knows else -1.0)
    case, ends = Case(), []

    async def asked(partitions: Sequence[TP]) -> dict[TP, LogRange]:
        ends.append(20 if knows and len(ends) == 2 else 0)
        return {tp: LogRange(0, ends[-1], None) for tp in partitions}

    def claimed(logs: Mapping[int, LogRange]) -> dict[int, int]:
        # The group has committed nothing: the state alone knows how far it has come.
        if any(log.end < 20 for log in logs.values()):
            raise LogShort("the log ends before the state")
        return dict.fromkeys(logs, 20)

    case.consumer.log_ranges, case.shares.claim = asked, claimed  # type: ignore[method-assign]
    claim = case.intake.claim({TP0: LogRange(0, 0, None)})
    if knows:
        assert asyncio.run(claim) == {TP0: 20} and ends == [0, 0, 20]
    else:
        with pytest.raises(LogShort):
            asyncio.run(claim)
        assert ends == [], "the time to ask again is over"


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


def test_a_stop_between_claim_and_seek_looks_like_no_death() -> None:
    """A restart in the middle of a rebalance: the next worker went on with small rounds."""
    case, shared = Case(), Shared()
    case.intake._partitions = shared.partitions

    async def check() -> None:
        await case.intake.claim(LOGS)
        assert shared.notes_kept.notes.keys() == {0, 1}
        await case.intake.leave()

    asyncio.run(check())
    assert shared.notes_kept.notes == {} and shared.partitions.held == {}
