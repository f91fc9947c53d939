"""The scores and alerts that a recording holds, one at a time.

In: a recording. Out: records; None for each message that is none, as others may write there, too.
Does not know what the records are asked for.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from streams.clients.records import record_of
from streams.offline.recording import HOME, Manifest, Recording


def told(recording: Recording, manifest: Manifest, topic: str) -> Iterator[dict[str, Any] | None]:
    """Records of `scores` or `alerts`; those about another topic's transactions are left out.

    Recordings of earlier versions do not say which topic theirs is: then none is left out.
    """
    home = manifest.origin.get(HOME)
    for partition in manifest.partitions(topic):
        for table in recording.tables(manifest, topic, partition, []):
            for value in table["value"].to_pylist():
                record = record_of(topic, value)
                if record is None or home in (None, record["source"]["topic"]):
                    yield record
