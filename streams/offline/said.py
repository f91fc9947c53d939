"""What was said of a transaction: by the live service as recorded, and by a replay.

In: recorded scores and alerts; replayed batches. Out: `Said`, the same form for both.
Does not know how the two are compared.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass

import numpy as np
import orjson

from streams.alerts import DECISIONS
from streams.entry import LATE
from streams.errors import RecordingError
from streams.offline.recording import Manifest, Recording
from streams.offline.replay import Step
from streams.offline.told import told
from streams.windows import APPLIED


@dataclass(frozen=True, slots=True)
class Said:
    """The parts of a score and its alert that must be the same again."""

    transaction_id: str
    account_id: str
    event_time: int
    score: float | None
    decision: str
    feature_digest: str
    versions: dict[str, str]
    alert_id: str | None


def said(recording: Recording, manifest: Manifest, partition: int) -> tuple[dict[int, Said], int]:
    """By offset, the recorded scores of transactions of one partition; repeats must be equal.

    And how many messages of all partitions are no scores or alerts: they are passed over. Raises
    RecordingError when a transaction has two different scores.
    """
    strange = 0
    alerts: dict[int, str] = {}
    for document in told(recording, manifest, "alerts"):
        if document is None:
            strange += 1
        elif document["source"]["partition"] == partition:
            alerts[document["source"]["offset"]] = document["alert_id"]
    found: dict[int, Said] = {}
    versions: dict[bytes, dict[str, str]] = {}
    for document in told(recording, manifest, "scores"):
        if document is None:
            strange += 1
            continue
        if document["source"]["partition"] != partition:
            continue
        offset = document["source"]["offset"]
        one = Said(
            document["transaction_id"],
            document["account_id"],
            document["event_time"],
            document["score"],
            document["decision"],
            document["feature_digest"],
            versions.setdefault(orjson.dumps(document["versions"]), document["versions"]),
            alerts.get(offset),
        )
        if found.setdefault(offset, one) != one:
            raise RecordingError(
                f"{recording.path}: two different scores for the transaction at partition "
                f"{partition}, offset {offset}"
            )
    return found, strange


def replayed(
    step: Step, judge_of: Callable[[int], int] = lambda offset: 0
) -> Iterator[tuple[int, Said]]:
    """(offset, what a judge says) for each accepted transaction, in offset order; `judge_of` tells
    the place of the one that is asked."""
    columns = step.work.columns
    kept = np.flatnonzero(step.work.status == APPLIED).tolist()
    alerts = [
        {place: orjson.loads(own)["alert_id"] for place, own in entry.alerts} if entry else {}
        for entry in step.entries
    ]
    for place, offset in enumerate(columns.batch.offsets[columns.row[kept]].tolist()):
        judge, row = judge_of(offset), kept[place]
        entry = step.entries[judge]
        assert entry is not None  # every judge's holds all that was accepted
        score = float(entry.scores[place])
        yield (
            offset,
            Said(
                columns.transaction_id[row],
                columns.account_id[row],
                int(columns.event_time[row]),
                None if np.isnan(score) else score,
                DECISIONS[int(entry.codes[place]) % LATE].value,
                f"{int(entry.digests[place]):016x}",
                entry.versions[int(entry.version[place])],
                alerts[judge].get(place),
            ),
        )
