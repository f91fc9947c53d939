"""The place of a bundle: room is held, the rename is tried, and nothing that lies there is lost."""

from __future__ import annotations

import os
import shutil
import stat
import tempfile
from pathlib import Path

import pytest

from model import bundle as bundles
from model.data import Dataset
from model.place import room_for
from tests.full_disk import no_room
from tests.model import streams_of_words as made
from tests.rights import bound_by_rights


def test_room_for_a_bundle_is_held_until_it_is_written(
    data: Dataset, folder: Path, tmp_path: Path
) -> None:
    made_now, out = made.bundle(data), tmp_path / "out"
    written = sum(path.stat().st_size for path in folder.iterdir())
    before = sorted(tmp_path.iterdir())
    with room_for(out, made_now.shape, len(made_now.names)) as room:
        assert os.fstat(room.fileno()).st_blocks * 512 >= written
        assert sorted(tmp_path.iterdir()) == before, (
            "no file is left behind, however the process ends"
        )
        bundles.write(made_now, out, room=room)
        assert room.closed
    with (
        no_room(written // 2),
        pytest.raises(OSError, match="File too large") as problem,
        room_for(out, made_now.shape, len(made_now.names)),
    ):
        raise AssertionError("nothing is begun")
    assert problem.value.filename == str(out)


def test_the_place_of_a_bundle_is_tried_and_what_lies_there_stays(
    data: Dataset, folder: Path, tmp_path: Path
) -> None:
    before = {path: path.stat().st_mtime_ns for path in folder.iterdir()}
    bundles.check_place(folder)
    assert {path: path.stat().st_mtime_ns for path in folder.iterdir()} == before
    empty = tmp_path / "empty"
    empty.mkdir()
    empty.chmod(0o750)
    bundles.check_place(empty)
    assert not list(empty.iterdir()) and stat.S_IMODE(empty.stat().st_mode) == 0o750
    bundles.check_place(tmp_path / "new")
    assert not (tmp_path / "new").exists() and not list(tmp_path.glob(".*"))


def test_a_bundle_that_another_user_made_is_refused_before_a_fit(data: Dataset) -> None:
    root = Path(tempfile.mkdtemp())
    taken = root / "bundle"
    try:
        bundles.write(made.bundle(data), taken)
        taken.chmod(0o555)
        root.chmod(0o777)
        with bound_by_rights(), pytest.raises(PermissionError) as problem:
            bundles.check_place(taken)
        assert problem.value.filename == str(taken)
        assert list(root.iterdir()) == [taken]
    finally:
        taken.chmod(0o755)
        shutil.rmtree(root)
