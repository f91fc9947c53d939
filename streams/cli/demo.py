"""The verb `demo`: all of it together, with a summary.

In: flags. Out: alerts as they come, the balance sheet; exit 1 when it does not balance.
Does not know how any of it works (`streams.dev.demo`).
"""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from streams.cli import options


def demo(
    events: Annotated[int, typer.Option(min=100, help="Transactions.")] = 100_000,
    rate: Annotated[float, typer.Option(min=0, help="Published a second; 0: no limit.")] = 2_000.0,
    seed: Annotated[int, typer.Option(help="Of the simulated stream.")] = 20_250,
    workers: Annotated[int, typer.Option(min=1, max=16, help="Worker processes.")] = 2,
    directory: Annotated[
        Path, typer.Option("--dir", help="Its own data and logs; emptied at the start.")
    ] = Path(".fraudstream/demo"),
    sets: options.Set = None,
    as_json: options.Json = False,
) -> None:
    """Kafka, Redis, workers and a simulated stream; alerts as they come, then a balance sheet.

    Ends after --events transactions or with Ctrl-C. Exits 1 when published is not scored + dead
    letters + duplicates. --set goes to the workers.

    Example: fraudstream demo --events 20000
    """
    from streams.clients.summary import summary
    from streams.clients.view import console
    from streams.dev.demo import Show
    from streams.dev.demo import demo as run
    from streams.dev.demo_screen import Screen
    from streams.sections import LogSettings

    options.start_logging(LogSettings(level="WARNING"))
    show = Show(events=events, rate=rate, seed=seed, workers=workers)
    screen = Screen(events, console(stderr=as_json))
    result = run(show, directory, list(sets or ()), screen)
    if as_json:
        options.print_json(result.as_json())
    else:
        for line in summary(result):
            typer.echo(line)
    if not result.balanced:
        raise typer.Exit(1)


def register(app: typer.Typer) -> None:
    """Add the verbs of this module."""
    app.command()(demo)
