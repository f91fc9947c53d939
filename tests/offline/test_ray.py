"""The Ray engine on a cluster of two nodes: the same digest as any number of processes."""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path

import pytest

os.environ["RAY_USAGE_STATS_ENABLED"] = "0"
os.environ["RAY_ENABLE_UV_RUN_RUNTIME_ENV"] = "0"

import ray
from ray.cluster_utils import Cluster

from streams.offline.run import Job, replay
from streams.offline.source import RecordingSource, open_source
from tests.offline import world

MEMORY = 80 * 2**20
"""The least object store that Ray takes."""


@pytest.fixture
def cluster() -> Iterator[Cluster]:
    """Two nodes on the loopback interface, one processor each."""
    node = {"num_cpus": 1, "object_store_memory": MEMORY, "include_dashboard": False}
    made = Cluster(initialize_head=True, head_node_args={**node, "node_ip_address": "127.0.0.1"})
    try:
        made.add_node(num_cpus=1, object_store_memory=MEMORY, node_ip_address="127.0.0.1")
        ray.init(address=made.address, log_to_driver=False)
        yield made
    finally:
        ray.shutdown()
        made.shutdown()


def test_ray_and_processes_write_the_same_bytes(cluster: Cluster, tmp_path: Path) -> None:
    assert len([node for node in ray.nodes() if node["Alive"]]) == 2
    files = world.stream(tmp_path / "stream", events=1_000)
    source = RecordingSource(open_source(*files, tmp_path / "spool").location())

    def digest(name: str, **how: object) -> str:
        job = Job(source, (world.settings(),), tmp_path / name)
        return str(replay(job, **how)["digest"])  # type: ignore[arg-type]

    expected = digest("one")
    assert digest("ray", engine="ray") == expected
    assert digest("two", jobs=2) == expected
    assert digest("four", jobs=4) == expected
