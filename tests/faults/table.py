"""The table of the faults that a run of the tests made, and what they came to.

In: the reports of the tests, which carry a line for each fault booked (several processes may have
run them). Out: a table at the end of the run; `build/faults.json` gets the same.
"""

from __future__ import annotations

import itertools
import json
import statistics
import time
from collections.abc import Callable
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from tests.faults.driver import Place

REPORT = Path("build") / "faults.json"
PROPERTY = "fault"


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


class Booking:
    """A line that is being filled; it counts as passed only when its block ends well."""

    def __init__(self, row: Row, place: Place, keep: Callable[[str, object], None]) -> None:
        self.row = row
        self.place = place
        self._keep = keep
        self._began = 0.0

    def __enter__(self) -> Booking:
        self._began = time.monotonic()
        return self

    def __exit__(self, kind: Any, error: Any, trace: Any) -> None:
        self.row.took_s = round(time.monotonic() - self._began, 1)
        self.row.seeds = sorted(set(self.place.seeds))
        self.row.resumed_s = [round(each, 2) for each in self.place.resumed_s]
        self.row.result = "passed" if kind is None else "failed"
        self._keep(PROPERTY, asdict(self.row))

    def count(self, runs: int) -> None:
        """So many faults were made."""
        self.row.runs += runs


def _booked(terminalreporter: Any) -> list[Row]:
    reports = itertools.chain.from_iterable(terminalreporter.stats.values())
    rows = [
        Row(**value)
        for report in reports
        if getattr(report, "when", None) == "call"
        for name, value in report.user_properties
        if name == PROPERTY
    ]
    return sorted(rows, key=lambda row: (int(row.fault[1:]), row.what))


def pytest_terminal_summary(terminalreporter: Any) -> None:
    rows = _booked(terminalreporter)
    if not rows:
        return
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
