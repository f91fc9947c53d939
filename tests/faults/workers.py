"""Real workers as processes, started in a fraction of a second.

In: flags of `fraudstream worker`. Out: processes to watch, freeze, thaw and kill. For tests only.

Each is the `worker` verb in a process of its own, forked from one that has imported and compiled
everything: a test of a hundred deaths would else spend its time on imports. A fork shares nothing
with its siblings but the code. The kernel ends it when the process it was forked from ends.
"""

from __future__ import annotations

import contextlib
import ctypes
import os
import resource
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from multiprocessing.context import ForkServerProcess
from pathlib import Path

from tests.forks import FORKS

START_S = 180.0
MEBIBYTE = 1 << 20
_PR_SET_PDEATHSIG = 1


def _life(
    arguments: list[str], log: str, mutant: str | None, spare_mb: int | None, clock: str | None
) -> None:
    """The child: what the command line does, with its output in a file."""
    ctypes.CDLL(None).prctl(_PR_SET_PDEATHSIG, signal.SIGKILL)
    out = os.open(log, os.O_WRONLY | os.O_CREAT | os.O_APPEND)
    os.dup2(out, 1)
    os.dup2(out, 2)
    if mutant is not None:
        from tests.faults import mutants

        mutants.install(mutant)
    if clock is not None:
        from tests.faults import clock_faults

        clock_faults.believe(Path(clock))
    if spare_mb is not None:
        used = int(Path("/proc/self/statm").read_text().split()[0]) * resource.getpagesize()
        limit = used + spare_mb * MEBIBYTE
        resource.setrlimit(resource.RLIMIT_AS, (limit, limit))
    sys.argv = ["fraudstream", "worker", *arguments]
    from streams.cli import main

    main()


_ALONE = (
    f"import ctypes; ctypes.CDLL(None).prctl({_PR_SET_PDEATHSIG}, {int(signal.SIGKILL)});"
    " from streams.cli import main; main()"
)


class _Alone:
    """A worker that is not forked: what its loader must know is in its environment."""

    def __init__(self, arguments: Sequence[str], log: Path, environment: Mapping[str, str]) -> None:
        with log.open("ab") as out:
            self._process = subprocess.Popen(
                [sys.executable, "-c", _ALONE, "worker", *arguments],
                stdin=subprocess.DEVNULL,
                stdout=out,
                stderr=out,
                env={**os.environ, **environment},
            )
        self.pid = self._process.pid

    def is_alive(self) -> bool:
        return self._process.poll() is None

    @property
    def exitcode(self) -> int | None:
        return self._process.poll()

    def join(self) -> None:
        self._process.wait()


class Worker:
    """One `fraudstream worker`. `mutant` breaks it on purpose; `spare_mb` bounds its memory; the
    file `clock` tells it the time of day. One with an `environment` of its own starts anew, which
    takes seconds, and can have none of these."""

    def __init__(
        self,
        flags: Sequence[str],
        log: Path,
        mutant: str | None = None,
        spare_mb: int | None = None,
        clock: Path | None = None,
        environment: Mapping[str, str] | None = None,
    ) -> None:
        self.log = log
        arguments = [part for flag in flags for part in ("--set", flag)]
        self._process: ForkServerProcess | _Alone
        if environment is not None:
            assert mutant is None and spare_mb is None and clock is None
            self._process = _Alone(arguments, log, environment)
            self.pid = self._process.pid
            return
        self._process = FORKS.Process(
            target=_life,
            args=(arguments, str(log), mutant, spare_mb, str(clock) if clock else None),
            # Else this process would wait for one that a failed test left frozen.
            daemon=True,
        )
        self._process.start()
        assert self._process.pid is not None
        self.pid = self._process.pid

    def said(self) -> str:
        """Its log."""
        return self.log.read_text("utf-8", "replace") if self.log.exists() else ""

    def until(self, done: Callable[[], bool], patience_s: float = START_S) -> None:
        """Wait for something that this worker is part of."""
        deadline = time.monotonic() + patience_s
        while not done():
            assert time.monotonic() < deadline, f"nothing happens; the worker said:\n{self.said()}"
            time.sleep(0.02)

    def ready(self) -> Worker:
        """Wait until it takes part."""
        self.until(lambda: "ready" in self.said() or not self.alive)
        assert self.alive, self.said()
        return self

    @property
    def alive(self) -> bool:
        return self._process.is_alive()

    def ended(self, patience_s: float = START_S) -> int:
        """Wait for its end; its exit code, negative for a signal."""
        self.until(lambda: not self.alive, patience_s)
        code = self._process.exitcode
        assert code is not None
        return code

    def signal(self, number: signal.Signals) -> None:
        """Send it a signal, if it is still there."""
        with contextlib.suppress(ProcessLookupError):
            os.kill(self.pid, number)

    def kill(self) -> None:
        """`kill -9`, and wait."""
        self.signal(signal.SIGKILL)
        self._process.join()

    def stop(self) -> int:
        """Ask it to leave in order; its exit code."""
        self.signal(signal.SIGTERM)
        return self.ended()

    def resident_bytes(self) -> int:
        """How much memory it has in use."""
        pages = int(Path(f"/proc/{self.pid}/statm").read_text().split()[1])
        return pages * resource.getpagesize()

    def frozen(self) -> bool:
        """Is it stopped by a signal?"""
        try:
            text = Path(f"/proc/{self.pid}/stat").read_text()
        except (FileNotFoundError, ProcessLookupError):
            return False
        return text.rpartition(")")[2].split()[0] == "T"
