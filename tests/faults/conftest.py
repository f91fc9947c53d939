"""Where fault runs happen, and the table of what they came to.

`build/faults.json` gets the same table. FAULT_SEED=n runs every fault with that first seed.
"""

from __future__ import annotations

import itertools
import json
import os
import statistics
import time
from collections.abc import Callable, Iterator
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import pytest

from tests.faults.driver import Place

REPORT = Path("build") / "faults.json"
FIRST_SEED = int(os.environ.get("FAULT_SEED", "1"))


@dataclass
class Row:
    """One line of the table."""

    fault: str
    what: str
    runs: int = 0
    seeds: list[int] = field(default_factory=list)
    resumed_s: list[float] = field(default_factory=list)
    took_s: float = 0.0
    result: str = "failed"


_rows: list[Row] = []

Tally = Callable[..., "Booking"]
Booked = Callable[..., None]


class Booking:
    """A line that is being filled; it counts as passed only when its block ends well."""

    def __init__(self, row: Row, place: Place) -> None:
        self.row = row
        self.place = place
        self._began = 0.0

    def __enter__(self) -> Booking:
        self._began = time.monotonic()
        return self

    def __exit__(self, kind: Any, error: Any, trace: Any) -> None:
        self.row.took_s = round(time.monotonic() - self._began, 1)
        self.row.seeds = sorted(set(self.place.seeds))
        self.row.resumed_s = [round(each, 2) for each in self.place.resumed_s]
        self.row.result = "passed" if kind is None else "failed"

    def count(self, runs: int) -> None:
        """So many faults were made."""
        self.row.runs += runs


@pytest.fixture
def place(kafka: str, redis_url: str, tmp_path: Path) -> Place:
    """The session's servers."""
    return Place(kafka, redis_url, tmp_path)


@pytest.fixture
def tally(place: Place) -> Tally:
    """Opens a line of the table: `with tally("F1", "kill -9") as row: row.count(n)`."""

    def book(fault: str, what: str, where: Place | None = None) -> Booking:
        row = Row(fault, what)
        _rows.append(row)
        return Booking(row, where or place)

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


def pytest_terminal_summary(terminalreporter: Any) -> None:
    if not _rows:
        return
    rows = sorted(_rows, key=lambda row: (int(row.fault[1:]), row.what))
    REPORT.parent.mkdir(exist_ok=True)
    REPORT.write_text(json.dumps([asdict(row) for row in rows], indent=1) + "\n")
    terminalreporter.section("faults")
    terminalreporter.write_line(
        f"{'':4} {'fault':44} {'runs':>7} {'seeds':>9} {'resumed s':>15} {'took s':>7} result"
    )
    for row in rows:
        said = "-"
        if row.resumed_s:
            said = f"{statistics.median(row.resumed_s):.1f} / {max(row.resumed_s):.1f}"
        span = f"{row.seeds[0]}..{row.seeds[-1]}" if row.seeds else "-"
        terminalreporter.write_line(
            f"{row.fault:4} {row.what:44} {row.runs:>7} {span:>9} {said:>15} {row.took_s:>7} "
            f"{row.result}"
        )
