"""Faults of the clock: it jumps by a day, both ways, and stands still, under a running worker.

In: a place and a seed. Out: nothing, or `Broken`. The clock is that of the worker's process alone,
in one of two ways: that of all Python code (`time.time` and `time.time_ns` are replaced before it
starts; native code keeps the true time), which works on any machine; or that of the whole process,
by libfaketime (`native_clock.py`), where that is installed.

Only the time of day lies. The monotonic clock does not jump on any machine, so it is left alone.
"""

from __future__ import annotations

import json
import time
from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path
from typing import Final

import orjson

from tests.faults import native_clock
from tests.faults.driver import Place, Run
from tests.faults.redis_faults import resumed, until_moving
from tests.faults.workers import Worker
from tests.live.reading import contents

FLAG = "worker.batch_events=40"
DAY_S: Final = 86_400
COLD_START_S: Final = 300.0
"""For a worker that is not forked: it imports, and may have to compile, everything."""
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
        worker = run.start(FLAG, mutant=mutant, clock=clock).ready()
        _through(run, worker, lies, partial(tell, clock))
        _believed(run, produced_ms(run))
    return 1


def jumps_of_all(place: Place, seed: int) -> int:
    """F15: the same, and native code sees the time jump, too."""
    clock = place.directory / f"clock-{seed}.txt"
    environment = native_clock.environment(place.directory, clock)
    native_clock.tell(clock, "ahead")
    assert native_clock.asked(environment) > time.time() + 0.9 * DAY_S, "native code sees the truth"
    native_clock.tell(clock, "true")
    with Run(place, seed) as run:
        worker = run.start(FLAG, environment=environment)
        worker.until(lambda: "ready" in worker.said() or not worker.alive, COLD_START_S)
        worker.ready()
        _through(run, worker, LIES, partial(native_clock.tell, clock))
        _believed(run, produced_ms(run))
    return 1


def _through(run: Run, worker: Worker, lies: Sequence[str], say: Callable[[str], None]) -> None:
    """Feed, lie, see that all goes on, and judge."""
    run.feed(200)
    for lie in lies:
        until_moving(run)
        say(lie)
        resumed(run)
        time.sleep(2)
    run.starve()
    run.drain()
    if not worker.alive:
        raise run.failure(["the worker ended with its clock", worker.said()])
    run.judge()


def _believed(run: Run, times_ms: Sequence[int]) -> None:
    now = time.time()
    away = [(made / 1000 - now) / DAY_S for made in times_ms]
    if not (max(away) > 0.9 and min(away) < -0.9):
        raise run.failure([f"the worker never believed it: {min(away)} to {max(away)} days"])
