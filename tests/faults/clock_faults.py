"""Faults of the clock: it jumps by a day, both ways, and stands still, under a running worker.

In: a place and a seed. Out: nothing, or `Broken`. The clock is that of the worker's process alone,
and there of all Python code: `time.time` and `time.time_ns` are replaced before it starts. Native
code keeps the true time. (libfaketime 0.9.10 was tried: under it librdkafka's waits on condition
variables never end, lie or no lie about the monotonic clock, so nothing would be tested.)

Only the time of day lies. The monotonic clock does not jump on any machine, so it is left alone.
"""

from __future__ import annotations

import json
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Final

import orjson

from tests.faults.driver import Place, Run
from tests.faults.redis_faults import resumed, until_moving
from tests.live.reading import contents

ROUND = 40
DAY_S: Final = 86_400
LIES: Final = ("ahead", "behind", "frozen", "true")


def believe(file: Path) -> None:
    """In a worker's process, before it starts: the time of day is what the file says."""
    true = time.time

    def told() -> float:
        lie = json.loads(file.read_text())
        return float(lie["at"] if lie["frozen"] else true() + lie["off"])

    time.time = told
    time.time_ns = lambda: int(told() * 1e9)


def tell(file: Path, lie: str) -> None:
    """From now on the file says this."""
    off = {"ahead": DAY_S, "behind": -DAY_S}.get(lie, 0)
    beside = file.with_suffix(".new")
    beside.write_text(json.dumps({"off": off, "frozen": lie == "frozen", "at": time.time()}))
    beside.rename(file)


def produced_ms(run: Run) -> list[int]:
    """When each score was made, by the worker's clock."""
    values = [message.value() for message in contents(run.settings, "scores")]
    return [int(orjson.loads(value)["produced_time"]) for value in values if value]


def jumps(place: Place, seed: int, lies: Sequence[str] = LIES, mutant: str | None = None) -> int:
    """F15: one worker through all of these times; records, ids and messages are the oracle's."""
    clock = place.directory / f"clock-{seed}.json"
    tell(clock, "true")
    with Run(place, seed) as run:
        flag = f"worker.batch_events={ROUND}"
        worker = run.start(flag, mutant=mutant, clock=clock).ready()
        run.feed(200)
        for lie in lies:
            until_moving(run)
            tell(clock, lie)
            resumed(run)
            time.sleep(2)
        run.starve()
        run.drain()
        if not worker.alive:
            raise run.failure(["the worker ended with its clock", worker.said()])
        run.judge()
        now = time.time()
        away = [(made / 1000 - now) / DAY_S for made in produced_ms(run)]
        if not (max(away) > 0.9 and min(away) < -0.9):
            raise run.failure([f"the worker never believed it: {min(away)} to {max(away)} days"])
    return 1
