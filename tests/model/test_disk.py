"""A file's bytes are on the disk before its name is: a power failure cannot be had on demand."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

import pytest

from model.disk import into_place


def test_the_bytes_then_the_name_then_the_folder(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    draft, path = tmp_path / "a.part", tmp_path / "a"
    draft.write_text("new")
    path.write_text("old")
    steps: list[tuple[str, int]] = []
    sync, replace = os.fsync, os.replace

    def synced(descriptor: int) -> None:
        sync(descriptor)
        steps.append(("sync", os.fstat(descriptor).st_ino))

    def replaced(source: Any, target: Any) -> None:
        steps.append(("name", os.stat(source).st_ino))
        replace(source, target)

    monkeypatch.setattr(os, "fsync", synced)
    monkeypatch.setattr(os, "replace", replaced)
    file, folder = draft.stat().st_ino, tmp_path.stat().st_ino
    into_place(draft, path)
    assert steps == [("sync", file), ("name", file), ("sync", folder)]
    assert path.read_text() == "new" and not draft.exists()
