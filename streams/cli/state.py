"""Verbs on the stored state: `forget`, `rebuild`.

In: flags. Out: what was done, on stdout. Does not know how; imports it inside the verbs.
"""

from __future__ import annotations

from typing import Annotated

import typer

from streams.cli import options


def forget(
    account: Annotated[str, typer.Argument(help="The account id, as in the transactions.")],
    config: options.Config = None,
    sets: options.Set = None,
    as_json: options.Json = False,
) -> None:
    """Erase an account from state, memory and outbox; a marker keeps it from coming back.

    Running workers notice at once. Messages in Kafka stay until their topic's retention ends.

    Example: fraudstream forget acct-000017
    """
    settings = options.settings(config, sets)

    from streams.clients.forget import forget as run

    erased = run(settings, account)
    places = ", ".join(
        f"tombstone in partition {each.partition} at offset {each.offset}"
        + ("" if each.had_state else " (no state there)")
        for each in erased
    )
    if not any(each.had_state for each in erased):
        typer.echo("no state of this account was found: is the id right?", err=True)
    options.say([each.document() for each in erased], f"erased: {places}", as_json)


def rebuild(
    config: options.Config = None,
    sets: options.Set = None,
    as_json: options.Json = False,
) -> None:
    """Make the accounts' state again from the topic, beside the old one, then switch to it.

    For a Redis that was lost or damaged, and after the topic's partition count was raised. Workers
    may run meanwhile. Redis needs room for a second copy until the end.

    Example: fraudstream rebuild --json
    """
    settings = options.settings(config, sets)

    from streams.cli.progress import Shown
    from streams.offline.rebuild import rebuild as run

    with Shown("stopped; the state in use is as it was: run it again") as shown:
        result = run(settings, shown)
    text = (
        f"key generation {result.generation} is in use: {result.messages} messages of"
        f" {result.partitions} partitions applied, {result.swept_keys} old keys deleted"
    )
    if result.misplaced:
        typer.echo(
            f"{result.misplaced:,} messages that wait for workers lie in partitions of before, and"
            " their accounts will have state there, too: start the workers, and when `fraudstream"
            " status` shows no lag, run `fraudstream rebuild` again",
            err=True,
        )
    options.say(result.document(), text, as_json)


def register(app: typer.Typer) -> None:
    """Add the verbs of this module."""
    app.command()(forget)
    app.command()(rebuild)
