"""Did the live service say what the same code says again? Scores of a recording against a replay.

In: a recording with scores, settings. Out: a verdict: equal, or the differences with their causes.
Does not know Kafka. Each event is replayed with the risk snapshot that its own score names.

The cause of a difference is the earliest step that differs, because later ones follow from it:

    code       the score was made by another version of the spine
    features   another feature list
    risk       the score names a snapshot that the recording's transactions and labels do not give,
               or an older one than its features were made from
    state      same code, features and risk, but other features: a transaction before it is missing,
               was added, or came in another order
    model      same features, another model or another score
    settings   same score, another decision: thresholds or rules
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Mapping
from dataclasses import asdict, dataclass, field
from typing import Any

import numpy as np

from streams.columns import Columns
from streams.errors import RecordingError
from streams.offline.columns import document_of
from streams.offline.recording import Manifest, Recording
from streams.offline.replay import Shard
from streams.offline.risk_pass import ShardRisk, Snapshots, build
from streams.offline.run import Job, Progress, open_shard
from streams.offline.said import Said, replayed, said
from streams.risk import NO_SNAPSHOT, RiskView, Sheet

AROUND = 3
"""Events of the account shown before and after the first difference."""
SHOWN = ("transaction_id", "event_time", "amount")


@dataclass(frozen=True, slots=True)
class Difference:
    """One transaction that came out differently; `live` or `replay` is None where it is absent."""

    partition: int
    offset: int
    cause: str
    detail: str
    live: dict[str, Any] | None
    replay: dict[str, Any] | None

    def when(self) -> tuple[int, int, int]:
        """Place in event time: the first difference is where the trouble began."""
        shown = self.live or self.replay
        assert shown is not None
        return shown["event_time"], self.partition, self.offset


@dataclass(slots=True)
class Verdict:
    """What the comparison found. `stale_risk`: scores made with an older snapshot, as they say."""

    compared: int = 0
    causes: Counter[str] = field(default_factory=Counter)
    first: Difference | None = None
    around: list[dict[str, Any]] = field(default_factory=list)
    stale_risk: int = 0

    @property
    def equal(self) -> bool:
        """Whether live and replay agree byte for byte."""
        return not self.causes

    def note(self, difference: Difference) -> None:
        """Count one; the earliest in event time is kept."""
        self.causes[difference.cause] += 1
        if self.first is None or difference.when() < self.first.when():
            self.first = difference

    def document(self) -> dict[str, Any]:
        """For `--json`."""
        return {
            "equal": self.equal,
            "compared": self.compared,
            "differences": sum(self.causes.values()),
            "causes": dict(self.causes),
            "stale_risk": self.stale_risk,
            "first": None if self.first is None else asdict(self.first),
            "around": self.around,
        }

    def text(self) -> str:
        """For a person at a terminal."""
        head = f"{self.compared:,} scores compared, {sum(self.causes.values()):,} differ"
        if self.stale_risk:
            head += f"; {self.stale_risk:,} used an older risk snapshot, as they say"
        if self.first is None:
            return head
        first = self.first
        causes = ", ".join(f"{count:,} {cause}" for cause, count in self.causes.most_common())
        lines = [head, f"causes: {causes}"]
        lines.append(
            f"first: partition {first.partition}, offset {first.offset}, cause {first.cause}: "
            f"{first.detail}"
        )
        lines += [f"  live    {first.live}", f"  replay  {first.replay}", "the account's events:"]
        for row in self.around:
            mark = ">" if row["offset"] == first.offset else " "
            lines.append(
                f"{mark} offset {row['offset']}, time {row['event_time']}, amount {row['amount']}, "
                f"transaction {row['transaction_id']}"
            )
        return "\n".join(lines)


class NamedRisk:
    """Risk by the versions that the scores name; an event without a score gets its day's."""

    def __init__(self, snapshots: Snapshots, recording: Recording, named: Mapping[int, Said]):
        self._due = ShardRisk(snapshots)
        self._snapshots = snapshots
        self._recording = recording
        self._named = named
        self._sheets: dict[str, Sheet | None] = {}
        self.expected: list[str] = []
        """The newest snapshots' versions for the rows of the last batch."""

    def view(self, columns: Columns) -> RiskView | None:
        """A view that answers with the named snapshots."""
        due = self._due.view(columns)
        assert due is not None
        table, self.expected = due.lookup(columns)
        versions = list(self.expected)
        for row, offset in enumerate(columns.batch.offsets[columns.row].tolist()):
            found = self._named.get(offset)
            if found is not None and self.known(found.versions["risk"]):
                versions[row] = found.versions["risk"]
        odd = [row for row, version in enumerate(versions) if version != self.expected[row]]
        for row in odd:
            sheet = self._sheets[versions[row]]
            table[row] = -1.0
            if sheet is not None:
                at = np.array([row])
                sheet.fill(table, at, 0, columns.merchant[at])
                sheet.fill(table, at, 1, columns.terminal[at])
        return _Answered(table, versions)

    def known(self, version: str) -> bool:
        """Whether the snapshot can be had: built from the recording, or kept in it."""
        if version == NO_SNAPSHOT:
            self._sheets[version] = None
        if version not in self._sheets:
            try:
                self._sheets[version] = self._snapshots.sheet(version)
            except RecordingError:
                try:
                    self._sheets[version] = Sheet.of(self._recording.snapshot(version), version)
                except RecordingError:
                    return False
        return True


class _Answered(RiskView):
    """A look-up already done."""

    def __init__(self, table: Any, versions: list[str]) -> None:
        self._table, self._versions = table, versions

    def lookup(self, columns: Columns) -> tuple[Any, list[str]]:
        """The answer; for these very columns only."""
        assert len(columns) == len(self._versions)
        return self._table, self._versions


def verify(job: Job, *, progress: Progress = lambda done, total: None) -> Verdict:
    """Compare every score of the recording at `job.source` with its replay.

    Raises RecordingError when the recording has no scores, or contradicts itself.
    """
    recording = Recording(job.source.location())
    manifest = recording.manifest()
    if not manifest.partitions("scores"):
        raise RecordingError(
            f"{recording.path} has no scores", remedy="record with `--scores` to verify"
        )
    snapshots = build(job.source, job.settings[0], job.out / "risk")
    verdict, done = Verdict(), 0
    total = manifest.rows("transactions")
    for shard in job.source.shards():
        live = said(recording, manifest, shard)
        runner = _runner(job, snapshots, recording, shard, live)
        for difference in _compare(job, runner, live, shard, verdict):
            verdict.note(difference)
        done += job.source.rows(shard)
        progress(done, total)
    if verdict.first is not None:
        verdict.around = _around(job, recording, manifest, verdict.first)
    return verdict


@dataclass(slots=True)
class _Runner:
    shard: Shard
    risk: NamedRisk | None


def _runner(
    job: Job, snapshots: Snapshots, recording: Recording, shard: int, live: Mapping[int, Said]
) -> _Runner:
    risk = None if snapshots.front is None else NamedRisk(snapshots, recording, live)
    return _Runner(open_shard(job, snapshots, shard, risk=risk), risk)


def _compare(
    job: Job, runner: _Runner, live: Mapping[int, Said], shard: int, verdict: Verdict
) -> Iterator[Difference]:
    """Differences of one shard in offset order."""
    waiting = sorted(live)
    at = 0
    for step in runner.shard.steps(job.source.batches(shard, job.batch)):
        expected = dict(
            zip(
                step.work.columns.batch.offsets[step.work.columns.row].tolist(),
                [] if runner.risk is None else runner.risk.expected,
                strict=False,
            )
        )
        for offset, mine in replayed(step):
            while at < len(waiting) and waiting[at] < offset:
                yield _absent(shard, waiting[at], live[waiting[at]])
                at += 1
            other = live.get(offset)
            if other is None:
                yield Difference(
                    shard,
                    offset,
                    "state",
                    "a recorded transaction has no score",
                    None,
                    asdict(mine),
                )
                continue
            at += 1
            verdict.compared += 1
            due = expected.get(offset, NO_SNAPSHOT)
            found = _cause(other, mine, due, runner.risk)
            if found is not None:
                yield Difference(shard, offset, *found, asdict(other), asdict(mine))
            elif runner.risk is not None and other.versions["risk"] != due:
                verdict.stale_risk += 1
    for offset in waiting[at:]:
        yield _absent(shard, offset, live[offset])


def _absent(shard: int, offset: int, other: Said) -> Difference:
    detail = "the recording lacks the transaction of this score, or it is not accepted there"
    return Difference(shard, offset, "state", detail, asdict(other), None)


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
    if theirs["model"] != ours["model"] or live.score != mine.score:
        return "model", f"model {theirs['model']} live, {ours['model']} here"
    if theirs["rules"] != ours["rules"] or live.decision != mine.decision:
        return "settings", "thresholds or rules differ: same score, another decision"
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
    rows: list[dict[str, Any]] = []
    for batch in recording.batches(manifest, "transactions", first.partition, job.batch):
        for i, value in enumerate(batch.values):
            if batch.keys[i] == key:
                document = document_of(value)
                fields = {name: document.get(name) for name in SHOWN}
                rows.append({"offset": int(batch.offsets[i])} | fields)
    at = sum(row["offset"] < first.offset for row in rows)
    return rows[max(0, at - AROUND) : at + AROUND + 1]
