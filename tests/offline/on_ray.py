"""A replay on a Ray cluster of two nodes of one core each. For tests only.

In: a recording and two directories, as arguments. Out: one JSON document: the digest of the replay
into the first; how many nodes worked; the error of the same after a file of the recording was cut.
A process of its own, because Ray starts threads and logs that nobody else should have.
"""

from __future__ import annotations

import json
import os
import sys
from pathlib import Path
from typing import Any

STORE_BYTES = 80 * 2**20
"""The least that Ray takes; only functions and counts travel."""


def cut(path: Path) -> None:
    """Lose the end of a file."""
    path.write_bytes(path.read_bytes()[:-100])


def main(recording: str, out: str, other: str) -> None:
    """Start the cluster, replay twice, stop it."""
    os.environ["RAY_USAGE_STATS_ENABLED"] = "0"
    import ray
    from ray.cluster_utils import Cluster

    size = {"num_cpus": 1, "object_store_memory": STORE_BYTES}
    cluster = Cluster(initialize_head=True, head_node_args=size | {"include_dashboard": False})
    cluster.add_node(**size)
    os.environ["RAY_ADDRESS"] = cluster.address
    from streams.errors import RecordingError
    from streams.offline.run import Job, replay
    from streams.offline.source import RecordingSource
    from tests.offline import world

    source = RecordingSource(recording)
    found: dict[str, Any] = replay(Job(source, (world.settings(),), Path(out)), engine="ray")
    told: dict[str, Any] = {"digest": found["digest"], "nodes": len(ray.nodes())}
    cut(next(Path(recording, "transactions").glob("00003-*")))
    without_risk = (world.settings("risk.enabled=false"),)
    try:
        replay(Job(source, without_risk, Path(other)), engine="ray")
    except RecordingError as error:
        told["error"] = str(error)
    sys.stdout.write(json.dumps(told))
    sys.stdout.flush()
    ray.shutdown()
    cluster.shutdown()


if __name__ == "__main__":
    main(*sys.argv[1:])
