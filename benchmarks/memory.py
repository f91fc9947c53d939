"""Is a worker's memory bounded by a setting, however many accounts there are?

In: `--events`, `--accounts`, `--arena-mb`, `--json`. Out: after every 500,000 events the resident
memory of the worker, what its arenas missed, and what Redis holds.
Goals: from the first million events to the last the worker grows by at most 5 %, and an account
takes at most 3,072 bytes in Redis.

One real worker with `worker.arena_mb` set, a stub score and no risk builder, on a real broker and a
durable Redis of its own. Accounts are drawn evenly, the worst case for a cache: with a bound far
below what all accounts need nearly every event meets an account that is not in memory.
"""

from __future__ import annotations

import argparse
import json
import sys
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import orjson
import redis

from benchmarks import ground
from benchmarks.latency import worker
from streams.connect import redis_client
from streams.settings import Settings
from streams.store import keys

STEP = 500_000
FULL = 1_000_000
"""Events after which the arenas are full and memory should stand still."""
GROWTH, GOAL_BYTES = 0.05, 3_072
START = 1_700_000_000_000
SPAN_MS = 60 * 86_400_000
STILL_S = 120.0


def stream(events: int, accounts: int) -> Iterator[ground.Messages]:
    """Payments over 60 days in time order, a step at a time."""
    chance = np.random.default_rng(5)
    for first in range(0, events, STEP):
        n = min(STEP, events - first)
        numbers = range(first, first + n)
        columns = (
            chance.integers(0, accounts, n),
            chance.integers(100, 50_000, n),
            chance.integers(0, 5_000, n),
        )
        yield [
            (
                f"acct-{account:08}".encode(),
                orjson.dumps(
                    {
                        "schema_version": 1,
                        "transaction_id": f"t-{number}",
                        "account_id": f"acct-{account:08}",
                        "event_time": START + number * SPAN_MS // events,
                        "amount": amount,
                        "currency": "EUR",
                        "merchant_id": f"m-{merchant}",
                        "merchant_country": "FR",
                    }
                ),
            )
            for number, account, amount, merchant in zip(
                numbers, *(each.tolist() for each in columns), strict=True
            )
        ]


def resident_mb(pid: int) -> float:
    """Resident memory of a process."""
    for line in Path(f"/proc/{pid}/status").read_text("utf-8").splitlines():
        if line.startswith("VmRSS"):
            return int(line.split()[1]) / 1024
    raise SystemExit("the worker is gone")


def drained(client: redis.Redis, settings: Settings, wanted: int) -> None:
    """Wait until so many messages are committed. Raises SystemExit when nothing moves."""
    names = [
        keys.of(settings.redis.namespace, 0, number).part
        for number in range(settings.topics.partitions)
    ]
    before, moved = -1, time.monotonic()
    while True:
        found: list[Any] = [client.hget(name, "offset") for name in names]
        done = sum(int(each or 0) for each in found)
        if done >= wanted:
            return
        if done != before:
            before, moved = done, time.monotonic()
        elif time.monotonic() - moved > STILL_S:
            raise SystemExit(f"{done:,} of {wanted:,}, and nothing moves")
        time.sleep(0.1)


def measure(flags: list[str], events: int, accounts: int) -> list[dict[str, float]]:
    """One row a step."""
    settings = ground.settings(flags)
    client = redis_client(settings)
    empty = int(client.info("memory")["used_memory"])
    rows, published = [], 0
    with (
        tempfile.TemporaryDirectory() as place,
        worker(flags, Path(place) / "worker.log") as running,
    ):
        for some in stream(events, accounts):
            began = time.perf_counter()
            ground.publish(settings, some)
            published += len(some)
            drained(client, settings, published)
            held = client.dbsize()
            assert isinstance(held, int)
            used = int(client.info("memory")["used_memory"]) - empty
            rows.append(
                {
                    "events": published,
                    "worker_mb": resident_mb(running.pid),
                    "redis_accounts": held,
                    "redis_mb": used / 2**20,
                    "redis_bytes_an_account": used / held,
                    "events_per_s": len(some) / (time.perf_counter() - began),
                }
            )
            print(f"{published:,}: {rows[-1]['worker_mb']:.0f} MB", file=sys.stderr)
    return rows


def show(result: dict[str, Any]) -> None:
    """The table."""
    print(result["machine"])
    print(
        f"{result['events']:,} events of {result['accounts']:,} accounts, "
        f"worker.arena_mb={result['arena_mb']}"
    )
    print(f"{'events':>10} {'worker MB':>10} {'accounts in Redis':>18} {'bytes each':>11}")
    for row in result["rows"]:
        print(
            f"{row['events']:>10,} {row['worker_mb']:>10,.0f} {row['redis_accounts']:>18,} "
            f"{row['redis_bytes_an_account']:>11,.0f}"
        )
    print(
        f"growth from {FULL:,} events to the last: {result['growth']:.1%} (goal at most "
        f"{GROWTH:.0%}); in Redis at most {GOAL_BYTES:,} bytes an account; "
        f"goals met: {result['goals_met']}"
    )


def main() -> None:
    """The command."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawTextHelpFormatter
    )
    parser.add_argument("--events", type=int, default=5_000_000)
    parser.add_argument("--accounts", type=int, default=1_000_000)
    parser.add_argument("--arena-mb", type=int, default=128)
    parser.add_argument("--json", action="store_true")
    given = parser.parse_args()
    if given.events < FULL + STEP:
        parser.error(f"--events must be at least {FULL + STEP}: memory is compared from {FULL} on")
    with ground.servers() as where:
        more = ("model.bundle=stub", "risk.enabled=false", f"worker.arena_mb={given.arena_mb}")
        rows = measure(where.flags("memory", *more), given.events, given.accounts)
    full = next(row for row in rows if row["events"] >= FULL)
    growth = rows[-1]["worker_mb"] / full["worker_mb"] - 1
    result = {
        "machine": ground.machine(),
        "events": given.events,
        "accounts": given.accounts,
        "arena_mb": given.arena_mb,
        "rows": rows,
        "growth": growth,
        "goals_met": growth <= GROWTH and rows[-1]["redis_bytes_an_account"] <= GOAL_BYTES,
    }
    print(json.dumps(result, indent=2)) if given.json else show(result)


if __name__ == "__main__":
    main()
