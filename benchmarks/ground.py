"""Servers and messages for the benchmarks that need the whole service.

In: how many events. Out: a real broker and a durable Redis of their own, stopped at the end; the
simulated stream as (key, value) messages; what a process has used of the CPU.
"""

from __future__ import annotations

import contextlib
import os
import platform
import tempfile
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import orjson
from confluent_kafka import Producer

from streams.connect import confluent_config
from streams.dev import kafka, process, redis
from streams.dev.simulate import Plan, simulate
from streams.settings import Settings, load
from streams.topics import create

Messages = list[tuple[bytes, bytes]]

TICKS = os.sysconf("SC_CLK_TCK")


@dataclass(frozen=True)
class Servers:
    """Where they listen, and their processes."""

    bootstrap: str
    redis_url: str
    broker_pid: int
    redis_pid: int

    def flags(self, prefix: str, *more: str) -> list[str]:
        """Settings that reach them, with topics and keys apart from other runs'."""
        return [
            f"kafka.bootstrap={self.bootstrap}",
            f"kafka.topic_prefix={prefix}-",
            f"kafka.group={prefix}",
            f"redis.url={self.redis_url}",
            f"redis.namespace={prefix}",
            *more,
        ]


@contextlib.contextmanager
def servers() -> Iterator[Servers]:
    """Start Kafka and Redis in a directory of their own; Redis syncs every write."""
    with tempfile.TemporaryDirectory(prefix="fraudstream-bench-") as place:
        broker = kafka.start(Path(place) / "kafka", die_with_parent=True)
        try:
            store = redis.start(Path(place) / "redis", die_with_parent=True)
            try:
                yield Servers(broker.bootstrap, store.url, broker.child.pid, store.child.pid)
            finally:
                process.stop(store.child, 5)
        finally:
            process.stop(broker.child, 5)


def settings(flags: Sequence[str]) -> Settings:
    """Settings of these flags, topics made."""
    made = load(flags=flags)
    create(made)
    return made


def messages(events: int, accounts: int) -> Messages:
    """The simulated stream, in event-time order."""
    table = simulate(Plan(events=events, accounts=accounts)).transactions
    made = []
    for batch in table.to_batches(max_chunksize=50_000):
        for row in batch.to_pylist():
            document = {name: value for name, value in row.items() if value is not None}
            made.append((document["account_id"].encode(), orjson.dumps(document)))
    return made


def publish(made: Settings, stream: Messages, rate: float | None = None) -> None:
    """Send everything; evenly at `rate` a second if given. Returns when the broker has it."""
    producer = Producer(
        confluent_config(
            made,
            {
                "linger.ms": 2 if rate else 20,
                "compression.type": "lz4",
                "partitioner": "murmur2_random",
                "queue.buffering.max.messages": 2_000_000,
            },
        )
    )
    topic = made.topic("transactions")
    began = time.perf_counter()
    for number, (key, value) in enumerate(stream):
        producer.produce(topic, value, key)
        if rate:
            ahead = began + (number + 1) / rate - time.perf_counter()
            if ahead > 0.001:
                producer.poll(0)
                time.sleep(ahead)
        elif number % 1_000 == 0:
            producer.poll(0)
    assert producer.flush(60) == 0


def cpu_seconds(pid: int) -> float:
    """User and system time of a process so far."""
    fields = Path(f"/proc/{pid}/stat").read_text("utf-8").rpartition(")")[2].split()
    return (int(fields[11]) + int(fields[12])) / TICKS


def machine() -> str:
    """One line on what this ran on."""
    name = platform.machine()
    with contextlib.suppress(OSError):
        for line in Path("/proc/cpuinfo").read_text("utf-8").splitlines():
            if line.startswith("model name"):
                name = line.partition(":")[2].strip()
                break
    load1 = os.getloadavg()[0]
    return f"{name}, {os.cpu_count()} cores, Python {platform.python_version()}, load {load1:.1f}"
