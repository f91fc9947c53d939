"""A replay that is killed at random times ends with the bytes of one that was not; Ctrl-C ends one,
and all its processes, at once."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from multiprocessing.synchronize import Event
from pathlib import Path

import pytest

from streams.cli.progress import GOES_ON
from streams.errors import ConfigError
from streams.offline import results
from streams.offline.dataset import PARTS, dataset
from streams.offline.run import Job, replay
from streams.offline.source import RecordingSource, open_source
from streams.settings import load
from tests.offline import world
from tests.offline.killing import killed

PROGRAM = "import sys; from streams.cli import main; sys.argv[0] = 'fraudstream'; main()"


@pytest.fixture(scope="module")
def source(tmp_path_factory: pytest.TempPathFactory) -> RecordingSource:
    files = world.stream(tmp_path_factory.mktemp("stream"), events=1_500, late=0.02)
    return RecordingSource(open_source(*files, tmp_path_factory.mktemp("spool")).location())


def _replay(job: Job, moved: Event) -> None:
    replay(job, progress=lambda done, total: moved.set() if done else None)


def test_twenty_kills_leave_no_trace(source: RecordingSource, tmp_path: Path) -> None:
    whole = replay(Job(source, (world.settings(),), tmp_path / "whole"))

    def job(place: int) -> tuple[Job]:
        return (Job(source, (world.settings(),), tmp_path / f"r{place}", batch=16),)

    def check(place: int) -> None:
        assert results.digest(tmp_path / f"r{place}") == whole["digest"]

    place = killed(_replay, job, check, times=20, seed=5, within_s=0.4)
    last = replay(Job(source, (world.settings(),), tmp_path / f"r{place}"))
    assert last["digest"] == whole["digest"]
    assert last["messages"] == whole["messages"] == sum(map(source.rows, source.shards()))


def test_what_a_run_goes_on_from_is_on_the_disk(
    source: RecordingSource, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A machine that loses its power may else keep the name of a result, which counts as whole."""
    synced: set[int] = set()
    sync = os.fsync

    def noted(descriptor: int) -> None:
        sync(descriptor)
        synced.add(os.fstat(descriptor).st_ino)

    monkeypatch.setattr(os, "fsync", noted)
    replay(Job(source, (world.settings(),), tmp_path / "replayed"))
    dataset(Job(source, (world.settings(),), tmp_path / "set"))
    files = [*tmp_path.glob("replayed/*.parquet"), *tmp_path.glob("*/risk/*.bin")]
    files += [tmp_path / "replayed" / "summary.json", *tmp_path.glob("*/risk/index.json")]
    assert len(files) > 4
    assert [path for path in files if path.stat().st_ino not in synced] == []


def test_ctrl_c_ends_all_processes_and_says_how_to_go_on(tmp_path: Path) -> None:
    """As a terminal sends it: to the whole group, while a process works and another one starts."""
    files = world.stream(tmp_path, events=8_000)
    words = ["replay", str(files[0]), "--labels", str(files[1]), "--out", "out", "--json"]
    program = [sys.executable, "-c", PROGRAM, *words, "--set", "model.bundle=stub"]
    run = subprocess.Popen(
        [*program, "--jobs", "2"],
        cwd=tmp_path,
        start_new_session=True,
        stderr=subprocess.PIPE,
        text=True,
    )
    out = tmp_path / "out"
    deadline = time.monotonic() + 300
    while not list(out.glob("*.part")) and run.poll() is None and time.monotonic() < deadline:
        time.sleep(0.01)
    os.killpg(run.pid, signal.SIGINT)
    _, told = run.communicate(timeout=120)
    assert run.returncode == 130
    assert "Traceback" not in told
    assert told.splitlines()[-1] == GOES_ON
    whole = replay(
        Job(
            open_source(*files, tmp_path / "spool"),
            (load(flags=["model.bundle=stub"]),),
            tmp_path / "w",
        )
    )
    done = subprocess.run(program, cwd=tmp_path, stdout=subprocess.PIPE, check=True)
    assert json.loads(done.stdout)["digest"] == whole["digest"]


def test_one_large_shard_tells_how_far_it_is(source: RecordingSource, tmp_path: Path) -> None:
    for jobs in (1, 2):
        job = Job(source, (world.settings(),), tmp_path / f"j{jobs}", batch=50)
        told: list[tuple[int, int]] = []
        replay(job, jobs=jobs, progress=lambda *step, into=told: into.append(step))  # type: ignore
        done = [each for each, _ in told]
        assert done == sorted(done)
        assert {total for _, total in told} == {sum(map(source.rows, source.shards()))}
        assert told[-1][0] == told[-1][1]
        assert jobs > 1 or len(set(done)) > len(source.shards()) + 1, "not only whole shards"


def test_parts_of_another_dataset_are_not_mixed_in(source: RecordingSource, tmp_path: Path) -> None:
    whole = dataset(Job(source, (world.settings(),), tmp_path / "whole"))
    parts = tmp_path / "d" / PARTS
    parts.mkdir(parents=True)
    (parts / "00001.part").write_bytes(b"the remains of a run that died")
    assert dataset(Job(source, (world.settings(),), tmp_path / "d")) == whole
    parts.mkdir()
    (parts / "job.json").write_bytes(b"{}")
    with pytest.raises(ConfigError, match="another"):
        dataset(Job(source, (world.settings(),), tmp_path / "d"))
