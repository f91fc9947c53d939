"""A whole simulated stream from one plan: ordinary life, frauds, lateness, duplicates, faults.

In: `Plan`. Out: `Stream` (three Arrow tables). Same plan, same tables; no clock is read.
Does not know files or Kafka.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from streams.dev.simulate import events as ev
from streams.dev.simulate import tables
from streams.dev.simulate.frauds import INJECTED, SCENARIOS, SHARES, code, compromised_merchant
from streams.dev.simulate.habits import ordinary
from streams.dev.simulate.order import order_only, outside
from streams.dev.simulate.world import World, build
from streams.errors import ConfigError
from streams.schema import DAY_MS, MAX_EVENT_TIME_MS, MIN_EVENT_TIME_MS

START_MS = 1_735_689_600_000
"""2025-01-01T00:00:00Z: fixed, so that a seed means the same stream at any time."""
MAX_EVENTS = 20_000_000
MAX_ACCOUNTS = 5_000_000
LATENESS_MS = (60_000, 86_400_000)
"""Shortest and longest, and as often below an hour as above."""


@dataclass(frozen=True, slots=True)
class Plan:
    """What to simulate.

    fraud_rate is the share of frauds among all events. late, duplicates and faults are shares of
    events that arrive late (by a minute to a day), arrive twice with the same bytes, or break the
    schema.
    """

    events: int = 100_000
    accounts: int = 5_000
    days: int = 60
    seed: int = 1
    scenarios: tuple[str, ...] = SCENARIOS
    fraud_rate: float = 0.006
    start_ms: int = START_MS
    label_delay_days: float = 2.0
    unreported: float = 0.05
    late: float = 0.0
    duplicates: float = 0.0
    faults: float = 0.0

    def __post_init__(self) -> None:
        limits = (
            ("events", self.events, 1, MAX_EVENTS),
            ("accounts", self.accounts, 1, MAX_ACCOUNTS),
            ("days", self.days, 1, 3_650),
            ("seed", self.seed, 0, 2**31),
            ("fraud-rate", self.fraud_rate, 0, 0.2),
            ("label-delay", self.label_delay_days, 0, 365),
            ("unreported", self.unreported, 0, 1),
            ("late", self.late, 0, 0.5),
            ("duplicates", self.duplicates, 0, 0.5),
            ("faults", self.faults, 0, 0.5),
        )
        for name, value, low, high in limits:
            if not low <= value <= high:
                raise ConfigError(f"{name} is {value}", remedy=f"give {low} to {high}")
        end_ms = self.start_ms + self.days * DAY_MS
        if self.start_ms < MIN_EVENT_TIME_MS or end_ms > MAX_EVENT_TIME_MS:
            raise ConfigError(
                "the stream is not within the years 2000 to 2099, and the service would refuse it",
                remedy="give another --start, or fewer --days",
            )
        for name in self.scenarios:
            if name not in SCENARIOS:
                raise ConfigError(
                    f"no scenario {name!r}", remedy=f"choose of {', '.join(SCENARIOS)}"
                )


@dataclass(frozen=True, slots=True)
class Stream:
    """transactions in arrival order, labels by label_time, truth in arrival order."""

    transactions: pa.Table
    labels: pa.Table
    truth: pa.Table


def _generator(plan: Plan, part: int) -> np.random.Generator:
    """One generator a part, so that switching a scenario on leaves the other parts as they were."""
    return np.random.Generator(np.random.PCG64(np.random.SeedSequence([plan.seed, part])))


def _shares(plan: Plan) -> dict[str, int]:
    """Frauds wanted of each scenario."""
    chosen = {n: s for n, s in zip(SCENARIOS, SHARES, strict=True) if n in plan.scenarios}
    total = sum(chosen.values())
    return {n: round(plan.events * plan.fraud_rate * s / total) for n, s in chosen.items()}


def _live(plan: Plan, world: World, wanted: int) -> ev.Events:
    """All events, unsorted, without lateness and faults."""
    shares = _shares(plan)
    ordered, quiet = order_only(_generator(plan, 10 + code("order")), world, shares.get("order", 0))
    parts = [ordered]
    for name in (name for name in INJECTED if name in shares):
        found = INJECTED[name](_generator(plan, 10 + code(name)), world, shares[name])
        found.scenario[found.fraud] = code(name)
        inside = (found.time >= world.start) & (found.time < world.end)
        parts.append(found.take(inside & outside(found, quiet, world.start)))
    injected = ev.concat(parts)
    space = wanted - len(injected)
    if space <= 0:
        raise ConfigError("the frauds alone are more than the events", remedy="lower --fraud-rate")
    life = ordinary(_generator(plan, 2), world, space + space // 10 + 64)
    life = life.take(outside(life, quiet, world.start)).take(slice(0, space))
    if "compromised_merchant" in shares:
        rng = _generator(plan, 10 + code("compromised_merchant"))
        compromised_merchant(rng, world, shares["compromised_merchant"], life)
    return ev.concat([injected, life])


def _arrivals(
    plan: Plan, e: ev.Events, repeats: int
) -> tuple[ev.Events, NDArray[np.int64], NDArray[np.intp]]:
    """Events in arrival order with lateness, duplicates and faults: (events, row, first places).

    Raises ConfigError where too few events are left to arrive twice.
    """
    rng = _generator(plan, 3)
    n = len(e)
    arrival = e.time.copy()
    late = (rng.random(n) < plan.late) & (e.scenario == 0)
    low, high = np.log(LATENESS_MS[0]), np.log(LATENESS_MS[1])
    arrival[late] += np.exp(rng.uniform(low, high, int(late.sum()))).astype(np.int64)
    order = np.lexsort((e.account, e.time, arrival))
    e = e.take(order)
    faulty = (rng.random(n) < plan.faults) & (e.scenario == 0)
    e.fault[faulty] = 1 + rng.integers(0, len(tables.FAULTS), int(faulty.sum()))
    row = np.arange(n)
    whole = np.flatnonzero(e.fault == 0)
    if repeats > len(whole):
        raise ConfigError(
            f"{repeats} duplicates are more than the {len(whole)} events without faults",
            remedy="lower --duplicates or --faults",
        )
    twice = rng.choice(whole, repeats, replace=False)
    place = np.concatenate([row, twice + rng.integers(1, 1_000, len(twice))])
    which = np.concatenate([row, twice])
    order = np.argsort(place, kind="stable")
    row = which[order]
    _, first = np.unique(row, return_index=True)
    return e.take(row), row.astype(np.int64), first


def simulate(plan: Plan) -> Stream:
    """The stream of this plan. Raises ConfigError where the plan cannot be met."""
    world = build(_generator(plan, 1), plan.accounts, plan.start_ms, plan.days)
    repeats = round(plan.events * plan.duplicates)
    e = _live(plan, world, plan.events - repeats)
    e, row, first = _arrivals(plan, e, repeats)
    once = e.take(first)
    rng = _generator(plan, 4)
    return Stream(
        transactions=tables.transactions(e, row, world, plan.seed),
        labels=tables.labels(
            rng, once, row[first], plan.seed, plan.label_delay_days, plan.unreported
        ),
        truth=tables.truth(once, row[first], plan.seed),
    )
