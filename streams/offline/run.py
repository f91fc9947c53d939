"""Replay a whole source: a shard is a unit of work, over processes or a Ray cluster.

In: a source, settings per model, a directory. Out: `DIR/job.json`, one result file a shard.
Does not know what is computed from the results.

A shard's result is whole or absent. So an interrupted run goes on with the shards that are missing,
and any number of processes or nodes writes the same bytes. `job.json` says what the results are of;
another job in the same directory is refused.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import orjson

from streams import features
from streams.assembly import Held, Judge, judge, pinned, wants_model
from streams.errors import ConfigError
from streams.offline import results
from streams.offline.engine import Engine, Tell, Work, each_shard
from streams.offline.erased import cut_of
from streams.offline.replay import BATCH_EVENTS, RiskFor, Shard
from streams.offline.risk_pass import Snapshots, build, write_whole
from streams.offline.rows import rows
from streams.offline.snapshot import manifest_of, offset_of, records
from streams.offline.source import Source
from streams.risk_pace import Pace
from streams.settings import Settings
from streams.versions import code_version

Progress = Callable[[int, int], None]
"""(messages done, messages in all or 0 where that is not known)."""


@dataclass(frozen=True)
class Job:
    """What to replay. Picklable. All settings share the first one's risk and worker sections."""

    source: Source
    settings: tuple[Settings, ...]
    out: Path
    batch: int = BATCH_EVENTS
    forgotten: Mapping[bytes, int] = field(default_factory=dict)
    snapshot: Path | None = None
    """State to start from (`snapshot.py`); None starts empty."""
    held: tuple[Held, ...] = field(init=False)
    """What each of the settings stood for when the job was made."""

    def __post_init__(self) -> None:
        # Every shard loads its judges anew, some an hour after the first.
        object.__setattr__(self, "settings", tuple(map(pinned, self.settings)))
        object.__setattr__(self, "held", tuple(map(Held.by, self.settings)))

    def identity(self) -> dict[str, Any]:
        """What decides every byte of the result; not the batch size, nor where it is written."""
        # The judges first: what of the settings cannot be read, they say best.
        models = [each.scorer.model_id for each in self.judges()]
        return {
            "source": self.source.identity(),
            "start": "empty" if self.snapshot is None else manifest_of(self.snapshot),
            "settings": [decisive(each) for each in self.settings],
            "features": features.DIGEST,
            "code": code_version(),
            "models": models,
            "forgotten": sorted([digest.hex(), cut] for digest, cut in self.forgotten.items()),
        }

    def judges(self) -> list[Judge]:
        """Loaded anew. Raises ConfigError where they are no longer those that the job began with,
        BundleError where a bundle cannot serve."""
        found = list(map(judge, self.settings))
        for held, settings, one in zip(self.held, self.settings, found, strict=True):
            held.check(settings, one)
        return found


def decisive(settings: Settings) -> dict[str, Any]:
    """The settings that can change a score or a decision."""
    rules = settings.decide.rules
    return {
        "decide": settings.decide.model_dump(mode="json"),
        "rules": None if rules is None else hashlib.sha256(rules.read_bytes()).hexdigest(),
        "model": settings.model.bundle,
        "risk": {"enabled": settings.risk.enabled, **Pace.of(settings.risk).told()},
        "max_future_s": settings.worker.max_future_s,
    }


def replay(
    job: Job,
    *,
    jobs: int = 1,
    engine: Engine = "processes",
    progress: Progress = lambda done, total: None,
) -> dict[str, Any]:
    """Run every shard that has no result yet; returns the summary also kept in `summary.json`.

    Raises ConfigError when the directory holds the results of another job.
    """
    identity = job.identity()
    claim_directory(job.out, identity)
    missing = [
        shard for shard in job.source.shards() if not results.shard_path(job.out, shard).exists()
    ]
    over_shards(run_shard, job, missing, jobs, engine, progress)
    summary = {"job": identity, "digest": results.digest(job.out), **tally(job.out)}
    write_whole(job.out / "summary.json", orjson.dumps(summary, option=orjson.OPT_INDENT_2))
    return summary


def over_shards(
    work: Work[tuple[Job, Snapshots]],
    job: Job,
    missing: Sequence[int],
    jobs: int,
    engine: Engine,
    progress: Progress,
) -> None:
    """Build the risk snapshots, then do the missing shards. Progress is in messages: each of two
    passes counts for half of one."""
    passes = 2 if job.settings[0].risk.enabled else 1
    total = sum(job.source.rows(shard) for shard in missing)
    done = 0

    def tell(messages: int) -> None:
        nonlocal done
        done += messages
        progress(min(done // passes, total) if total else done, total)

    tell(0)
    snapshots = build(job.source, job.settings[0], job.out / "risk", tell)
    done = total * (passes - 1)
    each_shard(work, (job, snapshots), missing, tell, jobs, engine)
    progress(total or done, total)


def claim_directory(out: Path, identity: dict[str, Any]) -> None:
    """Say what a directory holds. Raises ConfigError when it holds something else."""
    out.mkdir(parents=True, exist_ok=True)
    for draft in out.glob("*.part"):
        draft.unlink()
    path = out / "job.json"
    content = orjson.dumps(identity, option=orjson.OPT_SORT_KEYS | orjson.OPT_INDENT_2)
    if not path.exists():
        write_whole(path, content)
    elif path.read_bytes() != content:
        raise ConfigError(
            f"{out} holds the results of another run (see job.json)",
            remedy="name another directory, or delete that one",
        )


def open_shard(
    job: Job,
    snapshots: Snapshots,
    shard: int,
    *,
    history: bool = False,
    judged: bool = True,
    risk: RiskFor | None = None,
    also: Sequence[Judge] = (),
) -> Shard:
    """A shard's runner with the judges of the job, on one thread: more shards use more cores.

    `risk` replaces the look-up in the snapshots of the source; `also` judge behind the job's own.
    Unless `judged`, the pass ends with the features: no scores, no decisions.
    """
    if judged and any(map(wants_model, job.settings)):
        import torch

        torch.set_num_threads(1)
    runner = Shard(
        shard,
        [*job.judges(), *also] if judged else [],
        snapshots.risk_for(shard) if risk is None else risk,
        max_future_ms=job.settings[0].worker.max_future_s * 1_000,
        forgotten=job.forgotten,
        history=history,
    )
    if job.snapshot is not None:
        offset = offset_of(job.snapshot, shard)
        held = records(job.snapshot, shard)
        # What was erased after the snapshot was taken is in it, and must not come back by it.
        kept = (each for each in held if cut_of(job.forgotten, each[0]) < offset)
        runner.start_from(kept, offset)
    return runner


def run_shard(on: tuple[Job, Snapshots], shard: int, tell: Tell) -> None:
    """Replay one shard into its result file. The same on any engine."""
    job, snapshots = on
    runner = open_shard(job, snapshots, shard)
    path = results.shard_path(job.out, shard)
    with results.ResultWriter(path, len(job.settings)) as writer:
        for step in runner.steps(job.source.batches(shard, job.batch)):
            writer.add(rows(step))
            tell(len(step.work.columns.batch))


def tally(out: Path) -> dict[str, Any]:
    """Outcomes, decisions of the first model, dead letters by reason."""
    outcomes: dict[str, int] = {}
    decisions: dict[str, int] = {}
    reasons: dict[str, int] = {}
    late = 0
    for _, table in results.tables(out, ["outcome", "decision_0", "reason", "late"]):
        for column, into in (
            ("outcome", outcomes),
            ("decision_0", decisions),
            ("reason", reasons),
        ):
            for pair in table[column].value_counts().to_pylist():
                if pair["values"] is not None:
                    into[pair["values"]] = into.get(pair["values"], 0) + pair["counts"]
        late += sum(
            pair["counts"] for pair in table["late"].value_counts().to_pylist() if pair["values"]
        )
    return {
        "messages": sum(outcomes.values()),
        "outcomes": dict(sorted(outcomes.items())),
        "decisions": dict(sorted(decisions.items())),
        "dead": dict(sorted(reasons.items())),
        "late": late,
    }
