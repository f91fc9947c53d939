"""How fast does a recorded stream go through the pipeline, and does it stay so?

In: `--events`, `--long`, `--json`. Out: a table; CPU microseconds an event on one core, memory and
the time of each million of a long stream. Rows:

    orjson            parsing the messages and nothing else: the unit
    features          decode, state, windows, features, result rows; with and without risk columns
    windows alone     the same without result rows and their files: what polars does, and more
    polars            the same six windows (count, sum, mean, std, min, max) as rolling aggregates;
                      it reads and parses the same messages, and writes nothing
    model             the whole replay with the shipped model, where there is one
    jobs              wall time of the whole features pass by 1 and by 2 processes

The stream is simulated and laid out as a recording first; that is timed apart. CPU time is what
counts, since other work on the machine lengthens the wall clock. Goal: features at most 6 x orjson.
What only some rows need is imported there: a second process imports this file when it starts.
"""

from __future__ import annotations

import argparse
import json
import resource
import tempfile
import time
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import orjson

from streams.batch import Batch
from streams.decode import decode
from streams.features import WINDOWS_MS
from streams.offline import results
from streams.offline.engine import each_shard
from streams.offline.replay import BATCH_EVENTS, Shard
from streams.offline.risk_pass import Snapshots, build
from streams.offline.rows import rows
from streams.offline.run import Job, open_shard
from streams.offline.source import RecordingSource, open_source
from streams.settings import Settings, load

GOAL = 6.0
MILLION = 1_000_000
POLARS_WINDOWS = ("1m", "5m", "1h", "24h", "7d", "30d")
assert tuple(WINDOWS_MS) == POLARS_WINDOWS
DAYS = 60
Row = dict[str, Any]


def settings(*flags: str) -> Settings:
    return load(flags=["model.bundle=stub", *flags])


def cpu(work: Callable[[], int]) -> tuple[float, int]:
    """CPU seconds of this process, and what the work counted."""
    began = time.process_time()
    count = work()
    return time.process_time() - began, count


def row(name: str, seconds: float, events: int, **more: Any) -> Row:
    each = seconds / events * 1e6
    return {
        "what": name,
        "events": events,
        "us": round(each, 2),
        "a_second": round(1e6 / each),
    } | more


def parse(job: Job) -> int:
    """Reading the recording is outside the clock: see `measure`."""
    count = 0
    for shard in job.source.shards():
        for batch in job.source.batches(shard, job.batch):
            count += len(batch)
    return count


def parse_batches(batches: list[Batch]) -> int:
    for batch in batches:
        for value in batch.values:
            orjson.loads(value or b"null")
    return sum(map(len, batches))


def decode_batches(batches: list[Batch]) -> int:
    return sum(len(decode(batch, 10**12).batch) for batch in batches)


def pass_over(on: tuple[Job, Snapshots, bool], shard: int, tell: Callable[[int], None]) -> None:
    """One shard into a result file; at module level, so that it can travel."""
    job, snapshots, judged = on
    runner = open_shard(job, snapshots, shard, judged=judged)
    models = len(job.settings) if judged else 0
    with results.ResultWriter(results.shard_path(job.out, shard), models) as writer:
        for step in runner.steps(job.source.batches(shard, job.batch)):
            writer.add(rows(step))
            tell(len(step.work.columns.batch))


def windows_alone(job: Job) -> int:
    """Every shard through decode, state, windows and features; nothing is kept."""
    count = 0
    for shard in job.source.shards():
        runner = open_shard(job, Snapshots(job.out), shard, judged=False)
        for step in runner.steps(job.source.batches(shard, job.batch)):
            count += len(step.work.columns.batch)
    return count


def whole(job: Job, snapshots: Snapshots, judged: bool, jobs: int = 1, shards: int = 99) -> int:
    counts: list[int] = []
    on = (job, snapshots, judged)
    each_shard(pass_over, on, job.source.shards()[:shards], counts.append, jobs, "processes")
    return sum(counts)


def polars_windows(job: Job) -> int:
    """The six aggregates over the six windows, by account, with what polars does best."""
    import polars as pl

    frames = []
    for shard in job.source.shards():
        for batch in job.source.batches(shard, 65_536):
            documents = [orjson.loads(value or b"null") for value in batch.values]
            frames.append(
                pl.DataFrame(
                    {
                        "account": [each["account_id"] for each in documents],
                        "time": np.array([each["event_time"] for each in documents], np.int64),
                        "amount": np.array([each["amount"] for each in documents], np.int64),
                    }
                )
            )
    table = pl.concat(frames).with_columns(pl.col("time").cast(pl.Datetime("ms")))
    table = table.sort("account", "time")
    amount = pl.col("amount")
    for window in POLARS_WINDOWS:
        table.rolling("time", period=window, closed="left", group_by="account").agg(
            amount.len().alias("count"),
            amount.sum().alias("sum"),
            amount.mean().alias("mean"),
            amount.std(ddof=0).alias("std"),
            amount.min().alias("min"),
            amount.max().alias("max"),
        )
    return len(table)


def measure(job: Job, scratch: Path) -> Iterator[Row]:
    reading, events = cpu(partial(parse, job))
    yield row("read the recording, checksums too", reading, events)
    shard = job.source.shards()[0]
    batches = list(job.source.batches(shard, job.batch))
    unit = min(cpu(partial(parse_batches, batches))[0] for _ in range(3))
    some = sum(map(len, batches))
    orjson_us = unit / some * 1e6
    yield row("orjson, parsing only", unit, some, ratio=1.0)
    seconds = min(cpu(partial(decode_batches, batches))[0] for _ in range(3))
    yield row("decode", seconds, some, ratio=round(seconds / unit, 1))
    del batches
    building, events = cpu(partial(_built, job, scratch))
    yield row("risk snapshots (first pass)", building, events)
    for name, used in (
        ("features, risk off", Snapshots(scratch)),
        ("features, risk on", build(job.source, job.settings[0], scratch / "risk")),
    ):
        whole(job, used, False, shards=1)
        seconds, events = cpu(partial(whole, job, used, False))
        ratio = seconds / events * 1e6 / orjson_us
        yield row(name, seconds, events, ratio=round(ratio, 1), goal=GOAL, met=ratio <= GOAL)


def _built(job: Job, scratch: Path) -> int:
    counts: list[int] = []
    build(job.source, job.settings[0], scratch / "risk", counts.append)
    return sum(counts)


def with_model(job: Job, scratch: Path, shards: int) -> Iterator[Row]:
    snapshots = build(job.source, job.settings[0], scratch / "risk")
    stub = partial(whole, job, snapshots, True, shards=shards)
    seconds, events = cpu(stub)
    yield row("whole replay, stub model", seconds, events)
    from model.bundle import shipped

    if not shipped().is_dir():
        yield {"what": "whole replay, shipped model: there is none yet"}
        return
    real = Job(job.source, (settings("model.bundle=default"),), job.out)
    seconds, events = cpu(partial(whole, real, snapshots, True, shards=shards))
    yield row("whole replay, shipped model", seconds, events, goal_a_second=8_000)


def by_jobs(job: Job, scratch: Path) -> Iterator[Row]:
    snapshots = build(job.source, job.settings[0], scratch / "risk")
    alone = 0.0
    for jobs in (1, 2):
        began = time.perf_counter()
        events = whole(job, snapshots, False, jobs)
        wall = time.perf_counter() - began
        alone = alone or wall
        yield row(f"features, {jobs} jobs, wall clock", wall, events, growth=round(alone / wall, 2))


def long_stream(scratch: Path, events: int, accounts: int) -> Iterator[Row]:
    """One shard through `events` made on the way: nothing is kept but the state."""
    shard = Shard(0, [], None, max_future_ms=10**15, forgotten={})
    done, used, number = 0, 0.0, 0
    with results.ResultWriter(scratch / "long.parquet", 0) as writer:
        for batch in _made(events, accounts):
            began = time.process_time()
            step = shard.step(batch)
            writer.add(rows(step))
            used += time.process_time() - began
            assert len(step.work.columns) == len(batch), "all are accepted"
            done += len(batch)
            if done >= MILLION or number * MILLION + done >= events:
                number += 1
                peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 2**20
                yield row(f"million {number}, features", used, done, peak_gib=round(peak, 2))
                done, used = 0, 0.0


def _made(events: int, accounts: int) -> Iterator[Batch]:
    """Payments of `accounts` accounts in turn by chance, 10 ms apart on the whole."""
    chance, begin = np.random.default_rng(1), 1_700_000_000_000
    for first in range(0, events, BATCH_EVENTS):
        n = min(BATCH_EVENTS, events - first)
        account = np.minimum(chance.zipf(1.3, n), accounts).tolist()
        spent, shop = chance.integers(1, 100_000, n).tolist(), chance.integers(0, 5_000, n).tolist()
        values = [
            (
                f'{{"schema_version":1,"transaction_id":"t{first + i}",'
                f'"account_id":"a{account[i]}","event_time":{begin + 10 * (first + i)},'
                f'"amount":{spent[i]},"currency":"EUR",'
                f'"merchant_id":"m{shop[i]}","merchant_country":"DE","channel":"ecommerce"}}'
            ).encode()
            for i in range(n)
        ]
        keys: list[bytes | None] = [b"a%d" % name for name in account]
        offsets = np.arange(first, first + n)
        times = np.full(n, begin + 10 * events)
        yield Batch("transactions", 0, offsets, times, keys, list(values), None, first + n)


def simulated(events: int, scratch: Path) -> Iterator[Row]:
    """Rows of a stream that is simulated and recorded first."""
    from streams.clients.writer import write_table
    from streams.dev.simulate import Plan, simulate

    accounts = max(100, events // 40)
    made = simulate(Plan(events=events, accounts=accounts, days=DAYS, seed=7))
    write_table(scratch / "s.parquet", made.transactions)
    write_table(scratch / "s-labels.parquet", made.labels)
    files = scratch / "s.parquet", scratch / "s-labels.parquet"
    del made
    began = time.process_time()
    source = open_source(files[0], files[1], scratch)
    yield row("lay a file out as a recording", time.process_time() - began, events)
    job = Job(source, (settings(),), scratch / "out")
    yield from measure(job, scratch)
    ours, done = cpu(partial(windows_alone, job))
    yield row("windows alone", ours, done)
    polars, done = cpu(partial(polars_windows, job))
    yield row("polars, the same windows", polars, done, dearer=round(polars / ours, 2))


def every(asked: argparse.Namespace, scratch: Path) -> Iterator[Row]:
    if asked.events:
        yield from simulated(asked.events, scratch)
        job = Job(RecordingSource(str(scratch / "input")), (settings(),), scratch / "out")
        yield from with_model(job, scratch, asked.model_shards)
        yield from by_jobs(job, scratch)
    yield from long_stream(scratch, asked.long, asked.accounts)


def shown(found: Row) -> str:
    if "us" not in found:
        return str(found["what"])
    more = [
        f"{name} {found[name]}"
        for name in ("ratio", "goal", "goal_a_second", "dearer", "growth", "peak_gib")
        if name in found
    ]
    line = f"{found['what']:36} {found['events']:>11,} {found['us']:>9.2f} {found['a_second']:>10,}"
    return f"{line}  {', '.join(more)}"


def main() -> None:
    from benchmarks.ground import machine

    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--events", type=int, default=1_500_000, help="0: the long stream only")
    parser.add_argument("--long", type=int, default=3 * MILLION, help="events of the long stream")
    parser.add_argument("--accounts", type=int, default=200_000, help="accounts of the long stream")
    parser.add_argument("--model-shards", type=int, default=1, help="of 8, for the model rows")
    parser.add_argument("--json", action="store_true")
    asked = parser.parse_args()
    if not asked.json:
        print(f"{machine()}\n{'what':36} {'events':>11} {'CPU us':>9} {'a second':>10}")
    kept = []
    with tempfile.TemporaryDirectory(prefix="fraudstream-bench-") as place:
        for found in every(asked, Path(place)):
            kept.append(found)
            if not asked.json:
                print(shown(found), flush=True)
    if asked.json:
        print(json.dumps({"machine": machine(), "rows": kept}))


if __name__ == "__main__":
    main()
