"""Verbs of the model half: `pretrain`, `finetune`, `evaluate`; `explain` has a file of its own.

In: flags. Out: bundles and reports. Does not know how any of them is made.
"""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from streams.cli import checks, fitting, models, options
from streams.cli.explain import explain

if TYPE_CHECKING:
    from model.bundle import Bundle
    from model.data import Dataset
    from model.evaluate import Split
    from model.transformer import Shape

Data = Annotated[Path, typer.Argument(help="Training set, as `fraudstream dataset` writes it.")]
Out = Annotated[Path, typer.Argument(help="Folder of the bundle to write.")]
Preset = Annotated[str, typer.Option(help="small, base or large.")]
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
        "--checkpoint", help="File to save to and resume; of each fit of `finetune` FILE.SEED."
    ),
]
Device = Annotated[str, typer.Option(help="auto, cpu or cuda.", callback=checks.device)]
Board = Annotated[Path | None, typer.Option("--tensorboard", help="Folder of TensorBoard events.")]


def _time(told: str, *flags: str) -> Any:
    """An option that takes an ISO time, or ms."""
    return typer.Option(*flags, parser=options.time_ms, metavar="TIME", help=told)


Until = Annotated[
    int | None, _time("Only events before this time, ISO or ms. Default: not the newest 14 days.")
]
Cut = Annotated[int | None, _time("Moment of the fit: only what was known then; ISO or ms.")]
TestFrom = Annotated[int | None, _time("Test from here; ISO or ms.", "--from")]
DAYS = 14.0
"""Newest days that test, and matured days that judge, unless the stream is short."""


def _say(line: str) -> None:
    typer.echo(line, err=True)


def _groups(dataset: Dataset) -> list[str]:
    """The explanation group of each column; a column this version does not know is its own."""
    from streams import features

    known = {feature.name: feature.group for feature in features.FEATURES}
    return [known.get(name, name) for name in dataset.names]


def _shape(preset: str) -> Shape:
    from model.transformer import PRESETS

    if preset not in PRESETS:
        raise typer.BadParameter("small, base or large", param_hint="--preset")
    return PRESETS[preset]


def _usual_days(dataset: Dataset) -> float:
    """DAYS, or a fifth of a shorter stream's days."""
    from streams.schema import DAY_MS

    return min(DAYS, float((int(dataset.time.max()) - int(dataset.time.min())) / DAY_MS / 5))


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
    from model.forecast import Job
    from model.loop import Recipe
    from model.pretrain import pretrain as run
    from model.pretrained import to_bundle
    from streams.cli.training import Training
    from streams.schema import DAY_MS

    bundles.check_name(name)
    shape = _shape(preset)
    bundles.check_place(out)
    dataset = checks.whole_data(data, 0)
    recipe = Recipe(steps=steps, seed=seed)
    if until is None:
        until = int(dataset.time.max() - _usual_days(dataset) * DAY_MS)
    chosen = dataset.time < until
    with Training(steps, threads, device, tensorboard) as training:
        training.plan(dataset, preset, shape, recipe, Job())
        found = run(
            dataset, chosen, shape, recipe, training.say, checkpoint, training.device,
            training.watch,
        )  # fmt: skip
        if not training.first:
            return
        made = bundles.write(to_bundle(dataset, found, name, _groups(dataset), until), out)
    _say("surprise by field, nats: " + ", ".join(f"{k} {v:.3f}" for k, v in found.nats.items()))
    options.say({"model_id": made.model_id, "nats": dict(found.nats)}, made.model_id, as_json)


def finetune(
    data: Data,
    out: Out,
    base: Annotated[Path | None, typer.Option(help="Pretrained bundle to start from.")] = None,
    preset: Preset = "small",
    steps: FitSteps = None,
    cut: Cut = None,
    test_days: Annotated[
        float | None,
        typer.Option(
            help="Else: newest days left for `evaluate`. Default: 14.", callback=checks.days
        ),
    ] = None,
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
    from streams.cli.training import Training

    bundles.check_name(name)
    start = None if base is None else bundles.read(base)
    shape, base_id = (_shape(preset), None) if start is None else (start.shape, start.model_id)
    bundles.check_place(out)
    signer, costs = checks.signing_key(key), checks.costs(cost)
    dataset = checks.whole_data(data, maturity_days)
    teach = checks.has_trees() if teacher is None else teacher
    dataset, plan, chosen = fitting.fit_plan(
        dataset, cut, test_days, judge_days, maturity_days, _usual_days(dataset)
    )
    others = fitting.others_of(dataset, plan, chosen) if teach else None
    recipe = fitting.recipe_of(chosen, others, steps, seed, place_sizes)
    with Training(recipe.steps, threads, device, tensorboard) as training:
        job = fitting.job_of(chosen, others, seeds, threads)
        training.plan(dataset, base_id or preset, shape, recipe, job)
        lesson = fitting.lesson_of(dataset, chosen, others, recipe, training)
        best = tuning.seeds(
            dataset, chosen, shape, recipe, seeds, start, training.say, checkpoint,
            training.device, training.watch, lesson,
        )[0]  # fmt: skip
        taught = int(others.sum()) if best.taught and others is not None else None
        if teach:
            training.say(f"kept: {'taught by trees' if best.taught else 'labels alone'}")
        if not training.first:
            return
        about = {
            "plan": vars(plan), "learnt_until": max(plan.cut_ms, _learnt_until(start)),
            "maturity_days": maturity_days, "steps": recipe.steps, "seed": seed,
            "place_sizes": place_sizes, "card": card(dataset, plan, chosen, base_id, taught),
        }  # fmt: skip
        made = tuning.to_bundle(dataset, chosen, best, name, _groups(dataset), about, costs)
        made = bundles.write(made, out, signer)
    _say_judged(made, as_json)


def _say_judged(made: Bundle, as_json: bool) -> None:
    judged = made.about["judged"]
    text = f"{made.model_id}: AP {judged['ap']:.4f}, AUC {judged['auc']:.4f} when judged"
    options.say({"model_id": made.model_id, **judged}, text, as_json)


def _learnt_until(bundle: Bundle | None) -> int:
    """Up to when a bundle, and what it was made from, saw events or labels, ms; 0 for no bundle."""
    from model.finetune import plan_in

    about = {} if bundle is None else bundle.about
    told, plan = about.get("learnt_until"), plan_in(about)
    if isinstance(told, int):
        return told
    return 0 if plan is None else plan.cut_ms


def _test_split(
    bundle: Bundle,
    dataset: Dataset,
    start: int | None,
    days: float | None,
    wait_days: float | None,
) -> tuple[Split, bool | None]:
    """Rows to test on, those the comparison models are fitted on, and whether the fit, or that of
    the bundle it began with, knew them: None where it knew such days, perhaps of another stream.

    `wait_days` is the maturity of labels; None for no comparison models.
    """
    import numpy as np

    from model import data
    from model import finetune as tuning
    from model.evaluate import Split
    from streams.errors import ConfigError, DatasetError
    from streams.schema import DAY_MS

    time, plan = dataset.time, tuning.plan_in(bundle.about)
    newest = int(time.max())
    if start is None:
        start = newest - int((_usual_days(dataset) if days is None else days) * DAY_MS)
    same = bundle.about.get("data_digest") == dataset.digest
    own = _learnt_until(bundle) if plan is None else plan.cut_ms
    bare, answer = bundle.only_pretrained, dataset.answer()
    test = np.flatnonzero((time >= start) & (bare | (answer >= 0)))
    if not len(test) or not (bare or (answer[test] == 1).any()):
        what = "test events" if bare else "known fraud among the test events"
        raise ConfigError(f"no {what}", remedy="give an earlier --from")
    fit = judge = np.zeros(0, np.int64)
    then = dataset
    if wait_days is not None:
        wait = int(wait_days * DAY_MS)
        try:
            # The labels as they stood, as the bundle's own fit had them: rivals know no more.
            one = plan if same else None
            then = data.as_of(dataset, start if one is None else one.cut_ms, wait)
            one = one or tuning.Plan.newest(then, start, _usual_days(dataset), wait)
            chosen = tuning.blocks(then, one)
            fit, judge = np.flatnonzero(chosen.fit), np.flatnonzero(chosen.judge)
        except DatasetError as error:
            fitting.say_why("no comparison models", error)
    seen = True if same and own > start else None
    split = Split(fit, judge, test, np.asarray(then.label))
    return split, _learnt_until(bundle) > start and seen


def evaluate(
    bundle: Annotated[Path, typer.Argument(help="Folder of the bundle.")],
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
    scorer = Scorer.load(bundle, threads=threads)
    bare = scorer.bundle.only_pretrained
    checks.report_parts(compare and not bare, out is not None and not bare)
    dataset = checks.whole_data(data, maturity_days)
    require_features(scorer.bundle, dataset.names, dataset.feature_digest)
    wait_ms = int(maturity_days * DAY_MS)
    wait = maturity_days if compare and not bare else None
    split, seen = _test_split(scorer.bundle, dataset, test_from, test_days, wait)
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
    found["known_to_the_fit"] = seen
    if seen is not False:
        which = "these test days" if seen else "test days like these; if of the same stream"
        _say(f"warning: the fit knew of {which}, the figures flatter the bundle")
    found["immature"] = evaluation.immature(dataset, split.test, wait_ms)
    if found["immature"]:
        _say_immature(found["immature"], len(split.test), maturity_days)
    if out is not None:
        with writing(out):
            out.write_text(to_html(found), "utf-8")
        _say(f"wrote {out}")
    options.say({k: v for k, v in found.items() if k != "curves"}, text, as_json)


def _say_immature(immature: int, tested: int, maturity_days: float) -> None:
    _say(
        f"note: {immature:,} of {tested:,} test events have no label and are younger than"
        f" {maturity_days:g} days: they count as legitimate, though some may yet be reported"
    )


def register(app: typer.Typer) -> None:
    """Add the verbs."""
    for verb in (pretrain, finetune, evaluate, explain):
        app.command()(verb)
    app.add_typer(models.models, name="models")
