"""Did the live service say what the same code says again? Scores of a recording against a replay.

In: a recording with scores. Out: a verdict: equal, or the differences with the cause of the first.
Does not know Kafka. Each event is replayed with the risk snapshot that its own score names.

The cause of a difference is the earliest step that differs, because later ones follow from it:

    input      the recording lacks a transaction that has a score, or a score is missing
    code       the scores were made by another version of the spine
    features   another feature list
    risk       the snapshot named is not the one that the recording's transactions and labels give
    state      same code, features and risk, but the feature digest differs: the history differed
    model      same inputs, another model or another score
    settings   same score, another decision: thresholds or rules
    alert      same decision, another alert id
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np
import orjson
import pyarrow as pa

from streams.errors import RecordingError
from streams.offline import results
from streams.offline.recording import Manifest, Recording

AROUND = 3
"""Events of the account shown before and after the first difference."""


@dataclass(frozen=True, slots=True)
class Said:
    """What the live service said of one transaction."""

    transaction_id: str
    account_id: str
    score: float
    decision: str
    feature_digest: str
    versions: dict[str, str]
    alert_id: str | None


@dataclass(frozen=True, slots=True)
class Difference:
    """One transaction that came out differently."""

    partition: int
    offset: int
    cause: str
    live: str
    replay: str


@dataclass(slots=True)
class Verdict:
    """The result; `equal` when nothing differs."""

    compared: int
    differences: int
    by_cause: dict[str, int]
    first: Difference | None
    around: list[dict[str, Any]]
    stale_risk: int

    @property
    def equal(self) -> bool:
        """Whether live and replay agree byte for byte."""
        return self.differences == 0

    def document(self) -> dict[str, Any]:
        """For `--json`."""
        return {"equal": self.equal, **asdict(self)}


def said(recording: Recording, manifest: Manifest) -> Iterator[tuple[int, int, Said]]:
    """(partition, offset, what was said) for every score; a repeated score must be the same.

    Raises RecordingError when there are no scores, or two different ones for a transaction.
    """
    if "scores" not in {key.rpartition(":")[0] for key in manifest.start}:
        raise RecordingError(
            f"{recording.path} has no scores", remedy="record with `--scores` to verify"
        )
    alerts = _alerts(recording, manifest)
    seen: dict[tuple[int, int], Said] = {}
    for partition in manifest.partitions("scores"):
        for table in recording.tables(manifest, "scores", partition, []):
            for value in table["value"].to_pylist():
                document = orjson.loads(value)
                place = (document["source"]["partition"], document["source"]["offset"])
                found = Said(
                    document["transaction_id"],
                    document["account_id"],
                    document["score"],
                    document["decision"],
                    document["feature_digest"],
                    document["versions"],
                    alerts.get(place),
                )
                if seen.setdefault(place, found) != found:
                    raise RecordingError(
                        f"{recording.path}: two different scores for the transaction at "
                        f"partition {place[0]}, offset {place[1]}"
                    )
    for (partition, offset), found in sorted(seen.items()):
        yield partition, offset, found


def _alerts(recording: Recording, manifest: Manifest) -> dict[tuple[int, int], str]:
    """Alert ids by the place of their transaction."""
    found: dict[tuple[int, int], str] = {}
    for partition in manifest.partitions("alerts"):
        for table in recording.tables(manifest, "alerts", partition, []):
            for value in table["value"].to_pylist():
                document = orjson.loads(value)
                source = document["source"]
                found[source["partition"], source["offset"]] = document["alert_id"]
    return found


def cause_of(live: Said, replayed: dict[str, Any], versions: dict[str, str]) -> str | None:
    """The earliest step that differs; None when the transaction came out the same."""
    for name in ("code", "features"):
        if live.versions[name] != versions[name]:
            return name
    if live.feature_digest != replayed["feature_digest"]:
        return "state"
    if live.versions["model"] != versions["model"] or live.score != replayed["score"]:
        return "model"
    if live.versions["rules"] != versions["rules"] or live.decision != replayed["decision"]:
        return "settings"
    if live.alert_id != replayed["alert_id"]:
        return "alert"
    return None


def _text(score: float, decision: str, digest: str, alert_id: str | None) -> str:
    return f"score {score!r}, {decision}, features {digest}, alert {alert_id or 'none'}"
