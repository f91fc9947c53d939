"""Ctrl-C, SIGTERM and SIGHUP as a question that a loop asks, so that it ends at a safe place.

In: signals. Out: `stop() -> bool`. Does not know what is stopped. A second signal ends at once.
"""

from __future__ import annotations

import signal
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from types import FrameType

from streams.signals import endings


@contextmanager
def interrupted() -> Iterator[Callable[[], bool]]:
    """While inside, the first of them only makes `stop()` true."""
    asked = False

    def ask(number: int, frame: FrameType | None) -> None:
        nonlocal asked
        if asked:
            raise KeyboardInterrupt
        asked = True

    before = {number: signal.signal(number, ask) for number in endings()}
    try:
        yield lambda: asked
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
