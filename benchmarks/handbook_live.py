"""The whole Handbook stream live, through the public doors: is every transaction accounted for?

In: `--data` (the stream as Parquet, as published), `--kills`, `--verify`, `--events`, `--json`.
Out: a table. One run on a real broker and a durable Redis of its own, two workers, a stub score:
convert, publish labels, publish transactions, drain, audit; then the same file replayed in this
process. Goal: the balance holds, and every feature digest and alert id is the same.

    --kills N  so many times (2) a worker is killed with SIGKILL in the middle, and a new one joins
    --verify   also record everything and let `fraudstream verify` compare it

A kill waits for progress, never for time: the share of the stream that its turn asks for is
applied, and the victim itself has committed TASTE messages since it started. If the stream is
drained before the last kill the run fails.
"""

from __future__ import annotations

import argparse
import json
import signal
import subprocess
import sys
import tempfile
import time
import urllib.request
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import orjson
import pyarrow.parquet as pq
import redis
from confluent_kafka import Consumer

from benchmarks.ground import machine
from streams.clients.outage import limits
from streams.connect import confluent_config, redis_client
from streams.dev import process
from streams.offline import results
from streams.settings import Settings, load
from streams.store import keys

FLAGS = ("--set", "model.bundle=stub", "--set", "worker.max_future_s=31536000")
PROGRAM = "import sys; from streams.cli import main; sys.argv[0] = 'fraudstream'; main()"
PARTITIONS = 6
DRAIN_S = 3_600.0
STILL_S = 120.0
LOOK_EVERY_S = 0.05
TASTE = 1_000
READ = "fraudstream_transactions_read_total "

Said = tuple[str, str | None]
"""Feature digest and alert id of a transaction."""


def command(*words: str) -> list[str]:
    """A fraudstream command line."""
    return [sys.executable, "-c", PROGRAM, *words]


def run(place: Path, *words: str) -> str:
    """Run a verb in the directory of the services; its stdout. Raises CalledProcessError."""
    done = subprocess.run(
        command(*words), cwd=place, check=True, stdout=subprocess.PIPE, stderr=sys.stderr
    )
    return done.stdout.decode()


class Worker:
    """A worker process; its log is in the directory."""

    def __init__(self, place: Path, number: int) -> None:
        self.number = number
        self._port = process.free_port()
        self._log = place / f"worker-{number}.log"
        flags = (*FLAGS, "--set", f"metrics.port={self._port}")
        with self._log.open("wb") as log:
            self.process = subprocess.Popen(
                command("worker", *flags), cwd=place, stdout=log, stderr=log
            )

    def committed(self) -> int:
        """Messages that it has read and committed; 0 while it does not answer."""
        try:
            with urllib.request.urlopen(f"http://127.0.0.1:{self._port}/metrics", timeout=5) as got:
                lines = got.read().decode().splitlines()
        except OSError:
            return 0
        return int(float(next(line for line in lines if line.startswith(READ)).split()[1]))

    def said(self) -> str:
        """The end of its log."""
        return self._log.read_text("utf-8", "replace")[-2_000:]

    def stop(self) -> None:
        """Let it leave in order."""
        self.process.send_signal(signal.SIGTERM)
        self.process.wait(30)


def applied(settings: Settings, client: redis.Redis, partitions: int) -> list[int]:
    """Messages of each partition that the workers have committed."""
    names = [keys.of(settings.redis.namespace, 0, p).part for p in range(partitions)]
    found: list[Any] = [client.hget(name, "offset") for name in names]
    return [int(each or 0) for each in found]


@dataclass(frozen=True)
class Kill:
    """One kill -9: what the victim and the group had done, and when all partitions moved again."""

    worker: int
    its_commits: int
    applied: int
    total: int
    resumed_s: float


class Group:
    """The workers and what the store says of their progress."""

    def __init__(self, place: Path, settings: Settings) -> None:
        self._place = place
        self._settings = settings
        self._client: redis.Redis = redis_client(settings)
        self.ends = ends(settings)
        self.total = sum(self.ends)
        self.kills: list[Kill] = []
        self.workers = [Worker(place, 1), Worker(place, 2)]
        self._moved = time.monotonic(), -1

    def offsets(self) -> list[int]:
        """Messages of each partition that are committed. Raises TimeoutError when none moves."""
        made = applied(self._settings, self._client, PARTITIONS)
        if sum(made) != self._moved[1]:
            self._moved = time.monotonic(), sum(made)
        elif time.monotonic() - self._moved[0] > STILL_S:
            said = "\n".join(f"worker {each.number}: {each.said()}" for each in self.workers)
            raise TimeoutError(f"{sum(made):,} of {self.total:,}, and nothing moves\n{said}")
        time.sleep(LOOK_EVERY_S)
        return made

    def kill(self, at: float) -> None:
        """Kill the first worker once `at` of the stream is applied; a new one takes its place."""
        victim = self.workers[0]
        while (applied := sum(self.offsets())) < at * self.total or victim.committed() < TASTE:
            if applied >= self.total:
                raise SystemExit(f"drained before worker {victim.number} could be killed")
        its = victim.committed()
        victim.process.kill()
        victim.process.wait()
        killed, before = time.monotonic(), self.offsets()
        self.workers = [*self.workers[1:], Worker(self._place, self.workers[-1].number + 1)]
        while any(
            now == then < end
            for now, then, end in zip(self.offsets(), before, self.ends, strict=True)
        ):
            pass
        resumed = time.monotonic() - killed
        self.kills.append(Kill(victim.number, its, sum(before), self.total, resumed))

    def drain(self, kills: int) -> dict[str, Any]:
        """Until everything is committed, with the kills spread evenly over the stream."""
        while not sum(self.offsets()):
            pass
        began = time.monotonic()
        for number in range(kills):
            self.kill((number + 1) / (kills + 1))
        while sum(self.offsets()) < self.total:
            pass
        spent = time.monotonic() - began
        for each in self.workers:
            each.stop()
        return {"messages": self.total, "drain_s": spent, "events_per_s": self.total / spent}


def ends(settings: Settings) -> list[int]:
    """Messages in each partition of the topic."""
    consumer = Consumer(confluent_config(settings, {"group.id": "benchmark"}))
    topic = settings.topic("transactions")
    found = [limits(consumer, topic, number)[1] for number in range(PARTITIONS)]
    consumer.close()
    return found


def lines_of(place: Path, *words: str) -> Iterator[dict[str, Any]]:
    """The JSON lines of a verb as they come: too many to hold as text."""
    with subprocess.Popen(command(*words), cwd=place, stdout=subprocess.PIPE) as running:
        assert running.stdout is not None
        for line in running.stdout:
            yield orjson.loads(line)
    if running.returncode:
        raise SystemExit(f"{' '.join(words)} ended with {running.returncode}")


def live_scores(place: Path) -> dict[str, Said]:
    """What was published of each transaction."""
    found: dict[str, Said] = {
        score["transaction_id"]: (score["feature_digest"], None)
        for score in lines_of(place, "scores", "--json")
    }
    for alert in lines_of(place, "alerts", "--json"):
        name = alert["transaction_id"]
        found[name] = (found[name][0], alert["alert_id"])
    return found


def replayed_scores(out: Path) -> dict[str, Said]:
    """The same from a replay of the file."""
    table = results.read(out, ["outcome", "transaction_id", "feature_digest", "alert_id_0"])
    return {
        name: (f"{digest:016x}", alert)
        for outcome, name, digest, alert in zip(
            *(table[column].to_pylist() for column in table.schema.names[:4]), strict=True
        )
        if outcome == results.SCORED
    }


def measure(data: Path, events: int | None, kills: int, verify: bool) -> dict[str, Any]:
    """The whole run in a directory of its own."""
    with tempfile.TemporaryDirectory(prefix="fraudstream-handbook-") as name:
        place = Path(name)
        source = data.resolve()
        if events is not None:
            table = pq.read_table(source).slice(0, events)
            source = place / "head.parquet"
            pq.write_table(table, source)
        run(place, "convert", "handbook", str(source), "stream.parquet")
        run(place, "services", "up")
        try:
            return _measured(place, kills, verify)
        finally:
            run(place, "services", "down")


def _measured(place: Path, kills: int, verify: bool) -> dict[str, Any]:
    run(place, "topics", "create", "--partitions", str(PARTITIONS))
    run(place, "publish", "stream-labels.parquet")
    run(place, "publish", "stream.parquet")
    local = json.loads((place / ".fraudstream" / "services.json").read_text())
    settings = load(
        flags=[
            f"kafka.bootstrap={local['kafka']['bootstrap']}",
            f"redis.url={local['redis']['url']}",
        ]
    )
    group = Group(place, settings)
    found: dict[str, Any] = {"machine": machine(), **group.drain(kills)}
    found["kills"] = [each.__dict__ for each in group.kills]
    audit = subprocess.run(
        command("audit", "--json"), cwd=place, stdout=subprocess.PIPE, check=False
    )
    found["audit"] = json.loads(audit.stdout)
    run(place, "replay", "stream.parquet", "--labels", "stream-labels.parquet", "--out", "replayed",
        "--jobs", "2", *FLAGS)  # fmt: skip
    live, again = live_scores(place), replayed_scores(place / "replayed")
    found["scores"] = len(live)
    found["alerts"] = sum(alert is not None for _, alert in live.values())
    found["different"] = sum(live.get(name) != said for name, said in again.items())
    found["missing"] = len(set(again) ^ set(live))
    found["goals_met"] = (
        audit.returncode == 0
        and found["scores"] == found["messages"]
        and not found["different"]
        and not found["missing"]
    )
    if verify:
        found |= verified(place)
    return found


def verified(place: Path) -> dict[str, Any]:
    """What `verify` says of a recording of the run, and replays of it by 1, 2 and 4 jobs."""
    run(place, "record", "--scores", "recording")
    verdict = subprocess.run(
        command("verify", "recording", "--json", *FLAGS),
        cwd=place,
        stdout=subprocess.PIPE,
        check=False,
    )
    digests = {}
    for jobs in (1, 2, 4):
        said = run(place, "replay", "recording", "--out", f"jobs{jobs}", "--jobs", str(jobs),
                   "--json", *FLAGS)  # fmt: skip
        digests[jobs] = json.loads(said)["digest"]
    return {"verify": json.loads(verdict.stdout), "replay_digests": digests}


def show(found: dict[str, Any]) -> None:
    """The table."""
    print(found["machine"])
    print(
        f"{found['messages']:,} messages drained in {found['drain_s']:.0f} s, "
        f"{found['events_per_s']:,.0f} a second, deaths included"
    )
    for kill in found["kills"]:
        print(
            f"kill -9 of worker {kill['worker']} after {kill['its_commits']:,} of its own commits, "
            f"at {kill['applied']:,} of {kill['total']:,}; all partitions moved again after "
            f"{kill['resumed_s']:.1f} s"
        )
    audit = found["audit"]
    print(f"audit: balanced {audit['balanced']}; published {audit['published']:,} =", end=" ")
    print(" + ".join(f"{count:,} {name}" for name, count in audit["headings"].items()))
    print(f"  second copies on the topics {audit['repeats']}, contradictions {audit['faults']}")
    print(f"scores {found['scores']:,}, alerts {found['alerts']:,}")
    print(
        f"beside a replay of the file: {found['different']:,} feature digests or "
        f"alert ids differ, {found['missing']:,} transactions only here or only there"
    )
    if verify := found.get("verify"):
        print(f"verify: equal {verify['equal']}, {verify['compared']:,} compared")
        print(f"replay digests by jobs: {found['replay_digests']}")
    print(f"goals met: {found['goals_met']}")


def main() -> None:
    """The command line."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawTextHelpFormatter
    )
    parser.add_argument("--data", type=Path, required=True)
    parser.add_argument("--events", type=int, help="only the first so many")
    parser.add_argument("--kills", type=int, default=2)
    parser.add_argument("--verify", action="store_true")
    parser.add_argument("--json", action="store_true")
    given = parser.parse_args()
    found = measure(given.data, given.events, given.kills, given.verify)
    print(json.dumps(found, indent=2)) if given.json else show(found)
    sys.exit(not found["goals_met"])


if __name__ == "__main__":
    main()
