"""The fault tests for as long as you like, with seeds that nobody ran before.

In: minutes. Out: `benchmarks/results/soak.json`, which adds up over runs, and a table of what is
reached of what is asked, per fault; every seed that broke a promise, and how to run it again.
Does not know the faults (`tests/faults/scenes.py`) nor the promises (`tests/faults/promises.py`).

    make soak MINUTES=60                     or: python benchmarks/soak.py --minutes 60
    python benchmarks/soak.py --only F4 F6-killed --minutes 10
    python benchmarks/soak.py --again F6-killed:1003
    python benchmarks/soak.py --table

Time is shared out among the faults: the next piece is one of the fault that had least time in this
run, so that every fault has its turn first. MINUTES bounds the begin of the last piece, and the
first turn of each fault is taken in any case (some ten minutes). Several runs may go on at once:
a seed is taken out of the file under a lock. The memory of a worker that is busy all the while is
watched beside it, by a process of its own.
"""

from __future__ import annotations

import argparse
import contextlib
import fcntl
import json
import os
import platform
import shutil
import subprocess
import sys
import tempfile
import time
import traceback
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import replace
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, Final

for _name in ("NUMBA_NUM_THREADS", "OMP_NUM_THREADS"):
    os.environ.setdefault(_name, "1")
ROOT: Final = Path(__file__).parents[1]
sys.path.insert(0, str(ROOT))

from streams.dev import kafka as kafka_server  # noqa: E402
from streams.dev import process  # noqa: E402
from streams.dev import redis as redis_server  # noqa: E402
from streams.versions import code_version  # noqa: E402
from tests.faults import deaths  # noqa: E402
from tests.faults.driver import Place  # noqa: E402
from tests.faults.scenes import SCENES, Scene  # noqa: E402

RESULT: Final = Path(__file__).parent / "results" / "soak.json"
FAILURES: Final = ROOT / "build" / "soak"
FIRST_SEED: Final = 1_000
PIECES: Final = 25
"""Pieces on one broker: each leaves topics behind."""
MEMORY: Final = "F16-leak"
MEMORY_MINUTES: Final = 60.0
MEMORY_PERCENT: Final = 1.0
"""What an hour may add to a worker's memory."""

Entry = dict[str, Any]


class Book:
    """The file with what was reached. Every change is read, made and written under a lock."""

    def __init__(self, path: Path) -> None:
        self._path = path
        path.parent.mkdir(parents=True, exist_ok=True)

    def read(self) -> dict[str, Any]:
        """All of it."""
        if not self._path.exists():
            return {"runs": [], "faults": {}, "memory": []}
        found: dict[str, Any] = json.loads(self._path.read_text("utf-8"))
        return found

    @contextlib.contextmanager
    def changed(self) -> Iterator[dict[str, Any]]:
        """The content, to be changed."""
        directory = os.open(self._path.parent, os.O_RDONLY)
        try:
            fcntl.flock(directory, fcntl.LOCK_EX)
            content = self.read()
            yield content
            fresh = self._path.with_suffix(f".{os.getpid()}")
            fresh.write_text(json.dumps(content, indent=1, sort_keys=True) + "\n", "utf-8")
            fresh.rename(self._path)
        finally:
            os.close(directory)

    def seed_for(self, scene: Scene) -> int:
        """A seed that no run has had."""
        with self.changed() as content:
            entry = content["faults"].setdefault(scene.name, new_entry())
            seed: int = entry["next_seed"]
            entry["next_seed"] += 1
        return seed

    def note(self, scene: Scene, made: int, seconds: float, place: Place, error: str) -> None:
        """What a piece came to."""
        with self.changed() as content:
            entry = content["faults"][scene.name]
            entry["made"] += made
            entry["pieces"] += 1
            entry["seconds"] = round(entry["seconds"] + seconds, 1)
            entry["counts"] = dict(Counter(entry["counts"]) + place.counts)
            for each in place.resumed_s:
                tenths = f"{each:.1f}"
                entry["resumed_s"][tenths] = entry["resumed_s"].get(tenths, 0) + 1
            if error:
                entry["broken"].append(error)

    def begin(self, what: str) -> int:
        """A run begins; its number."""
        with self.changed() as content:
            content["runs"].append(
                {
                    "began": datetime.now(UTC).isoformat(timespec="seconds"),
                    "what": what,
                    "minutes": 0.0,
                    "machine": f"{platform.machine()}, {os.cpu_count()} cores",
                    "python": platform.python_version(),
                    "code": code_version(),
                }
            )
            return len(content["runs"]) - 1

    def went_on(self, run: int, minutes: float) -> None:
        """A run has lasted so long."""
        with self.changed() as content:
            content["runs"][run]["minutes"] = round(minutes, 1)

    def remember(self, memory: Entry) -> None:
        """A worker's memory was watched."""
        with self.changed() as content:
            content["memory"].append(memory)


def new_entry() -> Entry:
    """Nothing reached yet. `resumed_s`: how often each time to resume was seen, in 0.1 s."""
    zero: Entry = {"made": 0, "pieces": 0, "seconds": 0.0, "next_seed": FIRST_SEED}
    return zero | {"counts": {}, "resumed_s": {}, "broken": []}


def chosen(only: Sequence[str]) -> list[Scene]:
    """The scenes of these names or faults, all when none is named, that this machine can make."""
    if unknown := {*only} - {each for scene in SCENES for each in (scene.fault, scene.name)}:
        raise SystemExit(f"unknown: {', '.join(sorted(unknown))}; see --table for the names")
    wanted = [s for s in SCENES if not only or s.fault in only or s.name in only]
    lacking = {scene.name: lack for scene in wanted if (lack := scene.missing())}
    for name, lack in lacking.items():
        print(f"{name} is left out: it needs {lack}", file=sys.stderr)
    return [scene for scene in wanted if scene.name not in lacking]


def next_scene(
    scenes: Sequence[Scene], faults: dict[str, Entry], spent: Counter[str], left_s: float
) -> Scene | None:
    """One of the fault that had least time in this run, and there the scene that lacks most. Each
    fault has one turn, then only what is not reached yet and fits into the time; None: stop."""
    entries = {scene.name: faults.get(scene.name, new_entry()) for scene in scenes}

    def share(scene: Scene) -> float:
        return float(entries[scene.name]["made"] / scene.asked)

    def lasts(scene: Scene) -> float:
        entry = entries[scene.name]
        return float(entry["seconds"] / max(1, entry["pieces"]))

    untouched = [scene for scene in scenes if scene.fault not in spent]
    some = [scene for scene in scenes if share(scene) < 1] or list(scenes)
    some = untouched or [scene for scene in some if lasts(scene) < left_s]
    return min(some, key=lambda scene: (spent[scene.fault], share(scene)), default=None)


def piece(scene: Scene, seed: int, place: Place, place_of_failures: Path) -> tuple[int, str]:
    """Make one piece; how much it made, and what was broken ("" for nothing)."""
    place.directory.mkdir(parents=True)
    try:
        return scene.make(place, seed), ""
    except Exception as error:
        # Whatever stops one piece is told with its seed; the others go on.
        kept = place_of_failures / f"{scene.name}-{seed}"
        kept.mkdir(parents=True, exist_ok=True)
        for log in place.directory.rglob("*.log"):
            with contextlib.suppress(OSError):
                shutil.copy(
                    log, kept / log.relative_to(place.directory).as_posix().replace("/", "-")
                )
        (kept / "error.txt").write_text(traceback.format_exc(), "utf-8")
        said = f"{type(error).__name__}: {error}"[:2_000]
        print(f"BROKEN {scene.name} seed {seed}: {said}\nlogs: {kept}\n{again(scene, seed)}")
        return 0, f"seed {seed}: {said}"


def again(scene: Scene, seed: int) -> str:
    """How to make a piece again."""
    return f"again: python benchmarks/soak.py --again {scene.name}:{seed}"


@contextlib.contextmanager
def servers() -> Iterator[Place]:
    """A broker and a Redis with nothing in them."""
    with tempfile.TemporaryDirectory(prefix="soak-", ignore_cleanup_errors=True) as name:
        root = Path(name)
        broker = kafka_server.start(root / "kafka", die_with_parent=True)
        store = redis_server.start(root / "redis", die_with_parent=True)
        try:
            yield Place(broker.bootstrap, store.url, root)
        finally:
            process.stop(broker.child, 0)
            process.stop(store.child, 0)


def soak(minutes: float, scenes: Sequence[Scene], book: Book) -> bool:
    """Piece after piece until the time is over. Did every promise hold?"""
    run = book.begin(" ".join(sorted({scene.fault for scene in scenes}, key=lambda f: int(f[1:]))))
    began = time.monotonic()
    spent: Counter[str] = Counter()
    good = True
    while True:
        with servers() as place:
            for number in range(PIECES):
                left = 60 * minutes - (time.monotonic() - began)
                scene = next_scene(scenes, book.read()["faults"], spent, left)
                if scene is None:
                    return good
                seed = book.seed_for(scene)
                here = replace(
                    place,
                    directory=place.directory / f"piece{number}",
                    seeds=[],
                    resumed_s=[],
                    counts=Counter(),
                )
                started = time.monotonic()
                made, error = piece(scene, seed, here, FAILURES)
                seconds = time.monotonic() - started
                spent[scene.fault] += round(seconds * 1_000) + 1
                good = good and not error
                book.note(scene, made, seconds, here, error)
                book.went_on(run, (time.monotonic() - began) / 60)
                print(
                    f"{scene.name:16} seed {seed} {made:>6} {scene.unit:9} {seconds:6.1f} s"
                    f" {'BROKEN' if error else ''}",
                    flush=True,
                )


def watch_memory(minutes: float, book: Book) -> bool:
    """F16: does a busy worker's memory grow? Told whatever the time, judged from an hour on."""
    with servers() as place:
        seen = deaths.leak(place, FIRST_SEED, 60 * minutes)
    percent = round(seen.percent_an_hour, 2)
    print(f"{MEMORY}  {minutes:g} minutes: {percent:+.2f} % an hour, {seen.messages} messages")
    book.remember(
        {
            "minutes": round(minutes, 1),
            "percent_an_hour": percent,
            "from_mib": round(seen.first / 2**20, 1),
            "to_mib": round(seen.last / 2**20, 1),
            "messages": seen.messages,
            "code": code_version(),
        }
    )
    return minutes < MEMORY_MINUTES or percent < MEMORY_PERCENT


def table(content: dict[str, Any]) -> str:
    """What is reached of what is asked, per scene."""
    head = f"{'':16} {'fault':36} {'reached':>9} / {'asked':<19} {'seeds':>11}"
    lines = [f"{head} {'resumed s':>12} broken"]
    for scene in SCENES:
        entry = content["faults"].get(scene.name, new_entry())
        span, said = "-", "-"
        if entry["pieces"]:
            span = f"{FIRST_SEED}..{entry['next_seed'] - 1}"
        times = [float(t) for t, n in entry["resumed_s"].items() for _ in range(n)]
        if times:
            said = f"{sorted(times)[len(times) // 2]:.1f} / {max(times):.1f}"
        asked = f"{scene.asked:,} {scene.unit}"
        lines.append(
            f"{scene.name:16} {scene.what:36} {entry['made']:>9,} / {asked:<19} {span:>11}"
            f" {said:>12} {len(entry['broken'])}"
        )
        more = ", ".join(f"{count:,} {what}" for what, count in sorted(entry["counts"].items()))
        if more:
            lines.append(f"{'':16} {more}")
    longest = max(content["memory"], key=lambda each: float(each["minutes"]), default=None)
    if longest is None:
        lines.append(f"{MEMORY:16} {'memory of a busy worker':36} {'not watched':>9}")
    else:
        reached = f"{longest['minutes']:g}"
        lines.append(
            f"{MEMORY:16} {'memory of a busy worker':36} {reached:>9} / {'60 minutes':<19}"
            f" {longest['percent_an_hour']:+.2f} % an hour, {longest['messages']:,} messages"
        )
    total = sum(float(run["minutes"]) for run in content["runs"])
    lines.append(f"{len(content['runs'])} runs, {total:.0f} minutes in all")
    return "\n".join(lines)


def main() -> int:
    """The command line; 1 when a promise was broken."""
    arguments = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    arguments.add_argument("--minutes", type=float, default=0.0, help="0: one turn of each fault")
    arguments.add_argument("--only", nargs="*", default=[], help="faults or names: F1 F6-killed")
    arguments.add_argument("--again", metavar="NAME:SEED", help="one piece once more; not counted")
    arguments.add_argument("--memory", type=float, help="watch a worker's memory for MINUTES only")
    arguments.add_argument("--table", action="store_true", help="what is reached so far")
    arguments.add_argument("--out", type=Path, default=RESULT)
    arguments.add_argument("--json", action="store_true", help="the file's content at the end")
    given = arguments.parse_args()
    book = Book(given.out)
    good = True
    if given.again:
        name, _, seed = given.again.partition(":")
        (scene,) = chosen([name])
        with servers() as place:
            made, error = piece(
                scene, int(seed), replace(place, directory=place.directory / "p"), FAILURES
            )
        print(f"{scene.name} seed {seed}: {error or f'{made} {scene.unit}, nothing broken'}")
        return bool(error)
    if given.memory:
        return not watch_memory(given.memory, book)
    if not given.table:
        beside = None
        if given.minutes and not given.only:
            command = [
                sys.executable,
                __file__,
                "--memory",
                str(given.minutes),
                "--out",
                str(given.out),
            ]
            beside = subprocess.Popen(command)
        good = soak(given.minutes, chosen(given.only), book)
        good = (beside is None or beside.wait() == 0) and good
    content = book.read()
    print(json.dumps(content) if given.json else table(content))
    return not good


if __name__ == "__main__":
    sys.exit(main())
