"""Verbs of the live service: `worker`, `status`.

In: flags. Out: exit codes. Does not know how a worker works; imports it inside the verb.
"""

from __future__ import annotations

import threading
from typing import Annotated

import typer

from streams import logs
from streams.cli import options
from streams.cli.interrupt import interrupted

SLOW_S = 10.0
"""A start that takes longer than this says why it may."""


def worker(
    model: Annotated[
        str | None,
        typer.Option(help="Bundle: a path, a name in the registry, default, stub or none."),
    ] = None,
    config: options.Config = None,
    sets: options.Set = None,
    as_json: options.Json = False,
) -> None:
    """Run one worker; many make a group that shares the partitions. Stop it with SIGTERM.

    On stderr come `starting`, `ready` and `stopped`; with --json also on stdout, one object a line.

    Example: fraudstream worker --set metrics.port=9100
    """
    pairs = list(sets or ())
    if model is not None:
        pairs.append(f"model.bundle={model}")

    def tell(state: str) -> None:
        typer.echo(logs.line(state), err=True)
        if as_json:
            typer.echo(f'{{"state":"{state}"}}')

    def ready() -> None:
        slow.cancel()
        tell("ready")

    why = "still starting: the first start on a machine compiles for about a minute"
    slow = threading.Timer(SLOW_S, lambda: typer.echo(logs.line(why), err=True))
    slow.daemon = True
    code = 1
    try:
        settings = options.settings(config, pairs)
        tell("starting")
        slow.start()

        with interrupted(at_once=True) as asked:
            from streams.live import app  # takes seconds: a stop may come meanwhile

            code = app.run(settings, ready=ready, asked=asked)
    except KeyboardInterrupt:
        code = 0  # told to stop before it was ready, and it had not begun anything
    finally:
        slow.cancel()
        if code == 0:
            tell("stopped")
    raise typer.Exit(code)


def status(
    config: options.Config = None,
    sets: options.Set = None,
    as_json: options.Json = False,
) -> None:
    """Lag, outbox and model of each partition; exits 1 when something is wrong.

    A fresh service has nothing committed yet: it says so, and that is not wrong.

    Example: fraudstream status --json
    """
    settings = options.settings(config, sets)

    from streams.clients.status import status as look
    from streams.clients.status import text

    found = look(settings)
    options.say(found.as_json(), text(found), as_json)
    if found.problems:
        raise typer.Exit(1)


def register(app: typer.Typer) -> None:
    """Add the verbs of this module."""
    app.command()(worker)
    app.command()(status)
