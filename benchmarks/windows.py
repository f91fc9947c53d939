"""What do six windows with seven aggregates cost an event, beside polars and pandas?

In: `--json`, `--events`, `--accounts` (repeatable), `--rounds`, `--share`. Out: a table, CPU ns an
event; each figure is the median of the rounds, in which the contenders take turns.
Goals: at most 400 ns for the windows, and at least 5 times cheaper than polars.

The task is the same for all: for every event the count, sum, mean, deviation, minimum, maximum and
number of merchants of its account over 1 m, 5 m, 1 h, 24 h, 7 d and 30 d before it. Ours goes event
by event in micro-batches, keeps the records that a restart needs, and also counts countries. Polars
and pandas get the whole table at once; pandas sees the accounts of a share of the stream only, with
all their events, since it takes so long. Where our windows are exact, the results are compared.

What is counted. All begin with numbered accounts: giving names their numbers is in ours "with the
Python around it" only. "rolling" is what polars does with a table that is sorted already; "from the
stream to the stream" begins and ends where ours does: events in the order of arrival, one row of
float32 for each in that order, so the sort and the way back are in it. The goal is held against
the first, which is the harder. Ours is timed over the second half, where the records are full.
Where accounts are seen for the first time the system hands out and clears memory, which a virtual
machine may have to ask its host for. A worker has that done shortly before, by another thread
(`streams/live/ahead.py`); here it is done between the batches and told on a line of its own. "The
system's" is what of it is left in the windows' time.
"""

from __future__ import annotations

import argparse
import json
import os
import resource
import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

for _name in ("POLARS_MAX_THREADS", "NUMBA_NUM_THREADS", "OMP_NUM_THREADS"):
    os.environ[_name] = "1"

import numpy as np  # noqa: E402
import pandas as pd  # noqa: E402
import polars as pl  # noqa: E402

from streams import windows  # noqa: E402
from streams.batch import Batch  # noqa: E402
from streams.columns import NO_POSITION, Columns  # noqa: E402
from streams.features import COUNT, INDEX, WINDOWS_MS  # noqa: E402
from streams.kernels.advance import advance_chunk  # noqa: E402
from streams.kernels.cells import CHUNK, FREE, Before, Cells, Events, Results  # noqa: E402
from streams.kernels.record import outline  # noqa: E402
from streams.kernels.update import NEEDED_BLOCKS  # noqa: E402
from streams.kernels.walk import emit  # noqa: E402
from streams.live.ahead import AHEAD_BYTES, made_resident  # noqa: E402
from streams.state import Arena  # noqa: E402

BATCH = 4_096
START = 1_700_000_000_000
SPAN_MS = 60 * 86_400_000
GOAL_NS, GOAL_TIMES = 400.0, 5.0
NAMES = ("count", "sum", "mean", "std", "min", "max", "places")


def stream(accounts: int, events: int) -> dict[str, np.ndarray[Any, Any]]:
    """Payments over 60 days, no two at the same millisecond, in order."""
    chance = np.random.default_rng(7)
    return {
        "account": chance.integers(0, accounts, events),
        "time": START + np.arange(events, dtype=np.int64) * (SPAN_MS // events),
        "amount": chance.integers(1, 100_000, events),
        "merchant": chance.integers(1, 300, events),
    }


def columns(rows: dict[str, np.ndarray[Any, Any]], names: list[str], ids: int) -> Columns:
    """A batch of them as `decode` would give it."""
    n = len(names)
    words = np.zeros((n, 4), np.uint64)
    words[:, 0] = (rows["time"].astype(np.uint64) << np.uint64(20)) | np.uint64(1 << 5)
    words[:, 1] = rows["amount"].astype(np.uint64) << np.uint64(14)
    words[:, 2] = np.arange(ids + 1, ids + n + 1, dtype=np.uint64) << np.uint64(16)
    words[:, 3] = rows["merchant"].astype(np.uint64) << np.uint64(32)
    none, nowhere = np.zeros(n, np.uint64), np.full(n, NO_POSITION, np.int32)
    batch = Batch(
        "transactions", 0, np.arange(ids, ids + n), np.full(n, -1, np.int64),
        [None] * n, [b""] * n, None, ids + n,
    )  # fmt: skip
    return Columns(
        batch=batch, row=np.arange(n, dtype=np.int32), account_id=names, transaction_id=names,
        tenant_id=[None] * n, words=words, event_time=rows["time"], amount=rows["amount"],
        currency=names, merchant=none, terminal=none, billing_country=none.astype(np.uint16),
        ip_country=none.astype(np.uint16), latitude=nowhere, longitude=nowhere, docs=[{}] * n,
        rejects=[], tombstones=[],
    )  # fmt: skip


@outline
def windows_alone(
    begin: int, cells: Cells, events: Events, results: Results, before: Before, keep: bool
) -> int:
    """The pass without what is no window: records, six windows, their features."""
    total = len(events.slots)
    while begin < total:
        many = min(CHUNK, total - begin, cells.tally[FREE] // NEEDED_BLOCKS)
        if many == 0:
            break
        advance_chunk(begin, many, cells, events, results, before, keep)
        for at in range(many):
            emit(before, at, results.features, begin + at)
        begin += many
    return begin


def system_seconds() -> float:
    """CPU seconds that the kernel has spent for this thread."""
    return resource.getrusage(resource.RUSAGE_THREAD).ru_stime


class Clock:
    """CPU seconds of this thread inside a function, call by call; `system`: the kernel's share."""

    def __init__(self, function: Callable[..., int]) -> None:
        self.function = function
        self.spent = self.system = 0.0

    def __call__(self, *arguments: Any) -> int:
        begin, system = time.thread_time(), system_seconds()
        done = self.function(*arguments)
        self.spent += time.thread_time() - begin
        self.system += system_seconds() - system
        return done


@dataclass
class Run:
    """CPU ns an event over the second half: compiled code alone, the kernel's share of it, memory
    made ready before it is used, and all of `apply`."""

    compiled_ns: float
    system_ns: float
    ready_ns: float
    apply_ns: float
    values: np.ndarray[Any, Any]
    edges: np.ndarray[Any, Any]
    account_bytes: float


def ours(
    rows: dict[str, np.ndarray[Any, Any]], compiled: Callable[..., int], *, history: bool
) -> Run:
    """All events through an arena, by the compiled pass given."""
    n = len(rows["time"])
    arena = Arena(0, 8 << 30)
    values = np.empty((n, len(WINDOWS_MS) * len(NAMES)), np.float32)
    edges = np.zeros(n, np.bool_)
    at = [INDEX[f"{name}_{window}"] for window in WINDOWS_MS for name in NAMES]
    clock = Clock(compiled)
    original, windows.apply_rows = windows.apply_rows, clock
    applied, ready, half = 0.0, 0.0, (0.0, 0.0, 0.0, 0.0, 0)
    try:
        for first in range(0, n, BATCH):
            if first >= n // 2 > first - BATCH:
                half = (clock.spent, clock.system, ready, applied, first)
            part = {name: column[first : first + BATCH] for name, column in rows.items()}
            names = [f"acct-{number:010d}" for number in part["account"].tolist()]
            batch = columns(part, names, first)
            arena.fill([(name, None) for name in arena.missing(names)])
            begin = time.thread_time()
            for memory in arena.ahead(AHEAD_BYTES):
                made_resident(memory)
            ready += time.thread_time() - begin
            begin = time.thread_time()
            work = windows.apply(batch, arena, None, history=history)
            applied += time.thread_time() - begin
            values[first : first + BATCH] = work.features[:, at]
            edges[first : first + BATCH] = work.edge
            arena.settled()
    finally:
        windows.apply_rows = original
    rest = (n - half[4]) / 1e9
    each = arena.used_bytes / len(arena)
    ends = (clock.spent, clock.system, ready, applied)
    spent, system, ready, applied = (
        (end - at) / rest for end, at in zip(ends, half[:4], strict=True)
    )
    return Run(spent, system, ready, applied, values, edges, each)


def with_polars(rows: dict[str, np.ndarray[Any, Any]]) -> tuple[float, float, Any]:
    """CPU ns an event of rolling alone, then with the sort and the way back; columns as ours."""
    frame = pl.DataFrame(rows).with_columns(when=pl.from_epoch("time", time_unit="ms"))
    frame = frame.with_row_index("at")
    start = time.process_time()
    frame = frame.sort("account", "time")
    amount = pl.col("amount")
    begin = time.process_time()
    # Closed on the left is [t - W, t): the same as ours, since no two events share a millisecond.
    parts = [
        frame.rolling("when", period=f"{length}ms", closed="left", group_by="account")
        .agg(
            pl.len(),
            amount.sum(),
            amount.mean().alias("mean"),
            amount.std(ddof=0).alias("std"),
            amount.min().alias("min"),
            amount.max().alias("max"),
            pl.col("merchant").n_unique().alias("places"),
        )
        .select("len", "amount", "mean", "std", "min", "max", "places")
        for length in WINDOWS_MS.values()
    ]
    rolled = time.process_time() - begin
    back = np.empty((len(frame), len(parts) * len(NAMES)), np.float32)
    place = frame["at"].to_numpy()
    for number, part in enumerate(parts):
        columns = slice(number * len(NAMES), (number + 1) * len(NAMES))
        back[place, columns] = part.fill_null(-1).to_numpy()
    whole = time.process_time() - start
    return rolled / len(frame) * 1e9, whole / len(frame) * 1e9, back


def with_pandas(rows: dict[str, np.ndarray[Any, Any]]) -> float:
    """CPU ns an event."""
    frame = pd.DataFrame(rows)
    frame["when"] = pd.to_datetime(frame["time"], unit="ms")
    frame = frame.sort_values(["account", "time"])
    begin = time.process_time()
    for length in WINDOWS_MS.values():
        rolling = frame.groupby("account").rolling(f"{length}ms", on="when", closed="left")
        rolling["amount"].agg(["count", "sum", "mean", "std", "min", "max"])
        rolling["merchant"].nunique()
    return (time.process_time() - begin) / len(frame) * 1e9


def compared(found: Any, theirs: Any) -> float:
    """The largest relative difference between our columns and polars'."""
    wide = np.maximum(np.abs(theirs).astype(np.float64), 1.0)
    return float((np.abs(found.astype(np.float64) - theirs) / wide).max())


def measure(accounts: int, events: int, rounds: int, share: float) -> dict[str, Any]:
    """One size."""
    rows = stream(accounts, events)
    took: dict[str, list[float]] = {}

    def note(**figures: float) -> None:
        for name, ns in figures.items():
            took.setdefault(name, []).append(ns)

    for _ in range(rounds):
        alone = ours(rows, windows_alone, history=False)
        note(windows_ns=alone.compiled_ns, system_ns=alone.system_ns, ready_ns=alone.ready_ns)
        plain = ours(rows, windows.apply_rows, history=False)
        note(pass_ns=plain.compiled_ns, apply_ns=plain.apply_ns)
        note(apply_with_history_ns=ours(rows, windows.apply_rows, history=True).apply_ns)
        rolled, whole, values = with_polars(rows)
        note(polars_ns=rolled, polars_whole_ns=whole)
    ns = {name: float(np.median(figures)) for name, figures in took.items()}
    few = rows["account"] < max(1, int(accounts * share))
    theirs = {name: column[few] for name, column in rows.items()}
    exact = ~plain.edges
    return {
        "accounts": accounts,
        "events": events,
        "rounds": took,
        **ns,
        "pandas_ns": with_pandas(theirs),
        "windows_times_cheaper_than_polars": ns["polars_ns"] / ns["windows_ns"],
        "windows_times_cheaper_from_stream": ns["polars_whole_ns"] / ns["windows_ns"],
        "times_cheaper_with_memory": ns["polars_whole_ns"] / (ns["windows_ns"] + ns["ready_ns"]),
        "apply_times_cheaper_than_polars": ns["polars_ns"] / ns["apply_ns"],
        "largest_difference_to_polars": compared(plain.values[exact], values[exact]),
        "events_with_panes": int(plain.edges.sum()),
        "arena_bytes_an_account": plain.account_bytes,
        "pandas_events": int(few.sum()),
    }


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--json", action="store_true")
    parser.add_argument("--events", type=int, default=1_000_000)
    parser.add_argument("--accounts", type=int, action="append")
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--share", type=float, default=0.05, help="of accounts, for pandas")
    given = parser.parse_args()
    rows = [
        measure(accounts, given.events, given.rounds, given.share)
        for accounts in given.accounts or [10_000, 1_000_000]
    ]
    if given.json:
        print(json.dumps(rows))
        return
    for row in rows:
        print(f"{row['accounts']:,} accounts, {row['events']:,} events over 60 days")
        for name, text in (
            ("windows_ns", f"the windows and the records (goal {GOAL_NS:.0f})"),
            ("system_ns", "of these the system's, for memory used for the first time"),
            ("ready_ns", "not of these: memory made ready before it is used, by a thread beside"),
            ("pass_ns", f"all {COUNT} features, digests and records"),
            ("apply_ns", "the same with the Python around it"),
            ("apply_with_history_ns", "and with the last 64 events of each copied out"),
            ("polars_ns", "polars, rolling, the whole table at once, sorted"),
            ("polars_whole_ns", "polars, from the stream to the stream"),
            ("pandas_ns", "pandas, rolling, the whole table at once"),
        ):
            turns = ", ".join(f"{ns:,.0f}" for ns in row["rounds"].get(name, ()))
            print(f"  {row[name]:>10,.0f} ns  {text}" + (f"  [{turns}]" if turns else ""))
        print(
            f"  cheaper than polars: windows {row['windows_times_cheaper_than_polars']:.1f} x,"
            f" from the stream to the stream {row['windows_times_cheaper_from_stream']:.1f} x"
            f" ({row['times_cheaper_with_memory']:.1f} x with the memory made ready),"
            f" with everything {row['apply_times_cheaper_than_polars']:.1f} x"
            f" (goal {GOAL_TIMES:.0f})"
        )
        print(
            f"  largest difference to polars {row['largest_difference_to_polars']:.1e};"
            f" {row['events_with_panes']:,} events needed panes;"
            f" {row['arena_bytes_an_account']:,.0f} bytes an account in memory"
        )


if __name__ == "__main__":
    main()
