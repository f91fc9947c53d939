"""Verbs of the clients: `publish`, `alerts`, `scores`, `label`, `dlq list|republish`, `audit`.

In: flags. Out: messages on Kafka, or lines on the terminal.
Does not know how messages are sent, read or added up (`streams.clients`).
"""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from streams.cli import options

if TYPE_CHECKING:
    from collections import Counter

    from streams.cli.progress import Progress
    from streams.clients.publisher import Publisher
    from streams.settings import Settings

DLQ_HELP = """Messages that the service refused.

Example: fraudstream dlq list --reason bad_currency
"""
Start = Annotated[
    str, typer.Option("--from", help="earliest, latest, a span ago (30m, 2h, 7d) or an ISO time.")
]
Topic = Annotated[
    str | None, typer.Option(help="transactions or labels; default: as the file's columns say.")
]
Limit = Annotated[int | None, typer.Option(min=1, help="Stop after so many.")]


def publish(
    file: Annotated[str, typer.Argument(help="Parquet, CSV or JSON lines; - is standard input.")],
    topic: Topic = None,
    rate: Annotated[float, typer.Option(min=0, help="Messages a second; 0: no limit.")] = 0.0,
    speed: Annotated[
        float | None,
        typer.Option(
            parser=options.speed, metavar="60x", help="Event time, so many times as fast."
        ),
    ] = None,
    limit: Limit = None,
    form: Annotated[
        str | None, typer.Option("--format", help="parquet, csv or jsonl; default: the suffix.")
    ] = None,
    config: options.Config = None,
    sets: options.Set = None,
    as_json: options.Json = False,
) -> None:
    """Publish a file of transactions or labels, in its order, keyed by account.

    Exits 1 when Kafka did not take a message; the errors are told and counted. A file that was
    stopped before its end exits 130.

    Example: fraudstream publish my.parquet --rate 500
    """
    from streams.cli.progress import Progress
    from streams.clients.publish import Pace, chunks, count_rows
    from streams.clients.publish import publish as send
    from streams.clients.publisher import Publisher
    from streams.errors import FormatError

    if topic not in (None, "transactions", "labels"):
        raise typer.BadParameter("transactions or labels", param_hint="--topic")
    source = None if file == "-" else Path(file)
    pace = Pace(rate, speed or 0.0)
    found = chunks(source, form)
    total = count_rows(source, form)
    out = Publisher(settings=options.settings(config, sets))
    fault: FormatError | None = None
    stopped = False
    with Progress(total if limit is None else min(limit, total or limit)) as shown:
        try:
            # What is queued may never arrive: the bar is of what Kafka has.
            send(out, found, pace, topic, limit, lambda queued: shown.reach(out.delivered))
        except KeyboardInterrupt:
            stopped = True
            shown.note("stopped; sending what is queued")
        except FormatError as error:
            fault = error
        finally:
            left = _flushed(out, shown)
    delivered = out.sent - out.failed - left
    result = {
        "sent": out.sent, "delivered": delivered, "failed": out.failed + left, "stopped": stopped,
        "seconds": round(shown.seconds, 3), "errors": dict(out.errors),
    }  # fmt: skip
    if as_json:
        options.print_json(result)
    else:
        a_second = delivered / shown.seconds if shown.seconds else 0.0
        typer.echo(f"{delivered:,} messages in {shown.seconds:.1f} s, {a_second:,.0f} a second")
    _undelivered(out.errors, left)
    if fault is not None:
        raise fault
    if out.failed or left:
        raise typer.Exit(1)
    if stopped and source is not None:  # a pipe may have no end, and is stopped some day
        raise typer.Exit(130)


def _flushed(out: Publisher, shown: Progress) -> int:
    """Wait until Kafka has what is queued; returns what is left when it does not answer."""
    left = 0
    for now_left in out.flushing():
        left = now_left
        shown.reach(out.delivered)
    return left


def _undelivered(errors: Counter[str], left: int) -> None:
    """What Kafka did not take, on stderr."""
    for text, count in errors.most_common():
        typer.echo(f"not delivered: {count} x {text}", err=True)
    if left:
        typer.echo(f"not delivered: {left} still queued when Kafka did not answer", err=True)


def _follow(
    kind: str, follow: bool, start: str | None, limit: int | None, as_json: bool, found: Settings
) -> None:
    import orjson

    from streams.clients.subscriber import Subscriber
    from streams.clients.view import Lines, console

    begin = start or ("latest" if follow else "earliest")
    lines = Lines(kind, console())
    count = 0
    with Subscriber(kind, settings=found, start=begin, follow=follow) as reader:
        try:
            for record in reader:
                if as_json:
                    typer.echo(orjson.dumps(record).decode())
                else:
                    lines.show(record)
                count += 1
                if count == limit:
                    break
        except KeyboardInterrupt:
            pass
    typer.echo(f"{count:,} {kind}", err=True)


Follow = Annotated[bool, typer.Option("--follow", "-f", help="Wait for new ones.")]
Begin = Annotated[
    str | None,
    typer.Option(
        "--from",
        help="earliest, latest, a span ago (2h) or an ISO time. "
        "Default: latest with --follow, else earliest.",
    ),
]


def alerts(
    follow: Follow = False,
    start: Begin = None,
    limit: Limit = None,
    config: options.Config = None,
    sets: options.Set = None,
    as_json: options.Json = False,
) -> None:
    """Show alerts: account, transaction, amount, score, decision, reasons. Each once.

    With --json one alert a line, as it is on Kafka.

    Example: fraudstream alerts --follow
    """
    _follow("alerts", follow, start, limit, as_json, options.settings(config, sets))


def scores(
    follow: Follow = False,
    start: Begin = None,
    limit: Limit = None,
    config: options.Config = None,
    sets: options.Set = None,
    as_json: options.Json = False,
) -> None:
    """Show the score of every accepted transaction, each once.

    Example: fraudstream scores --from 10m --json
    """
    _follow("scores", follow, start, limit, as_json, options.settings(config, sets))


def label(
    transaction: Annotated[str, typer.Argument(help="transaction_id, as `alerts` shows it.")],
    verdict: Annotated[str, typer.Argument(help="fraud, legitimate or disputed.")],
    account: Annotated[
        str | None, typer.Option(help="Its account_id, where several accounts use the id.")
    ] = None,
    fraud_type: Annotated[str | None, typer.Option(help="Kind of fraud, in your words.")] = None,
    source: Annotated[str, typer.Option(help="Who says so.")] = "analyst",
    known: Annotated[
        str | None,
        typer.Option("--time", help="When it became known, ISO or ms. Default: now."),
    ] = None,
    start: Start = "earliest",
    config: options.Config = None,
    sets: options.Set = None,
    as_json: options.Json = False,
) -> None:
    """Say what a transaction was: fraud, legitimate, or disputed (a claim, nothing known yet).

    The transaction is looked up among alerts and scores, so that a mistyped id is told. The newest
    verdict counts: a wrong one is put right by giving the right one. Merchant risk of the days in
    between, and bundles fitted then, keep what was known.

    Example: fraudstream label tx-123 fraud
    """
    from streams.clients import label as verdicts
    from streams.schema import LABEL_VALUES, printable

    if verdict not in LABEL_VALUES:
        raise typer.BadParameter(f"{', '.join(LABEL_VALUES)}", param_hint="VERDICT")
    if fraud_type is not None and verdict != "fraud":
        raise typer.BadParameter("only of a fraud", param_hint="--fraud-type")
    done = verdicts.label(
        options.settings(config, sets), transaction, verdict, account=account,
        time_ms=options.event_ms(known, "--time"), source=source, fraud_type=fraud_type,
        start=start,
    )  # fmt: skip
    options.say(done.as_json(), printable(done.text()), as_json)


Reasons = Annotated[
    list[str] | None, typer.Option("--reason", help="Only this reason code; may be repeated.")
]


def _reasons(wanted: list[str] | None) -> list[str]:
    from streams.clients.deadletters import REASONS

    for reason in wanted or ():
        if reason not in REASONS:
            raise typer.BadParameter(f"no reason {reason}; one of {', '.join(REASONS)}")
    return list(wanted or ())


def dlq_list(
    reason: Reasons = None,
    start: Start = "earliest",
    limit: Limit = None,
    config: options.Config = None,
    sets: options.Set = None,
    as_json: options.Json = False,
) -> None:
    """List the dead letters: reason, field, where the message came from.

    With --json one a line, with its text.

    Example: fraudstream dlq list --reason bad_currency
    """
    from collections import Counter

    import orjson

    from streams.clients import deadletters
    from streams.clients.view import moment
    from streams.schema import printable

    wanted = _reasons(reason)
    counts: Counter[str] = Counter()
    for letter in deadletters.read(options.settings(config, sets), start, wanted):
        counts[letter.reason] += 1
        if as_json:
            typer.echo(orjson.dumps(letter.as_json()).decode())
        else:
            topic, partition, offset = letter.source
            place = f"{topic}/{partition}/{offset}"
            line = f"{moment(letter.time_ms)}  {letter.reason:<18} {place:<32} {letter.detail}"
            typer.echo(printable(line))
        if counts.total() == limit:
            break
    told = ", ".join(f"{name} {n:,}" for name, n in counts.most_common())
    typer.echo(printable(f"{counts.total():,} dead letters{': ' + told if told else ''}"), err=True)


def dlq_republish(
    reason: Reasons = None,
    everything: Annotated[bool, typer.Option("--all", help="Whatever the reason.")] = False,
    start: Start = "earliest",
    dry_run: Annotated[bool, typer.Option(help="Only count.")] = False,
    again: Annotated[
        bool, typer.Option("--again", help="Also what was sent before; --from narrows it.")
    ] = False,
    config: options.Config = None,
    sets: options.Set = None,
    as_json: options.Json = False,
) -> None:
    """Send dead letters to the service again, with their original bytes and key.

    Do so when the cause is gone; a message that is still bad becomes a dead letter again. Each is
    sent once, however often this is run, unless --again says otherwise. Blanked ones (a card
    number, an erased account) cannot be sent, and those of an account erased since are not.

    Example: fraudstream dlq republish --reason quarantined
    """
    from streams.clients import deadletters

    if everything == bool(reason):
        raise typer.BadParameter("give --reason or --all")
    found = options.settings(config, sets)
    done = deadletters.republish(found, start, _reasons(reason), dry_run=dry_run, again=again)
    first = "sendable" if dry_run else "sent"
    result = {first: done.sent, "blanked": done.blanked, "erased": done.erased}
    if done.before:
        result["sent_before"] = done.before
    if as_json:
        options.print_json(result)
    else:
        typer.echo(", ".join(f"{name} {n:,}" for name, n in result.items()))
    if done.before:
        typer.echo(f"{done.before:,} already sent before; --again sends them again", err=True)


def audit(
    labels: Annotated[
        Path | None, typer.Option(help="A file of labels. Default: the labels topic.")
    ] = None,
    start: Annotated[
        str,
        typer.Option("--from", help="Only what was published since: 2h, 7d, or an ISO time."),
    ] = "earliest",
    config: options.Config = None,
    sets: options.Set = None,
    as_json: options.Json = False,
) -> None:
    """The balance sheet: published = scored + dead letters + duplicates + erasures.

    Every offset is accounted for from the log itself; with latency, and precision and recall
    against the labels. Exits 1 when the books do not balance, also when a worker is not done yet.

    Example: fraudstream audit --from 2h
    """
    from streams.clients.audit import audit as balance_of
    from streams.clients.summary import summary
    from streams.schema import printable

    result = balance_of(
        options.settings(config, sets),
        labels,
        start,
        lambda topic, count: typer.echo(f"read {count:,} of {topic}", err=True),
    )
    if as_json:
        options.print_json(result.as_json())
    else:
        for line in summary(result):
            typer.echo(printable(line))
    if not result.balanced:
        raise typer.Exit(1)


def register(app: typer.Typer) -> None:
    """Add the verbs of this module."""
    for verb in (publish, alerts, scores, label, audit):
        app.command()(verb)
    dlq = typer.Typer(no_args_is_help=True, rich_markup_mode=None)
    dlq.command("list")(dlq_list)
    dlq.command("republish")(dlq_republish)
    app.add_typer(dlq, name="dlq", help=DLQ_HELP)
