"""The broker dies and comes back; one of three does; a log loses its tail."""

from __future__ import annotations

from collections.abc import Iterator

from tests.faults import broker_faults
from tests.faults.conftest import Tally
from tests.faults.driver import Place


def test_the_broker_killed(place: Place, seeds: Iterator[int], tally: Tally) -> None:
    with tally("F9", "kill -9 of the only broker") as row:
        row.count(broker_faults.killed(place, next(seeds), times=2))


def test_one_of_three_brokers_killed(place: Place, seeds: Iterator[int], tally: Tally) -> None:
    with tally("F9", "kill -9 of one of three brokers") as row:
        row.count(broker_faults.one_of_three_killed(place, next(seeds), times=2))


def test_an_unclean_election(place: Place, seeds: Iterator[int], tally: Tally) -> None:
    with tally("F9", "unclean election: refused, rebuilt") as row:
        row.count(broker_faults.unclean(place, next(seeds)))
