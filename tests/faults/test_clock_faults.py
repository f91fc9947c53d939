"""The worker's clock jumps by a day, both ways, and stands still."""

from __future__ import annotations

from collections.abc import Iterator

from tests.faults import clock_faults
from tests.faults.conftest import Tally
from tests.faults.driver import Place


def test_a_clock_that_lies(place: Place, seeds: Iterator[int], tally: Tally) -> None:
    with tally("F15", "a day ahead, a day behind, frozen") as row:
        for seed in (next(seeds), next(seeds)):
            row.count(clock_faults.jumps(place, seed))
