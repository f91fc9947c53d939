"""The recording that the tests of `verify` share, and a copy of it."""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest

from streams.offline.recording import Recording
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
