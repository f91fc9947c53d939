"""Who builds the risk snapshots: one process, as long as it gets on.

In: the store. Out: the lock, renewed from a thread of its own, because one step of the builder (a
large read on a busy machine) may take longer than the lock lives.
Does not know what is built. A builder that says nothing for STALLED_S loses the lock.
"""

from __future__ import annotations

import logging
import threading
import time
from collections.abc import Callable
from contextlib import suppress
from typing import Final

from confluent_kafka import KafkaException

from streams import logs
from streams.errors import FraudstreamError, StoreError
from streams.live.risk_store import LOCK_MS, NotLeader, RiskStore
from streams.settings import Settings

RENEW_EVERY_S: Final = LOCK_MS / 4_000
STALLED_S: Final = 60.0
STAND_BY_S: Final = 1.0

_logger = logging.getLogger(__name__)
# It asks again every second or two: of a Redis that is full for hours one hears now and then.
_logger.addFilter(logs.Seldom())


class Leadership:
    """The right to build. Use as a context; it gives the lock back at the end."""

    def __init__(self, store: RiskStore, token: int, *, stalled_s: float = STALLED_S) -> None:
        self.token = token
        self._store = store
        self._stalled_s = stalled_s
        self._beaten = time.monotonic()
        self._steps = 0
        self._lost = False
        self._ended = threading.Event()
        self._thread = threading.Thread(target=self._renew, name="risk-lock", daemon=True)

    def __enter__(self) -> Leadership:
        self._thread.start()
        return self

    def __exit__(self, *rest: object) -> None:
        self._ended.set()
        self._thread.join()
        if not self._lost:
            # Without an answer the lock ends by itself.
            with suppress(StoreError):
                self._store.release(self.token)

    def beat(self) -> None:
        """The builder got on by a step. Raises NotLeader when the lock is gone."""
        self._beaten = time.monotonic()
        self._steps += 1
        if self._lost:
            raise NotLeader("the lock went to another worker")

    def _renew(self) -> None:
        while not self._ended.wait(RENEW_EVERY_S):
            if time.monotonic() - self._beaten > self._stalled_s:
                _logger.warning(
                    "the builder of risk snapshots said nothing for %.0f s; whichever is free takes"
                    " over, be it the same one. A first start on a busy machine, which compiles,"
                    " may take that long",
                    self._stalled_s,
                )
                self._lost = True
            else:
                try:
                    self._store.renew(self.token, self._steps)
                except NotLeader:
                    self._lost = True
                except StoreError as error:
                    # Asked again soon; if that takes too long, somebody else has the lock.
                    _logger.warning("cannot renew the lock of risk snapshots: %s", error)
            if self._lost:
                return


def serve(settings: Settings, store: RiskStore, stopped: Callable[[float], bool]) -> None:
    """Build whenever the lock is free, until `stopped(seconds)`, which may wait, says yes.

    Faults of Kafka and Redis are logged, and the building starts again.
    """
    pause = 0.0
    while not stopped(pause):
        pause = STAND_BY_S
        try:
            token = store.take()
            if token is None:
                continue
            with Leadership(store, token) as lead:
                _logger.info("building risk snapshots (token %d)", token)
                # Seconds of imports, on a busy machine: workers see the lock and wait; and a
                # process that stands by does without them.
                from streams.live.risk_agent import Builder

                Builder(settings, store, lead).run(stopped)
        except NotLeader:
            _logger.warning("no longer building risk snapshots: the lock ran out or was taken over")
        except (FraudstreamError, KafkaException) as error:
            _logger.warning("risk snapshots: %s; trying again", error)
