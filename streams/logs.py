"""Logging of a process: plain lines for a person, or one JSON object a line for a collector.

In: a level and a form. Out: the root logger writes to stderr.
Does not know what is logged. Nobody logs an account's data or a secret; that is the caller's duty.
A card number that comes along all the same, in a library's message say, is masked here.
"""

from __future__ import annotations

import json
import logging
import math
import re
import sys
from collections.abc import Callable, Hashable
from datetime import UTC, datetime
from typing import Final

from streams.schema import printable

PLAIN = "%(asctime)s %(levelname)s %(name)s: %(message)s"


_DIGITS = re.compile(r"\d(?:\D{0,3}\d){12}")
"""At least 13 digits, parted as `cards.MAX_GAP` allows: worth the look for a card number, and its
imports."""


_NUMBERS = re.compile(r"\d+")

AGAIN_S: Final = 600.0
OVER_S: Final = 60.0
"""What was not said for so long had come to an end."""


_FILE = re.compile(r"(/\d{5}-\d{12}\.parquet\b)")
"""A file of a recording, named by partition and offset: one in ten passes for a card number."""


def masked(text: str) -> str:
    """The text without card numbers. A fault in a recording is no good without its file's name."""
    if not _DIGITS.search(text):
        return text
    from streams.privacy import redact

    # Odd pieces are the names.
    pieces = _FILE.split(text)
    return "".join(each if i % 2 else redact(each) for i, each in enumerate(pieces))


class Plain(logging.Formatter):
    """Time, level, logger, message. Further lines of a message are indented: none of them passes
    for a record of its own, whoever wrote what is quoted there."""

    def formatMessage(self, record: logging.LogRecord) -> str:  # noqa: N802
        """The record without its traceback."""
        return "\n    ".join(map(printable, super().formatMessage(record).split("\n")))

    def format(self, record: logging.LogRecord) -> str:
        """The record as lines."""
        return masked(super().format(record))


class JsonLines(logging.Formatter):
    """One JSON object a line: time, level, logger, message, and the error if there is one."""

    def format(self, record: logging.LogRecord) -> str:
        """The record as one line."""
        line = {
            "time": datetime.fromtimestamp(record.created, UTC).isoformat(timespec="milliseconds"),
            "level": record.levelname,
            "logger": record.name,
            "message": record.getMessage(),
        }
        if record.exc_info:
            line["error"] = self.formatException(record.exc_info)
        return masked(json.dumps(line, ensure_ascii=False))


def line(text: str, level: int = logging.INFO) -> str:
    """What a process says beside its log, whatever the level: the text, or an object for the
    collector that reads the log's."""
    form = next((each.formatter for each in logging.getLogger().handlers), None)
    if not isinstance(form, JsonLines):
        return text
    return form.format(logging.LogRecord("streams", level, "", 0, text, None, None))


def without_numbers(record: logging.LogRecord) -> str:
    """What a record says, whatever the numbers in it."""
    return _NUMBERS.sub("", record.getMessage())


class Seldom(logging.Filter):
    """Of a logger that tries something again and again: lets what it says through when it begins,
    and then once in `again_s` as long as it goes on; it has ended when it was not said for
    `over_s`. What `of` gives the same for is the same; of None everything is let through."""

    def __init__(
        self,
        of: Callable[[logging.LogRecord], Hashable] = without_numbers,
        *,
        again_s: float = AGAIN_S,
        over_s: float = OVER_S,
    ) -> None:
        super().__init__()
        self._of, self._again_s, self._over_s = of, again_s, over_s
        self._said: dict[Hashable, tuple[float, float]] = {}
        """Of each: when it was let through, when it came last."""

    def filter(self, record: logging.LogRecord) -> bool:
        """Whether the record is to be logged."""
        what = self._of(record)
        if what is None:
            return True
        let, last = self._said.get(what, (-math.inf, -math.inf))
        now = record.created
        new = not 0 <= now - last < self._over_s or now - let >= self._again_s
        self._said[what] = now if new else let, now
        return new


def start(level: str, *, json_lines: bool) -> None:
    """Send everything from `level` on to stderr, in place of any earlier set-up."""
    handler = logging.StreamHandler(sys.stderr)
    handler.setFormatter(JsonLines() if json_lines else Plain(PLAIN, "%H:%M:%S"))
    logging.basicConfig(level=level, handlers=[handler], force=True)
