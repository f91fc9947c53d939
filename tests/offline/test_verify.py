"""Verify: equal where nothing changed, and the cause named for each planted difference."""

from __future__ import annotations

import hashlib
import shutil
from pathlib import Path

import numpy as np
import orjson
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq
import pytest

from streams import features
from streams.batch import Batch
from streams.clients import deadletters
from streams.errors import RecordingError
from streams.offline import snapshot
from streams.offline.columns import with_schema_columns
from streams.offline.kept_risk import keep_snapshots
from streams.offline.recording import HOME, Recording, resumable, to_batch, to_table
from streams.offline.risk_pass import build
from streams.offline.run import open_shard
from streams.offline.source import RecordingSource, open_source
from streams.privacy import account_digest
from streams.risk import digest_of
from tests.offline import world
from tests.offline.world import World, check


def busy_rows(this: World, partition: int) -> list[int]:
    """Rows of the account with the most events in the partition, ascending."""
    tables = this.recording.tables(this.recording.manifest(), "transactions", partition)
    names = pa.concat_tables(list(tables))["key"].to_pylist()
    busiest = max(set(names), key=names.count)
    return [row for row, name in enumerate(names) if name == busiest]


def test_the_same_service_says_the_same_again(made: World, tmp_path: Path) -> None:
    verdict = check(made, tmp_path / "v", batch=333)
    assert verdict.equal, verdict.text()
    assert verdict.compared == made.recording.manifest().rows("scores") > 3_000
    assert made.recording.manifest().rows("alerts") > 10


def test_a_missing_event_is_named(copy: World, tmp_path: Path) -> None:
    row = busy_rows(copy, 2)[3]

    def drop(table: pa.Table) -> pa.Table:
        return table.filter(pa.array(np.arange(len(table)) != row))

    offset = world.offset_at(copy, 2, row)
    world.rewrite(copy, "transactions", 2, drop)
    verdict = check(copy, tmp_path / "v")
    assert verdict.first is not None
    assert (verdict.first.cause, verdict.first.offset) == ("state", offset)
    assert "lacks the transaction" in verdict.first.detail
    assert verdict.causes["state"] > 1, "later events of the account saw another history"
    assert set(verdict.causes) <= {"state", "risk"}, "its merchant's risk differs from then on"
    assert len(verdict.around) > 1


def test_swapped_events_are_named(copy: World, tmp_path: Path) -> None:
    first, second = busy_rows(copy, 1)[4:6]

    def swap(table: pa.Table) -> pa.Table:
        values = table["value"].to_pylist()
        values[first], values[second] = values[second], values[first]
        return table.set_column(4, "value", pa.array(values, pa.binary()))

    offset = world.offset_at(copy, 1, first)
    world.rewrite(copy, "transactions", 1, swap)
    verdict = check(copy, tmp_path / "v")
    assert verdict.first is not None
    assert (verdict.first.cause, verdict.first.offset) == ("state", offset)
    assert "another transaction is at this offset" in verdict.first.detail


def test_a_changed_window_is_named(
    made: World, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    # A window's length is part of its features' names, hence of the digest of the list.
    monkeypatch.setattr(features, "DIGEST", "0123456789abcdef")
    verdict = check(made, tmp_path / "v")
    assert set(verdict.causes) == {"features"}


def test_an_older_risk_snapshot_is_named(copy: World, tmp_path: Path) -> None:
    versions = sorted(
        {
            orjson.loads(value)["versions"]["risk"]
            for partition in copy.recording.manifest().partitions("scores")
            for table in copy.recording.tables(copy.recording.manifest(), "scores", partition, [])
            for value in table["value"].to_pylist()
        }
        - {"none"}
    )
    assert len(versions) > 3
    verdict = check(world.said_by(copy, "versions", "risk", versions[0]), tmp_path / "v")
    assert set(verdict.causes) == {"risk"}


def test_a_risk_snapshot_of_another_version_is_a_difference_and_no_breakdown(
    copy: World, tmp_path: Path
) -> None:
    content = b"fsr1, as it was once written"
    copy.recording.put_snapshot(digest_of(content), content)
    verdict = check(world.said_by(copy, "versions", "risk", digest_of(content)), tmp_path / "v")
    assert set(verdict.causes) == {"risk"}


def test_a_recording_without_scores_cannot_be_verified(tmp_path: Path) -> None:
    files = world.stream(tmp_path, events=300)
    source = open_source(*files, tmp_path / "spool")
    bare = World(Recording(source.location()), world.settings())
    with pytest.raises(RecordingError, match="has no scores"):
        check(bare, tmp_path / "v")


def test_erased_accounts_are_left_out_and_said(made: World, tmp_path: Path) -> None:
    """Erased in the middle of its payments: what it did before is gone, the rest is compared."""
    rows = busy_rows(made, 2)
    table = pa.concat_tables(
        list(made.recording.tables(made.recording.manifest(), "transactions", 2))
    )
    name = table["key"][rows[0]].as_py().decode()
    last = table["offset"][rows[-1]].as_py()
    whole = check(made, tmp_path / "whole")
    verdict = check(made, tmp_path / "v", forgotten={account_digest(name): last + 1})
    assert verdict.equal, verdict.text()
    assert verdict.erased > 5
    assert verdict.compared + verdict.erased == whole.compared
    assert f"{verdict.erased} are of accounts erased since" in verdict.text()
    assert verdict.document()["erased"] == verdict.erased


def test_what_was_put_aside_is_left_out_and_said(copy: World, tmp_path: Path) -> None:
    """The service never handled one message; its letter says so, and only for those bytes."""
    # The risk builder has its own way to the log, and counts the message.
    copy = World(copy.recording, world.settings("risk.enabled=false"))
    row = busy_rows(copy, 2)[0]
    offset = world.offset_at(copy, 2, row)
    whole = pa.concat_tables(
        list(copy.recording.tables(copy.recording.manifest(), "transactions", 2))
    )
    poison = whole["value"][row].as_py()
    world.rewrite(copy, "transactions", 2, lambda t: t.filter(pa.array(np.arange(len(t)) != row)))
    for topic in ("scores", "alerts"):
        for partition in copy.recording.manifest().partitions(topic):
            manifest = copy.recording.manifest()
            world.put(copy.recording, manifest, topic, partition, [])
            copy.recording.save(manifest)
    world.say(copy, tmp_path / "said")
    world.rewrite(copy, "transactions", 2, lambda t: whole)
    said = check(copy, tmp_path / "without")
    assert said.first is not None, "without the letter, it is a transaction without a score"
    for value, equal in ((poison + b" ", False), (poison, True)):
        _letter(copy, 2, offset, value)
        verdict = check(copy, tmp_path / f"v{equal}")
        assert (verdict.equal, verdict.put_aside) == (equal, int(equal)), verdict.text()
    assert "1 messages were put aside" in verdict.text()


def _letter(this: World, partition: int, offset: int, value: bytes) -> None:
    """A dead letter `quarantined` in the recording, the only one."""
    said = {"reason": b"quarantined", "topic": b"transactions"} | {
        name: b"%d" % number for name, number in (("partition", partition), ("offset", offset))
    }
    batch = Batch(
        topic=deadletters.TOPIC,
        partition=0,
        offsets=np.zeros(1, np.int64),
        timestamps=np.zeros(1, np.int64),
        keys=[None],
        values=[value],
        headers=[list(said.items())],
        next_offset=1,
    )
    manifest = this.recording.manifest()
    world.put(this.recording, manifest, deadletters.TOPIC, 0, [])
    table = with_schema_columns(deadletters.TOPIC, to_table(batch))
    manifest.files.append(this.recording.write(deadletters.TOPIC, 0, table, 1))
    this.recording.save(manifest)


JUNK = (b'{"hello":1}', None, b"no JSON", b"[" * 400 + b"]" * 400, b'{"versions":{"risk":[]}}')


def test_what_is_no_score_is_passed_over_and_said(copy: World, tmp_path: Path) -> None:
    """Nor is a score of another topic's transaction, wherever it says that this one stood."""
    manifest = copy.recording.manifest()
    manifest.origin[HOME] = "transactions"
    for topic in ("scores", "alerts"):
        tables = copy.recording.tables(manifest, topic, 1, [])
        values = [value for table in tables for value in table["value"].to_pylist()]
        other = orjson.loads(values[0])
        assert other["source"]["topic"] == "transactions"
        other["source"]["topic"], other["alert_id"] = "elsewhere", "0" * 32
        other["score"], other["versions"]["risk"] = 0.123, "0123456789abcdef"
        world.put(copy.recording, manifest, topic, 1, [*JUNK, orjson.dumps(other), *values])
    copy.recording.save(manifest)
    verdict = check(copy, tmp_path / "v", jobs=2)
    assert verdict.equal, verdict.text()
    assert verdict.passed_over == 2 * len(JUNK)
    assert "10 messages among the scores and alerts are neither" in verdict.text()
    asked: list[str] = []
    lacking = keep_snapshots(copy.recording, manifest, asked.append)
    assert lacking.no_scores == len(JUNK)
    assert lacking.versions == asked
    assert len(asked) > 3 and "0123456789abcdef" not in asked


def test_a_snapshot_that_cannot_be_kept_says_where_and_that_it_resumes(copy: World) -> None:
    """A file stands where their folder would be made: as on a full disk, writing fails."""
    manifest = copy.recording.manifest()
    folder = Path(copy.recording.path) / "risk"
    shutil.rmtree(folder, ignore_errors=True)
    folder.write_text("")
    manifest.snapshots = []
    with pytest.raises(RecordingError, match="it resumes") as told, resumable(copy.recording):
        keep_snapshots(copy.recording, manifest, lambda digest: b"x")
    assert copy.recording.path in str(told.value)
    folder.unlink()
    with resumable(copy.recording):
        keep_snapshots(copy.recording, manifest, lambda digest: b"x")
    assert len(manifest.snapshots) > 3


def test_from_a_snapshot_and_with_more_jobs(copy: World, tmp_path: Path) -> None:
    """The recording begins in the middle. With the state from before it all is equal; without it
    the verdict says that the state began empty."""
    manifest = copy.recording.manifest()
    shards = manifest.partitions("transactions")
    middle = {shard: _middle(copy, shard) for shard in shards}
    _state(copy, middle, tmp_path / "state")
    kept = {
        orjson.loads(value)["versions"]["risk"]
        for partition in manifest.partitions("scores")
        for table in copy.recording.tables(manifest, "scores", partition, [])
        for value in table["value"].to_pylist()
    } - {"none"}
    for version in kept:
        built = tmp_path / "state-risk" / f"{version}.bin"
        copy.recording.put_snapshot(version, built.read_bytes())
    for shard in shards:
        world.rewrite(
            copy, "transactions", shard,
            lambda t, at=middle[shard]: t.filter(pc.greater_equal(t["offset"], at)),
        )  # fmt: skip
    manifest = copy.recording.manifest()
    for shard in shards:
        manifest.start[f"transactions:{shard}"] = middle[shard]
    copy.recording.save(manifest)
    found = check(copy, tmp_path / "v", snapshot=tmp_path / "state", jobs=2)
    assert found.equal, found.text()
    assert found.document()["start"] == "snapshot"
    assert found.compared == manifest.rows("transactions") > 1_000
    empty = check(copy, tmp_path / "empty")
    assert not empty.equal
    assert "give --snapshot" in empty.text()
    manifest.start["transactions:1"] += 1
    copy.recording.save(manifest)
    with pytest.raises(RecordingError, match=r"is the state at offset .* begins at"):
        check(copy, tmp_path / "gap", snapshot=tmp_path / "state")


def _middle(this: World, shard: int) -> int:
    tables = this.recording.tables(this.recording.manifest(), "transactions", shard)
    offsets = pa.concat_tables(list(tables))["offset"]
    return int(offsets[len(offsets) // 2].as_py())


def _state(this: World, middle: dict[int, int], out: Path) -> None:
    """A snapshot with the state of each partition at its offset."""
    job = this.job(out)
    snapshots = build(job.source, this.settings, out.with_name("state-risk"))
    out.mkdir()
    parts = {}
    manifest = this.recording.manifest()
    for shard, offset in middle.items():
        tables = this.recording.tables(manifest, "transactions", shard, [])
        whole = pa.concat_tables(list(tables))
        before = whole.filter(pc.less(whole["offset"], offset))
        runner = open_shard(job, snapshots, shard)
        runner.step(to_batch("transactions", shard, before))
        accounts = sorted({key.decode() for key in before["key"].to_pylist()})
        held = {account: runner.record(account) for account in accounts}
        table = pa.table([pa.array(held), pa.array(held.values())], schema=snapshot.SCHEMA)
        path = out / f"{shard:05d}.parquet"
        pq.write_table(table, path)
        digest = hashlib.sha256(path.read_bytes()).hexdigest()
        parts[str(shard)] = {"offset": offset, "accounts": len(held), "sha256": digest}
    manifest = {"format": snapshot.FORMAT, "version": snapshot.VERSION, "partitions": parts}
    (out / "snapshot.json").write_bytes(orjson.dumps(manifest))


def test_transactions_that_had_no_score_yet_are_no_difference(copy: World, tmp_path: Path) -> None:
    manifest = copy.recording.manifest()
    values = world.scores(copy, 0)
    world.put(copy.recording, manifest, "scores", 0, values[:-3])
    copy.recording.save(manifest)
    verdict = check(copy, tmp_path / "v")
    assert verdict.equal, verdict.text()
    assert verdict.unscored == 3
    assert "3 transactions at the end were not scored yet" in verdict.text()
    world.put(copy.recording, manifest, "scores", 0, values[:5] + values[6:])
    copy.recording.save(manifest)
    assert check(copy, tmp_path / "v").causes == {"state": 1}, "one in the middle is missing"


def test_a_recording_made_before_anything_was_scored(copy: World, tmp_path: Path) -> None:
    manifest = copy.recording.manifest()
    for partition in manifest.partitions("scores"):
        world.put(copy.recording, manifest, "scores", partition, [])
    copy.recording.save(manifest)
    with pytest.raises(RecordingError, match="no score of any"):
        check(copy, tmp_path / "v")


def test_the_source_is_a_recording(made: World) -> None:
    assert RecordingSource(made.recording.path).location() == made.recording.path
