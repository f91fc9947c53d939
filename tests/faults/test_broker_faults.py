"""The broker dies and comes back; one of three does; a log loses its tail."""

from __future__ import annotations

from tests.faults import broker_faults
from tests.faults.conftest import Booked


def test_the_broker_killed(booked: Booked) -> None:
    booked("F9", "kill -9 of the only broker", broker_faults.killed, times=2)


def test_one_of_three_brokers_killed(booked: Booked) -> None:
    booked("F9", "kill -9 of one of three brokers", broker_faults.one_of_three_killed, times=2)


def test_an_unclean_election(booked: Booked) -> None:
    booked("F9", "unclean election: refused, rebuilt", broker_faults.unclean)
