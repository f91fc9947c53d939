"""What the demo shows: remarks, alerts as they come, how far it is.

In: remarks, counts, alerts. Out: on a terminal a live table of the newest alerts under a line of
counts; elsewhere plain lines. Does not know Kafka. Called from two threads.
"""

from __future__ import annotations

import sys
import threading
from collections import Counter, deque
from typing import Any

from rich.console import Console, Group
from rich.live import Live
from rich.table import Table
from rich.text import Text

from streams.clients.view import COLOURS, Lines, moment, reasons_text
from streams.money import amount_text

NEWEST = 16
REFRESH_A_SECOND = 8


class Screen:
    """A context manager around the time in which alerts are shown."""

    def __init__(self, events: int, to: Console) -> None:
        self._console = to
        self._events = events
        self._lines = Lines("alerts", self._console)
        self._newest: deque[dict[str, Any]] = deque(maxlen=NEWEST)
        self._alerts: Counter[str] = Counter()
        self._published = 0
        self._lock = threading.Lock()
        self._live: Live | None = None

    def say(self, text: str) -> None:
        """A remark, apart from the alerts."""
        if self._live is not None:
            self._live.console.print(text)
        else:
            sys.stderr.write(f"{text}\n")
            sys.stderr.flush()

    def published(self, count: int) -> None:
        """So many more are on their way."""
        with self._lock:
            self._published += count

    def alert(self, record: dict[str, Any], since_start_s: float) -> None:
        """One more alert, so long after the demo began."""
        with self._lock:
            first = not self._alerts
            self._alerts[record["decision"]] += 1
            self._newest.append(record)
        if first:
            self.say(f"first alert after {since_start_s:.1f} s")
        if self._live is None:
            self._lines.show(record)

    def _drawn(self) -> Group:
        table = Table(box=None, pad_edge=False, header_style="bold")
        for name in ("event time (UTC)", "account", "amount", "score", "decision"):
            table.add_column(name, no_wrap=True)
        table.add_column("reasons", ratio=1)
        with self._lock:
            for record in self._newest:
                decision = record["decision"]
                score = record["score"]
                table.add_row(
                    moment(record["event_time"]),
                    str(record["account_id"]),
                    amount_text(record["amount"], record["currency"]),
                    "-" if score is None else f"{score:.3f}",
                    Text(decision, style=COLOURS.get(decision, "")),
                    Text(reasons_text(record)),
                )
            told = ", ".join(f"{name} {n:,}" for name, n in sorted(self._alerts.items()))
            line = f"published {self._published:,} of {self._events:,}   alerts: {told or 'none'}"
        return Group(Text(f"{line}   (Ctrl-C ends it with a summary)", style="bold cyan"), table)

    def __enter__(self) -> Screen:
        if self._console.is_terminal:
            self._live = Live(
                get_renderable=self._drawn,
                console=self._console,
                refresh_per_second=REFRESH_A_SECOND,
            )
            self._live.start()
        return self

    def __exit__(self, *_: object) -> None:
        if self._live is not None:
            self._live.stop()
            self._live = None
