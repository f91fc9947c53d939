"""The verb `explain`.

In: flags. Out: one transaction in an analyst's words. Does not know how a reason is found.
"""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from streams.cli import options

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

    from model.data import Dataset


def explain(
    transaction: Annotated[str, typer.Argument(help="transaction_id.")],
    data: Annotated[Path, typer.Option(help="Training set that holds it.")] = Path("data"),
    bundle: Annotated[
        Path | None, typer.Option(help="Bundle; default: the one that the settings serve.")
    ] = None,
    event_time: Annotated[
        int | None, typer.Option(help="Its event_time, ms, where several accounts use the id.")
    ] = None,
    config: options.Config = None,
    sets: options.Set = None,
    as_json: options.Json = False,
) -> None:
    """Why a transaction scores as it does: reasons, past events looked at, similar cases.

    A pretrained bundle has no score to give reasons for: it says how surprising the event is.

    Example: fraudstream explain tx-123 --data data/
    """
    from model import data as datasets
    from model.bundle import require_features
    from model.case import explain_row
    from streams.assembly import bundle_path, load
    from streams.offline.case_text import reasons_of, to_text

    settings = options.settings(config, sets)
    dataset = datasets.read(data)
    scorer = load(settings, bundle_path(settings) if bundle is None else bundle)
    require_features(scorer.bundle, dataset.names, dataset.feature_digest)
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
    options.say(found, to_text(found), as_json)


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
            " ones are in none: `fraudstream dlq list`",
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
