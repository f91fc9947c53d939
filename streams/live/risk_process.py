"""The risk builder as a child process of a worker, so that it does not share the worker's core.

In: settings. Out: a process that builds, or stands by, until it is stopped or its parent is gone.
Does not know how snapshots are built. A child that dies is started again; one that dies at once,
time and again, less and less often: each start takes seconds of the worker's machine.
"""

from __future__ import annotations

import logging
import multiprocessing
import multiprocessing.connection
import signal
import threading
import time
from multiprocessing.context import SpawnProcess
from types import FrameType
from typing import Final

from streams import logs
from streams.settings import Settings

AGAIN_S: Final = 1.0
SELDOM_S: Final = 60.0
"""A child is started again after the first, then after twice as long each time, up to the second,
until one lives longer than that."""
STOP_S: Final = 1.0
"""How long the child may take after the worker is done; what it holds, another one takes over."""
KILLED_S: Final = 10.0
KILLED: Final = ". It was killed: is there memory enough (docs/risk.md says how much it needs)?"

_logger = logging.getLogger(__name__)


def main(settings: Settings) -> None:
    """The child's life. Ends with its parent, however that ends."""
    from streams.connect import redis_client
    from streams.live.risk_lock import serve
    from streams.live.risk_store import RiskStore

    asked = threading.Event()

    def stop(_number: int, _frame: FrameType | None) -> None:
        asked.set()

    signal.signal(signal.SIGTERM, stop)
    # Ctrl-C and a closed terminal reach the whole group; the parent says when to stop.
    for number in (signal.SIGINT, signal.SIGHUP):
        signal.signal(number, signal.SIG_IGN)
    logs.start(settings.log.level, json_lines=settings.log.json_lines)
    parent = multiprocessing.parent_process()
    assert parent is not None

    def stopped(seconds: float) -> bool:
        return asked.wait(seconds) or not parent.is_alive()

    client = redis_client(settings)
    try:
        serve(settings, RiskStore(client, settings.redis.namespace), stopped)
    finally:
        client.close()


class RiskProcess:
    """Keeps one child running. Use as a context."""

    def __init__(self, settings: Settings) -> None:
        self._settings = settings
        self._stopping = threading.Event()
        self._child: SpawnProcess | None = None
        self._keeper = threading.Thread(target=self._keep, name="risk", daemon=True)

    def __enter__(self) -> RiskProcess:
        self._start()
        self._keeper.start()
        return self

    def ask(self) -> None:
        """Let the child begin to end, without waiting for it: it may need as long as the worker."""
        self._stopping.set()
        child = self._child
        if child is not None and child.is_alive():
            child.terminate()

    def __exit__(self, *rest: object) -> None:
        self.ask()
        self._keeper.join(STOP_S)
        child = self._child
        if child is not None and child.is_alive():
            child.kill()
            child.join(KILLED_S)

    @property
    def pid(self) -> int | None:
        """The child's process id."""
        return None if self._child is None else self._child.pid

    def _start(self) -> None:
        context = multiprocessing.get_context("spawn")
        self._child = context.Process(target=main, args=(self._settings,), daemon=True, name="risk")
        self._child.start()

    def _keep(self) -> None:
        pause = 0.0
        while True:
            assert self._child is not None
            began = time.monotonic()
            self._child.join()
            pause = AGAIN_S if time.monotonic() - began > SELDOM_S else _next(pause)
            # Whatever stops the worker may have reached the child first.
            if self._stopping.wait(AGAIN_S):
                return
            code = self._child.exitcode
            _logger.warning(
                "the risk builder ended (%s); starting it again%s%s",
                code,
                f" in {pause - AGAIN_S:.0f} s" if pause > AGAIN_S else "",
                KILLED if code == -signal.SIGKILL else "",
            )
            if self._stopping.wait(pause - AGAIN_S):
                return
            self._start()


def _next(pause_s: float) -> float:
    return min(max(2 * pause_s, AGAIN_S), SELDOM_S)
