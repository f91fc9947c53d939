"""Verbs of the model half: `pretrain`, `finetune`, `evaluate`, `explain`, `models ...`.

In: flags. Out: bundles, reports, the registry. Does not know how any of them is made.
"""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from streams.cli import options

if TYPE_CHECKING:
    from model.data import Dataset
    from model.registry import Registry

Data = Annotated[Path, typer.Argument(help="Training set, as `fraudstream dataset` writes it.")]
Out = Annotated[Path, typer.Argument(help="Folder of the bundle to write.")]
Preset = Annotated[str, typer.Option(help="small, base or large.")]
Steps = Annotated[int, typer.Option(min=1, help="Updates.")]
Threads = Annotated[int, typer.Option(min=1, max=64, help="CPU threads.")]
Seed = Annotated[int, typer.Option(min=0, help="Seed of everything random.")]
Maturity = Annotated[
    float, typer.Option(min=0, help="Days after which an event without a label is legitimate.")
]
Resume = Annotated[Path | None, typer.Option("--checkpoint", help="File to save to and resume.")]


def _say(line: str) -> None:
    typer.echo(line, err=True)


def _data(folder: Path, maturity_days: float) -> Dataset:
    from dataclasses import replace

    from model import data
    from streams.schema import DAY_MS

    found = data.read(folder)
    wait = int(maturity_days * DAY_MS)
    label, label_time = data.mature(found.label, found.label_time, found.time, wait)
    return replace(found, label=label, label_time=label_time)


def _groups(dataset: Dataset) -> list[str]:
    """The explanation group of each column; a column this version does not know is its own."""
    from streams import features

    known = {feature.name: feature.group for feature in features.FEATURES}
    return [known.get(name, name) for name in dataset.names]


def _plan_told(preset: str, events: int, steps: int, batch: int, chunk: int) -> None:
    from model.transformer import PRESETS, cost

    if preset not in PRESETS:
        raise typer.BadParameter("small, base or large", param_hint="--preset")
    told = cost(PRESETS[preset])
    _say(
        f"plan: {preset}, {told['parameters']:,} parameters, {told['multiplications']:,} "
        f"multiplications a score, {told['training_mb']:,} MB to train; {events:,} events, "
        f"{steps:,} updates of {batch * chunk:,} events"
    )


def pretrain(
    data: Data,
    out: Out,
    preset: Preset = "small",
    steps: Steps = 500,
    until: Annotated[int | None, typer.Option(help="Only events before this time, ms.")] = None,
    threads: Threads = 1,
    seed: Seed = 0,
    checkpoint: Resume = None,
    name: Annotated[str, typer.Option(help="Name of the bundle.")] = "pretrained",
    as_json: options.Json = False,
) -> None:
    """Learn the stream without labels: next event and masked fields.

    Example: fraudstream pretrain data/ bundles/base --steps 1000
    """
    import numpy as np
    import torch

    from model import bundle as bundles
    from model.loop import Recipe
    from model.pretrain import pretrain as run
    from model.pretrained import to_bundle
    from model.transformer import PRESETS

    torch.set_num_threads(threads)
    dataset = _data(data, 0)
    recipe = Recipe(steps=steps, seed=seed)
    _plan_told(preset, len(dataset), steps, recipe.batch, recipe.chunk)
    chosen = np.ones(len(dataset), bool) if until is None else dataset.time < until
    found = run(dataset, chosen, PRESETS[preset], recipe, _say, checkpoint)
    made = bundles.write(to_bundle(dataset, found, name, _groups(dataset)), out)
    _say("held-out nats by field: " + ", ".join(f"{k} {v:.3f}" for k, v in found.nats.items()))
    options.say({"model_id": made.model_id, "nats": dict(found.nats)}, made.model_id, as_json)


def finetune(
    data: Data,
    out: Out,
    base: Annotated[Path | None, typer.Option(help="Pretrained bundle to start from.")] = None,
    preset: Preset = "small",
    steps: Steps = 500,
    cut: Annotated[int | None, typer.Option(help="Moment of the fit, ms: what is known.")] = None,
    judge_days: Annotated[float, typer.Option(help="Newest matured days that judge.")] = 14,
    maturity_days: Maturity = 14,
    threads: Threads = 1,
    seed: Seed = 0,
    seeds: Annotated[int, typer.Option(min=1, max=32, help="Fits; the best one is kept.")] = 1,
    name: Annotated[str, typer.Option(help="Name of the bundle.")] = "fraud",
    key: Annotated[Path | None, typer.Option(help="Ed25519 seed (32 bytes) to sign with.")] = None,
    as_json: options.Json = False,
) -> None:
    """Fit on the labels known at a moment, calibrate, write a bundle.

    Example: fraudstream finetune data/ bundles/fraud --base bundles/base --steps 500
    """
    import torch

    from model import bundle as bundles
    from model import finetune as tuning
    from model.loop import Recipe
    from model.transformer import PRESETS

    torch.set_num_threads(threads)
    dataset = _data(data, maturity_days)
    recipe = Recipe(steps=steps, seed=seed)
    _plan_told(preset, len(dataset), steps * seeds, recipe.batch, recipe.chunk)
    plan = tuning.Plan.newest(dataset, cut, judge_days)
    chosen = tuning.blocks(dataset, plan)
    start = None if base is None else bundles.read(base)
    shape = PRESETS[preset] if start is None else start.shape
    best = tuning.seeds(dataset, chosen, shape, recipe, seeds, start, _say)[0]
    about = {"plan": vars(plan) if hasattr(plan, "__dict__") else {}, "steps": steps, "seed": seed}
    made = tuning.to_bundle(dataset, chosen, best, name, _groups(dataset), about)
    made = bundles.write(made, out, None if key is None else key.read_bytes())
    if as_json:
        options.print_json({"model_id": made.model_id, **made.about["judged"]})
    else:
        judged = made.about["judged"]
        typer.echo(f"{made.model_id}: AP {judged['ap']:.4f}, AUC {judged['auc']:.4f} when judged")


def evaluate(
    bundle: Annotated[Path, typer.Argument(help="Folder of the bundle.")],
    data: Data,
    out: Annotated[Path | None, typer.Option(help="HTML page to write.")] = None,
    test_from: Annotated[int | None, typer.Option("--from", help="Test from here, ms.")] = None,
    test_days: Annotated[float, typer.Option(help="Else: the newest days test.")] = 14,
    judge_days: Annotated[float, typer.Option(help="Days that stop the comparison models.")] = 14,
    maturity_days: Maturity = 14,
    compare: Annotated[bool, typer.Option(help="LightGBM and logistic regression beside.")] = True,
    threads: Threads = 1,
    as_json: options.Json = False,
) -> None:
    """Measure a bundle on the newest days, beside LightGBM and logistic regression.

    Example: fraudstream evaluate bundles/fraud data/ --out report.html
    """
    import numpy as np

    from model import evaluate as evaluation
    from model import finetune as tuning
    from model.bundle import require_features
    from model.score import Scorer
    from streams.schema import DAY_MS

    dataset = _data(data, maturity_days)
    scorer = Scorer.load(bundle, threads=threads)
    require_features(scorer.bundle, dataset.names, dataset.feature_digest)
    time = dataset.time
    start = int(time.max()) - int(test_days * DAY_MS) if test_from is None else test_from
    test = np.flatnonzero((time >= start) & (dataset.answer() >= 0))
    fit = judge = np.zeros(0, np.int64)
    if compare:
        chosen = tuning.blocks(dataset, tuning.Plan.newest(dataset, start, judge_days))
        fit, judge = np.flatnonzero(chosen.fit), np.flatnonzero(chosen.judge)
    split = evaluation.Split(fit, judge, test)
    found = evaluation.report(scorer, dataset, split, compare=compare, threads=threads)
    if out is not None:
        out.write_text(evaluation.to_html(found), "utf-8")
        _say(f"wrote {out}")
    if as_json:
        options.print_json({k: v for k, v in found.items() if k != "curves"})
        return
    for name, row in found["models"].items():
        shown = ", ".join(f"{k} {row[k]:.4f}" for k in ("ap", "auc", "cp100", "ece", "brier"))
        typer.echo(f"{name}: {shown}")


def explain(
    transaction: Annotated[str, typer.Argument(help="transaction_id.")],
    data: Annotated[Path, typer.Option(help="Training set that holds it.")],
    bundle: Annotated[Path | None, typer.Option(help="Bundle; default: the shipped one.")] = None,
    as_json: options.Json = False,
) -> None:
    """Why a transaction scores as it does: groups, past events looked at, similar cases.

    Example: fraudstream explain tx-123 --data data/
    """
    import numpy as np

    from model import data as datasets
    from model.bundle import shipped
    from model.case import explain_row, row_of
    from model.score import Scorer

    dataset = datasets.read(data)
    scorer = Scorer.load(shipped() if bundle is None else bundle)
    row = row_of(dataset, transaction)
    if row is None:
        _say(f"no transaction {transaction} in {data}")
        raise typer.Exit(1)
    found = explain_row(scorer, dataset, row)
    if as_json:
        options.print_json(found)
        return
    typer.echo(f"{transaction}: score {found['score']:.4f}")
    for group, added in sorted(found["groups"].items(), key=lambda item: -abs(item[1]))[:8]:
        typer.echo(f"  {group:<20} {added:+.3f}")
    attention = np.array(found["attention"])
    for back in np.argsort(-attention)[:3].tolist():
        typer.echo(f"  looked at the event {back + 1} back: {attention[back]:.2f}")
    for case in found["similar"]:
        label = {1: "fraud", 0: "legitimate"}.get(case["label"], "unknown")
        typer.echo(f"  similar ({case['cosine']:.2f}): row {case['row']}, {label}")


models = typer.Typer(help="Bundles on disk: list, show, add, promote, roll back.")


def _registry(config: Path | None, sets: list[str] | None) -> Registry:
    from model.registry import Registry

    return Registry(options.settings(config, sets).model.registry)


def _name(model_id: str, as_json: bool) -> None:
    """Which bundle the verb was about."""
    options.say({"model_id": model_id}, model_id, as_json)


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
    history = registry.history()
    current = history[-1].model_id if history else None
    if as_json:
        past = [vars(entry) for entry in history]
        options.print_json({"models": registry.ids(), "current": current, "history": past})
        return
    for model_id in registry.ids():
        typer.echo(f"{'*' if model_id == current else ' '} {model_id}")


@models.command("show")
def models_show(
    model: Annotated[str, typer.Argument(help="Name, digest, name@digest, or a folder.")],
    config: options.Config = None,
    sets: options.Set = None,
    as_json: options.Json = False,
) -> None:
    """What a bundle is, as JSON with or without --json.

    Example: fraudstream models show fraud
    """
    from model import bundle as bundles

    folder = Path(model) if Path(model).is_dir() else _registry(config, sets).path(model)
    found = bundles.read(folder)
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
    bundle: Annotated[Path, typer.Argument(help="Folder of the bundle.")],
    public_key: Annotated[Path | None, typer.Option(help="Ed25519 key it must be signed by.")] = (
        None
    ),
    config: options.Config = None,
    sets: options.Set = None,
    as_json: options.Json = False,
) -> None:
    """Take a copy of a bundle into the registry, after checking it.

    Example: fraudstream models add bundles/fraud
    """
    key = None if public_key is None else public_key.read_bytes()
    _name(_registry(config, sets).add(bundle, key).model_id, as_json)


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
    registry = _registry(config, sets)
    name = registry.add(Path(model)).model_id if Path(model).is_dir() else model
    _name(registry.promote(name, _now(), note).model_id, as_json)


@models.command("rollback")
def models_rollback(
    config: options.Config = None, sets: options.Set = None, as_json: options.Json = False
) -> None:
    """Promote what served before.

    Example: fraudstream models rollback
    """
    _name(_registry(config, sets).roll_back(_now()).model_id, as_json)


def register(app: typer.Typer) -> None:
    """Add the verbs."""
    for verb in (pretrain, finetune, evaluate, explain):
        app.command()(verb)
    app.add_typer(models, name="models")
