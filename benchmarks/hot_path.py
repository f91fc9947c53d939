"""What does an event cost, end to end, beside reading and parsing it alone?

In: `--events`, `--rounds`, `--json`. Out: a table, CPU microseconds an event of the process that
does the work. One run on one broker and one Redis: every contender reads the same topic in a
process of its own, measured from its first message on. They take turns, `--rounds` times, since a
machine's speed changes; told are medians, of the ratios within a round, too. "parsing" is
`orjson.loads` of each message.

    getmany     aiokafka, getmany + parsing                (goal: the service <= 3.5 x this)
    confluent   confluent-kafka, consume + parsing
    take        stock Faust, take(1000) + parsing          (goal: the service >= 15 x cheaper)
    micro-batch this service's consumer on Faust + parsing, nothing else
    service     this service: Redis that syncs every write, windows and features, a stub score,
                scores and alerts delivered to Kafka
"""

from __future__ import annotations

import argparse
import asyncio
import json
import subprocess
import sys
import time
from collections.abc import Callable, Mapping
from typing import Any

import numpy as np
import orjson

from benchmarks import ground
from streams.settings import Settings, load

GOAL_GETMANY, GOAL_TAKE = 3.5, 15.0
SKIP = 0.05
"""Share of the events before the clock starts: joins, first fetches, warm caches."""


class Meter:
    """CPU and wall time from one share of the events to all of them."""

    def __init__(self, events: int) -> None:
        self.events = events
        self.seen = 0
        self._began: tuple[float, float, int] | None = None
        self.result: dict[str, float] | None = None

    def add(self, count: int) -> bool:
        """Count events; True when all are there."""
        self.seen += count
        if self._began is None and self.seen >= SKIP * self.events:
            self._began = (time.process_time(), time.perf_counter(), self.seen)
        if self.seen >= self.events and self.result is None:
            assert self._began is not None
            cpu, wall, before = self._began
            measured = max(self.seen - before, 1)
            self.result = {
                "cpu_us": (time.process_time() - cpu) / measured * 1e6,
                "events_per_s": measured / (time.perf_counter() - wall),
            }
        return self.result is not None


async def getmany(settings: Settings, meter: Meter) -> None:
    """A plain aiokafka loop."""
    from aiokafka import AIOKafkaConsumer

    from streams.connect import aiokafka_config

    consumer = AIOKafkaConsumer(
        settings.topic("transactions"),
        auto_offset_reset="earliest",
        fetch_max_wait_ms=settings.kafka.fetch_max_wait_ms,
        **aiokafka_config(settings),
    )
    await consumer.start()
    done = False
    while not done:
        for records in (await consumer.getmany(timeout_ms=500)).values():
            for record in records:
                orjson.loads(record.value)
            done = meter.add(len(records))
    await consumer.stop()


def confluent(settings: Settings, meter: Meter) -> None:
    """A plain confluent-kafka loop, with the queue settings that made it fastest."""
    from confluent_kafka import Consumer

    from streams.connect import confluent_config

    consumer = Consumer(
        confluent_config(
            settings,
            {
                "group.id": f"confluent-{settings.kafka.group}",
                "auto.offset.reset": "earliest",
                "fetch.queue.backoff.ms": 5,
                "fetch.wait.max.ms": 20,
                "queued.min.messages": 500_000,
            },
        )
    )
    consumer.subscribe([settings.topic("transactions")])
    done = False
    while not done:
        found = consumer.consume(1_000, timeout=0.1)
        for message in found:
            orjson.loads(message.value())
        done = meter.add(len(found))
    consumer.close()


async def take(settings: Settings, meter: Meter) -> None:
    """Stock Faust."""
    import faust

    app = faust.App(
        f"take-{settings.kafka.group}",
        broker=f"kafka://{settings.kafka.bootstrap}",
        web_enabled=False,
        autodiscover=False,
        topic_disable_leader=True,
        datadir="/tmp/fraudstream-bench-take",
    )
    done = asyncio.Event()

    async def agent(stream: Any) -> None:
        async for values in stream.take(1_000, within=0.1):
            for value in values:
                orjson.loads(value)
            if meter.add(len(values)):
                done.set()

    topic = app.topic(settings.topic("transactions"), value_type=bytes, value_serializer="raw")
    app.agent(topic)(agent)
    app.loop = asyncio.get_running_loop()
    await app.start()
    await done.wait()
    await app.stop()


async def microbatch(settings: Settings, meter: Meter) -> None:
    """The consumer of this service, without the service."""
    from faust.types import TP

    from streams.live.microbatch import make_app
    from streams.live.ranges import LogRange

    class Shelf:
        async def claim(self, log: Mapping[TP, LogRange]) -> Mapping[TP, int]:
            return {tp: known.start for tp, known in log.items()}

        async def placed(self, positions: Mapping[TP, int], epoch: int) -> None: ...

        def close(self, partitions: object) -> None: ...

        async def release(self, partitions: object) -> None: ...

    kafka = settings.kafka.model_copy(update={"group": f"micro-batch-{settings.kafka.group}"})
    app = make_app(settings.model_copy(update={"kafka": kafka}), Shelf())
    done = asyncio.Event()

    async def agent(stream: Any) -> None:
        async for event in stream.noack().events():
            values = [v for each in event.message.ranges for v in each.batch.values]
            for value in values:
                orjson.loads(value)
            event.ack()
            if meter.add(len(values)):
                done.set()

    topic = app.topic(
        settings.topic("transactions"),
        value_type=bytes,
        key_serializer="raw",
        value_serializer="raw",
    )
    app.agent(topic)(agent)
    app.loop = asyncio.get_running_loop()
    await app.start()
    await done.wait()
    await app.stop()


def service(settings: Settings, meter: Meter) -> dict[str, float]:
    """The whole worker, in this process."""
    import os
    import signal

    from streams import assembly
    from streams.connect import redis_client
    from streams.live import app
    from streams.live.quiet import quiet
    from streams.live.suspects import RedisNotes
    from streams.store.redis import RedisStore

    quiet(settings)
    client = redis_client(settings)
    space = settings.redis.namespace
    store, notes = RedisStore(client, space), RedisNotes(client, space)
    worker = app.assemble(settings, assembly.judge(settings), store, notes)
    count = worker.metrics.count

    def counted(counts: Mapping[str, int]) -> None:
        count(counts)
        if meter.add(counts["in"]):
            os.kill(os.getpid(), signal.SIGTERM)

    app.collect_seldom()
    worker.metrics.count = counted  # type: ignore[method-assign]
    crashed = asyncio.run(app.serve(worker))
    assert crashed is None, crashed
    read = worker.metrics.registry.get_sample_value("fraudstream_transactions_read_total") or 1
    stages = {}
    for stage in ("decode", "load", "advance", "score", "settle", "commit", "deliver", "trim"):
        total = worker.metrics.registry.get_sample_value(
            "fraudstream_stage_seconds_sum", {"stage": stage}
        )
        stages[f"wall_us_{stage}"] = (total or 0) / read * 1e6
    return stages


CONTENDERS: dict[str, Callable[[Settings, Meter], Any]] = {
    "getmany": getmany,
    "confluent": confluent,
    "take": take,
    "micro-batch": microbatch,
    "service": service,
}


def contend(name: str, events: int, flags: list[str]) -> None:
    """In the contender's own process: run it, print its figures."""
    settings, meter = load(flags=flags), Meter(events)
    found = CONTENDERS[name](settings, meter)
    if asyncio.iscoroutine(found):
        found = asyncio.run(found)
    assert meter.result is not None
    print(json.dumps({**meter.result, **(found or {})}), flush=True)


def measured(name: str, events: int, flags: list[str], where: ground.Servers) -> dict[str, float]:
    """Run one contender; add what the servers spent meanwhile."""
    before = ground.cpu_seconds(where.redis_pid), ground.cpu_seconds(where.broker_pid)
    command = [sys.executable, "-m", "benchmarks.hot_path", "--contender", name]
    command += ["--events", str(events), *(part for flag in flags for part in ("--set", flag))]
    done = subprocess.run(command, capture_output=True, text=True, timeout=900, check=False)
    if done.returncode:
        raise SystemExit(f"{name} failed:\n{done.stderr[-3000:]}")
    figures: dict[str, float] = json.loads(done.stdout.splitlines()[-1])
    after = ground.cpu_seconds(where.redis_pid), ground.cpu_seconds(where.broker_pid)
    figures["redis_us"] = (after[0] - before[0]) / events * 1e6
    figures["broker_us"] = (after[1] - before[1]) / events * 1e6
    return figures


def run(events: int, take_events: int, accounts: int, rounds: int) -> dict[str, Any]:
    """All contenders, one after the other, and again."""
    results: dict[str, list[dict[str, float]]] = {name: [] for name in CONTENDERS}
    with ground.servers() as where:
        stub = ("model.bundle=stub", "risk.enabled=false", "topics.partitions=6")
        flags = where.flags("hot", *stub)
        made = ground.settings(flags)
        stream = ground.messages(events, accounts)
        ground.publish(made, stream)
        few = where.flags("few", *stub)
        ground.publish(ground.settings(few), stream[:take_events])
        for number in range(rounds):
            anew = [f"kafka.group=hot-{number}", f"redis.namespace=hot{number}"]
            for name in CONTENDERS:
                given = (take_events, few) if name == "take" else (events, flags)
                found = measured(name, given[0], [*given[1], *anew], where)
                results[name].append(found)
                print(f"{name}: {found['cpu_us']:.2f} us", file=sys.stderr)
    base, stock, ours = (
        np.array([each["cpu_us"] for each in results[name]])
        for name in ("getmany", "take", "service")
    )
    times, cheaper = float(np.median(ours / base)), float(np.median(stock / ours))
    return {
        "machine": ground.machine(),
        "events": events,
        "bytes_per_message": sum(len(value) for _, value in stream) / len(stream),
        "rounds": rounds,
        "contenders": {name: _median(each) for name, each in results.items()},
        "service_over_getmany": times,
        "take_over_service": cheaper,
        "each_service_over_getmany": (ours / base).round(2).tolist(),
        "each_take_over_service": (stock / ours).round(1).tolist(),
        "goals_met": times <= GOAL_GETMANY and cheaper >= GOAL_TAKE,
    }


def _median(rows: list[dict[str, float]]) -> dict[str, float]:
    return {name: float(np.median([row[name] for row in rows])) for name in rows[0]}


def show(result: dict[str, Any]) -> None:
    """The table."""
    print(f"{result['events']:,} events of {result['bytes_per_message']:.0f} bytes; ", end="")
    print(result["machine"])
    print(f"{'':12} {'CPU us/event':>13} {'events/s':>10} {'Redis us':>9} {'broker us':>10}")
    for name, row in result["contenders"].items():
        print(
            f"{name:12} {row['cpu_us']:13.2f} {row['events_per_s']:10,.0f} "
            f"{row['redis_us']:9.2f} {row['broker_us']:10.2f}"
        )
    stages = {n[8:]: v for n, v in result["contenders"]["service"].items() if n[:8] == "wall_us_"}
    print("stages, wall us/event:", ", ".join(f"{n} {v:.2f}" for n, v in stages.items()))
    for what, key, goal in (
        ("service / getmany", "service_over_getmany", f"<= {GOAL_GETMANY}"),
        ("take / service", "take_over_service", f">= {GOAL_TAKE}"),
    ):
        print(f"{what} = {result[key]:.2f} (goal {goal}), by round {result['each_' + key]}")


def main() -> None:
    """The command."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawTextHelpFormatter
    )
    parser.add_argument("--events", type=int, default=300_000)
    parser.add_argument("--take-events", type=int, default=60_000, help="fewer: it is slow")
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--accounts", type=int, default=5_000)
    parser.add_argument("--json", action="store_true")
    parser.add_argument("--contender", choices=CONTENDERS, help=argparse.SUPPRESS)
    parser.add_argument("--set", action="append", default=[], help=argparse.SUPPRESS)
    given = parser.parse_args()
    if given.contender:
        contend(given.contender, given.events, given.set)
        return
    result = run(given.events, given.take_events, given.accounts, given.rounds)
    print(json.dumps(result, indent=2)) if given.json else show(result)


if __name__ == "__main__":
    main()
