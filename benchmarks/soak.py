"""The fault tests for as long as you like: the same runs with other seeds, round after round.

In: minutes, a first seed. Out: a table and `benchmarks/results/soak.json` (or `--out`): how often
each fault was made, how long until the offsets moved again, and every seed that broke a promise.
Does not know the promises; tests/faults/promises.py does.

    make soak MINUTES=60        or: python benchmarks/soak.py --minutes 60 --seed 1000
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import statistics
import sys
import tempfile
import time
from collections.abc import Callable
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

for _name in ("NUMBA_NUM_THREADS", "OMP_NUM_THREADS"):
    os.environ.setdefault(_name, "1")
sys.path.insert(0, str(Path(__file__).parents[1]))

import redis  # noqa: E402

from streams.dev import kafka as kafka_server  # noqa: E402
from streams.dev import process  # noqa: E402
from streams.dev import redis as redis_server  # noqa: E402
from tests.faults import (  # noqa: E402
    broker_faults,
    bundle_faults,
    clock_faults,
    deaths,
    disk_faults,
    interleave,
    line_faults,
    redis_faults,
)
from tests.faults.driver import Place  # noqa: E402

RESULT = Path(__file__).parent / "results" / "soak.json"
SCHEDULES = 2_000

Scene = Callable[[Place, int], int]


def _interleavings(place: Place, seed: int) -> int:
    # A server without a file: crashes here are the workers', and disk syncs cost.
    extra = {"appendonly": "no"}
    directory = place.directory / "interleavings"
    server = redis_server.start(directory, extra=extra, die_with_parent=True)
    try:
        with redis.Redis.from_url(server.url) as client:
            for schedule in range(seed * SCHEDULES, (seed + 1) * SCHEDULES):
                interleave.run(schedule, client)
                if schedule % 200 == 199:
                    client.flushall()
    finally:
        process.stop(server.child, 0)
    return SCHEDULES


SCENES: tuple[tuple[str, str, Scene], ...] = (
    ("F1", "kill -9 of one of two workers", lambda p, s: deaths.kill_at_random(p, s, 10)),
    ("F2", "crash after each step of three rounds", deaths.crash_at_every_step),
    ("F3", "frozen before the commit, overtaken, thawed", deaths.frozen_between_compute_and_commit),
    ("F4", "interleavings of workers on one partition", _interleavings),
    ("F5", "workers join and leave", lambda p, s: deaths.storm(p, s, 60)),
    ("F6", "kill -9 of Redis", lambda p, s: redis_faults.killed(p, s, 5)),
    ("F6", "Redis frozen for 10 s", lambda p, s: redis_faults.frozen(p, s, 2, 10)),
    ("F6", "Redis restored to an older file", lambda p, s: redis_faults.put_back(p, s, 3)),
    ("F6", "Redis comes back empty: refused", redis_faults.emptied),
    ("F6", "Redis full: waits, goes on", lambda p, s: redis_faults.full(p, s, 3)),
    ("F7", "a replica without the last commits promoted", redis_faults.promoted),
    (
        "F8",
        "connections to Redis and Kafka harmed",
        lambda p, s: line_faults.bad_lines(p, s, 10),
    ),
    ("F9", "kill -9 of the only broker", lambda p, s: broker_faults.killed(p, s, 2)),
    (
        "F9",
        "kill -9 of one of three brokers",
        lambda p, s: broker_faults.one_of_three_killed(p, s, 2),
    ),
    ("F9", "unclean election: refused, rebuilt", broker_faults.unclean),
    ("F10", "disk full under Redis", disk_faults.append_only_file),
    ("F10", "disk full under the broker", disk_faults.broker_log),
    ("F10", "disk full under a recording", disk_faults.recording),
    (
        "F13",
        "other round sizes; 1, 2 and 4 workers",
        lambda p, s: deaths.same_log_again(p, s, 3_000),
    ),
    ("F14", "bundle damaged: refused", bundle_faults.refused),
    ("F14", "bundle exchanged while a worker runs", bundle_faults.swapped),
    ("F15", "a day ahead, a day behind, frozen", clock_faults.jumps),
    ("F16", "address space limited (RLIMIT_AS)", deaths.out_of_memory),
)


@dataclass
class Line:
    """What one kind of fault came to."""

    fault: str
    what: str
    made: int = 0
    runs: int = 0
    seeds: list[int] = field(default_factory=list)
    resumed_s: list[float] = field(default_factory=list)
    broken: list[str] = field(default_factory=list)

    def as_json(self) -> dict[str, Any]:
        resumed = sorted(self.resumed_s)
        return {
            "fault": self.fault,
            "what": self.what,
            "made": self.made,
            "runs": self.runs,
            "seeds": [min(self.seeds), max(self.seeds)] if self.seeds else [],
            "resumed_s": {
                "median": round(statistics.median(resumed), 2),
                "max": round(resumed[-1], 2),
            }
            if resumed
            else None,
            "broken": self.broken,
        }


@dataclass
class Leak:
    """How a busy worker's memory grew."""

    minutes: float = 0.0
    percent_an_hour: float | None = None


def soak(
    minutes: float, seed: int, only: list[str], out: Path, leak: Leak | None = None
) -> list[Line]:
    """Round after round of all scenes until the time is over; the first round is done whole."""
    lines = [Line(fault, what) for fault, what, _ in SCENES]
    deadline = time.monotonic() + 60 * minutes
    began, first = time.monotonic(), seed
    with tempfile.TemporaryDirectory(prefix="soak-") as name:
        root = Path(name)
        broker = kafka_server.start(root / "kafka", die_with_parent=True)
        server = redis_server.start(root / "redis", die_with_parent=True)
        while seed == first or time.monotonic() < deadline:
            for line, (fault, _, scene) in zip(lines, SCENES, strict=True):
                late = seed > first and time.monotonic() > deadline
                if late or (only and fault not in only):
                    continue
                place = Place(broker.bootstrap, server.url, root)
                try:
                    line.made += scene(place, seed)
                except Exception as error:
                    # Whatever stops one run is told with its seed; the others go on.
                    line.broken.append(f"seed {seed}: {type(error).__name__}: {error}"[:2_000])
                line.runs += 1
                line.seeds.append(seed)
                line.resumed_s += place.resumed_s
                print(f"{line.fault:4} {line.what:46} {line.made:>9} {len(line.broken)} broken")
                report(lines, (time.monotonic() - began) / 60, out, leak)
                with redis.Redis.from_url(server.url) as client:
                    client.flushall()
            seed += 1
        if leak is not None and leak.minutes:
            place = Place(broker.bootstrap, server.url, root)
            grown = deaths.leak(place, first, 60 * leak.minutes)
            leak.percent_an_hour = round(grown, 2)
            print(f"F16  resident memory over {leak.minutes:g} minutes: {grown:+.2f} % an hour")
            report(lines, (time.monotonic() - began) / 60, out, leak)
        process.stop(broker.child, 0)
        process.stop(server.child, 0)
    return lines


def report(lines: list[Line], minutes: float, out: Path, leak: Leak | None = None) -> None:
    """Write what was reached so far."""
    out.parent.mkdir(parents=True, exist_ok=True)
    content = {
        "minutes": round(minutes, 1),
        "machine": f"{platform.machine()}, {os.cpu_count()} cores",
        "python": platform.python_version(),
        "faults": [line.as_json() for line in lines if line.runs],
        "memory": asdict(leak) if leak is not None and leak.percent_an_hour is not None else None,
    }
    out.write_text(json.dumps(content, indent=1) + "\n", "utf-8")


def main() -> int:
    """The command line; 1 when a promise was broken."""
    arguments = argparse.ArgumentParser(description=__doc__)
    arguments.add_argument("--minutes", type=float, default=0.0, help="0: one round of all scenes")
    arguments.add_argument("--seed", type=int, default=1_000)
    arguments.add_argument("--only", nargs="*", default=[], help="F1 F2 ...")
    arguments.add_argument(
        "--leak", type=float, default=0.0, help="minutes to watch a worker's memory at the end"
    )
    arguments.add_argument("--out", type=Path, default=RESULT)
    arguments.add_argument("--json", action="store_true")
    given = arguments.parse_args()
    leak = Leak(given.leak)
    lines = soak(given.minutes, given.seed, given.only, given.out, leak)
    if given.json:
        print(json.dumps([line.as_json() for line in lines]))
    # Less than an hour says little: it is told, and not judged.
    leaks = given.leak >= 60 and (leak.percent_an_hour or 0.0) >= 1.0
    return leaks or any(line.broken for line in lines)


if __name__ == "__main__":
    sys.exit(main())
