"""The Ray engine on a real cluster of two nodes: the bytes are those of one process."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

from streams.offline import results
from streams.offline.run import Job, replay
from streams.offline.source import open_source
from tests.offline import on_ray, world

ROOT = Path(on_ray.__file__).parents[2]


def test_two_nodes_write_the_bytes_of_one_process(tmp_path: Path) -> None:
    # Relative paths, as a user types them: they mean the same on the nodes.
    source = open_source(*world.stream(tmp_path, events=1_000), tmp_path)
    alone = replay(Job(source, (world.settings(),), tmp_path / "alone"))
    done = subprocess.run(
        [sys.executable, on_ray.__file__, "input", "far", "other"],
        cwd=tmp_path, env=os.environ | {"PYTHONPATH": str(ROOT)},
        capture_output=True, text=True, check=False, timeout=400,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    told = json.loads(done.stdout)
    assert told["nodes"] == 2
    assert told["digest"] == alone["digest"]
    for shard in source.shards():
        far = results.shard_path(tmp_path / "far", shard).read_bytes()
        assert far == results.shard_path(tmp_path / "alone", shard).read_bytes()
    # A node's error is the caller's error, not one of Ray's.
    assert told["error"].startswith("input/transactions/00003-")
