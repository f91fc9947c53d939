"""Workers die, freeze and come and go; the promises hold. See docs/guarantees.md."""

from __future__ import annotations

from tests.faults import deaths, poison
from tests.faults.conftest import Booked


def test_a_crash_after_every_step(booked: Booked) -> None:
    booked("F2", "crash after each step of three rounds", deaths.crash_at_every_step)


def test_workers_killed_at_random(booked: Booked) -> None:
    booked("F1", "kill -9 of one of two workers", deaths.kill_at_random, runs=2, kills=5)


def test_zombies_are_refused(booked: Booked) -> None:
    booked(
        "F3",
        "frozen before the commit, overtaken, thawed",
        deaths.frozen_between_compute_and_commit,
    )


def test_a_storm_of_rebalances(booked: Booked) -> None:
    booked("F5", "workers join and leave", deaths.storm, seconds=120)


def test_the_same_log_again(booked: Booked) -> None:
    booked("F13", "one log: rounds, workers, order", deaths.same_log_again, runs=2, events=2_000)


def test_workers_short_of_memory(booked: Booked) -> None:
    booked("F16", "address space limited (RLIMIT_AS)", deaths.out_of_memory)


def test_a_message_that_kills_every_worker_is_put_aside(booked: Booked) -> None:
    booked("F17", "a message that kills: put aside", poison.put_aside)
