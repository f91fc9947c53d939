"""What is a terminal's risk worth, and what would it be worth if it were told sooner?

    python benchmarks/fresh_risk.py handbook.parquet [--work DIR] [--rows full] [--weeks 5,6,7,8]
                                    [--risk-hours 24] [--cost]

The service tells a model of each terminal its payments and frauds of 1, 7 and 30 days and the
course of its frauds, as known at the start of the day (docs/risk.md). Trees are fitted without the
course, with all that is told, and with the same as known some hours and at the moment of the
payment, which no snapshot a day can tell. Weeks lie before the protocol's test weeks (week k is
`handbook.fold_of(d, k)`), so that this may decide what the service tells. `--risk-hours` is the
service's own `risk.period_hours`; `--cost` prints what each costs, and fits nothing.
"""

from __future__ import annotations

import argparse
import json
import sys
import time
from pathlib import Path
from typing import Final

import numpy as np
from numba import njit
from numpy.typing import NDArray

from benchmarks.handbook import (
    DELAY_DAYS,
    TREES,
    chosen_rows,
    fold_of,
    mean_of,
    measured,
    no_leak,
    opened,
)
from model import baseline, data
from model.inputs import PLACE_SHIFT
from streams.features import RISK_COURSE
from streams.labels import FRAUD, Labels
from streams.live.risk_store import packed
from streams.risk_build import RiskBuilder
from streams.risk_pace import HOURS_A_DAY, Pace
from streams.schema import DAY_MS

KEPT: Final = 30 * DAY_MS
COLUMNS: Final = 7
SHORT: Final = (1, 7)
"""Days of the two shorter windows, which differ from the service's too when told sooner."""
HOUR_MS: Final = 3_600_000
SOONER: Final = {
    "known every 12 hours": 12 * HOUR_MS,
    "known every 3 hours": 3 * HOUR_MS,
    "known every hour": HOUR_MS,
    "known at the payment": 1,
}
"""How old what is told may be, in ms."""


@njit(cache=True, nogil=True)
def _courses(
    order: NDArray[np.int64],
    place: NDArray[np.int64],
    at: NDArray[np.int64],
    fraud: NDArray[np.bool_],
    known: NDArray[np.int64],
    out: NDArray[np.float32],
) -> None:
    """Fill the rows of `out`; `order` sorts events by place and time. Of event i the events of its
    place with `known[i] - 30 days <= at < known[i]` count."""
    begin = 0
    for k in range(len(order)):
        i = order[k]
        if place[i] != place[order[begin]]:
            begin = k
        frauds = before = between = after = 0
        first = last = ahead = -1
        short = np.zeros(2 * len(SHORT), np.int64)
        seen = False
        for j in range(begin, k):
            e = order[j]
            if at[e] >= known[i]:
                break
            if at[e] < known[i] - KEPT:
                continue
            seen = True
            for s in range(len(SHORT)):
                if at[e] >= known[i] - SHORT[s] * DAY_MS:
                    short[2 * s] += 1
                    short[2 * s + 1] += fraud[e]
            if fraud[e]:
                first = e if first < 0 else first
                last, frauds, between, after = e, frauds + 1, between + after, 0
            elif first < 0:
                before, ahead = before + 1, e
            else:
                after += 1
        if not seen:
            continue
        out[i, 0] = (known[i] - at[first]) / DAY_MS if first >= 0 else -1
        out[i, 1] = (known[i] - at[last]) / DAY_MS if last >= 0 else -1
        out[i, 2] = (known[i] - at[ahead]) / DAY_MS if first >= 0 and ahead >= 0 else -1
        out[i, 3:COLUMNS] = np.array([before, between, after, frauds], np.float32)
        out[i, COLUMNS:] = short.astype(np.float32)


def courses(d: data.Dataset, age_ms: int) -> NDArray[np.float32]:
    """The columns of every event, as known at the last whole `age_ms` before it."""
    time_ms = d.time
    place = (np.asarray(d.words)[:, 3] >> np.uint64(PLACE_SHIFT)).astype(np.int64)
    at = time_ms // age_ms * age_ms
    out = np.full((len(at), COLUMNS + 2 * len(SHORT)), -1, np.float32)
    order = np.lexsort((time_ms, place))
    fraud = np.asarray(d.truth) == 1
    _courses(order, place, at, fraud, at - DELAY_DAYS * DAY_MS, out)
    return out


def cost(d: data.Dataset, hours: int) -> str:
    """Build all snapshots of the stream at this pace, and say what that took."""
    pace, fraud = Pace(DELAY_DAYS, hours), np.asarray(d.truth) == 1
    keys, words = np.arange(len(d.time), dtype=np.uint64) + np.uint64(1), np.asarray(d.words)
    periods = pace.of_times(d.time)
    builder = RiskBuilder(pace)
    nobody, places = np.zeros(len(keys), np.uint64), words[:, 3] >> np.uint64(PLACE_SHIFT)
    amounts = np.ones(len(keys), np.int64)
    builder.add_rows(keys, periods.astype(np.int32), nobody, places, amounts)
    known = d.time[fraud] + DELAY_DAYS * DAY_MS
    verdicts = np.full(len(known), FRAUD, np.int8)
    builder.add_labels(Labels(keys[fraud], known, verdicts, keys[fraud]))
    begin = time.process_time()
    contents = [builder.build(period).to_bytes() for period in np.unique(periods).tolist()]
    spent = time.process_time() - begin
    kept, count = sum(len(packed(content)) for content in contents), len(contents)
    each = f"{1_000 * spent / count:5.1f} ms each, {spent:5.1f} CPU s"
    return f"every {hours:>2} h: {count:>5,} snapshots  {each}  {kept / 1e6:7.1f} MB in Redis"


def main() -> None:
    """Fit and print."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("stream", type=Path)
    parser.add_argument("--work", type=Path)
    parser.add_argument("--rows", choices=("strict", "full"), default="full")
    parser.add_argument("--weeks", default="5,6,7,8")
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--risk-hours", type=int, default=HOURS_A_DAY, help="risk.period_hours")
    parser.add_argument("--cost", action="store_true", help="what each pace costs; no fits")
    parser.add_argument("--json", action="store_true", help="the fits as JSON")
    given = parser.parse_args()
    d = opened(given.stream, given.work, given.risk_hours)
    if given.cost:
        for hours in (24, 12, 3, 1):
            print(cost(d, hours), flush=True)
        return
    none = np.empty((len(d.time), 0), np.float32)
    told = np.arange(len(d.names))
    plain = told[[not name.endswith(RISK_COURSE) for name in d.names]]
    tried = {"without the course": (plain, none), "as the service tells it": (told, none)}
    tried |= {name: (told, courses(d, age_ms)) for name, age_ms in SOONER.items()}
    found: dict[str, list[dict[str, float]]] = {name: [] for name in tried}
    for week in map(int, given.weeks.split(",")):
        fold = fold_of(d, week)
        rows = np.flatnonzero(chosen_rows(d, fold, given.rows))
        for name, (columns, more) in tried.items():
            begin = time.process_time()
            fit, test = (
                np.concatenate([np.asarray(d.features[part])[:, columns], more[part]], 1)
                for part in (rows, fold.test)
            )
            trees = TREES[given.rows]
            booster = baseline.lightgbm(fit, d.label[rows], threads=given.threads, **trees)
            spent = time.process_time() - begin
            one = measured(d, fold.test, np.asarray(booster.predict(test)), spent)
            found[name].append(one)
            progress = sys.stderr if given.json else sys.stdout
            print(f"week {week}  {name:<26}" + _shown(one), flush=True, file=progress)
    for weeks in found.values():
        no_leak(weeks)
    if given.json:
        print(json.dumps(found))
        return
    for name, weeks in found.items():
        print(f"mean    {name:<26}" + _shown(mean_of(weeks)))


def _shown(one: dict[str, float]) -> str:
    return "  ".join(f"{key} {one[key]:.5g}" for key in ("ap", "auc", "cp100", "brier", "cpu_s"))


if __name__ == "__main__":
    main()
