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
from model.errors import OutputLost
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


def test_a_fitted_bundle_whose_place_is_taken_at_the_end_is_kept_beside(
    data: Dataset, tmp_path: Path
) -> None:
    """With it went the fit."""
    made_now, out = made.bundle(data), tmp_path / "out"
    with room_for(out, made_now.shape, len(made_now.names)) as room:
        out.mkdir()
        (out / "notes.txt").write_text("precious")
        with pytest.raises(OutputLost, match=r"holds notes\.txt, .*\. It is in ") as problem:
            bundles.write(made_now, out, room=room)
    (kept,) = set(tmp_path.iterdir()) - {out}
    assert f"It is in {kept}: " in str(problem.value)
    assert bundles.read(kept).weights.keys() == made_now.weights.keys()
    assert [path.name for path in out.iterdir()] == ["notes.txt"]


def test_a_fitted_bundle_whose_folder_was_locked_is_kept_among_temporary_files(
    data: Dataset, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    made_now, root = made.bundle(data), Path(tempfile.mkdtemp())
    monkeypatch.setattr(tempfile, "tempdir", str(root / "temporary"))
    try:
        for name in ("temporary", "locked"):
            (root / name).mkdir()
            (root / name).chmod(0o777)
        root.chmod(0o755)
        out = root / "locked" / "out"
        with room_for(out, made_now.shape, len(made_now.names)) as room:
            out.parent.chmod(0o555)
            with bound_by_rights(), pytest.raises(OutputLost, match="denied") as problem:
                bundles.write(made_now, out, room=room)
        (kept,) = (root / "temporary").iterdir()
        assert str(kept) in str(problem.value) and bundles.read(kept)
        assert not list((root / "locked").iterdir())
    finally:
        shutil.rmtree(root)


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
