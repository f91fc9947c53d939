"""When a worker counts as standing still, and how it ends then."""

from __future__ import annotations

import time
from types import SimpleNamespace

import pytest

from streams.errors import ConfigError
from streams.live.app import Worker, _end, _signs
from streams.live.watchdog import EXIT_CODE, GRACE_S, Signs, Stalled, Watchdog
from streams.metrics import Metrics
from streams.settings import load


class Clock:
    """Time that passes when told."""

    def __init__(self) -> None:
        self.now = 100.0

    def __call__(self) -> float:
        return self.now


class Case:
    """A watchdog over 10 s whose crash and kill are noted."""

    def __init__(self) -> None:
        self.clock = Clock()
        self.crashes: list[str] = []
        self.kills: list[int] = []
        self.dog = Watchdog(10, self.crash, clock=self.clock, kill=self.kills.append)
        self.rounds = 0

    def crash(self, reason: Stalled) -> None:
        self.crashes.append(str(reason))

    def look(self, seconds: int) -> None:
        """Second by second: a look, and no report."""
        for _ in range(seconds):
            self.clock.now += 1
            self.dog.check()

    def live(self, seconds: int, **signs: object) -> None:
        """Second by second: a report and a look."""
        for _ in range(seconds):
            self.clock.now += 1
            given = {"waiting": 0, "rounds": self.rounds, **signs}
            self.dog.report(Signs(**given))  # type: ignore[arg-type]
            self.dog.check()


@pytest.fixture
def case() -> Case:
    return Case()


def test_an_idle_worker_may_idle(case: Case) -> None:
    case.live(60)
    assert case.crashes == []


def test_an_idle_worker_may_idle_at_the_shortest_patience(case: Case) -> None:
    """On a busy machine a sign of life comes late. At one second that was an end, each time."""
    shortest = next(s for s in range(1, 30) if _is_legal(f"worker.watchdog_s={s}"))
    case.dog = Watchdog(shortest, case.crash, clock=case.clock, kill=case.kills.append)
    for _ in range(60):
        case.dog.report(Signs(waiting=0, rounds=0))
        case.look(2)
    assert case.crashes == []


def _is_legal(flag: str) -> bool:
    try:
        load(flags=[flag])
    except ConfigError:
        return False
    return True


def test_progress_is_enough(case: Case) -> None:
    for _ in range(20):
        case.rounds += 1
        case.live(8, waiting=1_000_000)
    assert case.crashes == []


def test_waiting_messages_without_progress_are_a_standstill(case: Case) -> None:
    case.live(5)
    case.live(10, waiting=1)
    assert case.crashes == []
    case.live(1, waiting=1)
    assert len(case.crashes) == 1 and "no round" in case.crashes[0]
    case.live(3, waiting=1)
    assert len(case.crashes) == 1, "asked once"


def test_waiting_for_the_store_is_no_standstill(case: Case) -> None:
    case.live(100, waiting=5, excused=True)
    assert case.crashes == []
    case.live(11, waiting=5)
    assert len(case.crashes) == 1


def test_a_silent_event_loop_is_a_standstill(case: Case) -> None:
    case.live(1)
    case.look(10)
    assert case.crashes == []
    case.look(1)
    assert "event loop" in case.crashes[0]


def test_a_partition_given_up_must_be_taken_away(case: Case) -> None:
    case.live(1, given_up=9.0)
    assert case.crashes == []
    case.live(1, given_up=10.5)
    assert "given up" in case.crashes[0]


def test_messages_of_a_partition_given_up_to_another_group_say_so(case: Case) -> None:
    for second in range(1, 12):
        case.live(1, waiting=1, given_up=float(second) - 0.5)
    assert "given up" in case.crashes[0] and "redis.namespace" in case.crashes[0]


def test_a_crash_that_does_not_end_is_ended(case: Case) -> None:
    case.look(11)
    case.look(int(GRACE_S))
    assert case.kills == []
    case.look(1)
    assert case.kills == [EXIT_CODE]


@pytest.mark.parametrize("first", ["the event loop", "the watchdog"])
def test_time_in_which_the_process_was_frozen_does_not_count(case: Case, first: str) -> None:
    case.live(5, waiting=1)
    case.clock.now += 3_600
    if first == "the event loop":
        case.dog.report(Signs(waiting=1, rounds=0, given_up=3_600))
    case.dog.check()
    case.live(4, waiting=1)
    assert case.crashes == []
    case.live(3, waiting=1)
    assert "no round has ended for 1" in case.crashes[0], "what it stood before still counts"


@pytest.mark.parametrize("then", ["event loop", "no round"])
def test_a_watchdog_is_not_blind_for_as_long_as_the_process_was_frozen(
    case: Case, then: str
) -> None:
    case.live(5, waiting=1)
    case.clock.now += 3_600
    case.dog.report(Signs(waiting=1, rounds=1))
    case.dog.check()
    case.rounds = 1
    if then == "event loop":
        case.look(11)
    else:
        case.live(11, waiting=1)
    assert [then in each for each in case.crashes] == [True]


def test_a_crash_is_given_its_time_after_a_freeze(case: Case) -> None:
    case.look(11)
    case.clock.now += 3_600
    case.dog.check()
    case.look(int(GRACE_S))
    assert case.crashes and case.kills == []


def test_the_thread_looks_by_itself_and_stops() -> None:
    crashes: list[Stalled] = []
    dog = Watchdog(0.1, crashes.append)
    dog.start()
    deadline = time.monotonic() + 120
    while not crashes:
        assert time.monotonic() < deadline
        time.sleep(0.01)
    dog.stop()
    assert not dog._thread.is_alive()


@pytest.mark.parametrize("who", ["nobody", "patience", "outbox", "risk"])
def test_who_waits_for_somebody_else_is_excused(who: str) -> None:
    each = {name: SimpleNamespace(waiting=name == who) for name in ("patience", "outbox", "risk")}
    intake = SimpleNamespace(lag=lambda: {0: 5}, rounds=3, given_up={})
    worker = SimpleNamespace(intake=intake, metrics=Metrics(), **each)
    signs = _signs(worker)  # type: ignore[arg-type]
    assert (signs.waiting, signs.rounds, signs.excused) == (5, 3, who != "nobody")


@pytest.mark.parametrize(
    ("stalled", "crashed", "code"),
    [(None, None, 0), (Stalled("no round"), None, 1), (None, KeyError("x"), 1)],
)
def test_a_stop_that_hangs_tells_why_it_was_begun(
    stalled: Stalled | None,
    crashed: BaseException | None,
    code: int,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """A worker that stalled and then hung exited with 0: nobody would have started another."""
    codes: list[int] = []
    monkeypatch.setattr("os._exit", codes.append)
    monkeypatch.setattr("logging.shutdown", lambda: None)
    app, parts = SimpleNamespace(crash_reason=crashed), [None] * 6
    _end(Worker(app, *parts, watchdog_s=1.0, stalled=stalled))  # type: ignore[arg-type]
    assert codes == [code]
