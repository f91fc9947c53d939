"""Keep the risk snapshots that recorded scores name, so that `verify` can use those very ones.

In: a recording with scores, a way to fetch a snapshot. Out: files in the recording's `risk/`, and
what could not be kept.
Does not know where the live service keeps its snapshots.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field

from streams.offline.recording import Manifest, Recording
from streams.offline.told import told
from streams.risk import NO_SNAPSHOT


@dataclass(slots=True)
class Lacking:
    """Versions that could not be had, and how many messages of `scores` are no scores."""

    versions: list[str] = field(default_factory=list)
    no_scores: int = 0


def keep_snapshots(
    recording: Recording, manifest: Manifest, fetch: Callable[[str], bytes | None]
) -> Lacking:
    """Fetch what is named and not kept yet."""
    lacking = Lacking()
    named: set[str] = set()
    for score in told(recording, manifest, "scores"):
        if score is None:
            lacking.no_scores += 1
        else:
            named.add(score["versions"]["risk"])
    for version in sorted(named - {NO_SNAPSHOT} - set(manifest.snapshots)):
        content = fetch(version)
        if content is None:
            lacking.versions.append(version)
            continue
        recording.put_snapshot(version, content)
        manifest.snapshots.append(version)
    return lacking
