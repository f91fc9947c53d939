"""Verbs of the model half: `pretrain`, `finetune`, `evaluate`; `explain` has a file of its own.

In: flags. Out: bundles and reports. Does not know how any of them is made.
"""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from model.errors import stoppable
from streams.cli import checks, fitting, judging, models, options
from streams.cli.explain import explain

if TYPE_CHECKING:
    from model.bundle import Bundle
    from model.data import Dataset
    from model.transformer import Shape

Data = Annotated[Path, typer.Argument(help="Training set, as `fraudstream dataset` writes it.")]
Out = Annotated[Path, typer.Argument(help="Folder of the bundle to write.")]
Named = Annotated[
    str, typer.Argument(help="Folder of the bundle, its name, or default: the one that serves.")
]
Preset = Annotated[str, typer.Option(help="small, base or large.")]
Base = Annotated[
    Path | None,
    typer.Option(help="Pretrained bundle, whose surprise is learnt, or a fitted one: its weights."),
]
FitPreset = Annotated[
    str | None, typer.Option(help="small (default), base or large; with --base it has its own.")
]
Steps = Annotated[int, typer.Option(min=1, help="Updates.")]
FitSteps = Annotated[
    int | None,
    typer.Option(min=1, help="Updates. Default: six passes over what is learnt from, >= 300."),
]
Threads = Annotated[int, typer.Option(min=1, max=64, help="CPU threads.")]
Seed = Annotated[int, typer.Option(min=0, help="Seed of everything random.")]
Maturity = Annotated[
    float,
    typer.Option(
        help="Days after which an event without a label is legitimate.", callback=checks.days
    ),
]
JudgeDays = Annotated[
    float | None,
    typer.Option(help="Newest matured days that judge. Default: 14.", callback=checks.days),
]
LeftDays = Annotated[
    float | None,
    typer.Option(help="Else: newest days left for `evaluate`. Default: 14.", callback=checks.days),
]
Teacher = Annotated[
    bool | None,
    typer.Option(
        help="Fit once more, taught by trees; what judges better is kept."
        " Default: where LightGBM is installed."
    ),
]
PlaceSizes = Annotated[
    bool,
    typer.Option(
        "--place-sizes", help="Learn from the size of merchants and terminals without fraud, too."
    ),
]
Cost = Annotated[
    list[str] | None,
    typer.Option(
        help="Cost matrix for thresholds: review=4 (an alert), block=25 (an honest payment blocked)"
        " and missed=120 (a fraud that passes); repeat the flag."
    ),
]
Resume = Annotated[
    Path | None,
    typer.Option(
        "--checkpoint", help="File to save to and resume; `finetune` has one a fit beside it."
    ),
]
Device = Annotated[str, typer.Option(help="auto, cpu or cuda.", callback=checks.device)]
Board = Annotated[Path | None, typer.Option("--tensorboard", help="Folder of TensorBoard events.")]


def _moment(text: str) -> int | None:
    """A time that events can have, in ms; or 0, before all of them."""
    return 0 if text == "0" else options.event_ms(text)


def _time(told: str, *flags: str) -> Any:
    """An option that takes an ISO time, or ms."""
    return typer.Option(*flags, parser=_moment, metavar="TIME", help=told)


Until = Annotated[
    int | None, _time("Only events before this time, ISO or ms. Default: not the newest 14 days.")
]
Cut = Annotated[int | None, _time("Moment of the fit: only what was known then; ISO or ms.")]
TestFrom = Annotated[int | None, _time("Test from here; ISO or ms.", "--from")]


def _say(line: str) -> None:
    typer.echo(line, err=True)


def _groups(dataset: Dataset) -> list[str]:
    """The explanation group of each column; a column this version does not know is its own."""
    from streams import features

    known = {feature.name: feature.group for feature in features.FEATURES}
    return [known.get(name, name) for name in dataset.names]


def _shape(preset: str | None, base: Bundle | None = None) -> Shape:
    """The preset's, or that of the bundle that a fit begins with."""
    from model.transformer import PRESETS

    if preset is not None and preset not in PRESETS:
        raise typer.BadParameter("small, base or large", param_hint="--preset")
    if base is None:
        return PRESETS[preset or "small"]
    if preset is not None and PRESETS[preset] != base.shape:
        raise typer.BadParameter(
            "--base is of another size, and a fit keeps it: leave one out", param_hint="--preset"
        )
    return base.shape


def pretrain(
    data: Data,
    out: Out,
    preset: Preset = "small",
    steps: Steps = 500,
    until: Until = None,
    threads: Threads = 1,
    seed: Seed = 0,
    checkpoint: Resume = None,
    tensorboard: Board = None,
    device: Device = "auto",
    name: Annotated[str, typer.Option(help="Name of the bundle.")] = "pretrained",
    as_json: options.Json = False,
) -> None:
    """Learn the stream without labels: next event and masked fields.

    On several processes: torchrun --nproc-per-node 2 .venv/bin/fraudstream pretrain ...

    Example: fraudstream pretrain data/ bundles/base --steps 1000
    """
    from model import bundle as bundles
    from model.checkpoint import steps_in
    from model.forecast import Job
    from model.loop import Recipe, require_any
    from model.place import room_for
    from model.pretrain import pretrain as run
    from model.pretrained import to_bundle
    from streams.cli.training import Training

    bundles.check_name(name)
    shape = _shape(preset)
    bundles.check_place(out)
    dataset = checks.whole_data(data)
    recipe = Recipe(steps=steps, seed=seed)
    until = fitting.seen_until(dataset, until)
    chosen = require_any(dataset.time < until)
    room = room_for(out, shape, len(dataset.names))
    with room as held, Training(steps, threads, device, tensorboard) as training, stoppable():
        held_steps = (0 if checkpoint is None else steps_in(checkpoint),)
        training.plan(dataset, preset, shape, recipe, Job(done=held_steps))
        found = run(
            dataset, chosen, shape, recipe, training.say, checkpoint, training.device,
            training.watch,
        )  # fmt: skip
        if not training.first:
            return
        training.say("writing the bundle; before that it scores some rows as the service would")
        made = to_bundle(dataset, found, name, _groups(dataset), until)
        made = bundles.write(made, out, room=held)
    _say("surprise by field, nats: " + ", ".join(f"{k} {v:.3f}" for k, v in found.nats.items()))
    options.say({"model_id": made.model_id, "nats": dict(found.nats)}, made.model_id, as_json)


def finetune(
    data: Data,
    out: Out,
    base: Base = None,
    preset: FitPreset = None,
    steps: FitSteps = None,
    cut: Cut = None,
    test_days: LeftDays = None,
    judge_days: JudgeDays = None,
    maturity_days: Maturity = 14,
    threads: Threads = 1,
    seed: Seed = 0,
    seeds: Annotated[int, typer.Option(min=1, max=32, help="Fits; the best one is kept.")] = 1,
    teacher: Teacher = None,
    place_sizes: PlaceSizes = False,
    cost: Cost = None,
    checkpoint: Resume = None,
    tensorboard: Board = None,
    device: Device = "auto",
    name: Annotated[str, typer.Option(help="Name of the bundle.")] = "fraud",
    key: Annotated[Path | None, typer.Option(help="Ed25519 seed (32 bytes) to sign with.")] = None,
    as_json: options.Json = False,
) -> None:
    """Fit on the labels known at a moment, calibrate, write a bundle.

    Example: fraudstream finetune data/ bundles/f --base bundles/base
    """
    from model import bundle as bundles
    from model import finetune as tuning
    from model.card import card
    from model.place import room_for
    from streams.cli.training import Training

    bundles.check_name(name)
    start = None if base is None else bundles.read(base)
    shape, base_id = _shape(preset, start), None if start is None else start.model_id
    bundles.check_place(out)
    signer, costs = checks.signing_key(key), checks.costs(cost)
    dataset = checks.whole_data(data, maturity_days)
    dataset, plan, chosen = fitting.fit_plan(
        dataset, cut, test_days, judge_days, maturity_days, fitting.usual_days(dataset)
    )
    fitting.check_base(start, dataset, tuning.learnt_until(start), plan.cut_ms)
    others = fitting.others_of(dataset, plan, chosen, teacher)
    recipe = fitting.recipe_of(chosen, others, steps, seed, place_sizes)
    room = room_for(out, shape, len(dataset.names))
    fit = Training(recipe.steps, threads, device, tensorboard)
    with room as held, fit as training, stoppable():
        done = tuning.steps_done(checkpoint, seed, seeds, others is not None)
        job = fitting.job_of(dataset, plan, chosen, others, done, threads, start)
        training.plan(dataset, base_id or preset or "small", shape, recipe, job)
        surprise = fitting.surprise_of(dataset, job, training)
        lesson = fitting.lesson_of(dataset, chosen, others, recipe, training, surprise)
        best = tuning.seeds(
            dataset, chosen, shape, recipe, seeds, fitting.begun_from(start), training.say,
            checkpoint, training.device, training.watch, lesson, surprise,
        )[0]  # fmt: skip
        taught = fitting.say_kept(best.taught, others, training)
        if not training.first:
            return
        about = {
            "plan": vars(plan), "learnt_until": fitting.learnt_until(dataset, plan, start),
            "maturity_days": maturity_days, "steps": recipe.steps, "seed": seed,
            "place_sizes": place_sizes, "card": card(dataset, plan, chosen, base_id, taught),
        }  # fmt: skip
        made = tuning.to_bundle(dataset, chosen, best, name, _groups(dataset), about, costs)
        made = bundles.write(made, out, signer, held)
    _say_judged(made, as_json)


def _say_judged(made: Bundle, as_json: bool) -> None:
    judged = made.about["judged"]
    text = f"{made.model_id}: AP {judged['ap']:.4f}, AUC {judged['auc']:.4f} when judged"
    options.say({"model_id": made.model_id, **judged}, text, as_json)


def evaluate(
    bundle: Named,
    data: Data,
    out: Annotated[Path | None, typer.Option(help="HTML page to write.")] = None,
    test_from: TestFrom = None,
    test_days: Annotated[
        float | None,
        typer.Option(help="Else: the newest days test. Default: 14.", callback=checks.days),
    ] = None,
    maturity_days: Maturity = 14,
    compare: Annotated[bool, typer.Option(help="LightGBM and logistic regression beside.")] = True,
    budget: Annotated[
        float, typer.Option(min=1e-6, max=1, help="Share of events that become alerts.")
    ] = 0.005,
    ceiling: Annotated[
        list[str] | None, typer.Option(help="What can be known at all, as ap=0.785; repeatable.")
    ] = None,
    cost: Cost = None,
    threads: Threads = 1,
    config: options.Config = None,
    sets: options.Set = None,
    as_json: options.Json = False,
) -> None:
    """Measure a bundle on the newest days, beside LightGBM and logistic regression.

    A pretrained bundle is measured without labels: surprise, held against the frauds where some
    are known, and hit@k.

    Example: fraudstream evaluate bundles/fraud data/ --out report.html
    """
    from model import evaluate as evaluation
    from model import page, unlabelled
    from model.bundle import require_features
    from model.costs import told_in
    from model.errors import writing
    from model.score import Scorer
    from streams.schema import DAY_MS

    limits, costs = checks.limits(ceiling), checks.costs(cost)
    checks.page(out)
    scorer = Scorer.load(judging.place_of(options.settings(config, sets), bundle), threads=threads)
    bare = scorer.bundle.only_pretrained
    checks.report_parts(compare and not bare, out is not None and not bare)
    dataset = checks.whole_data(data, maturity_days)
    require_features(scorer.bundle, dataset.names, dataset.feature_digest)
    judging.say_risk(scorer.bundle, dataset)
    if not bare:
        evaluation.require_fraud(dataset)
    wait_ms = int(maturity_days * DAY_MS)
    wait = maturity_days if compare and not bare else None
    split, seen = judging.split_of(scorer.bundle, dataset, test_from, test_days, wait)
    if bare:
        found = unlabelled.report(scorer.bundle, dataset, split.test)
        text, to_html = unlabelled.to_text(found), page.unlabelled_html
    else:
        compare = compare and len(split.fit) > 0
        found = evaluation.report(
            scorer, dataset, split, ceiling=limits, compare=compare, threads=threads,
            budget=budget, maturity_ms=wait_ms, tell=_say,
            costs=costs or told_in(scorer.bundle.about),
        )  # fmt: skip
        text, to_html = evaluation.to_text(found), page.to_html
    judging.say_known(found, seen, scorer.bundle)
    found["immature"] = evaluation.immature(dataset, split.test, wait_ms)
    fitting.say_immature(found["immature"], f"{len(split.test):,} test events", maturity_days)
    options.say({k: v for k, v in found.items() if k != "curves"}, text, as_json)
    if out is not None:  # last: a disk that does not take it costs no figures
        with writing(out):
            out.write_text(to_html(found), "utf-8")
        _say(f"wrote {out}")


def register(app: typer.Typer) -> None:
    """Add the verbs."""
    for verb in (pretrain, finetune, evaluate, explain):
        app.command()(verb)
    app.add_typer(models.models, name="models")
