"""What `evaluate` tests on, and what speaks against its figures.

In: a bundle, a training set, flags. Out: rows; warnings on stderr. Does not know a measure.
"""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

import typer

from streams.cli import fitting

if TYPE_CHECKING:
    from model.bundle import Bundle
    from model.data import Dataset
    from model.evaluate import Split
    from streams.settings import Settings


def place_of(settings: Settings, bundle: str) -> Path:
    """Where a bundle lies: a folder, else a name as `models show` takes it. Raises ConfigError."""
    from streams.assembly import bundle_path, with_model

    given = Path(bundle)
    return given if given.exists() else bundle_path(with_model(settings, bundle))


def split_of(
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
        start = newest - int((fitting.usual_days(dataset) if days is None else days) * DAY_MS)
    same = bundle.about.get("data_digest") == dataset.digest
    own = tuning.learnt_until(bundle) if plan is None else plan.cut_ms
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
            one = one or tuning.Plan.newest(then, start, fitting.usual_days(dataset), wait)
            chosen = tuning.blocks(then, one)
            fit, judge = np.flatnonzero(chosen.fit), np.flatnonzero(chosen.judge)
        except DatasetError as error:
            fitting.say_why("no comparison models", error)
    seen = True if same and own > start else None
    split = Split(fit, judge, test, np.asarray(then.label))
    return split, tuning.learnt_until(bundle) > start and seen


def say_known(found: dict[str, Any], seen: bool | None, bundle: Bundle) -> None:
    """Put into a report whether the fit, or its base, knew the test days; warn where it did."""
    from model.finetune import learnt_until, plan_in
    from model.page import flattered

    found["known_to_the_fit"], own = seen, plan_in(bundle.about)
    if seen is None and own is not None and own.cut_ms <= found["tested"]["from_ms"]:
        found["base_learnt_until"] = learnt_until(bundle)
    if told := flattered(found):
        typer.echo(f"warning: {told}", err=True)


def say_risk(bundle: Bundle, dataset: Dataset) -> None:
    """Warn where the set tells of merchants by other risk settings than the bundle was trained on:
    a worker would, too."""
    trained, told = bundle.about.get("risk"), dataset.about.get("risk")
    if trained and told and trained != told:
        typer.echo(
            f"warning: {bundle.model_id} was trained on risk snapshots of {trained}, this training"
            f" set has {told}: its scores are not what it would say; make the set anew with --set"
            " risk.delay_days=... and --set risk.period_hours=..., or fit on this one",
            err=True,
        )
