"""Verbs that keep what the live service has: `record` its topics, `snapshot` its state.

In: flags. Out: a recording, a snapshot. Does not know how either is made.
"""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from streams.cli import options


def record(
    out: Annotated[str, typer.Argument(help="Directory or fsspec URL; it resumes.")],
    start: Annotated[str | None, typer.Option("--from", help="Append time; default: all.")] = None,
    end: Annotated[str | None, typer.Option("--to", help="Append time; default: now.")] = None,
    follow: Annotated[bool, typer.Option("--follow", help="Go on until Ctrl-C.")] = False,
    scores: Annotated[
        bool, typer.Option("--scores", help="Scores, alerts, dead letters too.")
    ] = False,
    config: options.Config = None,
    sets: options.Set = None,
    as_json: options.Json = False,
) -> None:
    """Record transactions and labels from Kafka to checked Parquet files.

    Run the same command again after an interruption: it goes on where it was. One that was stopped
    before its end exits 130; with --follow any end will do.

    Example: fraudstream record --from 2025-01-01 --to 2025-02-01 recording/
    """
    from streams.cli.interrupt import interrupted
    from streams.cli.progress import Shown
    from streams.connect import check_kafka, confluent_config, redis_client
    from streams.live.risk_store import RiskStore
    from streams.offline.kept_risk import keep_snapshots
    from streams.offline.record import SAID, Recorder, Request
    from streams.offline.recording import Recording, resumable

    if Path(out).is_file():
        raise typer.BadParameter(f"{out} is a file; name a directory", param_hint="OUT")
    if follow and end is not None:
        raise typer.BadParameter("--follow has no --to")
    first, last = options.time_ms(start), options.time_ms(end)
    if first is not None and last is not None and first >= last:
        raise typer.BadParameter("it must be later than --from", param_hint="--to")
    settings = options.settings(config, sets)
    check_kafka(settings)
    names = ["transactions", "labels", *(SAID if scores else [])]
    request = Request({name: settings.topic(name) for name in names}, first, last, follow)
    recording = Recording(out)
    with Shown() as shown, interrupted() as stop:
        recorder = Recorder(confluent_config(settings), request, recording)
        manifest = recorder.run(progress=shown, stop=stop)
    if scores:
        client = redis_client(settings)
        try:
            live = RiskStore(client, settings.redis.namespace)
            with resumable(recording):
                lacking = keep_snapshots(recording, manifest, live.snapshot)
                recording.save(manifest)
        finally:
            client.close()
        for version in lacking.versions:
            typer.echo(f"risk snapshot {version} is no longer kept by the service", err=True)
        if lacking.no_scores:
            typer.echo(f"{lacking.no_scores:,} messages of scores are none: passed over", err=True)
    if recorder.left_out:
        typer.echo(recorder.left_out, err=True)
    counts = {name: manifest.rows(name) for name in names}
    if as_json:
        options.print_json({"path": out, "complete": manifest.complete, "messages": counts})
    else:
        typer.echo(", ".join(f"{count:,} {name}" for name, count in counts.items()) + f" in {out}")
    if not (manifest.complete or follow):
        typer.echo("stopped before its end; the same command goes on", err=True)
        raise typer.Exit(130)


def snapshot(
    out: Annotated[Path, typer.Argument(file_okay=False, help="Directory.")],
    config: options.Config = None,
    sets: options.Set = None,
    as_json: options.Json = False,
) -> None:
    """Write every account's state to files that a replay or a backtest can start from.

    Example: fraudstream snapshot state/
    """
    from streams.connect import redis_client
    from streams.offline.snapshot import take

    settings = options.settings(config, sets)
    client = redis_client(settings)
    try:
        manifest = take(client, settings.redis.namespace, out)
    finally:
        client.close()
    accounts = sum(part["accounts"] for part in manifest["partitions"].values())
    options.say(manifest, f"{accounts:,} accounts in {out}", as_json)
