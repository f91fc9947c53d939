"""Faults of workers: they crash at a step, are killed, freeze and wake up, come and go.

In: a place and a seed. Out: nothing, or `Broken`. Each function is one run.
"""

from __future__ import annotations

import itertools
import random
import signal
import statistics
import time
from collections.abc import Sequence
from dataclasses import dataclass

from streams.live.failpoint import KILLED, STEPS
from tests.faults.driver import Place, Run
from tests.faults.workers import Worker

ROUND = 40
"""Messages a round may hold in the runs that want many rounds."""


def crash_at_every_step(
    place: Place, seed: int, steps: Sequence[str] = STEPS, mutant: str | None = None
) -> int:
    """F2: a crash right after each step of the first, a middle and the last of three rounds.

    Each worker finds three rounds of work. The dead are followed by one that comes to the end.
    """
    deaths = 0
    with Run(place, seed, partitions=1) as run:
        for step in steps:
            for number in (1, 2, 3):
                run.publish(max(0, 3 * ROUND - run.lag()))
                worker = run.start(
                    f"worker.failpoint={step}:{number}",
                    f"worker.batch_events={ROUND}",
                    run.another_group(),
                    mutant=mutant,
                )
                code = worker.ended()
                if code != KILLED:
                    raise run.failure([f"{step}:{number} ended with {code}", worker.said()])
                deaths += 1
        _followed(run, mutant)
        run.judge()
    return deaths


def _followed(run: Run, mutant: str | None = None) -> None:
    """One died just now: another comes, and how long it takes until messages are applied again."""
    died = time.monotonic()
    run.publish(ROUND)
    run.start(run.another_group(), mutant=mutant).ready()
    run.place.resumed_s.append(run.moving(died))


def kill_at_random(place: Place, seed: int, kills: int) -> int:
    """F1: of two workers in one group one is killed, again and again, while messages come in."""
    chance = random.Random(f"kills {seed}")
    with Run(place, seed, partitions=4) as run:
        flag = f"worker.batch_events={ROUND}"
        pair = [run.start(flag).ready(), run.start(flag).ready()]
        run.feed(200)
        for _ in range(kills):
            time.sleep(chance.uniform(0, 2))
            victim = pair.pop(chance.randrange(2))
            killed = time.monotonic()
            victim.kill()
            pair.append(run.start(flag))
            if chance.random() < 0.7:
                pair[-1].ready()
            place.resumed_s.append(run.moving(killed))
        run.starve()
        run.judge()
    return kills


def frozen_between_compute_and_commit(
    place: Place,
    seed: int,
    zombies: int = 5,
    points: Sequence[str] = ("advanced", "scored", "settled"),
    mutant: str | None = None,
) -> int:
    """F3: each zombie freezes with one partition computed and not committed; a partner takes over
    and goes on; then the zombies wake up, finish what they had in hand, and must be refused.

    A `mutant` need not break anything: it may learn that it was overtaken before it commits.
    """
    chance = random.Random(f"zombies {seed}")
    with Run(place, seed, partitions=zombies) as run:
        frozen = []
        for _ in range(zombies):
            point = chance.choice(list(points))
            frozen.append(
                run.start(
                    f"worker.failpoint={point}:{chance.randrange(1, 4)}:stop",
                    f"worker.batch_events={ROUND}",
                    mutant=mutant,
                )
            )
        for each in frozen:
            each.ready()
        run.feed(100 * zombies)
        for each in frozen:
            run.until(each.frozen)
        began = time.monotonic()
        partner = run.start(f"worker.batch_events={ROUND}", mutant=mutant).ready()
        place.resumed_s.append(run.moving(began))
        time.sleep(chance.uniform(0, 0.5))
        run.starve()
        run.drain()
        for each in frozen:
            each.signal(signal.SIGCONT)
        if mutant is not None:
            shown(run)
            return zombies
        refused(run, frozen)
        assert partner.alive, partner.said()
        run.judge()
    return zombies


def shown(run: Run, patience_s: float = 15.0) -> None:
    """Raise what an unguarded zombie broke, if it did: on a busy machine it wakes up slowly."""
    deadline = time.monotonic() + patience_s
    time.sleep(3)
    while time.monotonic() < deadline:
        found = run.faults()
        if any(each.startswith(ZOMBIE) for each in found):
            raise run.failure(found)
        time.sleep(1)


ZOMBIE = ("I2", "I3", "I4")
"""The promises that a commit of somebody who was overtaken breaks."""
REFUSALS = ("giving the partition up", "reading the state again", "not let go in order")


def _told(zombie: Worker) -> bool:
    said = zombie.said()
    return any(text in said for text in REFUSALS)


def refused(run: Run, zombies: Sequence[Worker]) -> None:
    """Each of them was told that its partition has gone on without it."""
    for each in zombies:
        run.until(lambda: _told(each) or not each.alive)  # noqa: B023
        if not _told(each):
            raise run.failure(["a zombie was not refused", each.said()])


def storm(place: Place, seed: int, seconds: float) -> int:
    """F5: workers join and leave every one to five seconds; no partition stands still for 30 s."""
    chance = random.Random(f"storm {seed}")
    changes = 0
    with Run(place, seed, partitions=4) as run:
        present = [run.start().ready()]
        run.feed(200)
        began = time.monotonic()
        while time.monotonic() < began + seconds:
            time.sleep(chance.uniform(1, 5))
            changes += 1
            if len(present) == 1 or (len(present) < 4 and chance.random() < 0.5):
                present.append(run.start())
            else:
                leaver = present.pop(chance.randrange(len(present))).ready()
                if leaver.stop():
                    raise run.failure(["a worker did not leave in order", leaver.said()])
        ended = time.monotonic()
        run.starve()
        place.resumed_s.append(longest_pause_s(run, began, ended))
        if place.resumed_s[-1] > 30:
            raise run.failure([f"a partition stood still for {place.resumed_s[-1]:.0f} s"])
        run.judge()
    return changes


def longest_pause_s(run: Run, began: float, ended: float) -> float:
    """The longest time that a partition did not move, while messages came in."""
    pauses = [0.0]
    for partition in range(run.partitions):
        moves = [when for when, each, _ in run.watch.moves if each == partition]
        times = [began, *(when for when in moves if began < when < ended), ended]
        pauses += [after - before for before, after in itertools.pairwise(times)]
    return max(pauses)


def same_log_again(place: Place, seed: int, events: int, mutant: str | None = None) -> int:
    """F13: one log, read with other round sizes by 1, 2 and 4 workers, and the last partition
    first; the copies of a score that they all leave in the same topic must be equal, and so must
    their records."""
    shapes = ((1, 4_096, mutant), (2, 64, mutant), (4, 7, mutant), (1, 64, mutant or "backwards"))
    with Run(place, seed, partitions=4) as first:
        first.publish(events)
        runs = [first, *(Run(place, seed, partitions=4, like=first) for _ in shapes[1:])]
        try:
            for run, (number, size, change) in zip(runs, shapes, strict=True):
                flag = f"worker.batch_events={size}"
                team = [run.start(flag, mutant=change) for _ in range(number)]
                run.drain()
                for worker in team:
                    worker.ready()
                run.finish()
            expected = first.expected()
            for run in runs:
                found = run.faults(expected)
                if found:
                    raise run.failure(found)
        finally:
            for run in runs[1:]:
                run.__exit__(None, None, None)
        place.counts["readings"] += len(shapes)
    return 1


def out_of_memory(place: Place, seed: int, spares_mb: Sequence[int] = (4, 16, 32, 64)) -> int:
    """F16: workers whose address space may grow by a little only; each dies somewhere, or stands
    its ground. One without a limit comes to the end."""
    with Run(place, seed, partitions=1) as run:
        for spare in spares_mb:
            run.publish(3 * ROUND)
            worker = run.start(run.another_group(), spare_mb=spare)
            run.until(lambda: not worker.alive or run.lag() == 0)  # noqa: B023
            if worker.alive:
                worker.stop()
        _followed(run)
        run.judge()
    return len(spares_mb)


@dataclass(frozen=True, slots=True)
class Growth:
    """How a worker's resident memory grew. first, last: bytes, at the ends of the fitted line."""

    percent_an_hour: float
    first: float
    last: float
    messages: int


def leak(place: Place, seed: int, seconds: float) -> Growth:
    """F16: a busy worker for `seconds`; its memory by least squares over the last two thirds (what
    fills up first is no leak). The promises are checked as well."""
    with Run(place, seed) as run:
        worker = run.start(f"worker.batch_events={ROUND}").ready()
        run.feed(100)
        begun = time.monotonic()
        times: list[float] = []
        sizes: list[float] = []
        while (since := time.monotonic() - begun) < seconds:
            time.sleep(1)
            if since > seconds / 3:
                times.append(since / 3_600)
                sizes.append(worker.resident_bytes())
        run.starve()
        run.judge()
        messages = sum(run.watch.offsets().values())
    return grown(times, sizes, messages)


def grown(times: Sequence[float], sizes: Sequence[float], messages: int) -> Growth:
    """The line through sizes (bytes) over times (hours)."""
    slope, at_zero = statistics.linear_regression(times, sizes)
    percent = 100 * slope / statistics.fmean(sizes)
    return Growth(percent, at_zero + slope * times[0], at_zero + slope * times[-1], messages)
