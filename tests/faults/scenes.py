"""Every fault in a piece that takes seconds, and how much of it a soak is asked for.

In: a place, and a seed. Out: how much of it was made, in the scene's unit, or the error.
Does not know how often or in what order: `benchmarks/soak.py` does.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import Final

import redis

from streams.dev import process
from streams.dev import redis as redis_server
from streams.live.failpoint import STEPS
from tests.faults import (
    broker_faults,
    bundle_faults,
    clock_faults,
    deaths,
    disk_faults,
    fuzz_decoder,
    hostile,
    interleave,
    line_faults,
    native_clock,
    poison,
    record_faults,
    redis_faults,
)
from tests.faults.driver import Place

SCHEDULES: Final = 2_000
STORM_S: Final = 60
LINE_S: Final = 20
FUZZ_S: Final = 60
HOSTILE: Final = 20_000


@dataclass(frozen=True, slots=True)
class Scene:
    """One kind of fault. `asked` counts in `unit`; `own` is a name for the command line; `missing`
    tells what this machine lacks for it."""

    fault: str
    own: str
    what: str
    asked: int
    unit: str
    make: Callable[[Place, int], int]
    missing: Callable[[], str] = str

    @property
    def name(self) -> str:
        """Such as `F6-killed`."""
        return f"{self.fault}-{self.own}"


def _crashes(place: Place, seed: int) -> int:
    """One step of the ten; twenty seeds of each step are asked for."""
    return deaths.crash_at_every_step(place, seed, [STEPS[seed % len(STEPS)]])


def _storm(place: Place, seed: int) -> int:
    place.counts["changes"] += deaths.storm(place, seed, STORM_S)
    return STORM_S


def _bad_lines(place: Place, seed: int) -> int:
    """One way of the eight."""
    ways = line_faults.PERIODS[seed % len(line_faults.PERIODS)]
    line_faults.bad_lines(place, seed, LINE_S, [ways])
    place.counts["+".join(ways) if len(ways) == 1 else "all ways"] += 1
    return LINE_S


def _hostile(place: Place, seed: int) -> int:
    place.seeds.append(seed)
    began = time.monotonic()
    place.counts["messages"] += hostile.attack(HOSTILE, seed)
    return round(time.monotonic() - began)


def _fuzzed(place: Place, seed: int) -> int:
    place.seeds.append(seed)
    driver, tried = fuzz_decoder.fuzz(FUZZ_S, seed, place.directory / "fuzz")
    place.counts[f"messages ({driver})"] += tried
    return FUZZ_S


def _interleavings(place: Place, seed: int) -> int:
    # A server without a file: crashes here are the workers', and disk syncs cost.
    directory = place.directory / f"interleavings-{seed}"
    socket = directory / "socket"
    extra = {"appendonly": "no", "unixsocket": str(socket)}
    server = redis_server.start(directory, extra=extra, die_with_parent=True)
    place.seeds.append(seed)
    try:
        with redis.Redis(unix_socket_path=str(socket)) as client:
            for schedule in range(seed * SCHEDULES, (seed + 1) * SCHEDULES):
                interleave.run(schedule, client)
                if schedule % 200 == 199:
                    client.flushall()
    finally:
        process.stop(server.child, 0)
    return SCHEDULES


SCENES: Final = (
    Scene(
        "F1", "kills", "kill -9 of one of two workers", 1_000, "kills",
        lambda place, seed: deaths.kill_at_random(place, seed, 4),
    ),
    Scene("F2", "steps", "crash after a step, in three rounds", 600, "crashes", _crashes),
    Scene(
        "F3", "zombies", "frozen, overtaken, thawed", 200, "zombies",
        deaths.frozen_between_compute_and_commit,
    ),
    Scene("F4", "schedules", "interleavings", 1_000_000, "schedules", _interleavings),
    Scene("F5", "storm", "workers join and leave", 7_200, "s", _storm),
    Scene(
        "F6", "killed", "kill -9 of Redis", 50, "kills",
        lambda place, seed: redis_faults.killed(place, seed, 3),
    ),
    Scene(
        "F6", "frozen", "Redis frozen for 10 s", 50, "times",
        lambda place, seed: redis_faults.frozen(place, seed, 2, 10),
    ),
    Scene(
        "F6", "older", "Redis restored to an older file", 50, "times",
        lambda place, seed: redis_faults.put_back(place, seed, 3),
    ),
    Scene("F6", "empty", "Redis comes back empty: refused", 50, "refusals", redis_faults.emptied),
    Scene(
        "F6", "full", "Redis full: waits, goes on", 50, "times",
        lambda place, seed: redis_faults.full(place, seed, 3),
    ),
    Scene("F7", "promoted", "a replica lacks the tail", 50, "times", redis_faults.promoted),
    Scene("F8", "lines", "bad TCP to Redis and Kafka, 8 ways", 4_800, "s", _bad_lines),
    Scene(
        "F9", "killed", "kill -9 of the only broker", 50, "kills",
        lambda place, seed: broker_faults.killed(place, seed, 2),
    ),
    Scene(
        "F9", "three", "kill -9 of one of three brokers", 50, "kills",
        lambda place, seed: broker_faults.one_of_three_killed(place, seed, 2),
    ),
    Scene("F9", "unclean", "unclean election: refused", 50, "times", broker_faults.unclean),
    Scene("F10", "redis", "disk full under Redis", 10, "times", disk_faults.append_only_file),
    Scene("F10", "broker", "disk full under the broker", 10, "times", disk_faults.broker_log),
    Scene("F10", "recording", "disk full under a recording", 10, "times", disk_faults.recording),
    Scene("F11", "hostile", "hostile messages (hypothesis)", 1_800, "s", _hostile),
    Scene("F11", "decoder", "the decoder fuzzed", 1_800, "s", _fuzzed),
    Scene("F12", "bits", "all bits, cuts and versions", 20, "records", record_faults.damaged),
    Scene(
        "F12", "worker", "a worker meets a damaged record", 1, "times",
        record_faults.met_by_a_worker,
    ),
    Scene(
        "F13", "again", "round sizes, workers, partition order", 20, "logs",
        lambda place, seed: deaths.same_log_again(place, seed, 2_000),
    ),
    Scene("F14", "refused", "bundle damaged: refused", 5, "bundles", bundle_faults.refused),
    Scene("F14", "swapped", "bundle exchanged under a worker", 1, "times", bundle_faults.swapped),
    Scene("F15", "clock", "a day ahead, a day behind, frozen", 20, "times", clock_faults.jumps),
    Scene(
        "F15", "native", "the same by libfaketime", 20, "times", clock_faults.jumps_of_all,
        native_clock.missing,
    ),
    Scene("F16", "short", "address space limited", 4, "workers", deaths.out_of_memory),
    Scene("F17", "poison", "a message that kills", 5, "messages", poison.put_aside),
)  # fmt: skip
