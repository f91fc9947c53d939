"""Ends a worker that stands still: an orchestrator starts the next one.

In: signs of life. Out: a crash in order; if the event loop does not even answer that, the end of
the process. Does not know what the work is. It has a thread of its own, because the thing that it
watches may be what hangs.

A worker stands still when messages wait and no round has ended for `worker.watchdog_s`, unless it
waits for the store or for Kafka's confirmation, which end by themselves; or when it gave a
partition up and nobody took the partition away. Time in which the watchdog itself did not run does
not count: the process was stopped, or the machine slept, and a worker that wakes up finds out by
itself what it no longer owns.
"""

from __future__ import annotations

import logging
import os
import threading
import time
from collections.abc import Callable
from dataclasses import dataclass

from streams.errors import FraudstreamError

CHECK_EVERY_S = 1.0
ASLEEP_S = 5.0
"""A look that comes so late was kept from coming."""
GRACE_S = 5.0
"""After a crash in order was asked for."""
EXIT_CODE = 70
"""EX_SOFTWARE."""

_logger = logging.getLogger(__name__)


class Stalled(FraudstreamError):
    """Messages wait, and nothing happens."""


@dataclass(frozen=True, slots=True)
class Signs:
    """What the event loop reports.

    waiting:  messages in the log or in memory that are not applied
    rounds:   rounds ended so far
    excused:  the worker waits for the store or for a confirmation, for a bounded time
    given_up: seconds since the oldest partition was given up that is still assigned; 0 for none
    """

    waiting: int
    rounds: int
    excused: bool = False
    given_up: float = 0.0


class Watchdog:
    """`report` from the event loop, every second; the thread checks."""

    def __init__(
        self,
        patience_s: float,
        crash: Callable[[Stalled], None],
        *,
        clock: Callable[[], float] = time.monotonic,
        kill: Callable[[int], None] = os._exit,
    ) -> None:
        self._patience_s = patience_s
        self._crash = crash
        self._clock = clock
        self._kill = kill
        self._stopped = threading.Event()
        self._reported = self._moved = self._looked = clock()
        self._rounds = -1
        self._given_up = 0.0
        self._crashed_at: float | None = None
        self._thread = threading.Thread(target=self._watch, name="watchdog", daemon=True)

    def start(self) -> None:
        """Watch from now on."""
        self._reported = self._moved = self._looked = self._clock()
        self._thread.start()

    def stop(self) -> None:
        """Watch no longer."""
        self._stopped.set()
        if self._thread.is_alive():
            self._thread.join()

    def report(self, signs: Signs) -> None:
        """Signs of life: the event loop turns, and this is how far it came."""
        now = self._clock()
        self._reported = now
        self._given_up = signs.given_up
        if signs.rounds != self._rounds or signs.excused or not signs.waiting:
            self._rounds = signs.rounds
            self._moved = now

    def check(self) -> None:
        """One look. Asks for a crash once; ends the process if that does not happen."""
        now = self._clock()
        asleep, self._looked = now - self._looked, now
        if asleep > ASLEEP_S:
            self._reported = min(now, self._reported + asleep)
            self._moved = min(now, self._moved + asleep)
            self._given_up = 0.0
            if self._crashed_at is not None:
                self._crashed_at = min(now, self._crashed_at + asleep)
        if self._crashed_at is not None:
            if now - self._crashed_at > GRACE_S:
                _logger.critical("the crash does not come to its end; ending the process")
                self._kill(EXIT_CODE)
            return
        stalled = None
        if now - self._reported > self._patience_s:
            stalled = Stalled(f"the event loop has not turned for {now - self._reported:.0f} s")
        elif max(now - self._moved, self._given_up) > self._patience_s:
            stalled = self._standing(now)
        if stalled is not None:
            self._crashed_at = now
            self._crash(stalled)

    def _standing(self, now: float) -> Stalled:
        """Why no round ends, as far as it can be told."""
        if self._given_up:
            return Stalled(
                f"a partition given up {self._given_up:.0f} s ago is still assigned",
                remedy="Do workers of another kafka.group use this redis.namespace? "
                "Give each group its own",
            )
        return Stalled(f"messages wait and no round has ended for {now - self._moved:.0f} s")

    def _watch(self) -> None:
        while not self._stopped.wait(CHECK_EVERY_S):
            self.check()
