"""The worker's look at the risk snapshots: fetched when first needed, waited for a while.

In: the columns of a round. Out: a `RiskView` for them, and how many of their events are stale.
Does not know how snapshots are built. Used by the worker's one thread; `stop` by any.

A period that is not decided yet is waited for, as long as somebody builds: up to `risk.wait_s`
since the builder last got on by a step, and LONGEST_WAITS times that in all. What is built for
other topics or at another pace brings this worker nothing, so its steps do not count. After a wait
in vain the worker goes on with the newest snapshot there is, and looks again from time to time
without waiting, until the period is decided.
"""

from __future__ import annotations

import logging
import threading
import time
from collections import OrderedDict
from collections.abc import Sequence
from datetime import UTC, datetime
from typing import Final

from streams.columns import Columns
from streams.errors import StoreError
from streams.live.risk_store import RiskStore
from streams.risk import RiskView, Sheet
from streams.risk_pace import Pace

SHEETS: Final = 16
"""Periods kept ready. A round needs one or two; late events and other partitions a few more."""
LOOK_EVERY_S: Final = 0.05
GLANCE_EVERY_S: Final = 1.0
LONGEST_WAITS: Final = 10
NOBODY_S: Final = 10.0
"""No builder for so long: none will come. Longer than a new one needs to take over."""
FOREIGN: Final = (
    "those in Redis are built for other topics, settings or another version than this worker's."
    " Give all workers of the group the same risk.delay_days and risk.period_hours"
)
NOBODY: Final = "no worker builds them. What the worker says of its risk builder tells why"
STUCK: Final = "their builder makes no step. What it says (risk snapshots: ...) tells why"
BEHIND: Final = "their builder gets on, and is still behind"

_logger = logging.getLogger(__name__)


class RiskSource:
    """Looks at one set of snapshots: those of `about` (the topics and the pace)."""

    def __init__(self, store: RiskStore, about: str, pace: Pace, wait_s: float) -> None:
        self._store = store
        self._about = about
        self._pace = pace
        self._wait_s = wait_s
        self._front: int | None = None
        self._sign: tuple[str | None, ...] = ()
        self._foreign = False
        self._sheets: OrderedDict[int, Sheet | None] = OrderedDict()
        self._stopping = threading.Event()
        self._given_up: int | None = None
        self._glanced = 0.0
        self.waiting = False
        """A wait is going on: no progress is not a fault of the worker."""

    def stop(self) -> None:
        """End every wait, now and later."""
        self._stopping.set()

    def view(self, columns: Sequence[Columns]) -> tuple[RiskView, int]:
        """The snapshots for these events, and how many of them had to do with an older one."""
        periods = self._pace.needed(columns)
        if periods and (self._front is None or periods[-1] > self._front):
            self._reach(periods[-1])
        front = self._front
        if front is None:
            return RiskView(self._pace, {}, None), sum(map(len, columns))
        wanted = sorted({min(period, front) for period in periods})
        sheets = self._ready(wanted)
        stale = 0
        if periods and periods[-1] > front:
            stale = sum(int((self._pace.of_events(each) > front).sum()) for each in columns)
        return RiskView(self._pace, sheets, front), stale

    def _reach(self, period: int) -> None:
        """Learn the front; wait until it is at `period`, or until waiting is in vain."""
        if self._given_up is not None and period <= self._given_up:
            if time.monotonic() - self._glanced < GLANCE_EVERY_S:
                return
            self._look()
            self._glanced = time.monotonic()
            return
        if self._look() >= period:
            return
        began = moved = seen = time.monotonic()
        sign = self._sign
        self.waiting = True
        try:
            while self._look() < period:
                now = time.monotonic()
                if sign != self._sign:
                    sign, moved = self._sign, now
                if self._store.alive():
                    seen = now
                stuck = now - moved >= self._wait_s
                if stuck or now - seen >= NOBODY_S or now - began >= LONGEST_WAITS * self._wait_s:
                    self._given_up, self._glanced = period, now
                    self._tell(now - began, NOBODY if seen < now else STUCK if stuck else BEHIND)
                    return
                if self._stopping.wait(LOOK_EVERY_S):
                    return
        finally:
            self.waiting = False

    def _tell(self, waited_s: float, why: str) -> None:
        assert self._given_up is not None
        known = "no risk at all" if self._front is None else f"that of {self._begin(self._front)}"
        _logger.warning(
            "no risk snapshot of %s after %.1f s: %s. Scores use %s until there is one",
            self._begin(self._given_up), waited_s, FOREIGN if self._foreign else why, known,
        )  # fmt: skip

    def _begin(self, period: int) -> str:
        began = datetime.fromtimestamp(period * self._pace.ms / 1_000, UTC)
        return f"{began:%Y-%m-%d %H:%M}"

    def _look(self) -> int:
        state = self._store.state()
        self._foreign = state.about not in (None, self._about)
        self._sign = () if self._foreign else state.sign
        front = state.front if state.about == self._about else None
        if front is None or (self._front is not None and front < self._front):
            # Built anew from the start, or not at all: what was fetched may be of other topics.
            self._sheets.clear()
        self._front = front
        return -1 if front is None else front

    def _ready(self, periods: list[int]) -> dict[int, Sheet]:
        """The sheets of these periods; empty periods have none."""
        missing = [period for period in periods if period not in self._sheets]
        for period, digest in zip(missing, self._store.digests(missing), strict=True):
            self._sheets[period] = self._sheet(period, digest)
        found = {}
        for period in periods:
            sheet = self._sheets[period]
            self._sheets.move_to_end(period)
            if sheet is not None:
                found[period] = sheet
        while len(self._sheets) > max(SHEETS, len(periods)):
            self._sheets.popitem(last=False)
        return found

    def _sheet(self, period: int, digest: str | None) -> Sheet | None:
        content = None if digest is None else self._store.snapshot(digest)
        if digest is not None and content is None:
            # A builder may have dropped it between the two questions: what does it say now?
            (digest,) = self._store.digests([period])
            content = None if digest is None else self._store.snapshot(digest)
        if digest is None:
            return None
        if content is None:
            raise StoreError(
                f"risk snapshot {digest} of period {period} is named in Redis, but not there",
                remedy="Delete the key `<namespace>:{risk}:state`: the snapshots are built again",
            )
        return Sheet.of(content, digest)
