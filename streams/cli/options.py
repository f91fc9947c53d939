"""What every verb shares: `--config`, `--set`, `--json`, and how they become Settings.

In: the values of the flags. Out: Settings, with logging set up on stderr.
Does not know any verb. Imports nothing heavy: `fraudstream --help` reads every verb's module.
"""

from __future__ import annotations

import json
import math
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

if TYPE_CHECKING:
    from datetime import datetime

    from streams.sections import LogSettings
    from streams.settings import Settings

Config = Annotated[
    Path | None,
    typer.Option("--config", help="Settings file. Default: $FRAUDSTREAM_CONFIG, fraudstream.toml."),
]
Set = Annotated[
    list[str] | None,
    typer.Option("--set", metavar="SECTION.NAME=VALUE", help="One setting; may be repeated."),
]
Json = Annotated[bool, typer.Option("--json", help="Machine output on stdout.")]
TIME_DIGITS = 18
"""Of milliseconds; the broker takes no more than 64 bits."""


def settings(config: Path | None, sets: list[str] | None) -> Settings:
    """The settings of this command, and logging as they say. Raises ConfigError."""
    from streams.settings import load

    loaded = load(config, sets or ())
    start_logging(loaded.log)
    return loaded


def start_logging(log: LogSettings) -> None:
    """Log to stderr; stdout belongs to the verb's output."""
    from streams import logs

    logs.start(log.level, json_lines=log.json_lines)


def print_json(value: object) -> None:
    """One JSON document to stdout."""
    typer.echo(json.dumps(value, indent=2))


def say(document: object, text: str, as_json: bool) -> None:
    """The result on stdout: the document with `--json`, else the text."""
    if as_json:
        import orjson

        # Partitions are numbers, and name members of an object.
        flags = orjson.OPT_INDENT_2 | orjson.OPT_NON_STR_KEYS
        typer.echo(orjson.dumps(document, option=flags).decode())
    else:
        typer.echo(text)


def time_ms(text: str | None) -> int | None:
    """ISO date or time (UTC unless it says so), or ms, to ms."""
    if text is None:
        return None
    if text.isascii() and text.isdigit() and len(text) <= TIME_DIGITS:
        return int(text)
    try:
        return int(moment(text).timestamp() * 1_000)
    except ValueError:
        raise typer.BadParameter(f"no time {text!r}; write 2025-01-31T12:00") from None


def event_ms(text: str | None, flag: str | None = None) -> int | None:
    """The same, within the years that events and labels can have: seconds or microseconds since
    1970, or a date without hyphens, are no time that anybody meant. `flag`: where typer does not
    know it."""
    found = time_ms(text)
    if found is not None:
        from streams.schema import MAX_EVENT_TIME_MS, MIN_EVENT_TIME_MS

        if not MIN_EVENT_TIME_MS <= found <= MAX_EVENT_TIME_MS:
            raise typer.BadParameter(
                f"{text} is not from 2000 to 2100; write 2025-01-31T12:00, or ms since 1970",
                param_hint=flag,
            )
    return found


def moment(text: str) -> datetime:
    """An ISO date or time, UTC unless it says so. Raises ValueError."""
    from datetime import UTC, datetime

    found = datetime.fromisoformat(text)
    return found if found.tzinfo else found.replace(tzinfo=UTC)


def speed(text: str) -> float:
    """`60x` or `60`: how many times as fast as the events' own time."""
    try:
        found = float(text.removesuffix("x"))
    except ValueError:
        found = math.nan
    if not 0 < found < math.inf:
        raise typer.BadParameter(f"no pace {text!r}; write it as 60x", param_hint="--speed")
    return found
