"""A replay brings no erased account back: neither from a recording made before, nor from a file."""

from __future__ import annotations

from pathlib import Path
from typing import Any, cast

import numpy as np
import orjson
import pytest
import redis

from streams.batch import Batch
from streams.columns import Columns
from streams.offline import snapshot
from streams.offline.erased import ALL, forgotten
from streams.offline.recording import Manifest, Recording, to_table
from streams.offline.replay import Shard
from streams.offline.run import Job, open_shard
from streams.offline.source import RecordingSource, Source, open_source
from streams.privacy import account_digest
from streams.settings import Settings, load
from streams.store import WHOLE, Commit, Identity, Writes
from streams.store.redis import RedisStore
from tests.messages import BROKER_TIME, message

ACCOUNTS = ("acct-1", "acct-2")
TOPIC = Identity("topic", 12)


def payment(number: int) -> bytes:
    return message(
        transaction_id=f"t{number}",
        account_id=ACCOUNTS[number % 2],
        event_time=BROKER_TIME + number,
    )


@pytest.fixture
def settings(redis_url: str) -> Settings:
    return load(flags=[f"redis.url={redis_url}"])


def erased(redis_url: str, partition: int, cut: int) -> None:
    """The live store was told to forget `acct-1`, whose tombstone stands at `cut`."""
    with redis.Redis.from_url(redis_url) as client:
        store = RedisStore(client)
        store.acquire(partition, TOPIC)
        store.forget(partition, ACCOUNTS[0], cut, lambda entry: entry)


def recorded(path: Path, offsets: list[int], gone: int | None = None) -> Source:
    """A recording of partition 3, with a tombstone of `acct-1` at `gone`."""
    batch = Batch(
        topic="transactions",
        partition=3,
        offsets=np.array(offsets, np.int64),
        timestamps=np.full(len(offsets), BROKER_TIME),
        keys=[ACCOUNTS[n % 2].encode() for n in offsets],
        values=[None if n == gone else payment(n) for n in offsets],
        headers=None,
        next_offset=offsets[-1] + 1,
    )
    recording = Recording(str(path))
    manifest = Manifest(
        start={"transactions:3": 0},
        end={"transactions:3": 100},
        # As the recorder says it; see test_record.py.
        origin={"transactions": "w1xLBLp5Q0uqE8yDTUkyZA", "topic": "transactions"},
    )
    manifest.files.append(recording.write("transactions", 3, to_table(batch), batch.next_offset))
    recording.save(manifest)
    return RecordingSource(str(path))


def records(source: Source, markers: dict[bytes, int]) -> dict[str, int]:
    """Bytes of each account's record after a replay of everything."""
    found: dict[str, int] = {}
    for number in source.shards():
        shard = Shard(number, [], None, max_future_ms=10**12, forgotten=markers)
        for _ in shard.steps(source.batches(number, 10)):
            pass
        held = {account: shard.record(account) for account in ACCOUNTS}
        found |= {account: len(record) for account, record in held.items() if record}
    return found


def test_a_recording_taken_before_the_erasure(
    settings: Settings, redis_url: str, tmp_path: Path
) -> None:
    source = recorded(tmp_path / "r", list(range(40, 60)))
    assert records(source, {}).keys() == set(ACCOUNTS)
    erased(redis_url, 3, 70)
    markers, remark = forgotten(settings, source)
    assert (markers, remark) == ({account_digest(ACCOUNTS[0]): 70}, None)
    assert records(source, markers).keys() == {ACCOUNTS[1]}


def test_what_came_after_the_erasure_is_another_account(
    settings: Settings, redis_url: str, tmp_path: Path
) -> None:
    erased(redis_url, 3, 50)
    source = recorded(tmp_path / "r", list(range(40, 60)))
    markers, _ = forgotten(settings, source)
    assert records(source, markers) == {ACCOUNTS[0]: 64 + 32 * 5, ACCOUNTS[1]: 64 + 32 * 10}


def test_the_newest_tombstone_counts_whoever_names_it(
    settings: Settings, redis_url: str, tmp_path: Path
) -> None:
    erased(redis_url, 3, 44)
    source = recorded(tmp_path / "r", list(range(40, 60)), gone=52)
    markers, _ = forgotten(settings, source)
    assert markers == {account_digest(ACCOUNTS[0]): 52}
    unreachable = load(flags=["redis.url=redis://127.0.0.1:1/0"])
    markers, remark = forgotten(unreachable, source)
    assert markers == {account_digest(ACCOUNTS[0]): 52}
    assert remark is not None and "cannot be reached" in remark


def test_a_file_has_no_offsets_so_all_of_the_account_is_left_out(
    settings: Settings, redis_url: str, tmp_path: Path
) -> None:
    file = tmp_path / "mine.jsonl"
    file.write_bytes(b"\n".join(payment(n) for n in range(40)))
    source = open_source(file, None, tmp_path / "work")
    assert records(source, {}).keys() == set(ACCOUNTS)
    # In a partition that the laid-out file has not, at an offset that its rows are past.
    erased(redis_url, 11, 5)
    markers, _ = forgotten(settings, source)
    assert markers == {account_digest(ACCOUNTS[0]): ALL}
    assert records(source, markers).keys() == {ACCOUNTS[1]}
    assert orjson.loads(payment(39))["account_id"] == ACCOUNTS[1]


class NoRisk:
    """No snapshots."""

    def view(self, columns: Columns) -> None: ...


@pytest.mark.parametrize(("cut", "left"), [(45, {ACCOUNTS[1]}), (30, set(ACCOUNTS))])
def test_a_snapshot_taken_before_the_erasure(
    settings: Settings, redis_url: str, tmp_path: Path, cut: int, left: set[str]
) -> None:
    """At offset 40. An erasure at 30 was in the state already: what it holds came later."""
    before = Shard(0, [], None, max_future_ms=10**12, forgotten={})
    for _ in before.steps(recorded(tmp_path / "old", list(range(40))).batches(3, 100)):
        pass
    held = [(name, [(WHOLE, before.record(name) or b"")]) for name in ACCOUNTS]
    with redis.Redis.from_url(redis_url) as client:
        store = RedisStore(client)
        claim = [store.acquire(number, TOPIC) for number in range(TOPIC.partitions)][3]
        store.commit(claim, Commit(None, 40, Writes.of(held)))
        snapshot.take(client, "fs", tmp_path / "state")
    # A recording without anything of theirs, so that only the snapshot could bring them back.
    source = recorded(tmp_path / "r", list(range(41, 42)))
    markers = {account_digest(ACCOUNTS[0]): cut}
    job = Job(source, (settings,), tmp_path, forgotten=markers, snapshot=tmp_path / "state")
    runner = open_shard(job, cast(Any, None), 3, judged=False, risk=NoRisk())
    assert {name for name in ACCOUNTS if runner.record(name)} == left
