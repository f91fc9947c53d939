"""Recordings: what is written is read back, and every damage is named."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from streams.batch import Batch
from streams.errors import RecordingError
from streams.offline import recording as recordings
from streams.offline.recording import (
    ROW_GROUP,
    Manifest,
    Recording,
    _manifest_checksum,
    to_table,
)


def batch(first: int, count: int, headers: bool = False) -> Batch:
    offsets = np.arange(first, first + 2 * count, 2, dtype=np.int64)
    return Batch(
        topic="transactions",
        partition=3,
        offsets=offsets,
        timestamps=offsets + 1_700_000_000_000,
        keys=[None if i % 7 == 0 else b"k%d" % i for i in range(count)],
        values=[None if i % 11 == 0 else bytes([i % 256]) * (i % 50) for i in range(count)],
        headers=[[("h", b"\x00%d" % i)] if i % 3 else [] for i in range(count)]
        if headers
        else None,
        next_offset=first + 2 * count + 5,
    )


def record(path: Path, *batches: Batch) -> tuple[Recording, Manifest]:
    recording = Recording(str(path))
    manifest = Manifest(start={"transactions:3": 0}, end={"transactions:3": 10**9})
    for one in batches:
        manifest.files.append(
            recording.write(one.topic, one.partition, to_table(one), one.next_offset)
        )
        recording.save(manifest)
    return recording, manifest


@pytest.mark.parametrize("headers", [False, True])
def test_reads_back_what_was_written(tmp_path: Path, headers: bool) -> None:
    count = ROW_GROUP + 100
    recording, _ = record(tmp_path / "r", batch(0, count, headers), batch(10**6, 5, headers))
    manifest = recording.manifest()
    got = list(recording.batches(manifest, "transactions", 3, 1_000))
    want = [batch(0, count, headers), batch(10**6, 5, headers)]
    assert [v for b in got for v in b.values] == [v for b in want for v in b.values]
    assert [k for b in got for k in b.keys] == [k for b in want for k in b.keys]
    assert np.concatenate([b.offsets for b in got]).tolist() == [
        int(o) for b in want for o in b.offsets
    ]
    if headers:
        assert [list(h) for b in got for h in b.headers or []] == [
            list(h) for b in want for h in b.headers or []
        ]
    assert manifest.resume_at("transactions", 3) == 10**6 + 15


def test_what_the_manifest_does_not_name_is_swept(tmp_path: Path) -> None:
    recording, manifest = record(tmp_path / "r", batch(0, 10))
    recording.write("transactions", 3, to_table(batch(100, 10)), 130)
    assert len(list((tmp_path / "r" / "transactions").iterdir())) == 2
    recording.sweep(manifest)
    assert [f.name for f in (tmp_path / "r" / "transactions").iterdir()] == [
        "00003-000000000000.parquet"
    ]


def test_damage_is_named_by_file_and_row_group(tmp_path: Path) -> None:
    recording, _ = record(tmp_path / "r", batch(0, ROW_GROUP * 2))
    path = tmp_path / "r" / "transactions" / "00003-000000000000.parquet"
    whole = path.read_bytes()

    path.write_bytes(whole[: len(whole) // 2])
    with pytest.raises(RecordingError, match=r"00003-000000000000.parquet is truncated"):
        list(recording.batches(recording.manifest(), "transactions", 3, 1_000))

    import pyarrow.parquet as pq

    for at, where in ((100, "row group 0"), (len(whole) - 100, "footer")):
        flipped = bytearray(whole)
        flipped[at] ^= 1
        path.write_bytes(flipped)
        said = f"{where}: checksum does not match. Take it from a copy"
        with pytest.raises(RecordingError, match=said):
            list(recording.batches(recording.manifest(), "transactions", 3, 1_000))

    path.write_bytes(whole)
    table = pq.read_table(path)
    values = table["value"].to_pylist()
    values[ROW_GROUP + 5] = b"another amount"
    forged = table.set_column(4, "value", [values])
    pq.write_table(forged, path, row_group_size=ROW_GROUP, compression="zstd")
    # As a recorder of an earlier version left it: only the content tells.
    manifest = recording.manifest()
    manifest.files = [replace(manifest.files[0], bytes=path.stat().st_size, stretches=())]
    recording.save(manifest)
    with pytest.raises(RecordingError, match=r"00003-000000000000.parquet, row group 1: checksum"):
        list(recording.batches(recording.manifest(), "transactions", 3, 1_000))

    path.unlink()
    with pytest.raises(RecordingError, match="missing"):
        list(recording.batches(recording.manifest(), "transactions", 3, 1_000))


def test_a_changed_or_foreign_manifest_is_refused(tmp_path: Path) -> None:
    recording, _ = record(tmp_path / "r", batch(0, 10))
    path = tmp_path / "r" / "manifest.json"
    text = path.read_text()
    path.write_text(text.replace('"complete": false', '"complete": true'))
    with pytest.raises(RecordingError, match="changed after"):
        recording.manifest()
    path.write_text('{"format": "something-else"}')
    with pytest.raises(RecordingError, match="foreign or damaged"):
        recording.manifest()
    path.unlink()
    with pytest.raises(RecordingError, match="not a recording"):
        recording.manifest()


@pytest.mark.parametrize(
    "changes",
    [
        {"path": "../outside.parquet"},
        {"path": "/etc/hostname"},
        {"path": "transactions/../../outside.parquet"},
        {"topic": "../x", "path": "../x/00003-000000000000.parquet"},
        {"partition": "3"},
        {"more": 1},
    ],
    ids=repr,
)
def test_a_forged_manifest_names_no_file_outside(tmp_path: Path, changes: dict[str, Any]) -> None:
    recording, _ = record(tmp_path / "r", batch(0, 10))
    path = tmp_path / "r" / "manifest.json"
    document = json.loads(path.read_text())
    document["recording"]["files"][0].update(changes)
    document["checksum"] = _manifest_checksum(document["recording"])
    path.write_text(json.dumps(document))
    with pytest.raises(RecordingError, match="forged"):
        recording.manifest()


def test_a_snapshot_has_no_name_that_leads_out(tmp_path: Path) -> None:
    recording, _ = record(tmp_path / "r", batch(0, 10))
    (tmp_path / "secret.bin").write_bytes(b"of another place")
    with pytest.raises(RecordingError, match="lacks risk snapshot"):
        recording.snapshot("../../secret")


@pytest.mark.parametrize("text", ["[" * 200_000, '{"format":', "5", "null", '{"recording": {}}'])
def test_what_is_no_manifest_is_refused(tmp_path: Path, text: str) -> None:
    (tmp_path / "manifest.json").write_text(text)
    with pytest.raises(RecordingError, match="foreign or damaged"):
        Recording(str(tmp_path)).manifest()


def test_a_manifest_has_a_size_that_memory_bears(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(recordings, "MAX_MANIFEST_BYTES", 1_000)
    (tmp_path / "manifest.json").symlink_to("/dev/zero")
    with pytest.raises(RecordingError, match="foreign or damaged"):
        Recording(str(tmp_path)).manifest()


def test_what_is_no_recording_is_called_so(tmp_path: Path) -> None:
    file = tmp_path / "payments.jsonl"
    file.write_bytes(b"{}")
    for path in (tmp_path, tmp_path / "absent", file):
        with pytest.raises(RecordingError, match=r"is not a recording.*fraudstream record"):
            Recording(str(path)).manifest()


def test_a_sweep_takes_nobody_elses_files(tmp_path: Path) -> None:
    recording, manifest = record(tmp_path / "r", batch(0, 10))
    own = tmp_path / "r" / "transactions" / "00003-000000000100.parquet.part"
    others = [tmp_path / "r" / name for name in ("labels.parquet", "notes.part", "x/y.parquet")]
    for path in (own, *others):
        path.parent.mkdir(exist_ok=True)
        path.write_text("something")
    recording.sweep(manifest)
    assert not own.exists() and all(path.exists() for path in others)
