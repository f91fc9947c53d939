"""What do the windows cost, beside general tools on the same task?

In: `--events`, `--json`. Out: a table, CPU nanoseconds an event, for 10 thousand and 1 million
accounts: 6 windows x 7 aggregates (count, sum, mean, std, min, max, distinct places).

    service   `windows.apply`: all features of the service (more than is asked of the others), the
              account's record updated, in batches of 4,096 from an arena that grows as it goes
    polars    rolling(index_column, group_by) once a window, the whole table at once
    pandas    groupby.rolling once a window, without distinct places (it has none), on a sample

Goal: the service at most 400 ns, and at least 5 x cheaper than polars.
"""

from __future__ import annotations

import argparse
import json
import time
from typing import Any

import numpy as np
import pandas as pd
import polars as pl

from benchmarks.ground import machine
from streams.batch import Batch
from streams.columns import NO_POSITION, Columns
from streams.features import WINDOWS_MS
from streams.state import Arena
from streams.windows import apply

BATCH = 4_096
DAYS_30_MS = 30 * 86_400_000
START_MS = 1_735_689_600_000
PANDAS_EVENTS = 50_000
ARENA_BYTES = 8 * 2**30


def stream(events: int, accounts: int) -> tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray]:
    """Account, time, amount and place of each event; uniform over accounts and 30 days."""
    chance = np.random.default_rng(1)
    return (
        chance.integers(0, accounts, events),
        START_MS + np.sort(chance.integers(0, DAYS_30_MS, events)),
        chance.integers(100, 50_000, events),
        chance.integers(1, 2_000, events),
    )


def columns(names: list[str], first: int, parts: tuple[np.ndarray, ...]) -> Columns:
    """One batch as `decode` would give it."""
    account, times, amounts, places = parts
    n = len(account)
    words = np.zeros((n, 4), np.uint64)
    words[:, 0] = (times.astype(np.uint64) << np.uint64(20)) | np.uint64(1 << 5)
    words[:, 1] = amounts.astype(np.uint64) << np.uint64(14)
    words[:, 2] = np.arange(first + 1, first + n + 1, dtype=np.uint64) << np.uint64(16)
    words[:, 3] = places.astype(np.uint64) << np.uint64(32)
    nothing = np.zeros(n, np.uint64)
    batch = Batch(
        "transactions", 0, np.arange(first, first + n), np.full(n, -1), [None] * n, [b""] * n,
        None, first + n,
    )  # fmt: skip
    return Columns(
        batch=batch,
        row=np.arange(n, dtype=np.int32),
        account_id=[names[i] for i in account.tolist()],
        transaction_id=[""] * n,
        tenant_id=[None] * n,
        words=words,
        event_time=times,
        amount=amounts,
        currency=["EUR"] * n,
        merchant=nothing,
        terminal=nothing,
        billing_country=np.zeros(n, np.uint16),
        ip_country=np.zeros(n, np.uint16),
        latitude=np.full(n, NO_POSITION, np.int32),
        longitude=np.full(n, NO_POSITION, np.int32),
        docs=[{}] * n,
        rejects=[],
        tombstones=[],
    )


def service(data: tuple[np.ndarray, ...], accounts: int) -> float:
    """CPU seconds of `apply` alone; taking the accounts into the arena is part of it."""
    names = [f"a{number}" for number in range(accounts)]
    arena, spent = Arena(0, ARENA_BYTES), 0.0
    for first in range(0, len(data[0]), BATCH):
        batch = columns(names, first, tuple(part[first : first + BATCH] for part in data))
        arena.fill([(name, None) for name in arena.missing(batch.account_id)])
        began = time.process_time()
        apply(batch, arena, None, history=False)
        spent += time.process_time() - began
        arena.settled()
    return spent


def by_polars(data: tuple[np.ndarray, ...]) -> float:
    """CPU seconds of six rolling group-bys."""
    frame = pl.DataFrame(dict(zip(("account", "t", "amount", "place"), data, strict=True)))
    amount = pl.col("amount")
    began = time.process_time()
    for length in WINDOWS_MS.values():
        frame.rolling(index_column="t", period=f"{length}i", group_by="account", closed="left").agg(
            pl.len(), amount.sum().alias("sum"), amount.mean().alias("mean"),
            amount.std(ddof=0).alias("std"), amount.min().alias("min"), amount.max().alias("max"),
            pl.col("place").n_unique().alias("places"),
        )  # fmt: skip
    return time.process_time() - began


def by_pandas(data: tuple[np.ndarray, ...]) -> float:
    """CPU seconds of six grouped rolling windows, without distinct places."""
    frame = pd.DataFrame(dict(zip(("account", "t", "amount", "place"), data, strict=True)))
    frame.index = pd.to_datetime(frame.pop("t"), unit="ms")
    began = time.process_time()
    for length in WINDOWS_MS.values():
        window = frame.groupby("account")["amount"].rolling(f"{length}ms", closed="left")
        for name in ("count", "sum", "mean", "std", "min", "max"):
            getattr(window, name)()
    return time.process_time() - began


def measure(events: int, accounts: int) -> dict[str, Any]:
    """All contenders on one stream."""
    data = stream(events, accounts)
    service(tuple(part[: 2 * BATCH] for part in data), accounts)
    ours, theirs = service(data, accounts) / events, by_polars(data) / events
    sample = min(events, PANDAS_EVENTS)
    panda = by_pandas(stream(sample, max(1, accounts * sample // events))) / sample
    return {
        "accounts": accounts,
        "events": events,
        "service_ns": ours * 1e9,
        "polars_ns": theirs * 1e9,
        "pandas_ns": panda * 1e9,
        "polars_over_service": theirs / ours,
        "goal_met": ours * 1e9 <= 400 and theirs / ours >= 5,
    }


def main() -> None:
    """The command line."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--events", type=int, default=1_000_000)
    parser.add_argument("--json", action="store_true")
    given = parser.parse_args()
    rows = [measure(given.events, accounts) for accounts in (10_000, 1_000_000)]
    if given.json:
        print(json.dumps({"machine": machine(), "rows": rows}, indent=2))
        return
    print(machine())
    print(f"{'accounts':>10} {'service':>10} {'polars':>10} {'pandas':>10}   polars/service  goal")
    for row in rows:
        print(
            f"{row['accounts']:>10,} {row['service_ns']:>7.0f} ns {row['polars_ns']:>7.0f} ns "
            f"{row['pandas_ns']:>7.0f} ns {row['polars_over_service']:>10.1f} x     "
            f"{'met' if row['goal_met'] else 'missed'}"
        )


if __name__ == "__main__":
    main()
