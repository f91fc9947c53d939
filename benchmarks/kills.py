"""Two `kill -9` of a worker in the middle of 100,000 events: is anything lost, or done twice?

In: `--events`, `--kills`, `--seed`, `--json`. Out: a table. Goal: every promise of
docs/guarantees.md that tests/faults/promises.py checks holds: each offset has its one outcome, each
score and alert is the one that an undisturbed run in this process makes, every second copy is
byte-equal but for its produced_time, and every account record in Redis is equal bit for bit.

It is the fault test F1 at length, on the log of a bad day (repeats, late events, conflicts, damaged
messages, erasures). A kill waits until its share of the log is applied and all partitions have
moved since the last one; the dead worker is replaced at once.
"""

from __future__ import annotations

import argparse
import json
import os
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

for _name in ("NUMBA_NUM_THREADS", "OMP_NUM_THREADS"):
    os.environ.setdefault(_name, "1")
sys.path.insert(0, str(Path(__file__).parents[1]))

from benchmarks import ground  # noqa: E402
from tests.faults.driver import Place, Run  # noqa: E402
from tests.faults.promises import Broken  # noqa: E402

PARTITIONS = 4
ROUND = 256
"""Messages a round may hold: so small that a kill falls between two steps of one."""
PATIENCE_S = 600.0


def disturbed(run: Run, events: int, kills: int) -> list[dict[str, float]]:
    """Give everything to two workers and kill one after the other."""
    flag = f"worker.batch_events={ROUND}"
    pair = [run.start(flag).ready(), run.start(flag).ready()]
    found, since = [], time.monotonic()
    run.publish(events)

    def moved() -> bool:
        return len(run.watch.moved(since)) == PARTITIONS or run.lag() == 0

    for number in range(kills):
        enough = events * (number + 1) / (kills + 1)
        run.until(moved, PATIENCE_S)
        run.until(lambda: sum(run.watch.offsets().values()) >= enough, PATIENCE_S)  # noqa: B023
        if run.lag() == 0:
            raise SystemExit("drained before the kill: give it more --events")
        applied, since = sum(run.watch.offsets().values()), time.monotonic()
        pair.pop(0).kill()
        pair.append(run.start(flag))
        run.until(moved, PATIENCE_S)
        found.append({"applied": applied, "resumed_s": time.monotonic() - since})
    for each in pair:
        each.ready()
    return found


def measure(events: int, kills: int, seed: int) -> dict[str, Any]:
    """One run, judged."""
    with ground.servers() as where, tempfile.TemporaryDirectory() as name:
        place = Place(where.bootstrap, where.redis_url, Path(name))
        with Run(place, seed, partitions=PARTITIONS) as run:
            deaths = disturbed(run, events, kills)
            run.drain(PATIENCE_S)
            run.finish()
            expected = run.expected()
            broken = run.faults(expected)
    return {
        "machine": ground.machine(),
        "events": events,
        "seed": seed,
        "kills": deaths,
        "scores": len(expected.scores),
        "alerts": len(expected.alerts),
        "dead_letters": len(expected.dead),
        "repeats": len(expected.repeats),
        "erasures": len(expected.erasures),
        "records": sum(map(len, expected.records.values())),
        "broken": broken,
    }


def show(result: dict[str, Any]) -> None:
    """The table."""
    print(result["machine"])
    print(f"{result['events']:,} messages, seed {result['seed']}")
    for kill in result["kills"]:
        print(
            f"kill -9 at {kill['applied']:,}; all partitions moved after {kill['resumed_s']:.1f} s"
        )
    for name in ("scores", "alerts", "dead_letters", "repeats", "erasures", "records"):
        print(f"  {name:13} {result[name]:>8,}")
    print("\n".join(result["broken"]) or "every promise holds")


def main() -> None:
    """The command."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawTextHelpFormatter
    )
    parser.add_argument("--events", type=int, default=100_000)
    parser.add_argument("--kills", type=int, default=2)
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--json", action="store_true")
    given = parser.parse_args()
    try:
        result = measure(given.events, given.kills, given.seed)
    except Broken as broken:
        raise SystemExit(str(broken)) from None
    print(json.dumps(result, indent=2)) if given.json else show(result)
    sys.exit(bool(result["broken"]))


if __name__ == "__main__":
    main()
