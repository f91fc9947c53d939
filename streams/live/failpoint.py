"""A way to die on purpose at a named step, so that tests can ask what was lost.

In: `step:n`, `step:n:stop`, `offset:n` or `offset:n:bug`, from `worker.failpoint`. Out: nothing,
or the end of the process at the n-th passage of that step; with `stop` the process freezes itself
there instead (SIGSTOP), as a machine does that swaps, and goes on when somebody thaws it.
`offset:n` ends it whenever it is about to read a message at that offset, of any partition; with
`bug` an assertion fails there instead.
Does not know what happens at a step.
"""

from __future__ import annotations

import os
import signal
from collections.abc import Iterable
from typing import Final

from streams.batch import Batch
from streams.errors import ConfigError

STEPS: Final = (
    "fetched",
    "decoded",
    "loaded",
    "advanced",
    "scored",
    "settled",
    "committed",
    "delivered",
    "trimmed",
    "acked",
)
"""The steps of one round, in order. Each is passed once a round, right after it is done."""

KILLED: Final = 137
"""What a shell reports for `kill -9`; no handler runs, nothing is flushed."""


class Failpoint:
    """Counts passages of one step."""

    def __init__(self, text: str | None) -> None:
        self._step: str | None = None
        self._left = 0
        self._freeze = False
        self._offset: int | None = None
        self._bug = False
        if text is None:
            return
        step, _, rest = text.partition(":")
        number, _, action = rest.partition(":")
        if step == "offset" and number.isdigit() and action in ("", "bug"):
            self._offset, self._bug = int(number), action == "bug"
            return
        if (
            step not in STEPS
            or not number.isdigit()
            or int(number) < 1
            or action not in ("", "stop")
        ):
            raise ConfigError(
                f"worker.failpoint {text!r} cannot be read",
                remedy="Write step:n, step:n:stop, offset:n or offset:n:bug, with a step of "
                + ", ".join(STEPS),
            )
        self._step, self._left, self._freeze = step, int(number), action == "stop"

    def reading(self, batches: Iterable[Batch]) -> None:
        """These messages are about to be read."""
        if self._offset is not None:
            for batch in batches:
                if (batch.offsets == self._offset).any():
                    if self._bug:
                        raise AssertionError("a bug that this message meets")
                    os._exit(KILLED)

    def passed(self, step: str) -> None:
        """The step was just done."""
        if step != self._step:
            return
        self._left -= 1
        if self._left == 0:
            if self._freeze:
                os.kill(os.getpid(), signal.SIGSTOP)
            else:
                os._exit(KILLED)
