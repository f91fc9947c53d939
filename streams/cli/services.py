"""Verbs `services up|down|status` and `topics create`: the ground that the other verbs stand on.

In: flags. Out: what runs where, for a person or as JSON.
Does not know how a server is started (`streams.dev`) or a topic is made (`streams.topics`).
"""

from __future__ import annotations

from enum import StrEnum
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from streams.cli import options

if TYPE_CHECKING:
    from streams.dev.services import Report


class Engine(StrEnum):
    """Which broker."""

    KAFKA = "kafka"
    EMBEDDED = "embedded"


SERVICES_HELP = """Kafka and Redis on this machine.

Example: fraudstream services up
"""
TOPICS_HELP = """The topics of the schema.

Example: fraudstream topics create --partitions 6
"""
Directory = Annotated[
    Path, typer.Option("--dir", help="Where data, logs and services.json are kept.")
]
DEFAULT_DIRECTORY = Path(".fraudstream")
Port = Annotated[int | None, typer.Option(min=1, max=65_535, help="A free port when not given.")]


def up(
    engine: Annotated[
        Engine,
        typer.Option(help="`embedded` needs no Java: for the demo only, it keeps nothing."),
    ] = Engine.KAFKA,
    directory: Directory = DEFAULT_DIRECTORY,
    kafka_port: Port = None,
    redis_port: Port = None,
    as_json: options.Json = False,
) -> None:
    """Start Kafka and Redis on this machine, or leave them as they are when they run.

    The first start gets Kafka through Maven (44 MB). Other commands run in the same directory find
    both by themselves.

    Example: fraudstream services up
    """
    from streams.dev import services
    from streams.sections import LogSettings

    options.start_logging(LogSettings())
    _show(
        services.up(directory, engine.value, kafka_port=kafka_port, redis_port=redis_port), as_json
    )
    if not as_json:
        typer.echo(f"Logs: {', '.join(str(log) for log in services.logs(directory))}")


def down(directory: Directory = DEFAULT_DIRECTORY, as_json: options.Json = False) -> None:
    """Stop what `services up` started; data and logs stay.

    Example: fraudstream services down
    """
    from streams.dev import services

    stopped = services.down(directory)
    text = "stopped" if stopped else f"nothing runs in {directory}"
    options.say({"stopped": stopped}, text, as_json)


def status(directory: Directory = DEFAULT_DIRECTORY, as_json: options.Json = False) -> None:
    """Tell what runs, and where it listens; exits 0 whatever it finds, --json tells in `ready`.

    Example: fraudstream services status --json
    """
    from streams.dev import services

    _show(services.status(directory), as_json)


def _show(report: Report, as_json: bool) -> None:
    """The report as JSON, or a line a service."""
    if as_json:
        typer.echo(report.to_json())
        return
    if report.kafka is None:
        typer.echo("Kafka  does not run")
    else:
        typer.echo(f"Kafka  {report.kafka.bootstrap}  pid {report.kafka.pid}")
        if report.kafka.engine == "embedded":
            from streams.dev.embedded import LABEL

            typer.echo(f"       {LABEL}")
    if report.redis is None:
        typer.echo("Redis  does not run")
    else:
        typer.echo(f"Redis  {report.redis.url}  pid {report.redis.pid}")
    typer.echo("ready" if report.ready else "not ready")


def create(
    partitions: Annotated[
        int | None,
        typer.Option(
            min=1, max=1_024, help="Of each topic keyed by account; default from settings."
        ),
    ] = None,
    config: options.Config = None,
    sets: options.Set = None,
    as_json: options.Json = False,
) -> None:
    """Make the topics of the schema with their retention and compaction; may be run again.

    Example: fraudstream topics create --partitions 6
    """
    from streams import topics

    outcome = topics.create(options.settings(config, sets), partitions)
    if as_json:
        options.print_json(outcome)
        return
    width = max(map(len, outcome))
    for name, what in outcome.items():
        typer.echo(f"{name:<{width}}  {what}")


def register(app: typer.Typer) -> None:
    """Add the verbs of this module."""
    services = typer.Typer(no_args_is_help=True, rich_markup_mode=None)
    for verb in (up, down, status):
        services.command()(verb)
    app.add_typer(services, name="services", help=SERVICES_HELP)
    topics = typer.Typer(no_args_is_help=True, rich_markup_mode=None)
    topics.command()(create)
    # With one verb only, typer would take `topics` itself for the verb.
    topics.callback()(lambda: None)
    app.add_typer(topics, name="topics", help=TOPICS_HELP)
