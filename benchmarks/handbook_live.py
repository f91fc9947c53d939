"""The whole Handbook stream live, through the public doors: is every transaction accounted for?

In: `--data` (the stream as Parquet, as published), `--kill`, `--verify`, `--events`, `--json`.
Out: a table. One run on a real broker and a durable Redis of its own, two workers, a stub score:
convert, publish labels, publish transactions, drain, audit; then the same file replayed in this
process. Goal: the balance holds, and every feature digest and alert id is the same.

    --kill     one worker is killed (SIGKILL) in the middle, and another one joins
    --verify   also record everything and let `fraudstream verify` compare it
"""

from __future__ import annotations

import argparse
import json
import signal
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

import orjson
import pyarrow.parquet as pq
import redis
from confluent_kafka import Consumer, TopicPartition

from streams.connect import confluent_config, redis_client
from streams.offline import results
from streams.settings import Settings, load
from streams.store import keys

FLAGS = ("--set", "model.bundle=stub", "--set", "worker.max_future_s=31536000")
PROGRAM = "import sys; from streams.cli import main; sys.argv[0] = 'fraudstream'; main()"
DRAIN_S = 3_600.0


def command(*words: str) -> list[str]:
    """A fraudstream command line."""
    return [sys.executable, "-c", PROGRAM, *words]


def run(place: Path, *words: str) -> str:
    """Run a verb in the directory of the services; its stdout. Raises CalledProcessError."""
    done = subprocess.run(
        command(*words), cwd=place, check=True, stdout=subprocess.PIPE, stderr=sys.stderr
    )
    return done.stdout.decode()


def worker(place: Path, number: int) -> subprocess.Popen[bytes]:
    """Start a worker; its log is in the directory."""
    log = (place / f"worker-{number}.log").open("wb")
    return subprocess.Popen(command("worker", *FLAGS), cwd=place, stdout=log, stderr=log)


def applied(settings: Settings, client: redis.Redis, partitions: int) -> int:
    """Messages that the workers have committed."""
    done = 0
    for partition in range(partitions):
        name = keys.of(settings.redis.namespace, 0, partition).part
        offset: Any = client.hget(name, "offset")
        done += int(offset or 0)
    return done


def ends(settings: Settings, partitions: int) -> int:
    """Messages on the topic."""
    consumer = Consumer(confluent_config(settings, {"group.id": "benchmark"}))
    topic = settings.topic("transactions")
    found = sum(
        consumer.get_watermark_offsets(TopicPartition(topic, p), timeout=30)[1]
        for p in range(partitions)
    )
    consumer.close()
    return found


def drain(place: Path, settings: Settings, partitions: int, kill: bool) -> dict[str, float]:
    """Two workers until everything is committed."""
    client = redis_client(settings)
    total = ends(settings, partitions)
    workers = [worker(place, 1), worker(place, 2)]
    began = time.monotonic()
    first: float | None = None
    killed = not kill
    while (done := applied(settings, client, partitions)) < total:
        first = time.monotonic() if first is None and done else first
        if not killed and done > total // 3:
            workers[0].send_signal(signal.SIGKILL)
            workers.append(worker(place, 3))
            killed = True
        if time.monotonic() - began > DRAIN_S:
            raise TimeoutError(f"{done:,} of {total:,} after {DRAIN_S:.0f} s")
        time.sleep(0.5)
    finished = time.monotonic()
    time.sleep(3)
    for one in workers:
        one.send_signal(signal.SIGTERM)
        one.wait(30)
    busy = finished - (first or began)
    return {"messages": total, "drain_s": busy, "events_per_s": total / max(busy, 1e-9)}


def live_scores(place: Path) -> dict[str, tuple[str, str | None]]:
    """Transaction to (feature digest, alert id), as published."""
    found: dict[str, tuple[str, str | None]] = {}
    for verb, field in (("scores", "feature_digest"), ("alerts", "alert_id")):
        lines = run(place, verb, "--json").splitlines()
        for line in lines:
            document = orjson.loads(line)
            name = document["transaction_id"]
            if verb == "scores":
                found[name] = (document[field], None)
            else:
                found[name] = (found[name][0], document[field])
    return found


def replayed_scores(out: Path) -> dict[str, tuple[str, str | None]]:
    """The same from a replay of the file."""
    table = results.read(out, ["outcome", "transaction_id", "feature_digest", "alert_id_0"])
    return {
        name: (f"{digest:016x}", alert)
        for outcome, name, digest, alert in zip(
            *(table[column].to_pylist() for column in table.schema.names[:4]), strict=True
        )
        if outcome == results.SCORED
    }


def measure(data: Path, events: int | None, kill: bool, verify: bool) -> dict[str, Any]:
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
            return _measured(place, kill, verify)
        finally:
            run(place, "services", "down")


def _measured(place: Path, kill: bool, verify: bool) -> dict[str, Any]:
    partitions = 6
    run(place, "topics", "create", "--partitions", str(partitions))
    run(place, "publish", "stream-labels.parquet")
    run(place, "publish", "stream.parquet")
    local = json.loads((place / ".fraudstream" / "services.json").read_text())
    settings = load(
        flags=[
            f"kafka.bootstrap={local['kafka']['bootstrap']}",
            f"redis.url={local['redis']['url']}",
        ]
    )
    found: dict[str, Any] = {"killed": kill, **drain(place, settings, partitions, kill)}
    audit = subprocess.run(
        command("audit", "--json"), cwd=place, stdout=subprocess.PIPE, check=False
    )
    found["balances"] = audit.returncode == 0
    found["audit"] = json.loads(audit.stdout)
    run(place, "replay", "stream.parquet", "--labels", "stream-labels.parquet", "--out", "replayed",
        "--jobs", "2", *FLAGS)  # fmt: skip
    live, again = live_scores(place), replayed_scores(place / "replayed")
    found["scores"] = len(live)
    found["alerts"] = sum(alert is not None for _, alert in live.values())
    found["different"] = sum(live.get(name) != said for name, said in again.items())
    found["missing"] = len(set(again) ^ set(live))
    if verify:
        run(place, "record", "--scores", "recording")
        verdict = subprocess.run(
            command("verify", "recording", "--json", *FLAGS),
            cwd=place,
            stdout=subprocess.PIPE,
            check=False,
        )
        found["verify"] = json.loads(verdict.stdout)
        digests = {}
        for jobs in (1, 2, 4):
            said = run(place, "replay", "recording", "--out", f"jobs{jobs}", "--jobs", str(jobs),
                       "--json", *FLAGS)  # fmt: skip
            digests[jobs] = json.loads(said)["digest"]
        found["replay_digests"] = digests
    return found


def main() -> None:
    """The command line."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawTextHelpFormatter
    )
    parser.add_argument("--data", type=Path, required=True)
    parser.add_argument("--events", type=int, help="only the first so many")
    parser.add_argument("--kill", action="store_true")
    parser.add_argument("--verify", action="store_true")
    parser.add_argument("--json", action="store_true")
    given = parser.parse_args()
    found = measure(given.data, given.events, given.kill, given.verify)
    if given.json:
        print(json.dumps(found, indent=2))
        return
    for name, value in found.items():
        if not isinstance(value, dict):
            print(f"{name:14} {value if not isinstance(value, float) else round(value, 1)}")
    if verify := found.get("verify"):
        print(f"verify         equal={verify['equal']}, {verify['compared']:,} compared")
        print(f"replay digests {found['replay_digests']}")


if __name__ == "__main__":
    main()
