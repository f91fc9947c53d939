"""Did the live service say what the same code says again? Scores of a recording against a replay.

In: a recording with scores, settings. Out: a verdict: equal, or the differences with their causes.
Does not know Kafka. Each event is replayed with the risk snapshot and by the model that its own
score names (`named.py`).

The cause of a difference is the earliest step that differs, because later ones follow from it:

    code       the score was made by another version of the spine
    features   another feature list
    risk       the score names a snapshot that the recording's transactions and labels do not give,
               or an older one than its features were made from
    state      same code, features and risk, but other features: a transaction before it is missing,
               was added, or came in another order
    model      same features, a model that is not to be had here, or another score of the same:
               another device
    settings   same score, other rules or another decision: rules or thresholds

Left out, and counted: scores of accounts erased since, messages that were put aside because they
killed every worker, transactions that had no score yet when the recording ended, and messages on
the topics of scores and alerts that are neither.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from streams.batch import Batch
from streams.errors import RecordingError
from streams.offline.aside import Aside, recorded
from streams.offline.columns import document_of
from streams.offline.engine import Tell
from streams.offline.erased import cut_of
from streams.offline.named import NamedRisk, judges_named
from streams.offline.recording import Manifest, Recording
from streams.offline.replay import Shard
from streams.offline.risk_pass import Snapshots, write_whole
from streams.offline.run import Job, Progress, open_shard, over_shards
from streams.offline.said import Said, replayed, said
from streams.offline.snapshot import manifest_of
from streams.offline.verdict import Difference, Verdict
from streams.risk import NO_SNAPSHOT

AROUND = 3
"""Events of the account shown before and after the first difference."""
SHOWN = ("transaction_id", "event_time", "amount")
SAME_DEVICE = (
    "replay on what the workers score on (model.device, model.precision; on a GPU also its kind "
    "and worker.score_batch)"
)

NAME_IT = (
    "the live one is neither shipped nor in the registry: add it, or name its folder with "
    "--set model.bundle=..."
)


def verify(job: Job, *, jobs: int = 1, progress: Progress = lambda done, total: None) -> Verdict:
    """Compare every score of the recording at `job.source` with its replay.

    Raises RecordingError when the recording has no scores, contradicts itself, or begins after the
    snapshot that its state is to start from.
    """
    recording, manifest = Recording(job.source.location()), job.source.manifest()
    if not manifest.partitions("scores"):
        raise RecordingError(
            f"{recording.path} has no scores", remedy="record with `--scores` to verify"
        )
    shards = job.source.shards()
    job.out.mkdir(parents=True, exist_ok=True)
    over_shards(_verify_shard, job, shards, jobs, "processes", progress)
    verdict = Verdict(start="empty" if job.snapshot is None else "snapshot")
    for shard in shards:
        verdict.add(Verdict.of(_path(job, shard).read_bytes()))
    if not verdict.compared and verdict.unscored:
        raise RecordingError(
            f"{recording.path} has no score of any of its transactions",
            remedy="record with `--scores` when the workers are done",
        )
    if verdict.first is not None:
        verdict.around = _around(job, recording, manifest, verdict.first)
    return verdict


def _path(job: Job, shard: int) -> Path:
    """Where a shard leaves what it found. Never read again by a later run."""
    return job.out / f"verdict-{shard:05d}.json"


def _verify_shard(on: tuple[Job, Snapshots], shard: int, tell: Tell) -> None:
    """Compare one shard. The same in this process and in another."""
    job, snapshots = on
    recording, manifest = Recording(job.source.location()), job.source.manifest()
    start = _start(job, recording, manifest, shard)
    # Scores that were appended after --from may be of transactions appended before it.
    found, strange = said(recording, manifest, shard)
    live = {at: one for at, one in found.items() if at >= start}
    risk = None if snapshots.front is None else NamedRisk(snapshots, recording, live)
    also = judges_named({one.versions["model"] for one in live.values()}, job.settings[0])
    runner = _Runner(
        open_shard(job, snapshots, shard, risk=risk, also=[judge for _, judge in also]),
        risk,
        {model: place for place, (model, _) in enumerate(also, len(job.settings))},
    )
    verdict = Verdict(late_start=job.snapshot is None and start > 0)
    # They are of no shard; each meets the same ones, so the first one counts them.
    verdict.passed_over = strange if shard == job.source.shards()[0] else 0
    aside = recorded(recording, manifest)

    def batches() -> Iterator[Batch]:
        for batch in job.source.batches(shard, job.batch):
            tell(len(batch))
            left = _without(batch, aside, live)
            verdict.put_aside += len(batch) - len(left)
            if len(left):
                yield left

    for difference in _compare(job, runner, live, batches(), verdict, shard):
        verdict.note(difference)
    write_whole(_path(job, shard), verdict.to_bytes())


def _start(job: Job, recording: Recording, manifest: Manifest, shard: int) -> int:
    """The first offset that is compared. Raises RecordingError when messages lie between the state
    and the recording."""
    begin = manifest.start.get(f"transactions:{shard}", 0)
    if job.snapshot is None:
        return begin
    state = int(manifest_of(job.snapshot)["partitions"].get(str(shard), {"offset": 0})["offset"])
    if state < begin:
        raise RecordingError(
            f"{job.snapshot} is the state at offset {state} of partition {shard}; {recording.path} "
            f"begins at {begin}",
            remedy="record from an earlier time on, or take the snapshot after the recording began",
        )
    return state


def _without(batch: Batch, aside: Aside, live: Mapping[int, Said]) -> Batch:
    """The batch without what was put aside; a message that was scored after all stays."""
    keep = [
        row
        for row, offset in enumerate(batch.offsets.tolist())
        if offset in live or not aside.has(batch.partition, offset, batch.values[row])
    ]
    if len(keep) == len(batch):
        return batch
    headers = batch.headers
    return Batch(
        topic=batch.topic,
        partition=batch.partition,
        offsets=batch.offsets[keep],
        timestamps=batch.timestamps[keep],
        keys=[batch.keys[row] for row in keep],
        values=[batch.values[row] for row in keep],
        headers=None if headers is None else [headers[row] for row in keep],
        next_offset=batch.next_offset,
    )


@dataclass(slots=True)
class _Runner:
    shard: Shard
    risk: NamedRisk | None
    places: dict[str, int]
    """Of models that scores name and the settings do not, the place of the judge."""


def _compare(
    job: Job,
    runner: _Runner,
    live: Mapping[int, Said],
    batches: Iterator[Batch],
    verdict: Verdict,
    shard: int,
) -> Iterator[Difference]:
    """Differences of one shard in offset order."""
    waiting = sorted(live)
    last = waiting[-1] if waiting else -1
    at = 0

    def judge_of(offset: int) -> int:
        other = live.get(offset)
        return 0 if other is None else runner.places.get(other.versions["model"], 0)

    for step in runner.shard.steps(batches):
        expected = dict(
            zip(
                step.work.columns.batch.offsets[step.work.columns.row].tolist(),
                [] if runner.risk is None else runner.risk.expected,
                strict=False,
            )
        )
        for offset, mine in replayed(step, judge_of):
            while at < len(waiting) and waiting[at] < offset:
                yield from _absent(job, shard, waiting[at], live[waiting[at]], verdict)
                at += 1
            other = live.get(offset)
            if other is None:
                if offset > last:
                    verdict.unscored += 1
                    continue
                detail = "a recorded transaction has no score"
                yield Difference(shard, offset, "state", detail, None, asdict(mine))
                continue
            at += 1
            verdict.compared += 1
            verdict.models[other.versions["model"]] += 1
            due = expected.get(offset, NO_SNAPSHOT)
            found = _cause(other, mine, due, runner.risk)
            if found is not None:
                yield Difference(shard, offset, *found, asdict(other), asdict(mine))
            elif runner.risk is not None and other.versions["risk"] != due:
                verdict.stale_risk += 1
    for offset in waiting[at:]:
        yield from _absent(job, shard, offset, live[offset], verdict)


def _absent(
    job: Job, shard: int, offset: int, other: Said, verdict: Verdict
) -> Iterator[Difference]:
    """A score whose transaction the replay does not have: none if its account was erased."""
    if offset < cut_of(job.forgotten, other.account_id):
        verdict.erased += 1
        return
    detail = "the recording lacks the transaction of this score, or it is not accepted there"
    yield Difference(shard, offset, "state", detail, asdict(other), None)


def _cause(live: Said, mine: Said, due: str, risk: NamedRisk | None) -> tuple[str, str] | None:
    """(cause, detail) of the earliest step that differs; None when nothing does."""
    theirs, ours = live.versions, mine.versions
    if live.transaction_id != mine.transaction_id:
        return "state", "another transaction is at this offset"
    for name in ("code", "features"):
        if theirs[name] != ours[name]:
            return name, f"{name} {theirs[name]} live, {ours[name]} here"
    if risk is not None and not risk.known(theirs["risk"]):
        return "risk", f"risk snapshot {theirs['risk']} is not what the recording gives ({due})"
    if live.feature_digest != mine.feature_digest:
        if theirs["risk"] != due:
            return "risk", f"risk snapshot {theirs['risk']} named, {due} due, neither fits"
        return "state", "the features differ: the account's history was another one"
    if theirs["model"] != ours["model"]:
        return "model", f"model {theirs['model']} live, {ours['model']} here: {NAME_IT}"
    if live.score != mine.score:
        return "model", f"the same model, {live.score!r} live, {mine.score!r} here: {SAME_DEVICE}"
    if theirs["rules"] != ours["rules"]:
        return "settings", f"rules {theirs['rules']} live, {ours['rules']} here"
    if live.decision != mine.decision:
        return "settings", "other thresholds: same score and rules, another decision"
    if live.alert_id != mine.alert_id:
        # An alert's id is made from the versions, so one of those named is not the one used.
        return "risk" if theirs["risk"] != due else "settings", "the alert id differs"
    return None


def _around(
    job: Job, recording: Recording, manifest: Manifest, first: Difference
) -> list[dict[str, Any]]:
    """The account's transactions before and after the first difference, as recorded."""
    shown = first.live or first.replay
    assert shown is not None
    key = shown["account_id"].encode()
    # An account that has the name of an erased one shows nothing of it.
    erased = cut_of(job.forgotten, shown["account_id"])
    rows: list[dict[str, Any]] = []
    for batch in recording.batches(manifest, "transactions", first.partition, job.batch):
        for i, value in enumerate(batch.values):
            if batch.keys[i] == key and batch.offsets[i] > erased:
                document = document_of(value)
                fields = {name: document.get(name) for name in SHOWN}
                rows.append({"offset": int(batch.offsets[i])} | fields)
    at = sum(row["offset"] < first.offset for row in rows)
    return rows[max(0, at - AROUND) : at + AROUND + 1]
