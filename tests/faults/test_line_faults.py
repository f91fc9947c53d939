"""The lines to Redis and Kafka are bad in each way in turn."""

from __future__ import annotations

from tests.faults import line_faults
from tests.faults.conftest import Booked


def test_bad_lines_to_redis_and_kafka(booked: Booked) -> None:
    booked("F8", "connections to Redis and Kafka harmed", line_faults.bad_lines, seconds=20)
