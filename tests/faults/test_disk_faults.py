"""The disk is full under Redis, under the broker, under a recording."""

from __future__ import annotations

from collections.abc import Iterator

from tests.faults import disk_faults
from tests.faults.conftest import Tally
from tests.faults.driver import Place


def test_no_room_for_the_append_only_file(place: Place, seeds: Iterator[int], tally: Tally) -> None:
    with tally("F10", "disk full under Redis") as row:
        row.count(disk_faults.append_only_file(place, next(seeds)))


def test_no_room_for_the_broker(place: Place, seeds: Iterator[int], tally: Tally) -> None:
    with tally("F10", "disk full under the broker") as row:
        row.count(disk_faults.broker_log(place, next(seeds)))


def test_no_room_for_a_recording(place: Place, seeds: Iterator[int], tally: Tally) -> None:
    with tally("F10", "disk full under a recording") as row:
        row.count(disk_faults.recording(place, next(seeds)))
