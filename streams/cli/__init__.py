"""The command line: one typer app whose verbs live in one module a group.

In: the arguments. Out: exit code 0, 1 (ran and failed), 2 (wrong use), 130 (stopped) or 141
(who read its output has gone).
Does not know what the verbs do. The modules named here import nothing heavy at their top, so that
`fraudstream --help` answers at once; plain help text for the same reason (rich costs 0.3 s).
"""

from __future__ import annotations

import importlib
import logging
import signal
import sys

import typer

from model.errors import stoppable
from streams import logs
from streams.cli import trouble
from streams.errors import FraudstreamError
from streams.signals import endings

GROUPS = ("services", "live", "demo", "clients", "rules", "sources", "state", "offline", "model")
"""Modules of this package, each with `register(app)`, in the order of `--help`."""

HELP = """Streaming fraud detection: transactions in, alerts with reasons out.

Start here: `fraudstream services up`, `fraudstream topics create`, `fraudstream worker`; then
`fraudstream publish my.parquet` and `fraudstream alerts --follow`. Or all at once:
`fraudstream demo`.

Settings come from fraudstream.toml (or --config, or $FRAUDSTREAM_CONFIG), then from
FRAUDSTREAM_<SECTION>__<NAME>, then from --set section.name=value. Where none of them names Kafka or
Redis, the services that `fraudstream services up` started in this directory are used.
"""


def build() -> typer.Typer:
    """The app with every group's verbs."""
    app = typer.Typer(
        name="fraudstream",
        cls=trouble.Verbs,
        help=HELP,
        no_args_is_help=True,
        rich_markup_mode=None,
        pretty_exceptions_enable=False,
        context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 100},
    )
    app.callback()(_version)
    for group in GROUPS:
        importlib.import_module(f"{__name__}.{group}").register(app)
    return app


def _print_version(wanted: bool) -> None:
    if wanted:
        from importlib.metadata import version

        typer.echo(version("fraudstream"))
        raise typer.Exit


def _version(
    _shown: bool = typer.Option(
        False, "--version", callback=_print_version, is_eager=True, help="Print the version."
    ),
) -> None:
    """The flags of the program itself."""


def main() -> None:
    """Entry point of `fraudstream`. A deliberate error is one message, not a traceback."""
    try:
        try:
            app = build()
            # From here on SIGTERM and a closed terminal end a verb as Ctrl-C does (Python's own):
            # what is queued is sent, what was started is stopped. Before, nothing is, and who sent
            # the signal is told of nothing else.
            for number in set(endings()) - {signal.SIGINT}:
                signal.signal(number, signal.default_int_handler)
            with stoppable():
                app()
        finally:
            if sys.stdout is not None:  # closed by the caller
                sys.stdout.flush()
    except KeyboardInterrupt:  # before the verb began, which ends by it in its own way
        sys.exit(130)
    except FraudstreamError as error:
        # The error of a file may quote a value of it.
        typer.echo(logs.line(f"error: {logs.masked(str(error))}", logging.ERROR), err=True)
        sys.exit(2 if error.wrong_use else 1)
    except OSError as error:
        if trouble.unread(error):
            sys.exit(trouble.UNREAD)
        line = trouble.told(error)
        if line is None:
            raise
        typer.echo(logs.line(f"error: {line}", logging.ERROR), err=True)
        sys.exit(1)
