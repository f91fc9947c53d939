"""What `finetune` fits on: the blocks of days, and what trees teach.

In: flags and a training set. Out: a plan with its blocks; a lesson. Does not know how one fits.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from streams.cli.checks import has_trees, tell

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

    from model.bundle import Bundle
    from model.data import Dataset
    from model.finetune import Blocks, Plan
    from model.forecast import Job
    from model.loop import Recipe
    from model.second import Surprise
    from model.teacher import Lesson
    from streams.cli.training import Training
    from streams.errors import FraudstreamError

DAYS = 14.0
"""Newest days that test, and matured days that judge, unless the stream is short."""
PASSES, MIN_STEPS = 6, 300
"""Updates where nobody says how many: judged best after about five passes on streams of 0.3 and of
one million events (model/LOG.md, 2026-11-27), so the best is seen and little is done after it."""


def usual_days(dataset: Dataset) -> float:
    """DAYS, or a fifth of a shorter stream's days."""
    from streams.schema import DAY_MS

    return min(DAYS, float((int(dataset.time.max()) - int(dataset.time.min())) / DAY_MS / 5))


def fit_plan(
    dataset: Dataset,
    cut: int | None,
    test_days: float | None,
    judge_days: float | None,
    maturity_days: float,
    usual: float,
) -> tuple[Dataset, Plan, Blocks]:
    """The newest days are left for the test where the stream is long enough for that; returns the
    labels as they stood at the moment of the fit, too.

    `usual`: days of either where none are asked for; judging days then go back further where they
    hold too few frauds.
    """
    import numpy as np

    from model import data
    from model import finetune as tuning
    from model.evaluate import immature
    from streams.errors import DatasetError
    from streams.schema import DAY_MS

    _check_both_kinds(dataset)
    judge = usual if judge_days is None else judge_days
    test = usual if test_days is None else test_days
    wait = int(maturity_days * DAY_MS)

    def blocks_of(moment: int) -> tuple[Dataset, Plan, Blocks]:
        then = data.as_of(dataset, moment, wait)
        plan = asked = tuning.Plan.newest(then, moment, judge, wait)
        if judge_days is None:
            plan = tuning.widened(then, asked)
        found = tuning.blocks(then, plan)
        if plan != asked:
            days = (plan.judge_to - plan.judge_from) / DAY_MS
            tell(f"few frauds: the newest {days:.1f} matured days judge, not {judge:.1f}")
        return then, plan, found

    if cut is None and test > 0:
        moment = int(dataset.time.max()) - int(test * DAY_MS)
        try:
            return blocks_of(moment)
        except DatasetError as error:
            if test_days is not None:
                raise
            say_why("no days are left for a test, all labels are used", error)
    if cut is not None:
        found = blocks_of(cut)
        learnt = found[2].fit | found[2].judge
        early = immature(dataset, np.flatnonzero(learnt), wait)
        say_immature(early, f"{learnt.sum():,} events of the fit", maturity_days)
        return found
    try:
        return blocks_of(data.now(dataset))
    except DatasetError as error:
        say_why("events count as legitimate before their labels are due", error)
    return blocks_of(int(np.asarray(dataset.label_time).max()) + 1)


def _check_both_kinds(dataset: Dataset) -> None:
    """Raise DatasetError where no choice of days could help: flags about days would mislead."""
    import numpy as np

    from model.finetune import MIN_FRAUDS
    from streams.errors import DatasetError

    label = np.asarray(dataset.label)
    frauds = int((label == 1).sum())
    if frauds < 2 * MIN_FRAUDS:
        raise DatasetError(
            f"the training set has {frauds} known frauds, {2 * MIN_FRAUDS} are needed: half to fit"
            " on, half to judge by",
            remedy="give `fraudstream dataset` the labels (--labels FILE), or record for longer",
        )
    if not (label == 0).any():
        raise DatasetError(
            f"no event is known to be legitimate, {frauds} are labelled fraud",
            remedy="label the frauds alone: what nobody reports counts as legitimate in time",
        )


def say_immature(immature: int, those: str, maturity_days: float) -> None:
    """Tell of events, if any, that count as legitimate before their labels are due."""
    if immature:
        tell(
            f"note: {immature:,} of {those} have no label and are younger than {maturity_days:g}"
            " days: they count as legitimate, though some may yet be reported"
        )


def say_why(done: str, error: FraudstreamError) -> None:
    """What is done instead, and why; not the remedy, which is for who would not have it so."""
    why = str(error).removesuffix(f". {error.remedy}")
    tell(f"{done}: {why}")


def seen_until(dataset: Dataset, until: int | None) -> int:
    """Up to when a pretraining sees events, ms: where nobody says, not the newest days; and no
    later than the set does."""
    from streams.schema import DAY_MS

    newest = int(dataset.time.max())
    usual = int(newest - usual_days(dataset) * DAY_MS)
    return usual if until is None else min(until, newest + 1)


def learnt_until(dataset: Dataset, plan: Plan, base: Bundle | None) -> int:
    """Up to when a fit knows the stream, ms: no later than the set does, whatever moment it is
    of."""
    from model import data
    from model import finetune as tuning

    return max(min(plan.cut_ms, data.now(dataset)), tuning.learnt_until(base))


def check_base(base: Bundle | None, dataset: Dataset, learnt_until: int, cut_ms: int) -> None:
    """Raise BundleError for a base of another feature list. Warn of one that knows events after the
    moment of the fit: days that are left for a test are not new to it."""
    from model.bundle import require_features
    from model.page import day

    if base is None:
        return
    require_features(base, dataset.names, dataset.feature_digest)
    if learnt_until > cut_ms:
        tell(
            f"warning: {base.model_id} has learnt events up to {day(learnt_until)}, the fit is of"
            f" {day(cut_ms)}: a test of the days between flatters; pretrain with --until {cut_ms}"
        )


def others_of(
    dataset: Dataset, plan: Plan, chosen: Blocks, teach: bool | None
) -> NDArray[np.bool_] | None:
    """Events that trees answer, since nobody labelled them; None where trees are not to teach, or,
    where nobody says, cannot."""
    from model import teacher

    if not (has_trees() if teach is None else teach):
        return None
    return teacher.unlabelled(dataset, chosen.fit, chosen.judge, plan.cut_ms)


def recipe_of(
    chosen: Blocks,
    others: NDArray[np.bool_] | None,
    steps: int | None,
    seed: int,
    place_sizes: bool,
) -> Recipe:
    """How to fit. Where nobody says how many, the steps are PASSES over the events that are learnt
    from; a short stream gets MIN_STEPS."""
    from model.loop import Recipe

    if steps is None:
        events = int(chosen.fit.sum()) + (0 if others is None else int(others.sum()))
        steps = max(-(-PASSES * events // (Recipe.chunk * Recipe.batch)), MIN_STEPS)
    return Recipe(steps=steps, seed=seed, splits=True, hushed=not place_sizes)


def job_of(
    dataset: Dataset,
    plan: Plan,
    chosen: Blocks,
    others: NDArray[np.bool_] | None,
    done: tuple[int, ...],
    threads: int,
    base: Bundle | None,
) -> Job:
    """What the run is to do; `others` is None without a teacher. `done`: steps of each fit that its
    checkpoint holds. A base that was only pretrained reads all events before the fit but those that
    judge."""
    from model.forecast import Job, Reading

    trees = None if others is None else chosen.fit.nonzero()[0]
    answered = 0 if others is None else int(others.sum())
    judged = int(chosen.judge.sum())
    if base is None or not base.only_pretrained:
        return Job(done, judged, trees, answered, threads)
    read = (dataset.time < plan.cut_ms) & ~chosen.judge
    return Job(done, judged, trees, answered, threads, Reading(base, read))


def begun_from(base: Bundle | None) -> Bundle | None:
    """The bundle from whose weights a fit begins. Of one that was only pretrained it learns to tell
    the surprise, and ends no worse where it begins anew (benchmarks/results/pretraining.md)."""
    return None if base is None or base.only_pretrained else base


def surprise_of(dataset: Dataset, job: Job, training: Training) -> Surprise | None:
    """How surprising events are to the pretrained bundle of the job."""
    from model import unlabelled
    from model.second import Surprise

    if job.reading is None:
        return None
    bundle, rows = job.reading.bundle, job.reading.rows
    training.say(f"reading how surprising {int(rows.sum()):,} events are to {bundle.model_id}")
    return Surprise(unlabelled.columns(bundle, dataset, rows), rows)


def lesson_of(
    dataset: Dataset,
    chosen: Blocks,
    others: NDArray[np.bool_] | None,
    recipe: Recipe,
    training: Training,
    surprise: Surprise | None,
) -> Lesson | None:
    """What trees teach, which see surprise, too; None without a teacher. Each process grows the
    same ones."""
    from model import quiet, teacher

    if others is None:
        return None
    training.say(
        f"teacher: trees are grown on {int(chosen.fit.sum()):,} labelled events; they soften the"
        f" labels, and tell what to answer on {int(others.sum()):,} events without one"
    )
    if recipe.hushed:
        dataset = quiet.hushed(dataset, chosen.fit | others, recipe.seed)
    return teacher.lesson(
        dataset, chosen.fit, others, recipe.seed, training.threads, mix=teacher.MIX,
        tell=training.say, beside=None if surprise is None else surprise.columns,
    )  # fmt: skip


def say_kept(taught: bool, others: NDArray[np.bool_] | None, training: Training) -> int | None:
    """Which of the two fits is kept, where there were two; rows that trees answered for it."""
    if others is None:
        return None
    training.say(f"kept: {'taught by trees' if taught else 'labels alone'}")
    return int(others.sum()) if taught else None
