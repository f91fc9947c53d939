"""Champion and challengers over one pass of the features: measures, differences, a report.

In: a job with one settings object a model. Out: `report.html`, `report.json` and the result files.
Does not know how a shard is replayed, nor how a measure or a plot is made.
"""

from __future__ import annotations

from collections.abc import Sequence
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import numpy as np
import orjson
import pyarrow.compute as pc

from streams.offline import evaluation, plots, report, results
from streams.offline.engine import Engine
from streams.offline.evaluation import Events
from streams.offline.run import Job, Progress, replay
from streams.schema import DAY_MS

EXAMPLES = 8
"""Alerts shown in the report for each side of a difference."""


def backtest(
    job: Job,
    names: Sequence[str],
    *,
    as_of: int | None = None,
    judge_from: int | None = None,
    jobs: int = 1,
    engine: Engine = "processes",
    progress: Progress = lambda done, total: None,
) -> dict[str, Any]:
    """Replay, measure and write the report; returns what `report.json` holds.

    `as_of` is the moment of judgement in ms UTC: only labels known by then count. Events before
    `judge_from` only warm the state up.
    Raises ConfigError when no event can be judged.
    """
    replayed = replay(job, jobs=jobs, engine=engine, progress=progress)
    delay = job.settings[0].risk.delay_days
    events = evaluation.gather(
        job.out,
        job.source.labels(),
        len(names),
        as_of=as_of,
        delay_days=delay,
        judge_from=judge_from or 0,
    )
    models = [_model(job.out, events, k, name) for k, name in enumerate(names)]
    summary = {
        "headline": _headline(events, names),
        "method": _method(replayed, events, delay),
        "digest": replayed["digest"],
        "job": replayed["job"],
        "outcomes": replayed["outcomes"],
        "dead": replayed["dead"],
        "models": models,
    }
    drawn = [
        plots.precision_recall(events, names),
        plots.weekly([model["weeks"] for model in models], names),
        plots.calibration(events, names),
        plots.costs([model["cost_curve"] for model in models], names),
    ]
    (job.out / "report.html").write_text(report.page(summary, drawn), "utf-8")
    content = orjson.dumps(summary, option=orjson.OPT_INDENT_2 | orjson.OPT_SERIALIZE_NUMPY)
    (job.out / "report.json").write_bytes(content)
    return summary


def _model(out: Path, events: Events, k: int, name: str) -> dict[str, Any]:
    found = {
        "name": name,
        "overall": evaluation.overall(events, k),
        "weeks": evaluation.by_week(events, k),
        "segments": evaluation.by_segment(events, k),
        "cost_curve": evaluation.cost_curve(events, k),
        "drift": evaluation.drift(events, k),
    }
    if k:
        found["difference"] = evaluation.difference(events, k)
        found["examples"] = _examples(out, events, k)
    return found


def _examples(out: Path, events: Events, k: int) -> list[dict[str, Any]]:
    """The alerts with the widest gap of scores on each side, and the reasons that were given."""
    mine, other = events.decision[0] > 0, events.decision[k] > 0
    gap = np.abs(events.score[0] - events.score[k])
    found = []
    for who, chosen, model in (("champion", mine & ~other, 0), ("challenger", other & ~mine, k)):
        rows = np.flatnonzero(chosen)
        rows = rows[np.argsort(-gap[rows], kind="stable")][:EXAMPLES]
        for row in rows.tolist():
            place = (int(events.partition[row]), int(events.offset[row]))
            found.append(
                {
                    "who": who,
                    "partition": place[0],
                    "offset": place[1],
                    "champion": float(events.score[0][row]),
                    "challenger": float(events.score[k][row]),
                    "label": "fraud" if events.label[row] else "legitimate",
                    "why": _why(out, place, model),
                }
            )
    return found


def _why(out: Path, place: tuple[int, int], model: int) -> str:
    """The reasons of one alert in words."""
    shard, offset = place
    for number, table in results.tables(out, ["offset", f"reasons_{model}"]):
        if number != shard:
            continue
        row = pc.index(table["offset"], offset).as_py()
        if row >= 0:
            reasons = orjson.loads(table[f"reasons_{model}"][row].as_py() or "[]")
            return "; ".join(reason["text"] for reason in reasons)
    return ""


def _day(number: int) -> str:
    return datetime.fromtimestamp(number * DAY_MS / 1_000, UTC).strftime("%d %B %Y")


def _headline(events: Events, names: Sequence[str]) -> str:
    days = f"{_day(int(events.day.min()))} to {_day(int(events.day.max()))}"
    rivals = f" against {', '.join(names[1:])}" if len(names) > 1 else ""
    judged = f"{len(events):,} events, {days}; {events.unlabelled:,} more could not be judged yet"
    return f"{names[0]}{rivals}: {judged}."


def _method(replayed: dict[str, Any], events: Events, delay: int) -> str:
    moment = datetime.fromtimestamp(events.as_of / 1_000, UTC).strftime("%d %B %Y %H:%M")
    empty = replayed["job"]["start"] == "empty"
    started = "state started empty" if empty else "state started from a snapshot"
    if events.judged_from:
        first = datetime.fromtimestamp(events.judged_from / 1_000, UTC).strftime("%d %B %Y %H:%M")
        started += f", events before {first} UTC were warm-up and are not judged"
    return (
        f"The recorded messages went through the pipeline that runs live (code "
        f"{replayed['job']['code']}, features {replayed['job']['features']}); {started}. "
        f"Labels known by {moment} UTC count. An event without a label counts as legitimate once "
        f"it is {delay} days old; younger ones are left out. Result digest {replayed['digest']}."
    )
