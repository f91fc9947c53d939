"""The verb `explain`.

In: flags. Out: one transaction in an analyst's words. Does not know how a reason is found.
"""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from streams.cli import judging, options

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

    from model.data import Dataset
    from streams.settings import Settings


def explain(
    transaction: Annotated[str, typer.Argument(help="transaction_id.")],
    data: Annotated[Path, typer.Option(help="Training set that holds it.")] = Path("data"),
    bundle: Annotated[
        str | None, typer.Option(help="Folder or name; default: the one that the settings serve.")
    ] = None,
    event_time: Annotated[
        int | None, typer.Option(help="Its event_time, ms, where several accounts use the id.")
    ] = None,
    alert: Annotated[
        bool, typer.Option("--alert", help="Also its alert, from Kafka: rules, bundle, reasons.")
    ] = False,
    config: options.Config = None,
    sets: options.Set = None,
    as_json: options.Json = False,
) -> None:
    """Why a transaction scores as it does: reasons, past events looked at, similar cases.

    That is what the bundle says now. What was decided may be a rule's doing, or another bundle's:
    --alert shows it beside. A pretrained bundle has no score to give reasons for: it says how
    surprising the event is.

    Example: fraudstream explain tx-123 --data data/ --alert
    """
    from model import data as datasets
    from model.bundle import require_features
    from model.case import explain_row
    from streams.assembly import load
    from streams.offline.case_text import reasons_of, to_text

    settings = options.settings(config, sets)
    dataset = datasets.read(data)
    place = _served(settings) if bundle is None else judging.place_of(settings, bundle)
    scorer = load(settings, place)
    require_features(scorer.bundle, dataset.names, dataset.feature_digest)
    judging.say_risk(scorer.bundle, dataset)
    rows = _meant(dataset, transaction, event_time, data)
    row = int(rows[0])
    if len(rows) > 1:
        typer.echo(
            f"{len(rows)} payments have this transaction_id, explained is the first; choose by"
            f" --event-time: {_listed(dataset.time[rows].tolist())}",
            err=True,
        )
    found: dict[str, Any] = {"transaction_id": transaction, "model_id": scorer.model_id}
    found |= explain_row(scorer, dataset, row)
    if scorer.bundle.only_pretrained:
        # Its fraud head is untrained: score and parts of it are chance.
        found = {k: v for k, v in found.items() if k not in ("score", "groups")}
    else:
        found["reasons"] = reasons_of(dataset, row, found, settings.decide.review)
    if alert:
        found["alerts"] = _alerts(settings, transaction, int(dataset.time[row]))
    options.say(found, to_text(found), as_json)


def _served(settings: Settings) -> Path:
    """The bundle that the settings serve. Raises ConfigError where that is none."""
    from streams.assembly import NO_MODEL, bundle_path, wants_model
    from streams.errors import ConfigError

    if wants_model(settings):
        return bundle_path(settings)
    none = settings.model.bundle == NO_MODEL
    raise ConfigError(
        "model.bundle is none: rules alone decide, there is no score to explain"
        if none
        else "model.bundle is stub: its scores are for load runs, and have no reasons",
        remedy="--bundle names one to explain by; `fraudstream alerts` shows what was decided",
    )


def _alerts(settings: Settings, transaction: str, event_time: int) -> list[dict[str, Any]]:
    """What the service said of the payment, as far as the topic still holds it. A set has numbers
    for accounts, so it is told from others of the same id by its time."""
    from streams.clients.mentions import records

    found = records(settings, "alerts", transaction)
    return [one for one in found if one["event_time"] == event_time]


def _meant(
    dataset: Dataset, transaction: str, event_time: int | None, data: Path
) -> NDArray[np.int64]:
    """The rows of this id, and time if one is given. Raises DatasetError if there is none."""
    from model.case import rows_of
    from streams.errors import DatasetError

    known = rows_of(dataset, transaction)
    if not len(known):
        raise DatasetError(
            f"no transaction {transaction} in {data}",
            remedy="give the transaction_id of one that `fraudstream dataset` has read; refused"
            " ones (`fraudstream dlq list`) and those of erased accounts are in none",
        )
    rows = known if event_time is None else known[dataset.time[known] == event_time]
    if not len(rows):
        raise DatasetError(
            f"no transaction {transaction} with that event_time in {data}",
            remedy=f"its event_time is {_listed(dataset.time[known].tolist())}",
        )
    return rows


def _listed(times: list[int]) -> str:
    return ", ".join(map(str, times))
