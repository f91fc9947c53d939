"""Verbs that make files of transactions: `simulate` and `convert`.

In: flags. Out: files in schema v1. Does not know habits, frauds or foreign formats.
"""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from streams.cli import options


def simulate(
    out: Annotated[Path, typer.Argument(help="NAME.parquet, NAME.csv or NAME.jsonl.")],
    events: Annotated[int, typer.Option(help="Transactions.")] = 100_000,
    accounts: Annotated[int, typer.Option(help="Accounts.")] = 5_000,
    days: Annotated[int, typer.Option(help="Days that the stream spans.")] = 60,
    seed: Annotated[int, typer.Option(help="Same seed, same bytes.")] = 1,
    scenario: Annotated[
        list[str] | None, typer.Option(help="Only this fraud; may be repeated. Default: all.")
    ] = None,
    fraud_rate: Annotated[float, typer.Option(help="Share of frauds.")] = 0.006,
    start: Annotated[str, typer.Option(help="First day or moment, UTC.")] = "2025-01-01",
    label_delay: Annotated[float, typer.Option(help="Median delay of labels, days.")] = 2.0,
    unreported: Annotated[float, typer.Option(help="Share of frauds nobody reports.")] = 0.05,
    late: Annotated[float, typer.Option(help="Share that arrives late.")] = 0.0,
    duplicates: Annotated[float, typer.Option(help="Share that arrives twice.")] = 0.0,
    faults: Annotated[float, typer.Option(help="Share that breaks the schema.")] = 0.0,
    as_json: options.Json = False,
) -> None:
    """Write a seeded stream: accounts with habits, frauds among them, labels with delay.

    Beside NAME.parquet (transactions in arrival order) come NAME-labels.parquet (what becomes
    known, and when) and NAME-truth.parquet (every fraud, reported or not, and the legitimate twins
    of frauds told by order: see its column is_fraud; for analysis only).
    Scenarios: card_testing, takeover, lost_stolen, compromised_merchant, impossible_travel, mule,
    and order, which only the order of an account's payments tells.

    Example: fraudstream simulate stream.parquet --events 100000 --seed 7
    """
    from streams.clients.writer import write_table
    from streams.dev.simulate import Plan
    from streams.dev.simulate import simulate as make
    from streams.dev.simulate.frauds import SCENARIOS
    from streams.errors import ConfigError

    labels, truth = beside(out, "labels", "truth")
    paths = {"transactions": out, "labels": labels, "truth": truth}
    try:
        first = options.moment(start)
    except ValueError:
        raise ConfigError(f"no date {start!r}", remedy="Write --start 2025-01-01") from None
    plan = Plan(
        events=events, accounts=accounts, days=days, seed=seed,
        scenarios=tuple(scenario) if scenario else SCENARIOS, fraud_rate=fraud_rate,
        start_ms=int(first.timestamp()) * 1_000, label_delay_days=label_delay,
        unreported=unreported, late=late, duplicates=duplicates, faults=faults,
    )  # fmt: skip
    stream = make(plan)
    for name, path in paths.items():
        write_table(path, getattr(stream, name))
    told = {name: {"file": str(path), "rows": len(getattr(stream, name))}
            for name, path in paths.items()}  # fmt: skip
    if as_json:
        options.print_json(told)
        return
    for name, each in told.items():
        typer.echo(f"{name:<12}  {each['rows']:>10,}  {each['file']}")


def convert(
    form: Annotated[
        str, typer.Argument(metavar="FORMAT", help="handbook, sparkov, tabformer or paysim.")
    ],
    source: Annotated[Path, typer.Argument(metavar="IN", help="The file as published.")],
    out: Annotated[Path, typer.Argument(help="NAME.parquet, NAME.csv or NAME.jsonl.")],
    key_file: Annotated[
        Path | None,
        typer.Option(
            help="Secret for account tokens. Default: token.key in worker.data_dir, made when "
            "missing. Keep it: other keys give other accounts."
        ),
    ] = None,
    config: options.Config = None,
    sets: options.Set = None,
    as_json: options.Json = False,
) -> None:
    """Turn a public data set into schema v1, in event time order.

    Beside NAME.parquet comes NAME-labels.parquet: the truth, known seven days after the event.
    Card numbers never reach the output; the account is a keyed token of them.

    Example: fraudstream convert sparkov fraudTrain.csv train.parquet
    """
    from streams.clients.convert import convert as turn
    from streams.clients.convert import token_key

    (labels,) = beside(out, "labels")
    data_dir = options.settings(config, sets).worker.data_dir
    key = token_key(key_file or data_dir / "token.key", make=key_file is None)
    rows, frauds, outside, uncoded = turn(form, source, out, labels, key)
    for count, what in (
        (outside, "are not within the years 2000 to 2099"),
        (uncoded, "have an MCC of more than 4 digits"),
    ):
        if count:
            typer.echo(
                f"{count:,} transactions {what}: the service refuses them, with a dead letter each",
                err=True,
            )
    if as_json:
        options.print_json(
            {
                "transactions": {"file": str(out), "rows": rows},
                "labels": {"file": str(labels), "rows": frauds},
            }
        )
        return
    typer.echo(f"{'transactions':<12}  {rows:>10,}  {out}")
    typer.echo(f"{'labels':<12}  {frauds:>10,}  {labels}")


def beside(out: Path, *what: str) -> list[Path]:
    """`dir/name.parquet` to `dir/name-labels.parquet`, for each. Raises ConfigError where one of
    them, or the file itself, cannot be written."""
    from streams.clients.writer import require_place

    require_place(out)  # what lies beside is named after it
    found = [out.with_name(f"{out.stem}-{one}{out.suffix}") for one in what]
    for path in found:
        require_place(path)
    return found


def register(app: typer.Typer) -> None:
    """Add the verbs of this module."""
    for verb in (simulate, convert):
        app.command()(verb)
