"""Scores and alerts as a person reads them: one line each, as they come; on a narrow terminal an
alert's reasons are on lines of their own.

In: records of schema v1. Out: lines on a console, in colour where it is a terminal; no character in
them moves its cursor or turns the line around.
Does not know where records come from. Columns have fixed widths, because a stream has no last row.
"""

from __future__ import annotations

import errno
import os
import textwrap
from datetime import UTC, datetime
from typing import Any

from rich.console import Console
from rich.text import Text

from streams.money import amount_text
from streams.schema import printable

COLOURS = {"block": "bold red", "review": "yellow", "approve": "green"}
COLUMNS = {
    "alerts": (("time (UTC)", 19), ("account", 18), ("transaction", 20), ("amount", 16),
               ("score", 7), ("decision", 9)),
    "scores": (("time (UTC)", 19), ("account", 18), ("transaction", 20), ("score", 7),
               ("decision", 9)),
}  # fmt: skip
NARROW_COLUMNS = {"account": 12, "transaction": 14, "amount": 14, "score": 6, "decision": 8}
"""What is left of the widths where 80 characters must hold them all; ids are seldom longer."""
NARROW_BELOW = 160
"""In fewer characters than this, reasons behind the columns would be folded into a heap."""
HEADING_EVERY = 50
WIDE = 100_000


class _Console(Console):
    def on_broken_pipe(self) -> None:
        """The program's end decides what it means that nobody reads; rich would exit 1."""
        raise BrokenPipeError(errno.EPIPE, os.strerror(errno.EPIPE))


def console(*, stderr: bool = False) -> Console:
    """Standard output (or error); lines are never folded when it is not a terminal."""
    found = _Console(highlight=False, soft_wrap=True, stderr=stderr)
    if found.is_terminal:
        return found
    return _Console(highlight=False, soft_wrap=True, stderr=stderr, width=WIDE)


def moment(time_ms: int) -> str:
    """A time to the second, UTC."""
    return datetime.fromtimestamp(time_ms / 1_000, UTC).strftime("%Y-%m-%d %H:%M:%S")


def _reasons(record: dict[str, Any]) -> list[str]:
    """The reasons of an alert in words, the rules that matched after them."""
    words = [str(reason["text"]) for reason in record.get("reasons", ())]
    return words + [f"rule {rule['rule_id']}" for rule in record.get("rules", ())]


def reasons_text(record: dict[str, Any]) -> str:
    """The reasons of an alert, and its rules, in one line."""
    return " | ".join(_reasons(record))


class Lines:
    """Prints records of one kind, `alerts` or `scores`, under a heading."""

    def __init__(self, kind: str, to: Console) -> None:
        narrow = to.is_terminal and to.width < NARROW_BELOW
        self._columns = [
            (name, NARROW_COLUMNS.get(name, width) if narrow else width)
            for name, width in COLUMNS[kind]
        ]
        self._alerts = kind == "alerts"
        self._below = self._alerts and narrow
        self._to = to
        self._printed = 0

    def show(self, record: dict[str, Any]) -> None:
        """One more."""
        if self._printed == 0 or (self._to.is_terminal and self._printed % HEADING_EVERY == 0):
            names = [name.ljust(width) for name, width in self._columns]
            last = "reasons" if self._alerts else "mode"
            self._to.print(Text(" ".join(names if self._below else [*names, last]), style="bold"))
        self._printed += 1
        decision = str(record["decision"])
        cells = [moment(record["event_time"]), str(record["account_id"])]
        cells.append(str(record["transaction_id"]))
        if self._alerts:
            cells.append(amount_text(record["amount"], record["currency"]))
        score = record["score"]
        cells.append("-" if score is None else f"{score:.4f}")
        line = Text()
        for cell, (name, width) in zip([*cells, decision], self._columns, strict=True):
            style = COLOURS.get(decision, "") if name == "decision" else ""
            line.append(printable(cell).ljust(width) + " ", style=style)
        tail = str(record["mode"])
        if self._alerts:
            tail = "" if self._below else reasons_text(record)
        if record.get("late"):
            tail = f"{tail} (late)".strip()
        line.append(printable(tail))
        if self._below:
            line.rstrip()
            for reason in _reasons(record):
                line.append(f"\n{self._folded(printable(reason))}")
        self._to.print(line)

    def _folded(self, reason: str) -> str:
        """A reason in lines that the terminal does not fold, set in; what goes on more so."""
        width = max(self._to.width, 40)  # a narrower one folds what it gets
        return textwrap.fill(reason, width, initial_indent="  ", subsequent_indent="      ")
