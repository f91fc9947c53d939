"""What the scores of a recording name: the risk snapshots and the models they were made with.

In: a recording and its scores, settings. Out: risk as it was looked up, judges as they scored.
Does not know how a score is compared with its replay (`verify.py`).
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np

from streams import assembly
from streams.assembly import Judge
from streams.columns import Columns
from streams.errors import BundleError, ConfigError, RecordingError
from streams.offline.recording import Recording
from streams.offline.risk_pass import ShardRisk, Snapshots
from streams.offline.said import Said
from streams.risk import NO_SNAPSHOT, RiskView, Sheet, readable
from streams.settings import Settings


class NamedRisk:
    """Risk by the versions that the scores name; an event without a score gets its day's."""

    def __init__(self, snapshots: Snapshots, recording: Recording, named: Mapping[int, Said]):
        self._due = ShardRisk(snapshots)
        self._snapshots = snapshots
        self._recording = recording
        self._named = named
        self._sheets: dict[str, Sheet | None] = {}
        self.expected: list[str] = []
        """The newest snapshots' versions for the rows of the last batch."""

    def view(self, columns: Columns) -> RiskView | None:
        """A view that answers with the named snapshots."""
        due = self._due.view(columns)
        assert due is not None
        table, self.expected = due.lookup(columns)
        versions = list(self.expected)
        for row, offset in enumerate(columns.batch.offsets[columns.row].tolist()):
            found = self._named.get(offset)
            if found is not None and self.known(found.versions["risk"]):
                versions[row] = found.versions["risk"]
        odd = [row for row, version in enumerate(versions) if version != self.expected[row]]
        for row in odd:
            sheet = self._sheets[versions[row]]
            table[row] = -1.0
            if sheet is not None:
                at = np.array([row])
                sheet.fill(table, at, 0, columns.merchant[at])
                sheet.fill(table, at, 1, columns.terminal[at])
        return _Answered(table, versions)

    def known(self, version: str) -> bool:
        """Whether the snapshot can be had: built from the recording, or kept in it.

        One that another version wrote cannot: its scores are that version's too, and differ by it.
        """
        if version == NO_SNAPSHOT:
            self._sheets[version] = None
        if version not in self._sheets:
            try:
                self._sheets[version] = self._snapshots.sheet(version)
            except RecordingError:
                try:
                    content = self._recording.snapshot(version)
                except RecordingError:
                    return False
                if not readable(content):
                    return False
                self._sheets[version] = Sheet.of(content, version)
        return True


class _Answered(RiskView):
    """A look-up already done."""

    def __init__(self, table: Any, versions: list[str]) -> None:
        self._table, self._versions = table, versions

    def lookup(self, columns: Columns) -> tuple[Any, list[str]]:
        """The answer; for these very columns only."""
        assert len(columns) == len(self._versions)
        return self._table, self._versions


def judges_named(models: set[str], settings: Settings) -> list[tuple[str, Judge]]:
    """By its id, a judge for each of these models but the settings' own, with their rules and
    thresholds. A model that is not to be had here, or cannot score these features, has none."""
    found = []
    for model in sorted(models - {assembly.model_id(settings)}):
        try:
            judge = assembly.judge(assembly.with_model(settings, model))
        except (BundleError, ConfigError):
            continue
        if judge.scorer.model_id == model:
            found.append((model, judge))
    return found
