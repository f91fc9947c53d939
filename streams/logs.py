"""Logging of a process: plain lines for a person, or one JSON object a line for a collector.

In: a level and a form. Out: the root logger writes to stderr.
Does not know what is logged. Nobody logs an account's data or a secret; that is the caller's duty.
"""

from __future__ import annotations

import json
import logging
import sys
from datetime import UTC, datetime

PLAIN = "%(asctime)s %(levelname)s %(name)s: %(message)s"


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
        return json.dumps(line, ensure_ascii=False)


def start(level: str, *, json_lines: bool) -> None:
    """Send everything from `level` on to stderr, in place of any earlier set-up."""
    handler = logging.StreamHandler(sys.stderr)
    handler.setFormatter(JsonLines() if json_lines else logging.Formatter(PLAIN, "%H:%M:%S"))
    logging.basicConfig(level=level, handlers=[handler], force=True)
