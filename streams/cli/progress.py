"""A progress bar on stderr: drawn on a terminal, a line now and then elsewhere.

In: counts. Out: what a person watching wants to know. Does not know what is counted.
"""

from __future__ import annotations

import sys
import time
from typing import Any

import typer

EVERY_S = 5.0
DRAWN_EVERY_S = 0.1


class Progress:
    """A context manager; `add` may be called from a hot loop."""

    def __init__(self, total: int | None) -> None:
        self._total = total
        self._done = 0
        self._start = self._told = time.monotonic()
        self._bar: Any = None
        self._task: Any = None

    @property
    def seconds(self) -> float:
        """Since the beginning."""
        return time.monotonic() - self._start

    def __enter__(self) -> Progress:
        self._start = self._told = time.monotonic()
        if sys.stderr.isatty():
            from rich import progress as rp
            from rich.console import Console

            self._bar = rp.Progress(
                rp.BarColumn(), rp.MofNCompleteColumn(), rp.TextColumn("{task.fields[rate]}"),
                rp.TimeRemainingColumn(), console=Console(stderr=True),
            )  # fmt: skip
            self._bar.start()
            self._task = self._bar.add_task("", total=self._total, rate="")
        return self

    def add(self, count: int) -> None:
        """So many more are done."""
        self.reach(self._done + count)

    def reach(self, done: int) -> None:
        """So many are done in all."""
        self._done = done
        now = time.monotonic()
        every = DRAWN_EVERY_S if self._bar is not None else EVERY_S
        if now - self._told < every:
            return
        self._told = now
        rate = f"{self._done / max(now - self._start, 1e-9):,.0f}/s"
        if self._bar is not None:
            self._bar.update(self._task, completed=self._done, rate=rate)
        else:
            of = "" if self._total is None else f" of {self._total:,}"
            typer.echo(f"{self._done:,}{of}, {rate}{self._left(now)}", err=True)

    def _left(self, now: float) -> str:
        """At the pace so far."""
        if self._total is None or not self._done:
            return ""
        seconds = (now - self._start) * (self._total - self._done) / self._done
        return f", {seconds:,.0f} s left" if seconds < 120 else f", {seconds / 60:,.0f} min left"

    def note(self, text: str) -> None:
        """A remark beside the bar."""
        typer.echo(text, err=True)

    def __exit__(self, *_: object) -> None:
        if self._bar is not None:
            self._bar.update(self._task, completed=self._done)
            self._bar.stop()


GOES_ON = "stopped; the same command goes on after the partitions that are done"


def cut_off(problem: object) -> bool:
    """Whether work that can go on ended by this class: by Ctrl-C, or by a disk that is full."""
    return isinstance(problem, type) and issubclass(problem, KeyboardInterrupt | OSError)


class Shown:
    """A progress bar fed with (done, total), as long stages report it; total 0 is not known yet.
    On Ctrl-C it says `stopped`: what became of the work, and how to go on."""

    def __init__(self, stopped: str = "stopped") -> None:
        self._stopped = stopped
        self._bar: Progress | None = None

    def __enter__(self) -> Shown:
        return self

    def __call__(self, done: int, total: int) -> None:
        if self._bar is None:
            self._bar = Progress(total or None)
            self._bar.__enter__()
        self._bar.reach(done)

    def __exit__(self, *problem: object) -> None:
        if self._bar is not None:
            self._bar.__exit__(*problem)
        if problem[0] is KeyboardInterrupt or (self._stopped == GOES_ON and cut_off(problem[0])):
            typer.echo(self._stopped, err=True)
