"""The worker's clock jumps by a day, both ways, and stands still."""

from __future__ import annotations

from tests.faults import clock_faults
from tests.faults.conftest import Booked


def test_a_clock_that_lies(booked: Booked) -> None:
    booked("F15", "a day ahead, a day behind, frozen", clock_faults.jumps, runs=2)
