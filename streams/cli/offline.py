"""Verbs of the offline half: `record`, `replay`, `backtest`, `verify`, `whatif`, `dataset`.

In: flags. Out: recordings, reports, training sets. Does not know how any of them is made.
"""

from __future__ import annotations

import sys
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from streams.cli import options
from streams.cli.recordings import record, snapshot

if TYPE_CHECKING:
    from streams.offline.run import Job
    from streams.offline.source import Source
    from streams.settings import Settings

Recorded = Annotated[
    str, typer.Argument(help="A recording, or a file of transactions (Parquet, CSV, JSON lines).")
]
Labels = Annotated[
    Path | None, typer.Option("--labels", help="A file of labels; a recording's own count too.")
]
Out = Annotated[
    Path | None,
    typer.Option("--out", file_okay=False, help="Directory for results; it resumes."),
]
Jobs = Annotated[
    int | None, typer.Option(min=1, help="Processes. Default: every core that the source can use.")
]
JOB_ROWS = 500_000
"""A process takes some seconds to start: it should have so many messages. Passes with a model gain
from half a million on, passes without one later (benchmarks/results/replay.md)."""
MOST = 1_000_000_000
"""Of alerts a day and of the cost of one: sums of them stay within 64 bits."""
Engine = Annotated[str, typer.Option(help="processes, or ray for a Ray cluster.")]


Snapshot = Annotated[
    Path | None,
    typer.Option(
        "--snapshot", exists=True, file_okay=False, help="State to start from; default: empty."
    ),
]


def _job(
    path: str,
    labels: Path | None,
    out: Path,
    settings: tuple[Settings, ...],
    snapshot: Path | None = None,
) -> Job:
    """The job over a source, with the erased accounts of the live store where it can be reached."""
    from streams.offline.run import Job
    from streams.offline.source import open_source

    source = open_source(path, labels, out)
    return Job(source, settings, out, forgotten=_forgotten(settings[0], source), snapshot=snapshot)


def _forgotten(settings: Settings, source: Source) -> dict[bytes, int]:
    """The erased accounts; what is missing of the source, or of them, is told."""
    from streams.offline.erased import forgotten

    _note(source.unfinished())
    markers, told = forgotten(settings, source)
    _note(told or "")
    return markers


def _jobs(asked: int | None, job: Job) -> int:
    """What was asked for, or a process a core, as far as there is work for them."""
    import os

    rows = sum(map(job.source.rows, job.source.shards()))
    return asked or max(1, min(len(os.sched_getaffinity(0)), rows // JOB_ROWS))


def _engine(name: str) -> Any:
    """An engine that is to be had; asked before a file is laid out, which may take minutes."""
    from streams.offline.engine import ready

    if name not in ("processes", "ray"):
        raise typer.BadParameter("processes or ray", param_hint="--engine")
    ready(name)
    return name


def replay(
    recording: Recorded,
    speed: Annotated[str, typer.Option(help="1x, 60x or max; with --to-topic.")] = "max",
    to_topic: Annotated[str | None, typer.Option(help="To this topic; it must exist.")] = None,
    labels: Labels = None,
    out: Out = None,
    snapshot: Snapshot = None,
    jobs: Jobs = None,
    engine: Engine = "processes",
    config: options.Config = None,
    sets: options.Set = None,
    as_json: options.Json = False,
) -> None:
    """Send a recording to a topic as it was, or put it straight through the pipeline here.

    Straight through writes one result file a partition to --out and prints a digest: the same for
    the same recording, model and settings, whatever the number of jobs.

    Example: fraudstream replay recording/ --out results/ --jobs 2
    """
    from streams.cli.progress import GOES_ON, Shown

    settings = options.settings(config, sets)
    factor = 0.0 if speed == "max" else options.speed(speed)
    if factor and to_topic is None:
        raise typer.BadParameter("a pace needs --to-topic", param_hint="--speed")
    if to_topic is not None:
        if labels or out or snapshot or jobs:
            raise typer.BadParameter(
                "a replay to a topic takes no --labels, --out, --snapshot or --jobs",
                param_hint="--to-topic",
            )
        _own_topic(settings, to_topic)
        _resend(settings, recording, to_topic, factor, as_json)
        return
    from streams.offline.refused import refused
    from streams.offline.run import replay as run

    target, how = out or Path("replayed"), _engine(engine)
    with Shown(GOES_ON) as shown:
        job = _job(recording, labels, target, (settings,), snapshot)
        summary = run(job, jobs=_jobs(jobs, job), engine=how, progress=shown)
    outcomes = ", ".join(f"{count:,} {name}" for name, count in summary["outcomes"].items())
    outcomes = outcomes or "no message"
    _note(refused(summary["dead"], summary["messages"]))
    options.say(summary, f"{outcomes}; digest {summary['digest']}; results in {target}", as_json)


def _note(text: str) -> None:
    """On stderr, where there is anything to say."""
    if text:
        typer.echo(text, err=True)


def _resend(settings: Settings, recording: str, topic: str, speed: float, as_json: bool) -> None:
    from streams.cli.progress import Shown
    from streams.connect import check_kafka, confluent_config
    from streams.offline.resend import resend
    from streams.offline.source import RecordingSource

    check_kafka(settings)
    source = RecordingSource(recording)
    markers = _forgotten(settings, source)
    with Shown("stopped; what was sent stays, and the same command sends all again") as shown:
        sent, left_out = resend(
            confluent_config(settings),
            source,
            topic,
            speed,
            forgotten=markers,
            progress=shown,
        )
    text = f"{sent:,} messages sent"
    if left_out:
        text += f"; {left_out:,} of erased accounts left out"
    options.say({"topic": topic, "sent": sent, "erased": left_out}, text, as_json)


def _own_topic(settings: Settings, topic: str) -> None:
    """Transactions among what the service says, or among labels and rules, break their readers."""
    from streams.schema import TOPICS

    held = [spec.name for spec in TOPICS if spec.name != "transactions"]
    # Another service's have another prefix.
    theirs = tuple(f"-{name}" for name in held)
    if topic in map(settings.topic, held) or topic.endswith(theirs):
        raise typer.BadParameter(
            f"{topic} is the service's own, or another's, and holds no transactions; name"
            " another topic",
            param_hint="--to-topic",
        )


def backtest(
    recording: Recorded,
    model: Annotated[
        list[str] | None,
        typer.Option(
            help="Bundle: a folder, a name of `models list`, or default, the promoted one (the"
            " shipped one before any promotion). The first is the champion; may be repeated."
        ),
    ] = None,
    thresholds: Annotated[
        str | None, typer.Option(help="review,block for all models, as 0.3,0.8.")
    ] = None,
    labels: Labels = None,
    as_of: Annotated[str | None, typer.Option(help="Only labels known by then count.")] = None,
    judge_from: Annotated[
        str | None, typer.Option(help="Earlier events only warm the state up.")
    ] = None,
    budget: Annotated[
        int, typer.Option(min=1, max=MOST, help="Alerts a day that people can look at.")
    ] = 50,
    review_cost: Annotated[
        float,
        typer.Option(min=0, max=MOST, help="What a look at an alert costs, in its currency."),
    ] = 5.0,
    snapshot: Snapshot = None,
    out: Out = None,
    jobs: Jobs = None,
    engine: Engine = "processes",
    config: options.Config = None,
    sets: options.Set = None,
    as_json: options.Json = False,
) -> None:
    """Score a recording with one or more models; writes report.html and report.json.

    Example: fraudstream backtest recording/ --model default --out report/
    """
    from streams.cli.progress import GOES_ON, Shown
    from streams.errors import ConfigError

    try:
        from streams.offline.backtest import backtest as run
    except ModuleNotFoundError as error:
        raise ConfigError(
            f"a report needs {error.name}", remedy="pip install 'fraudstream[train]'"
        ) from None
    from streams.offline.judged import Terms
    from streams.offline.report import told

    until, since = options.event_ms(as_of, "--as-of"), options.event_ms(judge_from, "--judge-from")
    names = model or ["default"]
    cut = [] if thresholds is None else _thresholds(thresholds)
    every = tuple(
        options.settings(config, [*(sets or []), f"model.bundle={name}", *cut]) for name in names
    )
    target, how = out or Path("backtest"), _engine(engine)
    with Shown(GOES_ON) as shown:
        job = _job(recording, labels, target, every, snapshot)
        summary = run(
            job,
            names,
            as_of=until,
            judge_from=since,
            terms=Terms(budget, review_cost),
            jobs=_jobs(jobs, job),
            engine=how,
            progress=shown,
        )
    _note("\n".join(filter(None, [summary["refused"], *summary["flattered"]])))
    lines = [*told(summary["models"]), f"report: {target / 'report.html'}"]
    options.say(summary, "\n".join(lines), as_json)


def _thresholds(text: str) -> list[str]:
    review, comma, block = text.partition(",")
    if not comma:
        raise typer.BadParameter("write review,block as 0.3,0.8", param_hint="--thresholds")
    return [f"decide.review={review}", f"decide.block={block}"]


def verify(
    recording: Annotated[str, typer.Argument(help="A recording made with --scores.")],
    snapshot: Snapshot = None,
    out: Annotated[
        Path | None,
        typer.Option("--out", file_okay=False, help="Working directory; default: a temporary one."),
    ] = None,
    jobs: Jobs = None,
    config: options.Config = None,
    sets: options.Set = None,
    as_json: options.Json = False,
) -> None:
    """Compare what the live service said with a replay, byte for byte; exit 1 if they differ.

    The first difference is shown with its cause and the account's events around it. Erased
    accounts are left out, and what was put aside because it killed every worker.

    Example: fraudstream verify recording/
    """
    import tempfile

    from streams.cli.progress import Shown
    from streams.errors import ConfigError
    from streams.offline.verify import verify as run

    if Path(recording).is_file():
        raise ConfigError(
            f"{recording} is a file, and no recording with scores",
            remedy="name a folder that `fraudstream record --scores` wrote",
        )
    settings = options.settings(config, sets)
    with tempfile.TemporaryDirectory() as scratch, Shown() as shown:
        job = _job(recording, None, out or Path(scratch), (settings,), snapshot)
        verdict = run(job, jobs=_jobs(jobs, job), progress=shown)
    options.say(verdict.document(), verdict.text(), as_json)
    if not verdict.equal:
        sys.exit(1)


def whatif(
    recording: Recorded,
    labels: Labels = None,
    out: Out = None,
    jobs: Jobs = None,
    config: options.Config = None,
    sets: options.Set = None,
    as_json: options.Json = False,
) -> None:
    """The alerts that appear and vanish when the --set settings take effect.

    Example: fraudstream whatif recording/ --set decide.block=0.9
    """
    import tempfile

    from streams.cli.progress import Shown
    from streams.offline.whatif import text
    from streams.offline.whatif import whatif as run

    if not sets:
        raise typer.BadParameter("say what would change", param_hint="--set")
    both = (options.settings(config, None), options.settings(config, sets))
    with tempfile.TemporaryDirectory() as scratch, Shown() as shown:
        job = _job(recording, labels, out or Path(scratch), both)
        found = run(job, jobs=_jobs(jobs, job), progress=shown)
    _note(found["refused"])
    options.say(found, text(found), as_json)


def dataset(
    recording: Recorded,
    out: Annotated[
        Path, typer.Argument(file_okay=False, help="Directory of the training set; it resumes.")
    ],
    labels: Labels = None,
    jobs: Jobs = None,
    engine: Engine = "processes",
    config: options.Config = None,
    sets: options.Set = None,
    as_json: options.Json = False,
) -> None:
    """Write the training arrays: history, features as of each event, labels with their times.

    Example: fraudstream dataset recording/ data/
    """
    from dataclasses import replace

    from model.data import check_place
    from streams.cli.progress import GOES_ON, Shown
    from streams.offline.dataset import PARTS
    from streams.offline.dataset import dataset as run
    from streams.offline.refused import refused

    check_place(out)
    how = _engine(engine)
    # No model is asked: the training set holds what a model will see, not what one said.
    settings = options.settings(config, [*(sets or []), "model.bundle=stub"])
    with Shown(GOES_ON) as shown:
        # A plain file is laid out among what is gone when the set is whole.
        job = replace(_job(recording, labels, out / PARTS, (settings,)), out=out)
        summary = run(job, jobs=_jobs(jobs, job), engine=how, progress=shown)
    _note(refused(summary["refused"], summary["messages"]))
    shown_text = "{rows:,} events of {accounts:,} accounts, {frauds:,} frauds".format(**summary)
    options.say(summary, f"{shown_text} in {out}", as_json)


def register(app: typer.Typer) -> None:
    """Add the verbs."""
    for verb in (record, replay, backtest, verify, whatif, dataset, snapshot):
        app.command()(verb)
