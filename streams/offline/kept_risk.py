"""Keep the risk snapshots that recorded scores name, so that `verify` can use those very ones.

In: a recording with scores, a way to fetch a snapshot. Out: files in the recording's `risk/`.
Does not know where the live service keeps its snapshots.
"""

from __future__ import annotations

from collections.abc import Callable

import orjson

from streams.offline.recording import Manifest, Recording
from streams.risk import NO_SNAPSHOT


def keep_snapshots(
    recording: Recording, manifest: Manifest, fetch: Callable[[str], bytes | None]
) -> list[str]:
    """Fetch what is named and not kept yet; returns the versions that could not be had."""
    named: set[str] = set()
    for partition in manifest.partitions("scores"):
        for table in recording.tables(manifest, "scores", partition, []):
            named |= {
                orjson.loads(value)["versions"]["risk"] for value in table["value"].to_pylist()
            }
    missing = []
    for version in sorted(named - {NO_SNAPSHOT} - set(manifest.snapshots)):
        content = fetch(version)
        if content is None:
            missing.append(version)
            continue
        recording.put_snapshot(version, content)
        manifest.snapshots.append(version)
    return missing
