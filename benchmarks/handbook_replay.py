"""The Handbook stream live, recorded, and replayed in four ways: are all of them the same?

In: `--data` (the stream as Parquet, as published), `--events`, `--bundle`, `--json`.
Out: a table. Through the public doors, on a real broker and a durable Redis of its own:

    live     two workers while the stream comes in day by day; each day's labels (7 days old) come
             before its transactions; at a third one worker is killed (SIGKILL) and another joins
    record   `record --scores`: transactions, labels, scores, alerts, the risk snapshots named
    verify   live against a replay: feature digests, scores, alert ids
    replay   with 1, 2 and 4 processes, and on a Ray cluster of two nodes: the same result files

Goal: nothing differs. The score is a stub unless `--bundle` names a model; risk is on.
"""

from __future__ import annotations

import argparse
import itertools
import json
import os
import signal
import subprocess
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow.parquet as pq

from benchmarks.ground import machine
from benchmarks.handbook_live import applied, command, run
from streams.clients.publish import Chunk, chunks
from streams.clients.publisher import Publisher
from streams.connect import redis_client
from streams.offline import results
from streams.schema import DAY_MS
from streams.settings import Settings, load

PARTITIONS = 6
JOBS = (1, 2, 4)
PATIENCE_S = 1_800.0


def flags(bundle: str) -> tuple[str, ...]:
    """What workers and replays are told."""
    return ("--set", f"model.bundle={bundle}")


def days(path: Path) -> Iterator[tuple[int, Chunk]]:
    """A file in pieces of one day at most, in its order."""
    for chunk in chunks(path, None):
        number = chunk.times // DAY_MS
        cuts = [0, *(np.flatnonzero(np.diff(number)) + 1).tolist(), len(number)]
        for low, high in itertools.pairwise(cuts):
            piece = slice(low, high)
            yield (
                int(number[low]),
                Chunk(chunk.topic, chunk.keys[piece], chunk.values[piece], chunk.times[piece]),
            )


def labels(path: Path) -> list[tuple[int, bytes, bytes]]:
    """(label_time, key, value), in the order in which they become known."""
    found = [
        (moment, key, value)
        for chunk in chunks(path, None)
        for moment, key, value in zip(chunk.times.tolist(), chunk.keys, chunk.values, strict=True)
    ]
    return sorted(found)


def publish(place: Path, settings: Settings, between: Callable[[], None]) -> int:
    """The stream as it would arrive; `between` is called after each piece."""
    waiting, sent, today = labels(place / "stream-labels.parquet"), 0, -1
    with Publisher(settings=settings) as publisher:
        for day, piece in days(place / "stream.parquet"):
            if day != today:
                today = day
                known = sum(moment < day * DAY_MS for moment, _, _ in waiting)
                publisher.send_encoded(
                    publisher.topic("labels"),
                    [key for _, key, _ in waiting[:known]],
                    [value for _, _, value in waiting[:known]],
                )
                del waiting[:known]
                # Known before the day's first transaction: they are in the log before it, too.
                publisher.flush()
            publisher.send_encoded(publisher.topic("transactions"), piece.keys, piece.values)
            sent += len(piece.keys)
            between()
    return sent


def live(place: Path, settings: Settings, bundle: str, total: int) -> dict[str, Any]:
    """Two workers over the whole stream; one is killed at a third, another one joins."""
    client = redis_client(settings)
    workers: list[subprocess.Popen[bytes]] = []

    def start() -> None:
        log = (place / f"worker-{len(workers) + 1}.log").open("wb")
        words = command("worker", *flags(bundle))
        workers.append(subprocess.Popen(words, cwd=place, stdout=log, stderr=log))

    killed_at = 0

    def watch() -> None:
        nonlocal killed_at
        done = sum(applied(settings, client, PARTITIONS))
        if not killed_at and done > total // 3:
            workers[0].send_signal(signal.SIGKILL)
            start()
            killed_at = done

    start()
    start()
    began = time.monotonic()
    try:
        sent = publish(place, settings, watch)
        assert sent == total
        while sum(applied(settings, client, PARTITIONS)) < total:
            watch()
            if time.monotonic() - began > PATIENCE_S:
                raise TimeoutError("the stream was not drained")
            time.sleep(0.2)
        seconds = time.monotonic() - began
    finally:
        for one in workers:
            one.send_signal(signal.SIGTERM)
        for one in workers:
            one.wait(60)
    audit = json.loads(run(place, "audit", "--json"))
    return {"published": sent, "killed_at": killed_at, "live_s": seconds, "audit": audit}


@contextmanager
def two_nodes() -> Iterator[str]:
    """A Ray cluster of two nodes of one core each on this machine; its address."""
    os.environ["RAY_USAGE_STATS_ENABLED"] = "0"
    # A slow machine is no fault: how often, and how long, a node asks whether the head is there.
    os.environ["RAY_NUM_REDIS_GET_RETRIES"] = "120"
    os.environ["RAY_GCS_SERVER_REQUEST_TIMEOUT_SECONDS"] = "120"
    # Ray's workers stand back behind all else (niceness 15): beside a busy process they starve.
    os.environ["RAY_worker_niceness"] = "0"  # noqa: SIM112 - Ray spells it so
    from ray.cluster_utils import Cluster

    size = {"num_cpus": 1, "object_store_memory": 80 * 2**20}
    cluster = Cluster(initialize_head=True, head_node_args=size | {"include_dashboard": False})
    cluster.add_node(**size)
    try:
        yield cluster.address
    finally:
        cluster.shutdown()


def replays(place: Path, bundle: str) -> dict[str, Any]:
    """Digest and seconds of each way to replay, and whether all wrote the same files."""
    found: dict[str, Any] = {}

    def one(name: str, *words: str) -> None:
        began = time.monotonic()
        said = run(place, "replay", "recording", "--out", name, "--json", *words, *flags(bundle))
        digest = json.loads(said)["digest"]
        found[name] = {"digest": digest, "s": round(time.monotonic() - began, 1)}

    for jobs in JOBS:
        one(f"jobs-{jobs}", "--jobs", str(jobs))
    with two_nodes() as address:
        os.environ["RAY_ADDRESS"] = address
        one("ray", "--engine", "ray")
    first = place / "jobs-1"
    same = all(
        results.shard_path(place / name, shard).read_bytes()
        == results.shard_path(first, shard).read_bytes()
        for name in found
        for shard in results.shards(first)
    )
    return {"ways": found, "same_files": same}


def measure(data: Path, events: int | None, bundle: str) -> dict[str, Any]:
    """Everything, in a directory of its own."""
    with tempfile.TemporaryDirectory(prefix="fraudstream-handbook-") as name:
        place = Path(name)
        source = data.resolve()
        if events is not None:
            pq.write_table(pq.read_table(source).slice(0, events), place / "head.parquet")
            source = place / "head.parquet"
        run(place, "convert", "handbook", str(source), "stream.parquet")
        total = pq.read_metadata(place / "stream.parquet").num_rows
        run(place, "services", "up")
        try:
            return _measured(place, bundle, total)
        finally:
            run(place, "services", "down")


def _measured(place: Path, bundle: str, total: int) -> dict[str, Any]:
    run(place, "topics", "create", "--partitions", str(PARTITIONS))
    local = json.loads((place / ".fraudstream" / "services.json").read_text())
    settings = load(
        flags=[
            f"kafka.bootstrap={local['kafka']['bootstrap']}",
            f"redis.url={local['redis']['url']}",
        ]
    )
    found = live(place, settings, bundle, total)
    found["recorded"] = json.loads(run(place, "record", "--scores", "recording", "--json"))
    verdict = subprocess.run(
        command("verify", "recording", "--json", *flags(bundle)),
        cwd=place, stdout=subprocess.PIPE, check=False,
    )  # fmt: skip
    found["verify"] = json.loads(verdict.stdout)
    return found | replays(place, bundle)


def shown(found: dict[str, Any], bundle: str) -> Iterator[str]:
    """The table."""
    yield machine()
    yield f"bundle         {bundle}"
    yield f"published      {found['published']:,} in {found['live_s']:.0f} s"
    yield f"killed         one worker at {found['killed_at']:,}"
    yield f"audit balanced {found['audit'].get('balanced')}"
    counts = ", ".join(f"{n:,} {what}" for what, n in found["recorded"]["messages"].items())
    yield f"recorded       {counts}"
    verdict = found["verify"]
    yield (
        f"verify         {verdict['compared']:,} compared, {verdict['differences']:,} differ,"
        f" {verdict['stale_risk']:,} with an older risk snapshot"
    )
    for name, way in found["ways"].items():
        yield f"{name:14} digest {way['digest']}, {way['s']} s"
    yield f"same files     {found['same_files']}"


def main() -> None:
    """The command line."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawTextHelpFormatter
    )
    parser.add_argument("--data", type=Path, required=True)
    parser.add_argument("--events", type=int, help="only the first so many")
    parser.add_argument("--bundle", default="stub", help="model.bundle of workers and replays")
    parser.add_argument("--json", action="store_true")
    given = parser.parse_args()
    found = measure(given.data, given.events, given.bundle)
    if given.json:
        print(json.dumps(found, indent=2))
        return
    for line in shown(found, given.bundle):
        print(line)


if __name__ == "__main__":
    main()
