"""Verbs of the registry: `models list`, `show`, `add`, `promote`, `rollback`, `history`.

In: flags. Out: the registry on disk. Does not know what a bundle scores.
"""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from streams.cli import checks, options

if TYPE_CHECKING:
    from model.bundle import Bundle
    from model.registry import Registry
    from streams.settings import Settings

HELP = """Bundles on disk: list, show, add, promote, roll back, history.

Example: fraudstream models promote bundles/candidate
"""
models = typer.Typer(help=HELP)

SERVE = "workers that start from now on serve it; running ones go on as they are"


def _registry(config: Path | None, sets: list[str] | None) -> Registry:
    """To look at: no key is asked for."""
    from model.registry import Registry

    return Registry(options.settings(config, sets).model.registry)


def _strict(settings: Settings, key: bytes | None = None) -> Registry:
    """Bundles must be signed by the key given, else by that of the settings, where there is one."""
    from model.registry import Registry
    from streams.assembly import public_key

    return Registry(settings.model.registry, key or public_key(settings))


def _name(model_id: str, as_json: bool) -> None:
    """Which bundle the verb was about."""
    options.say({"model_id": model_id}, model_id, as_json)


def _check_features(found: Bundle) -> None:
    """Raise BundleError where the workers of this version could not serve it."""
    from model.bundle import require_features
    from streams import features

    require_features(found, features.NAMES, features.DIGEST)


def _now() -> int:
    import time

    return int(time.time() * 1000)


@models.command("list")
def models_list(
    config: options.Config = None, sets: options.Set = None, as_json: options.Json = False
) -> None:
    """All bundles; the promoted one is marked.

    Example: fraudstream models list
    """
    registry = _registry(config, sets)
    history, held = registry.history(), registry.ids()
    current = history[-1].model_id if history else None
    if as_json:
        past = [vars(entry) for entry in history]
        options.print_json({"models": held, "current": current, "history": past})
        return
    if current is None and not held:
        typer.echo(f"no bundle in {registry.root}: the shipped one serves", err=True)
    for model_id in held:
        typer.echo(f"{'*' if model_id == current else ' '} {model_id}")
    if current is not None and current not in held:
        typer.echo(
            f"{current} is promoted and no longer in {registry.root}: no worker starts with it."
            " Add it again, or promote another",
            err=True,
        )


@models.command("show")
def models_show(
    model: Annotated[str, typer.Argument(help="Name, digest, name@digest, a folder, or default.")],
    config: options.Config = None,
    sets: options.Set = None,
    as_json: options.Json = False,
) -> None:
    """What a bundle is, as JSON with or without --json; `default` is the one that serves.

    Example: fraudstream models show default
    """
    from model import bundle as bundles
    from streams.assembly import bundle_path, with_model

    found = bundles.read(bundle_path(with_model(options.settings(config, sets), model)))
    shown: dict[str, Any] = {
        "model_id": found.model_id,
        "shape": found.shape.as_dict(),
        "features": len(found.names),
        "feature_digest": found.feature_digest,
        "thresholds": dict(found.thresholds),
        "calibration": found.calibration,
        "about": dict(found.about),
    }
    options.print_json(shown)


@models.command("add")
def models_add(
    bundle: Annotated[Path, typer.Argument(file_okay=False, help="Folder of the bundle.")],
    key: Annotated[
        Path | None, typer.Option(help="Ed25519 seed (32 bytes) to sign the copy with.")
    ] = None,
    public_key: Annotated[
        Path | None,
        typer.Option(
            help="Ed25519 public key (32 bytes) it must be signed by. Default: model.public_key."
        ),
    ] = None,
    config: options.Config = None,
    sets: options.Set = None,
    as_json: options.Json = False,
) -> None:
    """Take a copy of a bundle into the registry, after checking it.

    Example: fraudstream models add bundles/fraud
    """
    seed, expected = checks.signing_key(key), checks.public_key(public_key)
    registry = _strict(options.settings(config, sets), expected)
    _name(registry.add(bundle, seed).model_id, as_json)


@models.command("promote")
def models_promote(
    model: Annotated[str, typer.Argument(help="Name, digest or name@digest; or a folder to add.")],
    note: Annotated[str, typer.Option(help="Why.")] = "",
    config: options.Config = None,
    sets: options.Set = None,
    as_json: options.Json = False,
) -> None:
    """Make a bundle the one that new workers serve.

    Example: fraudstream models promote fraud --note "weekly retraining"
    """
    from model import bundle as bundles

    settings = options.settings(config, sets)
    registry = _strict(settings)
    found = bundles.read(Path(model) if Path(model).is_dir() else registry.path(model))
    bundles.require_fitted(found)
    _check_features(found)
    if Path(model).is_dir():
        registry.add(Path(model))
    promoted = registry.promote(found.model_id, _now(), note).model_id
    typer.echo(SERVE, err=True)
    cuts = ", ".join(f"{name} from {cut:.3f}" for name, cut in found.thresholds.items())
    if cuts:
        decide = settings.decide
        typer.echo(
            f"they review from decide.review={decide.review:g} and block from decide.block="
            f"{decide.block:g}; what the bundle's budgets and costs ask for: {cuts}",
            err=True,
        )
    _name(promoted, as_json)


@models.command("rollback")
def models_rollback(
    config: options.Config = None, sets: options.Set = None, as_json: options.Json = False
) -> None:
    """Promote what served before.

    Example: fraudstream models rollback
    """
    registry = _strict(options.settings(config, sets))
    promoted = registry.roll_back(_now(), _check_features).model_id
    typer.echo(SERVE, err=True)
    _name(promoted, as_json)


@models.command("history")
def models_history(
    config: options.Config = None, sets: options.Set = None, as_json: options.Json = False
) -> None:
    """Who served from when on, oldest first, and why.

    Example: fraudstream models history
    """
    from streams.clients.view import moment

    registry = _registry(config, sets)
    history = registry.history()
    if as_json:
        options.print_json([vars(entry) for entry in history])
        return
    if not history:
        typer.echo(f"nothing was promoted in {registry.root}: the shipped one serves", err=True)
    for entry in history:
        typer.echo(f"{moment(entry.time)}  {entry.model_id}  {entry.note}".rstrip())
