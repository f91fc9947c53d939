"""Fine-tuning: a model fitted on the labels that were known at a moment, calibrated, as a bundle.

In: a `Dataset`, a `Plan` (which days train, which block judges, when the fit takes place), and a
pretrained bundle or none. Out: a `Bundle` and what was measured. Does not know files of streams.

label_time gates everything: a label enters only if it was known at `cut_ms`. Prevalence is kept as
it is, so that probabilities need no correction. The newest matured block is never fitted: it stops
the training, chooses among seeds, and calibrates. Label-derived inputs (merchant risk) are gated by
the pipeline that wrote the features.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.nn import functional

from model import calibrate, metrics, processes, quiet
from model.bundle import GOLDEN, Bundle, weights_of
from model.checkpoint import digest_of, steps_in
from model.costs import Costs
from model.data import DAY_MS, Dataset, gather, now
from model.errors import DatasetError
from model.fold import fold
from model.inputs import HISTORY, ScoringBatch
from model.kernel import kernel_of
from model.knots import knots_for
from model.loop import Progress, Recipe, Source, Tell, Watch, train, wanted
from model.measured import measure
from model.score import calibrate as to_probability
from model.second import Second, Surprise
from model.teacher import Lesson, labels_only
from model.tokens import quantile_knots
from model.transformer import Chunk, Shape, Transformer
from model.waves import Waved

MIN_FRAUDS = 20
REMEDY = {
    "training": "judge by fewer days (--judge-days), or leave none for a test (--test-days 0, or a"
    " later --cut); else the recording is too short",
    "judging": "judge by more days (--judge-days), or leave none for a test (--test-days 0, or a"
    " later --cut); else the recording is too short",
}
"""What a block with too few frauds needs; flags as the command line has them."""


@dataclass(frozen=True)
class Plan:
    """Event times [from, to) of the two blocks, ms, and the moment of the fit.

    Rows before `train_from` serve as history only.
    """

    train_from: int
    train_to: int
    judge_from: int
    judge_to: int
    cut_ms: int

    @classmethod
    def newest(
        cls,
        dataset: Dataset,
        cut_ms: int | None = None,
        judge_days: float = 14,
        maturity_ms: int = 0,
    ) -> Plan:
        """Train on all that is matured but its newest `judge_days`, which judge.

        Matured is what happened `maturity_ms` before the fit: of later events only those are known
        that somebody reported, and frauds would be far too many among them.
        """
        time = dataset.time
        known = np.asarray(dataset.label) >= 0
        if not known.any():
            raise DatasetError("no row of the training set has a label")
        cut = now(dataset) if cut_ms is None else cut_ms
        gate = dataset.known_at(cut)
        matured = gate & (np.asarray(dataset.label) == 0) & (time < cut - maturity_ms)
        if not matured.any():
            raise DatasetError(
                "no event was known to be legitimate at the moment of the fit",
                remedy="wait less for labels (--maturity-days), fit later (--test-days 0, or a"
                " later --cut), or record for longer",
            )
        end = int(time[matured].max()) + 1
        middle = end - int(judge_days * DAY_MS)
        return cls(int(time.min()), middle, middle, end, cut)


def plan_in(about: Mapping[str, Any]) -> Plan | None:
    """The plan that a bundle tells of its fit; None for one that tells none, or an odd one."""
    try:
        return Plan(**{name: int(ms) for name, ms in dict(about["plan"]).items()})
    except (KeyError, TypeError, ValueError, OverflowError):
        return None


def learnt_until(bundle: Bundle | None) -> int:
    """Up to when a bundle, and what it was made from, saw events or labels, ms; 0 for no bundle, or
    one that tells of no such time."""
    about = {} if bundle is None else bundle.about
    told, plan = about.get("learnt_until"), plan_in(about)
    if isinstance(told, int):
        return told
    return 0 if plan is None else plan.cut_ms


@dataclass(frozen=True)
class Blocks:
    """Row masks of a plan over a dataset."""

    fit: NDArray[np.bool_]
    judge: NDArray[np.bool_]


def blocks(dataset: Dataset, plan: Plan) -> Blocks:
    """Rows to fit and rows to judge by. Raises DatasetError when either has too few frauds."""
    time, known = dataset.time, dataset.known_at(plan.cut_ms)
    found = Blocks(
        fit=known & (time >= plan.train_from) & (time < plan.train_to),
        judge=known & (time >= plan.judge_from) & (time < plan.judge_to),
    )
    for name, rows in (("training", found.fit), ("judging", found.judge)):
        frauds = int((np.asarray(dataset.label)[rows] == 1).sum())
        if frauds < MIN_FRAUDS:
            raise DatasetError(
                f"the {name} block has {frauds} known frauds, {MIN_FRAUDS} are needed",
                remedy=REMEDY[name],
            )
    return found


def widened(dataset: Dataset, plan: Plan) -> Plan:
    """A plan whose judging block goes back by whole days until it holds enough frauds, in a stream
    of hours as far as the one that makes them enough.

    Where the training block would then keep too few, the plan is left as it is.
    """
    fraud = dataset.known_at(plan.cut_ms) & (np.asarray(dataset.label) == 1)
    time = np.sort(dataset.time[fraud])
    time = time[(time >= plan.train_from) & (time < plan.judge_to)]
    judged = int((time >= plan.judge_from).sum())
    if judged >= MIN_FRAUDS or len(time) < 2 * MIN_FRAUDS:
        return plan
    last = int(time[-MIN_FRAUDS])
    days = -(-(plan.judge_from - last) // DAY_MS)
    for start in (plan.judge_from - days * DAY_MS, last):
        if int((time < start).sum()) >= MIN_FRAUDS:
            return replace(plan, train_to=start, judge_from=start)
    return plan


def logits_of(
    model: Transformer, dataset: Dataset, rows: NDArray[np.int64], block: int = 8_192
) -> NDArray[np.float32]:
    """Log-odds of rows by the serving kernel on the folded model: what the service would give."""
    folded = fold(model)
    kernel = kernel_of(folded)
    place = dataset.place()
    out = np.empty(len(rows), np.float32)
    none = np.zeros((0, HISTORY), np.float32)
    for start in range(0, len(rows), block):
        b = gather(dataset, place, rows[start : start + block])
        part = out[start : start + block]
        kernel(b.current, b.history, b.length, b.features, folded, part, none)
    return out


def fraud_loss(label: NDArray[np.int8], chosen: NDArray[np.bool_]) -> Any:
    """Mean cross-entropy over the chosen rows of a chunk."""
    return lesson_loss(labels_only(label, chosen))


def lesson_loss(lesson: Lesson, second: Second | None = None) -> Any:
    """Mean cross-entropy over the rows of a chunk that count, by their weights; and a second task.

    Weights are relative to their mean over the whole lesson, so that a batch that happens to hold
    many labelled rows takes a longer step, as it should. Of several processes each divides by their
    mean number of such rows: gradients are averaged, so two processes step as one would.
    """
    chosen = lesson.chosen
    usual = float(lesson.weight[chosen].mean()) if chosen.any() else 1.0

    def loss(model: Transformer, chunk: Chunk, rows: NDArray[np.int64]) -> Tensor:
        h = model(chunk)
        logit = model.logit(h)
        weight = lesson.weight[rows] / np.float32(usual) * wanted(chosen, rows)
        y = torch.from_numpy(lesson.target[rows]).to(logit.device)
        w = torch.from_numpy(weight).to(logit.device)
        each = functional.binary_cross_entropy_with_logits(logit, y, reduction="none")
        found = (each * w).sum() / processes.share_of(int((weight > 0).sum()), logit.device)
        return found if second is None else found + second(h, rows)

    return loss


@dataclass
class Fit:
    """A finished fit: model, and the judging block's rows and log-odds."""

    model: Transformer
    progress: Progress
    rows: NDArray[np.int64]
    logit: NDArray[np.float32]
    taught: bool = False


def start(
    dataset: Dataset,
    rows: NDArray[np.int64],
    shape: Shape,
    base: Bundle | None,
    seed: int,
    splits: bool = False,
) -> Transformer:
    """A new model, or a pretrained one with new knots: quantiles of `rows`, with `splits` also the
    places where the fraud rate of `rows` jumps."""
    torch.manual_seed(seed)
    rng = np.random.default_rng(seed)
    sample = np.sort(rng.choice(rows, min(len(rows), 200_000), replace=False))
    x = np.asarray(dataset.features[sample], np.float32)
    y = np.asarray(dataset.label)[sample]
    knots = knots_for(x, y, shape.knots) if splits else quantile_knots(x, shape.knots)
    model = Waved(shape, knots)
    if base is not None:
        if base.shape != shape:
            raise DatasetError(f"the pretrained bundle has shape {base.shape}, wanted {shape}")
        state = model.state_dict()
        old = {k: torch.from_numpy(v.copy()) for k, v in base.weights.items()}
        kept = {k: v for k, v in old.items() if k not in ("knots", "feature_step")}
        model.load_state_dict({**state, **kept})
    share = float((y == 1).mean())
    with torch.no_grad():
        model.head.bias.fill_(float(np.log(max(share, 1e-5))))
    return model


def fit(
    dataset: Dataset,
    chosen: Blocks,
    shape: Shape,
    recipe: Recipe,
    base: Bundle | None = None,
    tell: Tell = lambda _: None,
    checkpoint: Path | None = None,
    device: str = "cpu",
    watch: Watch = lambda step, told: None,
    lesson: Lesson | None = None,
    surprise: Surprise | None = None,
) -> Fit:
    """Train one model; the judging block's average precision says when it was best.

    `lesson` is what a teacher adds to the labels of the training block; without one, these alone.
    `surprise` gives it a second task beside.
    """
    label = np.asarray(dataset.label)
    learnt = labels_only(label, chosen.fit) if lesson is None else lesson
    fit_rows, judge_rows = np.flatnonzero(chosen.fit), np.flatnonzero(chosen.judge)
    heard = quiet.hushed(dataset, learnt.chosen, recipe.seed) if recipe.hushed else dataset
    model = start(heard, fit_rows, shape, base, recipe.seed, recipe.splits).to(device)
    second = None if surprise is None else Second(shape.width, surprise).to(device)
    source = Source(heard, model.knots.cpu().numpy(), device)
    y = label[judge_rows]

    def judge(current: Transformer, _: int) -> float:
        return metrics.average_precision(y, logits_of(current, dataset, judge_rows).astype(float))

    marks = {
        "lesson": digest_of(learnt.target, learnt.weight),
        "judge": digest_of(judge_rows, y),
    }
    if surprise is not None:
        marks["surprise"] = digest_of(surprise.columns, surprise.rows)
    progress = train(
        model, source, learnt.chosen, lesson_loss(learnt, second), recipe, judge, tell, checkpoint,
        second, watch, marks,
    )  # fmt: skip
    model = model.baked().cpu()
    logit = logits_of(model, dataset, judge_rows)
    return Fit(model, progress, judge_rows, logit, lesson is not None)


def golden_rows(dataset: Dataset, rows: NDArray[np.int64], logit: NDArray[Any]) -> ScoringBatch:
    """Rows over the whole range of scores, short and full histories among them."""
    order = np.argsort(logit, kind="stable")
    chosen = rows[order[np.linspace(0, len(order) - 1, GOLDEN - 2).astype(int)]]
    place = dataset.place()
    first = np.flatnonzero(place == 0)[:2]
    return gather(dataset, place, np.concatenate([chosen, first]))


def usual_values(dataset: Dataset, rows: NDArray[np.int64], cap: int = 200_000) -> Any:
    """The median of each feature over legitimate rows, for taking a feature away."""
    legitimate = rows[np.asarray(dataset.label)[rows] == 0]
    step = max(len(legitimate) // cap, 1)
    x = np.asarray(dataset.features[legitimate[::step]], np.float32)
    return np.median(x, axis=0).astype(np.float32)


def to_bundle(
    dataset: Dataset,
    chosen: Blocks,
    found: Fit,
    name: str,
    groups: Sequence[str],
    about: Mapping[str, Any],
    costs: Costs | None = None,
) -> Bundle:
    """Calibrate on the judging block and pack everything that serving needs.

    With `costs` the bundle has their thresholds, too, and what they cost on the judging block.
    """
    y = np.asarray(dataset.label)[found.rows]
    line = calibrate.knots(found.logit, y)
    p = to_probability(found.logit, line)
    golden = golden_rows(dataset, found.rows, found.logit)
    folded = fold(found.model)
    logits = np.empty(len(golden), np.float32)
    none = np.zeros((0, HISTORY), np.float32)
    parts = (golden.current, golden.history, golden.length, golden.features)
    kernel_of(folded)(*parts, folded, logits, none)
    return Bundle(
        name=name,
        shape=found.model.shape,
        weights=weights_of(found.model),
        names=dataset.names,
        feature_digest=dataset.feature_digest,
        groups=tuple(groups),
        usual=usual_values(dataset, np.flatnonzero(chosen.fit)),
        calibration=line,
        golden=golden,
        golden_scores=to_probability(logits, line),
        thresholds={
            "budget_0.2%": calibrate.threshold_for_budget(p, 0.002),
            "budget_0.5%": calibrate.threshold_for_budget(p, 0.005),
            "budget_1%": calibrate.threshold_for_budget(p, 0.01),
            **({} if costs is None else costs.thresholds()),
        },
        about={
            "data_digest": dataset.digest,
            "risk": dataset.about.get("risk"),
            "judged": metrics.defined(measure(dataset, found.rows, y, p)),
            **({} if costs is None else {"costs": costs.told(y, p)}),
            **about,
        },
    )


def _file_of(checkpoint: Path, seed: int, taught: bool) -> Path:
    """Each fit of a run saves to a file of its own."""
    return checkpoint.with_name(f"{checkpoint.name}{'.taught' if taught else ''}.{seed}")


def steps_done(checkpoint: Path | None, seed: int, count: int, teach: bool) -> tuple[int, ...]:
    """Steps of each fit of `seeds`, in its order, that are held by a checkpoint already."""
    fits = [(seed + k, taught) for taught in (False, True)[: 1 + teach] for k in range(count)]
    if checkpoint is None:
        return (0,) * len(fits)
    return tuple(steps_in(_file_of(checkpoint, *each)) for each in fits)


def seeds(
    dataset: Dataset,
    chosen: Blocks,
    shape: Shape,
    recipe: Recipe,
    count: int,
    base: Bundle | None = None,
    tell: Tell = lambda _: None,
    checkpoint: Path | None = None,
    device: str = "cpu",
    watch: Watch = lambda step, told: None,
    lesson: Lesson | None = None,
    surprise: Surprise | None = None,
) -> list[Fit]:
    """The same fit from several seeds, best first by the judging block.

    With a `lesson` each seed is fitted twice, by the labels alone and by the lesson: which is
    better depends on the stream, and only labels that neither has seen can say. `surprise` is the
    second task of both.
    """

    def one(seed: int, taught: Lesson | None) -> Fit:
        path = None if checkpoint is None else _file_of(checkpoint, seed, taught is not None)
        current = replace(recipe, seed=seed)
        return fit(
            dataset, chosen, shape, current, base, tell, path, device, watch, taught, surprise
        )

    lessons = (None,) if lesson is None else (None, lesson)
    found = [one(recipe.seed + k, each) for each in lessons for k in range(count)]
    return sorted(found, key=lambda one: -one.progress.best)
