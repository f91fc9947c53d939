"""The disk is full under Redis, under the broker, under a recording."""

from __future__ import annotations

from tests.faults import disk_faults
from tests.faults.conftest import Booked


def test_no_room_for_the_append_only_file(booked: Booked) -> None:
    booked("F10", "disk full under Redis", disk_faults.append_only_file)


def test_no_room_for_the_broker(booked: Booked) -> None:
    booked("F10", "disk full under the broker", disk_faults.broker_log)


def test_no_room_for_a_recording(booked: Booked) -> None:
    booked("F10", "disk full under a recording", disk_faults.recording)
