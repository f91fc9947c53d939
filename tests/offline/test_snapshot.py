"""A replay from a snapshot goes on exactly where the whole replay was."""

from __future__ import annotations

import time
from pathlib import Path
from typing import Any

import pytest
import redis
from typer.testing import CliRunner

from streams import cli
from streams.errors import RecordingError, StoreError, StoreUnready
from streams.offline import snapshot
from streams.offline.risk_pass import build
from streams.offline.run import Job, open_shard
from streams.offline.said import Said, replayed
from streams.offline.source import RecordingSource, open_source
from streams.store import Commit, Identity, Writes, generations
from streams.store.redis import RedisStore
from tests.offline import world

CUT = 1_700


@pytest.fixture(scope="module")
def source(tmp_path_factory: pytest.TempPathFactory) -> RecordingSource:
    files = world.stream(tmp_path_factory.mktemp("stream"))
    return RecordingSource(open_source(*files, tmp_path_factory.mktemp("spool")).location())


def test_a_replay_goes_on_from_a_snapshot(
    source: RecordingSource, redis_url: str, tmp_path: Path
) -> None:
    shards = source.shards()
    whole = Job(source, (world.settings(),), tmp_path / "whole")
    snapshots = build(source, world.settings(), tmp_path / "risk")
    store = RedisStore(redis.Redis.from_url(redis_url))
    expected: dict[tuple[int, int], Said] = {}
    for shard in shards:
        runner = open_shard(whole, snapshots, shard)
        claim = store.acquire(shard, Identity("topic", len(shards)))
        accounts: set[str] = set()
        kept = False
        for batch in source.batches(shard, 100):
            if not kept and batch.offsets[0] >= CUT:
                pieces = [(name, [(world.WHOLE, runner.record(name) or b"")]) for name in accounts]
                step = Commit(None, int(batch.offsets[0]), Writes.of(sorted(pieces)))
                store.commit(claim, step)
                kept = True
            done = runner.step(batch)
            accounts |= set(done.work.columns.account_id)
            if kept:
                expected.update({(shard, at): what for at, what in replayed(done)})
        assert kept

    taken = snapshot.take(redis.Redis.from_url(redis_url), "fs", tmp_path / "state")
    assert sum(part["accounts"] for part in taken["partitions"].values()) > 50
    resumed = Job(source, (world.settings(),), tmp_path / "rest", snapshot=tmp_path / "state")
    found: dict[tuple[int, int], Said] = {}
    for shard in shards:
        runner = open_shard(resumed, snapshots, shard)
        for done in runner.steps(source.batches(shard, 77)):
            found.update({(shard, at): what for at, what in replayed(done)})
    assert found == expected


def test_a_snapshot_that_fails_half_way_leaves_the_one_before(
    redis_url: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    client = redis.Redis.from_url(redis_url)
    store = RedisStore(client)
    claims = [store.acquire(partition, Identity("topic", 2)) for partition in (0, 1)]
    first = snapshot.take(client, "fs", tmp_path)
    store.commit(claims[0], Commit(None, 5, Writes.of([("a", [(world.WHOLE, b"12345678")])])))
    standing = snapshot._standing

    def moving(*given: Any) -> Any:
        if given[2] == 1:
            raise StoreError("partition 1 moves while it is read")
        return standing(*given)

    with monkeypatch.context() as patch:
        patch.setattr(snapshot, "_standing", moving)
        with pytest.raises(StoreError, match="moves"):
            snapshot.take(client, "fs", tmp_path)
    assert snapshot.manifest_of(tmp_path) == first
    assert list(snapshot.records(tmp_path, 0)) == []
    second = snapshot.take(client, "fs", tmp_path)
    assert [name for name, _ in snapshot.records(tmp_path, 0)] == ["a"]
    assert snapshot.manifest_of(tmp_path) == second
    names = sorted(path.name for path in tmp_path.iterdir())
    assert names == ["00000.parquet", "00001.parquet", "snapshot.json"]


def test_a_rebuild_that_ends_meanwhile_is_no_quiet_hour(
    redis_url: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It sweeps the records that are being read, and leaves their offset as it was."""
    client = redis.Redis.from_url(redis_url)
    topic = Identity("topic", 1)

    def keep(store: RedisStore) -> None:
        pieces = [(f"a{n}", [(world.WHOLE, b"12345678")]) for n in range(50)]
        store.commit(store.acquire(0, topic), Commit(None, 5, Writes.of(pieces)))

    keep(RedisStore(client))
    generation = generations.begin(client, "fs")
    keep(RedisStore(client, generation=generation))
    read = snapshot._records

    def swept(*given: Any) -> Any:
        if generations.read(client, "fs").current != generation:
            generations.switch(client, "fs", generation, topic.partitions)
            generations.sweep(client, "fs", 0)
        return read(*given)

    monkeypatch.setattr(snapshot, "_records", swept)
    with pytest.raises(StoreError, match=r"rebuild.*again"):
        snapshot.take(client, "fs", tmp_path)
    assert list(tmp_path.iterdir()) == []
    snapshot.take(client, "fs", tmp_path)
    assert len(list(snapshot.records(tmp_path, 0))) == 50


def test_without_state_there_is_no_snapshot(redis_url: str, tmp_path: Path) -> None:
    with pytest.raises(StoreError, match="no state"):
        snapshot.take(redis.Redis.from_url(redis_url), "fs", tmp_path)


@pytest.mark.parametrize("forbidden", ["scan", "hget"])
def test_a_user_without_rights_gets_no_traceback(
    redis_url: str, tmp_path: Path, forbidden: str
) -> None:
    rights = ["+@all", f"-{forbidden}"]
    with redis.Redis.from_url(redis_url) as client:
        RedisStore(client).acquire(0, Identity("topic", 1))
        client.acl_setuser("limited", enabled=True, nopass=True, keys=["*"], commands=rights)
    with (
        redis.Redis.from_url(redis_url, username="limited", password="any") as limited,
        pytest.raises(StoreUnready, match=rf"'{forbidden}'.*users\.acl"),
    ):
        snapshot.take(limited, "fs", tmp_path)


def test_the_verb_leaves_no_connection_behind(redis_url: str, tmp_path: Path) -> None:
    admin = redis.Redis.from_url(redis_url)

    def connections() -> set[str]:
        return {each["id"] for each in admin.client_list()}

    before = connections()
    with pytest.raises(StoreError, match="no state") as told:
        CliRunner().invoke(
            cli.build(),
            ["snapshot", str(tmp_path), "--set", f"redis.url={redis_url}"],
            catch_exceptions=False,
        )
    # The error holds the verb's frame, hence its client, so that no collector closes it.
    assert told.value.__traceback__ is not None
    # The server may hear of it later; and other tests' connections may end meanwhile.
    deadline = time.monotonic() + 60
    while left := connections() - before:
        assert time.monotonic() < deadline, left
        time.sleep(0.05)


def test_a_damaged_snapshot_is_refused(redis_url: str, tmp_path: Path) -> None:
    store = RedisStore(redis.Redis.from_url(redis_url))
    claim = store.acquire(0, Identity("topic", 1))
    store.commit(claim, Commit(None, 5, Writes.of([("a", [(world.WHOLE, b"x" * 96)])])))
    snapshot.take(redis.Redis.from_url(redis_url), "fs", tmp_path / "s")
    assert list(snapshot.records(tmp_path / "s", 0)) == [("a", b"x" * 96)]
    file = tmp_path / "s" / "00000.parquet"
    content = bytearray(file.read_bytes())
    content[len(content) // 2] ^= 1
    file.write_bytes(bytes(content))
    with pytest.raises(RecordingError, match="does not match its checksum"):
        list(snapshot.records(tmp_path / "s", 0))
    with pytest.raises(RecordingError, match="is not a snapshot"):
        snapshot.manifest_of(tmp_path / "elsewhere")


def test_a_snapshot_that_lacks_a_partition_of_the_recording(
    source: RecordingSource, redis_url: str, tmp_path: Path
) -> None:
    store = RedisStore(redis.Redis.from_url(redis_url))
    store.commit(store.acquire(0, Identity("topic", 1)), Commit(None, 5))
    snapshot.take(redis.Redis.from_url(redis_url), "fs", tmp_path / "s")
    job = Job(source, (world.settings(),), tmp_path / "out", snapshot=tmp_path / "s")
    snapshots = build(source, world.settings(), tmp_path / "risk")
    open_shard(job, snapshots, 0)
    with pytest.raises(RecordingError, match=r"no state of partition 1.*take a snapshot of"):
        open_shard(job, snapshots, 1)
