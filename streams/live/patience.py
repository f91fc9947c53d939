"""Wait for a store that is full or away, in place, without giving a step up or doing it twice.

In: a call that may raise StoreFull or StoreLost. Out: its result. Does not know what it does, only
that repeating it is safe (the store promises that).
"""

from __future__ import annotations

import logging
import threading
import time
from collections.abc import Callable
from typing import ParamSpec, TypeVar

from streams.errors import StoreFull, StoreLoading, StoreLost
from streams.metrics import Metrics

FIRST_PAUSE_S = 0.05
LONGEST_PAUSE_S = 2.0

P = ParamSpec("P")
T = TypeVar("T")

_logger = logging.getLogger(__name__)


class Stopped(Exception):
    """The worker is to stop, and the step waited for is left undone."""


class Patience:
    """Used by the worker's one thread; `stop` and `waiting` by any."""

    def __init__(self, retry_s: float, metrics: Metrics) -> None:
        self._retry_s = retry_s
        self._metrics = metrics
        self._stopping = threading.Event()
        self._told = ""
        self.waiting = False
        """A wait is going on: no progress is not a fault of the worker."""

    def stop(self) -> None:
        """End every wait, now and later, with Stopped."""
        self._stopping.set()

    def __call__(self, call: Callable[P, T], *args: P.args, **kwargs: P.kwargs) -> T:
        """The call's result, however often it takes.

        A store that is full, or loads its data, is waited for without limit. One that does not
        answer is asked again for `worker.retry_s`; then StoreLost is raised.
        """
        began: float | None = None
        pause = FIRST_PAUSE_S
        try:
            while True:
                try:
                    answer = call(*args, **kwargs)
                    if self.waiting:
                        _logger.warning("the store answers again")
                    return answer
                except StoreFull as error:
                    self._note("full", error)
                    began = None
                except StoreLoading as error:
                    self._note("loading", error)
                    began = None
                except StoreLost as error:
                    now = time.monotonic()
                    began = now if began is None else began
                    if now - began >= self._retry_s:
                        raise
                    self._note("lost", error)
                if self._stopping.wait(pause):
                    raise Stopped
                pause = min(2 * pause, LONGEST_PAUSE_S)
        finally:
            self.waiting = False

    def _note(self, cause: str, error: Exception) -> None:
        self._metrics.store_waits.labels(cause).inc()
        # Where another cause takes over (away, loading, full), so does what there is to do.
        if not self.waiting or cause != self._told:
            _logger.warning("waiting for the store (%s): %s", cause, error)
        self.waiting, self._told = True, cause
