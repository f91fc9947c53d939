"""The lines to Redis and Kafka are bad in each way in turn."""

from __future__ import annotations

from collections.abc import Iterator

from tests.faults import line_faults
from tests.faults.conftest import Tally
from tests.faults.driver import Place


def test_bad_lines_to_redis_and_kafka(place: Place, seeds: Iterator[int], tally: Tally) -> None:
    with tally("F8", "connections to Redis and Kafka harmed") as row:
        row.count(line_faults.bad_lines(place, next(seeds), seconds=20))
