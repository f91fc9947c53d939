"""Champion and challengers over one pass of the features: measures, differences, a report.

In: a job with one settings object a model. Out: `report.html`, `report.json`, the alerts that
differ (`differing.py`) and the result files.
Does not know how a shard is replayed, nor how a measure or a plot is made.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import asdict
from datetime import UTC, datetime
from typing import Any

import orjson

from model.errors import writing
from streams.assembly import learnt_until
from streams.labels import LabelBook
from streams.offline import differing, evaluation, judged, plots, report, results
from streams.offline.engine import Engine
from streams.offline.judged import DEFAULT_TERMS, Events, Terms
from streams.offline.refused import refused, require_accepted, utc
from streams.offline.run import Job, Progress, replay
from streams.offline.source import decoded
from streams.schema import DAY_MS


def backtest(
    job: Job,
    names: Sequence[str],
    *,
    as_of: int | None = None,
    judge_from: int | None = None,
    terms: Terms = DEFAULT_TERMS,
    jobs: int = 1,
    engine: Engine = "processes",
    progress: Progress = lambda done, total: None,
) -> dict[str, Any]:
    """Replay, measure and write the report; returns what `report.json` holds.

    `as_of` is the moment of judgement in ms UTC: only labels known by then count. Events before
    `judge_from` only warm the state up.
    Raises ConfigError when no event can be judged.
    """
    book = LabelBook(decoded(job.source))
    if not len(book) and as_of is None:
        raise judged.nothing_to_judge()
    learnt = [learnt_until(each) for each in job.settings]
    replayed = replay(job, jobs=jobs, engine=engine, progress=progress)
    dead, messages = replayed["dead"], replayed["messages"]
    require_accepted(replayed["outcomes"].get(results.SCORED, 0), dead, messages)
    delay = job.settings[0].risk.delay_days
    events = judged.gather(
        job.out,
        book,
        len(names),
        as_of=as_of,
        delay_days=delay,
        judge_from=judge_from or 0,
        terms=terms,
    )
    served = replayed["job"]["models"]
    models = [_model(events, book, k, name, served[k]) for k, name in enumerate(names)]
    examples = differing.write(job.out, book, names, as_of=events.as_of, judge_from=judge_from or 0)
    for model, shown in zip(models[1:], examples, strict=True):
        model["examples"] = shown
    summary = {
        "headline": _headline(events, names),
        "flattered": _flattered(events, names, learnt),
        "refused": refused(dead, messages),
        "method": _method(replayed, events, delay) + f" {_who(names, served)}",
        "terms": asdict(terms) | {"review_cost_minor": events.review_cost_minor},
        "currency": events.currency,
        "amounts_left_out": int((~events.counted).sum()),
        "digest": replayed["digest"],
        "job": replayed["job"],
        "outcomes": replayed["outcomes"],
        "dead": dead,
        "models": models,
    }
    drawn = [
        plots.precision_recall(events, names),
        plots.weekly([model["weeks"] for model in models], names),
        plots.daily([model["days"] for model in models], names),
        plots.moments([model["moments"] for model in models], names),
        plots.calibration(events, names),
        plots.costs([model["cost_curve"] for model in models], names, events.currency),
    ]
    content = orjson.dumps(summary, option=orjson.OPT_INDENT_2 | orjson.OPT_SERIALIZE_NUMPY)
    with writing(job.out):
        (job.out / "report.html").write_text(report.page(summary, drawn), "utf-8")
        (job.out / "report.json").write_bytes(content)
    return summary


def _model(events: Events, book: LabelBook, k: int, name: str, model_id: str) -> dict[str, Any]:
    found = {
        "name": name,
        "model_id": model_id,
        "overall": evaluation.overall(events, k),
        "days": evaluation.by_day(events, k),
        "weeks": evaluation.by_week(events, k),
        "moments": evaluation.by_moment(events, book, k),
        "segments": evaluation.by_segment(events, k),
        "cost_curve": evaluation.cost_curve(events, k),
        "drift": evaluation.drift(events, k),
    }
    if k:
        found["difference"] = evaluation.difference(events, k)
        found["ap_minus_champion"] = evaluation.ap_gap(events, k)
    return found


def _day(number: int) -> str:
    return datetime.fromtimestamp(number * DAY_MS / 1_000, UTC).strftime("%d %B %Y")


def _headline(events: Events, names: Sequence[str]) -> str:
    days = f"{_day(int(events.day.min()))} to {_day(int(events.day.max()))}"
    rivals = f" against {', '.join(names[1:])}" if len(names) > 1 else ""
    judged = f"{len(events):,} events, {days}; {events.unlabelled:,} more could not be judged yet"
    return f"{names[0]}{rivals}: {judged}."


def _flattered(events: Events, names: Sequence[str], learnt: Iterable[int]) -> list[str]:
    """Of each bundle that was fitted since the first day judged; on which stream, nobody knows."""
    found, first, last = [], int(events.time.min()), int(events.time.max())
    for name, until in zip(names, learnt, strict=True):
        if until > last:
            found.append(
                f"{name} was fitted on what was known after the newest event judged: if of this"
                " stream, all figures flatter it; record later days to judge it by"
            )
        elif until > first:
            found.append(
                f"{name} was fitted on what was known up to {_day(until // DAY_MS)}: if of this"
                f" stream, earlier days flatter it; judge later ones with --judge-from {until}"
            )
    return found


def _who(names: Sequence[str], served: Sequence[str]) -> str:
    """Which bundle each name stands for: names move with promotions."""
    return " ".join(f"{name} is {one}." for name, one in zip(names, served, strict=True))


def _method(replayed: dict[str, Any], events: Events, delay: int) -> str:
    empty = replayed["job"]["start"] == "empty"
    started = "state started empty" if empty else "state started from a snapshot"
    if events.judged_from:
        started += f", events before {utc(events.judged_from)} were warm-up and are not judged"
    return (
        f"The recorded messages went through the pipeline that runs live (code "
        f"{replayed['job']['code']}, features {replayed['job']['features']}); {started}. "
        f"Labels known by {utc(events.as_of)} count. An event without a label counts as legitimate "
        f"once it is {delay} days old; younger ones are left out. "
        f"Result digest {replayed['digest']}."
    )
