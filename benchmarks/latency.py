"""How long does a transaction wait for its score, and where does the time go?

In: `--rate`, `--seconds`, `--model`, `--json`. Out: percentiles from the broker's append of a
transaction to the broker's append of its score (both topics carry the broker's clock, in whole
milliseconds), and the worker's own times by stage.
Goal at 1,000 events a second with the shipped model on two cores: p50 < 30 ms, p99 < 100 ms.
Broker, Redis, publisher and worker share the machine.
"""

from __future__ import annotations

import argparse
import contextlib
import json
import subprocess
import sys
import tempfile
import time
import urllib.request
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import orjson
from confluent_kafka import Consumer, TopicPartition

from benchmarks import ground
from streams.connect import confluent_config
from streams.dev import process
from streams.settings import Settings

GOAL_P50_MS, GOAL_P99_MS = 30.0, 100.0
WARM_SHARE = 0.2
"""Of the messages, at the start: published at the same rate and not counted."""
PATIENCE_S = 300.0
STAGES = ("decode", "load", "risk", "advance", "score", "settle", "commit", "deliver", "trim")


@contextlib.contextmanager
def worker(flags: list[str], log: Path) -> Iterator[subprocess.Popen[bytes]]:
    """A worker process, ready."""
    command = [sys.executable, "-c", "from streams.cli import main; main()", "worker"]
    command += [part for flag in flags for part in ("--set", flag)]
    with log.open("wb") as out:
        running = subprocess.Popen(command, stdout=out, stderr=out)
    try:
        deadline = time.monotonic() + PATIENCE_S
        while b"ready" not in log.read_bytes():
            if running.poll() is not None or time.monotonic() > deadline:
                raise SystemExit(f"the worker does not start:\n{log.read_text('utf-8')}")
            time.sleep(0.1)
        yield running
    finally:
        running.terminate()
        running.wait(20)


def stage_times(port: int) -> dict[str, tuple[float, float]]:
    """Seconds and count of each stage so far."""
    with urllib.request.urlopen(f"http://127.0.0.1:{port}/metrics", timeout=5) as answer:
        lines = answer.read().decode().splitlines()
    found = dict(line.rsplit(" ", 1) for line in lines if not line.startswith("#"))
    name = 'fraudstream_stage_seconds_{}{{stage="{}"}}'
    return {
        stage: (
            float(found.get(name.format("sum", stage), 0)),
            float(found.get(name.format("count", stage), 0)),
        )
        for stage in (*STAGES, "round")
    }


def appended(settings: Settings, name: str, wanted: int) -> dict[tuple[int, int], int]:
    """Append time by (partition, offset) of the transaction, read to the `wanted`-th message."""
    consumer = Consumer(
        confluent_config(settings, {"group.id": "latency", "auto.offset.reset": "earliest"})
    )
    topic = settings.topic(name)
    partitions = consumer.list_topics(topic, timeout=10).topics[topic].partitions
    consumer.assign([TopicPartition(topic, number, 0) for number in partitions])
    times: dict[tuple[int, int], int] = {}
    deadline = time.monotonic() + PATIENCE_S
    while len(times) < wanted:
        if time.monotonic() > deadline:
            raise SystemExit(f"{topic}: {len(times)} of {wanted} messages")
        for message in consumer.consume(1_000, timeout=0.5):
            where = message.partition(), message.offset()
            if name == "scores":
                source = orjson.loads(message.value())["source"]
                where = source["partition"], source["offset"]
            # The first copy counts, should there be two.
            times.setdefault(where, message.timestamp()[1])
    consumer.close()
    return times


def measure(flags: list[str], rate: float, seconds: float, accounts: int) -> dict[str, Any]:
    """One run."""
    settings = ground.settings(flags)
    stream = ground.messages(int(rate * seconds * (1 + WARM_SHARE)), accounts)
    warm = int(rate * seconds * WARM_SHARE)
    port = process.free_port()
    with (
        tempfile.TemporaryDirectory() as place,
        worker([*flags, f"metrics.port={port}"], Path(place) / "worker.log"),
    ):
        ground.publish(settings, stream[:warm], rate)
        before = stage_times(port)
        ground.publish(settings, stream[warm:], rate)
        scores = appended(settings, "scores", len(stream))
        after = stage_times(port)
    transactions = appended(settings, "transactions", len(stream))
    assert scores.keys() == transactions.keys(), "every transaction has its score"
    # The warm-up was appended first.
    last = sorted(transactions, key=transactions.__getitem__)[warm:]
    waits = np.array([scores[where] - transactions[where] for where in last], np.float64)
    rounds = max(after["round"][1] - before["round"][1], 1)
    return {
        "rate": rate,
        "events": len(last),
        "p50_ms": float(np.percentile(waits, 50)),
        "p99_ms": float(np.percentile(waits, 99)),
        "p999_ms": float(np.percentile(waits, 99.9)),
        "max_ms": float(waits.max()),
        "events_per_round": len(last) / rounds,
        "stage_ms_per_round": {
            stage: (after[stage][0] - before[stage][0]) / rounds * 1e3
            for stage in (*STAGES, "round")
        },
    }


def show(result: dict[str, Any]) -> None:
    """The table."""
    print(
        f"{result['events']:,} events at {result['rate']:,.0f}/s, model {result['model']}; ", end=""
    )
    print(result["machine"])
    names = ("p50_ms", "p99_ms", "p999_ms", "max_ms")
    print("  ".join(f"{name[:-3]} {result[name]:.0f} ms" for name in names))
    print(f"goals: p50 < {GOAL_P50_MS:.0f} ms, p99 < {GOAL_P99_MS:.0f} ms")
    stages = result["stage_ms_per_round"]
    print(f"a round of {result['events_per_round']:.1f} events takes {stages['round']:.2f} ms:")
    for stage in STAGES:
        print(f"  {stage:8} {stages[stage]:7.2f} ms  {stages[stage] / stages['round']:5.0%}")
    half = stages["round"] / 2
    print(
        f"the rest of p50, {max(result['p50_ms'] - stages['round'], 0):.1f} ms, is fetching and ",
        end="",
    )
    print(f"waiting for the round before (half a round is {half:.1f} ms)")


def main() -> None:
    """The command."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--rate", type=float, default=1_000)
    parser.add_argument("--seconds", type=float, default=30)
    parser.add_argument("--accounts", type=int, default=5_000)
    parser.add_argument("--model", default="default", help="bundle, or stub")
    parser.add_argument("--set", action="append", default=[], help="a setting of the worker")
    parser.add_argument("--json", action="store_true")
    given = parser.parse_args()
    with ground.servers() as where:
        more = (f"model.bundle={given.model}", "risk.enabled=false", *given.set)
        flags = where.flags("latency", *more)
        result = measure(flags, given.rate, given.seconds, given.accounts)
    result |= {"model": given.model, "machine": ground.machine()}
    result["goals_met"] = result["p50_ms"] < GOAL_P50_MS and result["p99_ms"] < GOAL_P99_MS
    print(json.dumps(result, indent=2)) if given.json else show(result)


if __name__ == "__main__":
    main()
