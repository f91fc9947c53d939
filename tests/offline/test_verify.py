"""Verify: equal where nothing changed, and the cause named for each planted difference."""

from __future__ import annotations

import shutil
from collections.abc import Callable
from pathlib import Path

import numpy as np
import orjson
import pyarrow as pa
import pytest

from streams import features
from streams.errors import RecordingError
from streams.offline.recording import Recording
from streams.offline.source import RecordingSource, open_source
from streams.offline.verify import Verdict, verify
from tests.offline import world
from tests.offline.world import World


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> World:
    return world.recorded(tmp_path_factory.mktemp("recorded"))


@pytest.fixture
def copy(made: World, tmp_path: Path) -> World:
    """A copy that a test may spoil."""
    shutil.copytree(made.recording.path, tmp_path / "copy")
    return World(Recording(str(tmp_path / "copy")), made.settings)


def check(this: World, scratch: Path, **changes: object) -> Verdict:
    return verify(this.job(scratch, **changes))


def busy_rows(this: World, partition: int) -> list[int]:
    """Rows of the account with the most events in the partition, ascending."""
    tables = this.recording.tables(this.recording.manifest(), "transactions", partition)
    names = pa.concat_tables(list(tables))["key"].to_pylist()
    busiest = max(set(names), key=names.count)
    return [row for row, name in enumerate(names) if name == busiest]


def test_the_same_service_says_the_same_again(made: World, tmp_path: Path) -> None:
    verdict = check(made, tmp_path / "v", batch=333)
    assert verdict.equal, verdict.text()
    assert verdict.compared == made.recording.manifest().rows("scores") > 3_000
    assert made.recording.manifest().rows("alerts") > 10


def test_a_missing_event_is_named(copy: World, tmp_path: Path) -> None:
    row = busy_rows(copy, 2)[3]

    def drop(table: pa.Table) -> pa.Table:
        return table.filter(pa.array(np.arange(len(table)) != row))

    offset = _offset(copy, 2, row)
    world.rewrite(copy, "transactions", 2, drop)
    verdict = check(copy, tmp_path / "v")
    assert verdict.first is not None
    assert (verdict.first.cause, verdict.first.offset) == ("state", offset)
    assert "lacks the transaction" in verdict.first.detail
    assert verdict.causes["state"] > 1, "later events of the account saw another history"
    assert set(verdict.causes) <= {"state", "risk"}, "its merchant's risk differs from then on"
    assert len(verdict.around) > 1


def test_swapped_events_are_named(copy: World, tmp_path: Path) -> None:
    first, second = busy_rows(copy, 1)[4:6]

    def swap(table: pa.Table) -> pa.Table:
        values = table["value"].to_pylist()
        values[first], values[second] = values[second], values[first]
        return table.set_column(4, "value", pa.array(values, pa.binary()))

    offset = _offset(copy, 1, first)
    world.rewrite(copy, "transactions", 1, swap)
    verdict = check(copy, tmp_path / "v")
    assert verdict.first is not None
    assert (verdict.first.cause, verdict.first.offset) == ("state", offset)
    assert "another transaction is at this offset" in verdict.first.detail


def test_a_changed_window_is_named(
    made: World, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    # A window's length is part of its features' names, hence of the digest of the list.
    monkeypatch.setattr(features, "DIGEST", "0123456789abcdef")
    verdict = check(made, tmp_path / "v")
    assert set(verdict.causes) == {"features"}


def test_another_bundle_is_named(copy: World, tmp_path: Path) -> None:
    verdict = check(_said_by(copy, "versions", "model", "other@1"), tmp_path / "v")
    assert set(verdict.causes) == {"model"}


def test_another_threshold_is_named(made: World, tmp_path: Path) -> None:
    verdict = check(made, tmp_path / "v", settings=(world.settings("decide.review=0.05"),))
    assert set(verdict.causes) == {"settings"}


def test_an_older_risk_snapshot_is_named(copy: World, tmp_path: Path) -> None:
    versions = sorted(
        {
            orjson.loads(value)["versions"]["risk"]
            for partition in copy.recording.manifest().partitions("scores")
            for table in copy.recording.tables(copy.recording.manifest(), "scores", partition, [])
            for value in table["value"].to_pylist()
        }
        - {"none"}
    )
    assert len(versions) > 3
    verdict = check(_said_by(copy, "versions", "risk", versions[0]), tmp_path / "v")
    assert set(verdict.causes) == {"risk"}


def test_a_recording_without_scores_cannot_be_verified(tmp_path: Path) -> None:
    files = world.stream(tmp_path, events=300)
    source = open_source(*files, tmp_path / "spool")
    bare = World(Recording(source.location()), world.settings())
    with pytest.raises(RecordingError, match="has no scores"):
        check(bare, tmp_path / "v")


def _offset(this: World, partition: int, row: int) -> int:
    tables = this.recording.tables(this.recording.manifest(), "transactions", partition)
    return int(pa.concat_tables(list(tables))["offset"][row].as_py())


def _said_by(this: World, section: str, name: str, value: str) -> World:
    """The recording with one version replaced in every score of partition 0's transactions."""
    _edit(this, lambda document: document[section].update({name: value}))
    return this


def _edit(this: World, change: Callable[[dict[str, dict[str, str]]], None]) -> None:
    def edited(table: pa.Table) -> pa.Table:
        documents = [orjson.loads(value) for value in table["value"].to_pylist()]
        for document in documents:
            change(document)
        values = [orjson.dumps(document) for document in documents]
        return table.set_column(4, "value", pa.array(values, pa.binary()))

    world.rewrite(this, "scores", 0, edited)


def test_the_source_is_a_recording(made: World) -> None:
    assert RecordingSource(made.recording.path).location() == made.recording.path
