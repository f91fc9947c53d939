"""A small training set, a model and a bundle of it; a module with another `data` has its own."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from model import bundle as bundles
from model.data import Dataset
from model.transformer import Transformer
from tests.model import streams_of_words as made


@pytest.fixture(scope="module")
def data() -> Dataset:
    return made.dataset(accounts=4)


@pytest.fixture(scope="module")
def model(data: Dataset) -> Transformer:
    return made.model(data)


@pytest.fixture
def folder(data: Dataset, tmp_path: Path) -> Path:
    bundles.write(made.bundle(data), tmp_path / "b")
    return tmp_path / "b"


@pytest.fixture
def synced(monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """The inodes of what was brought to the disk, in order; it grows while the test runs."""
    inodes: list[int] = []
    sync = os.fsync

    def noted(descriptor: int) -> None:
        sync(descriptor)
        inodes.append(os.fstat(descriptor).st_ino)

    monkeypatch.setattr(os, "fsync", noted)
    return inodes
