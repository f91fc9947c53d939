"""Replay a whole source: a shard is a unit of work, over processes or a Ray cluster.

In: a source, settings per model, a directory. Out: `DIR/job.json`, one result file a shard.
Does not know what is computed from the results.

A shard's result is whole or absent. So an interrupted run goes on with the shards that are missing,
and any number of processes or nodes writes the same bytes. `job.json` says what the results are of;
another job in the same directory is refused.
"""

from __future__ import annotations

import hashlib
import multiprocessing
from collections.abc import Callable, Iterable, Mapping, Sequence
from concurrent.futures import ProcessPoolExecutor, as_completed
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

import orjson

from streams import features
from streams.assembly import judge
from streams.errors import ConfigError
from streams.offline import results
from streams.offline.replay import BATCH_EVENTS, RiskFor, Shard
from streams.offline.risk_pass import Snapshots, build
from streams.offline.rows import rows
from streams.offline.snapshot import manifest_of, records
from streams.offline.source import Source
from streams.settings import Settings
from streams.versions import code_version

Engine = Literal["processes", "ray"]
Progress = Callable[[int, int], None]
"""(messages done, messages in all or 0)."""


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

    def identity(self) -> dict[str, Any]:
        """What decides every byte of the result; not the batch size, nor where it is written."""
        return {
            "source": self.source.identity(),
            "start": "empty" if self.snapshot is None else manifest_of(self.snapshot),
            "settings": [decisive(each) for each in self.settings],
            "features": features.DIGEST,
            "code": code_version(),
            "models": [judge(each).scorer.model_id for each in self.settings],
            "forgotten": sorted([digest.hex(), cut] for digest, cut in self.forgotten.items()),
        }


def decisive(settings: Settings) -> dict[str, Any]:
    """The settings that can change a score or a decision."""
    rules = settings.decide.rules
    return {
        "decide": settings.decide.model_dump(mode="json"),
        "rules": None if rules is None else hashlib.sha256(rules.read_bytes()).hexdigest(),
        "model": settings.model.bundle,
        "risk": settings.risk.model_dump(mode="json", include={"enabled", "delay_days"}),
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
    _claim_directory(job.out, identity)
    snapshots = build(job.source, job.settings[0], job.out / "risk")
    missing = [
        shard for shard in job.source.shards() if not results.shard_path(job.out, shard).exists()
    ]
    total = sum(job.source.rows(shard) for shard in job.source.shards())
    done = total - sum(job.source.rows(shard) for shard in missing)
    progress(done, total)
    for count in each_shard(run_shard, job, snapshots, missing, jobs, engine):
        done += count
        progress(done, max(total, done))
    summary = {"job": identity, "digest": results.digest(job.out), **tally(job.out)}
    (job.out / "summary.json").write_bytes(orjson.dumps(summary, option=orjson.OPT_INDENT_2))
    return summary


def _claim_directory(out: Path, identity: dict[str, Any]) -> None:
    out.mkdir(parents=True, exist_ok=True)
    path = out / "job.json"
    content = orjson.dumps(identity, option=orjson.OPT_SORT_KEYS | orjson.OPT_INDENT_2)
    if path.exists() and path.read_bytes() != content:
        raise ConfigError(
            f"{out} holds the results of another replay (see job.json)",
            remedy="name another directory, or delete that one",
        )
    for draft in out.glob("*.part"):
        draft.unlink()
    path.write_bytes(content)


def open_shard(
    job: Job,
    snapshots: Snapshots,
    shard: int,
    *,
    history: bool = False,
    risk: RiskFor | None = None,
) -> Shard:
    """A shard's runner with the judges of the job, on one thread: more shards use more cores.

    `risk` replaces the look-up in the snapshots of the source.
    """
    import torch

    torch.set_num_threads(1)
    runner = Shard(
        shard,
        [judge(each) for each in job.settings],
        snapshots.risk_for(shard) if risk is None else risk,
        max_future_ms=job.settings[0].worker.max_future_s * 1_000,
        forgotten=job.forgotten,
        history=history,
    )
    if job.snapshot is not None:
        offset = int(manifest_of(job.snapshot)["partitions"][str(shard)]["offset"])
        runner.start_from(records(job.snapshot, shard), offset)
    return runner


def run_shard(job: Job, snapshots: Snapshots, shard: int) -> int:
    """Replay one shard into its result file; returns its messages. The same on any engine."""
    runner, count = open_shard(job, snapshots, shard), 0
    path = results.shard_path(job.out, shard)
    with results.ResultWriter(path, len(job.settings)) as writer:
        for step in runner.steps(job.source.batches(shard, job.batch)):
            writer.add(rows(step))
            count += len(step.work.columns.batch)
    return count


ShardWork = Callable[[Job, Snapshots, int], int]
"""Does one shard and returns its messages; a function of a module, so that it can travel."""


def each_shard(
    work: ShardWork,
    job: Job,
    snapshots: Snapshots,
    shards: Sequence[int],
    jobs: int,
    engine: Engine,
) -> Iterable[int]:
    """Run `work` over shards here, over processes, or on Ray; yields as shards are done."""
    if engine == "ray":
        yield from _on_ray(work, job, snapshots, shards)
    elif jobs <= 1 or len(shards) <= 1:
        for shard in shards:
            yield work(job, snapshots, shard)
    else:
        context = multiprocessing.get_context("spawn")
        with ProcessPoolExecutor(min(jobs, len(shards)), mp_context=context) as pool:
            futures = [pool.submit(work, job, snapshots, shard) for shard in shards]
            for future in as_completed(futures):
                yield future.result()


def _on_ray(
    work: ShardWork, job: Job, snapshots: Snapshots, shards: Sequence[int]
) -> Iterable[int]:
    try:
        import ray
    except ImportError:
        raise ConfigError(
            "the Ray engine is not installed", remedy="pip install 'fraudstream[ray]'"
        ) from None
    if not ray.is_initialized():
        ray.init(log_to_driver=False)
    remote = ray.remote(work)
    waiting = [remote.remote(job, snapshots, shard) for shard in shards]
    while waiting:
        ready, waiting = ray.wait(waiting)
        yield from ray.get(ready)


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
