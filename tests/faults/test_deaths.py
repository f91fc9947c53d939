"""Workers die, freeze and come and go; the promises hold. See docs/guarantees.md."""

from __future__ import annotations

from collections.abc import Iterator

from tests.faults import deaths
from tests.faults.conftest import Tally
from tests.faults.driver import Place


def test_a_crash_after_every_step(place: Place, seeds: Iterator[int], tally: Tally) -> None:
    with tally("F2", "crash after each step of three rounds") as row:
        row.count(deaths.crash_at_every_step(place, next(seeds)))


def test_workers_killed_at_random(place: Place, seeds: Iterator[int], tally: Tally) -> None:
    with tally("F1", "kill -9 of one of two workers") as row:
        row.count(deaths.kill_at_random(place, next(seeds), 5))
        row.count(deaths.kill_at_random(place, next(seeds), 5))


def test_zombies_are_refused(place: Place, seeds: Iterator[int], tally: Tally) -> None:
    with tally("F3", "frozen before the commit, overtaken, thawed") as row:
        row.count(deaths.frozen_between_compute_and_commit(place, next(seeds), zombies=5))


def test_a_storm_of_rebalances(place: Place, seeds: Iterator[int], tally: Tally) -> None:
    with tally("F5", "workers join and leave") as row:
        row.count(deaths.storm(place, next(seeds), seconds=120))


def test_the_same_log_again(place: Place, seeds: Iterator[int], tally: Tally) -> None:
    with tally("F13", "other round sizes; 1, 2 and 4 workers") as row:
        row.count(deaths.same_log_again(place, next(seeds), events=2_000))


def test_workers_short_of_memory(place: Place, seeds: Iterator[int], tally: Tally) -> None:
    with tally("F16", "address space limited (RLIMIT_AS)") as row:
        row.count(deaths.out_of_memory(place, next(seeds)))
