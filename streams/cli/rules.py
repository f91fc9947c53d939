"""Verbs of the topic `rules`: `rules list|put|remove`.

In: flags. Out: what stands there, on stdout. Does not know how; imports it inside the verbs.
"""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from streams.cli import options

if TYPE_CHECKING:
    from streams.clients.rules import Standing

HELP = """The rules on the topic.

Example: fraudstream rules put night.toml
"""


def _shown(standing: Standing, as_json: bool) -> None:
    from streams.clients.rules import text
    from streams.schema import printable

    shown = "\n".join(map(printable, text(standing).splitlines()))
    options.say(standing.as_json(), shown, as_json)


def rules_list(
    config: options.Config = None,
    sets: options.Set = None,
    as_json: options.Json = False,
) -> None:
    """The rules and lists in force: those of the file that decide.rules names, and over them those
    of the topic.

    The digest is `versions.rules` of the scores. Exits 1 when the topic holds messages that workers
    leave out because they are no rule; they are shown with the reason.

    Example: fraudstream rules list
    """
    from streams.clients import rules

    standing = rules.read(options.settings(config, sets))
    _shown(standing, as_json)
    if standing.left_out:
        raise typer.Exit(1)


def rules_put(
    file: Annotated[Path, typer.Argument(dir_okay=False, help="A TOML file of rules and lists.")],
    config: options.Config = None,
    sets: options.Set = None,
    as_json: options.Json = False,
) -> None:
    """Check a file of rules, then send them to the topic: workers decide by them from their next
    round on.

    A rule takes the place of the one with the same rule_id. Nothing is sent unless all is right.

    Example: fraudstream rules put night.toml
    """
    from streams.clients import rules

    _shown(rules.put(options.settings(config, sets), file), as_json)


def rules_remove(
    names: Annotated[
        list[str], typer.Argument(metavar="RULE_ID...", help="A list is list:LIST_ID.")
    ],
    config: options.Config = None,
    sets: options.Set = None,
    as_json: options.Json = False,
) -> None:
    """Take rules off the topic; a rule of the same id in the workers' file comes back.

    Example: fraudstream rules remove large-new-device
    """
    from streams.clients import rules

    _shown(rules.take_away(options.settings(config, sets), names), as_json)


def register(app: typer.Typer) -> None:
    """Add the verbs of this module."""
    group = typer.Typer(no_args_is_help=True, rich_markup_mode=None)
    group.command("list")(rules_list)
    group.command("put")(rules_put)
    group.command("remove")(rules_remove)
    app.add_typer(group, name="rules", help=HELP)
