"""Redis dies, freezes, goes back, comes back empty or is full."""

from __future__ import annotations

from collections.abc import Iterator

from tests.faults import redis_faults
from tests.faults.conftest import Tally
from tests.faults.driver import Place


def test_redis_killed(place: Place, seeds: Iterator[int], tally: Tally) -> None:
    with tally("F6", "kill -9 of Redis") as row:
        row.count(redis_faults.killed(place, next(seeds), times=3))


def test_redis_frozen(place: Place, seeds: Iterator[int], tally: Tally) -> None:
    with tally("F6", "Redis frozen for 10 s, time-out 1 s") as row:
        row.count(redis_faults.frozen(place, next(seeds), times=3, seconds=10))


def test_redis_put_back(place: Place, seeds: Iterator[int], tally: Tally) -> None:
    with tally("F6", "Redis restored to an older file") as row:
        row.count(redis_faults.put_back(place, next(seeds), times=3))


def test_redis_emptied(place: Place, seeds: Iterator[int], tally: Tally) -> None:
    with tally("F6", "Redis comes back empty: refused") as row:
        for witnessed in (True, False, True):
            row.count(redis_faults.emptied(place, next(seeds), witnessed))


def test_redis_full(place: Place, seeds: Iterator[int], tally: Tally) -> None:
    with tally("F6", "Redis full: waits, goes on") as row:
        row.count(redis_faults.full(place, next(seeds), times=3))


def test_a_replica_with_a_missing_tail(place: Place, seeds: Iterator[int], tally: Tally) -> None:
    with tally("F7", "a replica without the last commits promoted") as row:
        for seed in (next(seeds), next(seeds)):
            row.count(redis_faults.promoted(place, seed))
