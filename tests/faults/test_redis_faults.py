"""Redis dies, freezes, goes back, comes back empty or is full."""

from __future__ import annotations

from tests.faults import redis_faults
from tests.faults.conftest import Booked


def test_redis_killed(booked: Booked) -> None:
    booked("F6", "kill -9 of Redis", redis_faults.killed, times=3)


def test_redis_frozen(booked: Booked) -> None:
    booked("F6", "Redis frozen for 10 s, time-out 1 s", redis_faults.frozen, times=3, seconds=10)


def test_redis_put_back(booked: Booked) -> None:
    booked("F6", "Redis restored to an older file", redis_faults.put_back, times=3)


def test_redis_emptied(booked: Booked) -> None:
    booked("F6", "Redis comes back empty: refused", redis_faults.emptied, runs=3)


def test_redis_full(booked: Booked) -> None:
    booked("F6", "Redis full: waits, goes on", redis_faults.full, times=3)


def test_a_replica_with_a_missing_tail(booked: Booked) -> None:
    booked("F7", "a replica without the last commits promoted", redis_faults.promoted, runs=2)
