"""A replay on a Ray cluster of two nodes: the same files as here, the same errors."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import orjson
import pytest

from benchmarks.handbook_replay import two_nodes
from streams.offline import results
from tests.offline import world


@pytest.fixture(scope="module")
def address() -> Iterator[str]:
    """Two nodes on this machine, without a driver in this process."""
    with two_nodes() as found:
        yield found


@pytest.fixture(scope="module")
def files(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path]:
    return world.stream(tmp_path_factory.mktemp("stream"), events=2_000, late=0.02, faults=0.02)


def fraudstream(
    place: Path, *arguments: str, **environment: str
) -> subprocess.CompletedProcess[bytes]:
    """The installed command, as a user runs it."""
    return subprocess.run(
        [Path(sys.executable).with_name("fraudstream"), *arguments],
        cwd=place, env=os.environ | environment, capture_output=True, timeout=600, check=False,
    )  # fmt: skip


def test_two_nodes_write_the_same_files(
    address: str, files: tuple[Path, Path], tmp_path: Path
) -> None:
    words = ["replay", str(files[0]), "--labels", str(files[1]), "--json"]
    words += [word for flag in world.FLAGS for word in ("--set", flag)]
    here = fraudstream(tmp_path, *words, "--out", "here", "--jobs", "1")
    there = fraudstream(tmp_path, *words, "--out", "there", "--engine", "ray", RAY_ADDRESS=address)
    assert (here.returncode, there.returncode) == (0, 0), there.stderr.decode()
    assert orjson.loads(here.stdout)["digest"] == orjson.loads(there.stdout)["digest"]
    shards = results.shards(tmp_path / "here")
    assert shards == results.shards(tmp_path / "there")
    for shard in shards:
        one, other = (results.shard_path(tmp_path / name, shard) for name in ("here", "there"))
        assert one.read_bytes() == other.read_bytes()


def test_a_cluster_that_is_not_there_is_named(files: tuple[Path, Path], tmp_path: Path) -> None:
    said = fraudstream(
        tmp_path, "replay", str(files[0]), "--out", "out", "--engine", "ray",
        "--set", "model.bundle=stub", RAY_ADDRESS="127.0.0.1:1",
    )  # fmt: skip
    assert said.returncode == 2
    assert b"no Ray cluster at 127.0.0.1:1" in said.stderr
    assert b"ray start" in said.stderr
    assert list(tmp_path.iterdir()) == [], "the file was laid out before it was said"
