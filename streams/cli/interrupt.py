"""Ctrl-C, SIGTERM and SIGHUP as a question that a loop asks, so that it ends at a safe place.

In: signals. Out: `stop() -> bool`. Does not know what is stopped. A second signal ends at once, and
so does the first where that is asked for.
"""

from __future__ import annotations

import signal
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from types import FrameType

from streams.signals import endings


@contextmanager
def interrupted(at_once: bool = False) -> Iterator[Callable[[], bool]]:
    """While inside, the first of them only makes `stop()` true.

    With `at_once` it raises as well. Python drops what is raised in a callback from C, as Numba has
    one for all that it compiles: then `stop()` is what still knows of it.
    """
    asked = False

    def ask(number: int, frame: FrameType | None) -> None:
        nonlocal asked
        again, asked = asked, True
        if again or at_once:
            raise KeyboardInterrupt

    before = {number: signal.signal(number, ask) for number in endings()}
    try:
        yield lambda: asked
    finally:
        for number, handler in before.items():
            if signal.getsignal(number) is ask:  # else it was put aside for good
                signal.signal(number, handler)
