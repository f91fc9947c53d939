"""Where fault runs happen, and how they are booked (`table.py`).

FAULT_SEED=n runs every fault with that first seed.
"""

from __future__ import annotations

import itertools
import os
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.faults.driver import Place
from tests.faults.table import Booking, Row

FIRST_SEED = int(os.environ.get("FAULT_SEED", "1"))

Tally = Callable[..., Booking]
Booked = Callable[..., None]


@pytest.fixture
def place(kafka: str, redis_url: str, tmp_path: Path) -> Place:
    """The session's servers."""
    return Place(kafka, redis_url, tmp_path)


@pytest.fixture
def tally(place: Place, record_property: Callable[[str, object], None]) -> Tally:
    """Opens a line of the table: `with tally("F1", "kill -9") as row: row.count(n)`."""

    def book(fault: str, what: str, where: Place | None = None) -> Booking:
        return Booking(Row(fault, what), where or place, record_property)

    return book


@pytest.fixture
def seeds() -> Iterator[int]:
    """FAULT_SEED, and those after it."""
    return itertools.count(FIRST_SEED)


@pytest.fixture
def booked(place: Place, seeds: Iterator[int], tally: Tally) -> Booked:
    """Makes a fault with the next seeds and books it: `booked("F1", "kill -9", kills, times=5)`."""

    def make(fault: str, what: str, scene: Callable[..., int], runs: int = 1, **given: Any) -> None:
        with tally(fault, what) as row:
            for seed in itertools.islice(seeds, runs):
                row.count(scene(place, seed, **given))

    return make
