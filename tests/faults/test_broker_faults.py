"""The broker dies and comes back."""

from __future__ import annotations

from collections.abc import Iterator

from tests.faults import broker_faults
from tests.faults.conftest import Tally
from tests.faults.driver import Place


def test_the_broker_killed(place: Place, seeds: Iterator[int], tally: Tally) -> None:
    with tally("F9", "kill -9 of the only broker") as row:
        row.count(broker_faults.killed(place, next(seeds), times=2))
