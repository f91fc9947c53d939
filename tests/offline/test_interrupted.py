"""A replay that is killed at random times ends with the bytes of one that was not."""

from __future__ import annotations

import multiprocessing
import random
from multiprocessing.synchronize import Event
from pathlib import Path
from typing import Any

import pytest

from streams.errors import ConfigError
from streams.offline import results
from streams.offline.dataset import dataset
from streams.offline.run import Job, replay
from streams.offline.source import RecordingSource, open_source
from tests.offline import world

KILLS = 20
children: Any = multiprocessing.get_context("forkserver")
children.set_forkserver_preload(["tests.live.preloaded"])


@pytest.fixture(scope="module")
def source(tmp_path_factory: pytest.TempPathFactory) -> RecordingSource:
    files = world.stream(tmp_path_factory.mktemp("stream"), events=1_500, late=0.02)
    return RecordingSource(open_source(*files, tmp_path_factory.mktemp("spool")).location())


def _replay(job: Job, moved: Event) -> None:
    replay(job, progress=lambda done, total: moved.set() if done else None)


def test_twenty_kills_leave_no_trace(source: RecordingSource, tmp_path: Path) -> None:
    whole = replay(Job(source, (world.settings(),), tmp_path / "whole"))
    chance, kills, place = random.Random(5), 0, 0
    for _ in range(10 * KILLS):
        job = Job(source, (world.settings(),), tmp_path / f"r{place}", batch=16)
        moved = children.Event()
        child = children.Process(target=_replay, args=(job, moved))
        child.start()
        if kills % 4:
            moved.wait(60)
        child.join(chance.uniform(0, 0.4))
        if child.exitcode is None:
            child.kill()
            child.join()
            kills += 1
        else:
            assert child.exitcode == 0
            assert results.digest(job.out) == whole["digest"]
            place += 1
        if kills == KILLS:
            break
    assert kills == KILLS
    last = replay(Job(source, (world.settings(),), tmp_path / f"r{place}"))
    assert last["digest"] == whole["digest"]
    assert last["messages"] == whole["messages"] == sum(map(source.rows, source.shards()))


def test_one_large_shard_tells_how_far_it_is(source: RecordingSource, tmp_path: Path) -> None:
    for jobs in (1, 2):
        job = Job(source, (world.settings(),), tmp_path / f"j{jobs}", batch=50)
        told: list[tuple[int, int]] = []
        replay(job, jobs=jobs, progress=lambda *step, into=told: into.append(step))  # type: ignore
        done = [each for each, _ in told]
        assert done == sorted(done)
        assert {total for _, total in told} == {2 * sum(map(source.rows, source.shards()))}
        assert told[-1][0] == told[-1][1]
        assert jobs > 1 or len(set(done)) > len(source.shards()) + 1, "not only whole shards"


def test_parts_of_another_dataset_are_not_mixed_in(source: RecordingSource, tmp_path: Path) -> None:
    whole = dataset(Job(source, (world.settings(),), tmp_path / "whole"))
    parts = tmp_path / "d" / "parts"
    parts.mkdir(parents=True)
    (parts / "00001.part").write_bytes(b"the remains of a run that died")
    assert dataset(Job(source, (world.settings(),), tmp_path / "d")) == whole
    parts.mkdir()
    (parts / "job.json").write_bytes(b"{}")
    with pytest.raises(ConfigError, match="another"):
        dataset(Job(source, (world.settings(),), tmp_path / "d"))
