"""Checkpoints: what a run that goes on tells, and where a file is written."""

from __future__ import annotations

import io
import os
import zipfile
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from model import data, pretrain, processes
from model.checkpoint import steps_in
from model.data import Dataset
from model.errors import DatasetError
from model.loop import Recipe
from model.transformer import Shape
from tests.model import streams_of_words as made

SMALL = Shape(event=16, width=16, key=8, value=8, hidden=16, layers=1, heads=1)
SHORT = Recipe(steps=3, chunk=16, batch=4)


@pytest.fixture(scope="module")
def whole() -> Dataset:
    return made.dataset(4, 60)


def run(whole: Dataset, recipe: Recipe, checkpoint: Path) -> tuple[list[str], list[float]]:
    """The lines that it told, and the loss of each step."""
    lines: list[str] = []
    losses: list[float] = []
    pretrain.pretrain(
        whole, np.ones(len(whole), bool), SMALL, recipe, lines.append, checkpoint,
        watch=lambda step, told: losses.append(told["loss"]),
    )  # fmt: skip
    return lines, losses


def test_more_steps_tell_the_mean_loss_of_those_that_were_made(
    whole: Dataset, tmp_path: Path
) -> None:
    """From step 3, told at each second one: step 4 stands alone."""
    run(whole, SHORT, tmp_path / "run.pt")
    lines, losses = run(whole, replace(SHORT, steps=20), tmp_path / "run.pt")
    assert lines[0].startswith("going on from step 3 of 20, ")
    assert lines[1].startswith(f"step 4/20 loss {losses[0]:.5f} ")
    assert lines[2].startswith(f"step 6/20 loss {(losses[1] + losses[2]) / 2:.5f} ")


def test_a_run_of_other_processes_is_another_run(
    whole: Dataset, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """One process went on with what two had begun, as neither would have; the second of two ended
    with an index that was out of range, and the first with a traceback."""
    run(whole, SHORT, tmp_path / "run.pt")
    monkeypatch.setattr(processes, "count", lambda: 2)
    with pytest.raises(DatasetError, match=r"is of a run with processes 1\. delete it"):
        run(whole, SHORT, tmp_path / "run.pt")


def test_a_draft_is_of_its_own_checkpoint(whole: Dataset, tmp_path: Path) -> None:
    """Of `base.1` and `base.2` it was `base.part`, and two runs at once wrote into one file."""
    (tmp_path / "run.part").write_text("of another run")
    run(whole, SHORT, tmp_path / "run.1")
    assert (tmp_path / "run.part").read_text() == "of another run"
    assert sorted(path.name for path in tmp_path.iterdir()) == ["run.1", "run.part"]


def test_on_a_full_disk_the_checkpoint_before_stays(whole: Dataset, tmp_path: Path) -> None:
    """torch told of it in words of its own, which ended as a traceback; half a file stayed."""
    path = tmp_path / "run.pt"
    run(whole, SHORT, path)
    before = path.read_bytes()
    (tmp_path / "run.pt.part").symlink_to("/dev/full")
    with pytest.raises(OSError, match=r"No space left on device: '.*run\.pt'"):
        run(whole, replace(SHORT, steps=4), path)
    assert [one.name for one in tmp_path.iterdir()] == ["run.pt"]
    assert path.read_bytes() == before


def test_a_checkpoint_is_on_the_disk_before_it_takes_its_place(
    whole: Dataset, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    synced: list[int] = []
    monkeypatch.setattr(os, "fsync", lambda at: synced.append(os.fstat(at).st_ino))
    run(whole, SHORT, tmp_path / "run.pt")
    assert synced[-2:] == [(tmp_path / "run.pt").stat().st_ino, tmp_path.stat().st_ino]


def test_one_bit_that_a_disk_turned_is_seen(whole: Dataset, tmp_path: Path) -> None:
    """torch read it as it was: the run went on from other weights, and said nothing."""
    path = tmp_path / "run.pt"
    run(whole, SHORT, path)
    raw = bytearray(path.read_bytes())
    with zipfile.ZipFile(path) as file:
        largest = max(map(file.read, file.namelist()), key=len)
    raw[raw.index(largest) + len(largest) // 2] ^= 4
    path.write_bytes(raw)
    for read in (lambda: run(whole, replace(SHORT, steps=4), path), lambda: steps_in(path)):
        with pytest.raises(DatasetError, match=r"run\.pt does not fit: .+\. delete it"):
            read()
    assert path.read_bytes() == raw


def test_what_another_program_or_version_saved_is_said_not_to_fit(
    whole: Dataset, tmp_path: Path
) -> None:
    """Where some parts lacked it ended as a traceback."""
    path = tmp_path / "there" / "run.pt"
    run(whole, SHORT, path)
    raw = path.read_bytes()
    changes: list[Callable[[dict[str, Any]], object]] = [
        lambda saved: saved.pop("progress"),
        lambda saved: saved.update(run=None),
        lambda saved: saved.pop("best"),
        lambda saved: saved.pop("average"),
        lambda saved: saved["optimiser"]["param_groups"].pop(),
        lambda saved: saved["model"].popitem(),
        lambda saved: saved.update(random=[]),
    ]
    for change in changes:
        saved = torch.load(io.BytesIO(raw))
        change(saved)
        torch.save(saved, path)
        with pytest.raises(DatasetError, match=r"run\.pt does not fit: .+\. delete it"):
            run(whole, replace(SHORT, steps=4), path)


def test_ctrl_c_amid_a_save_is_ctrl_c(
    whole: Dataset, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """torch told of a file that it could not end, which ended as a traceback."""
    path = tmp_path / "run.pt"
    run(whole, SHORT, path)
    before = path.read_bytes()

    class Pressed(io.BytesIO):
        writes = 0

        def write(self, content: Any) -> int:
            self.writes += 1
            if self.writes == 9:
                raise KeyboardInterrupt
            return super().write(content)

    monkeypatch.setattr(Path, "open", lambda *_: Pressed())
    with pytest.raises(KeyboardInterrupt):
        run(whole, replace(SHORT, steps=4), path)
    monkeypatch.undo()
    assert [one.name for one in tmp_path.iterdir()] == ["run.pt"]
    assert path.read_bytes() == before


def test_what_a_full_disk_does_not_take_is_named(whole: Dataset, tmp_path: Path) -> None:
    (tmp_path / "words.npy.part").symlink_to("/dev/full")
    with pytest.raises(OSError, match=f": '{tmp_path}'") as problem:
        data.write(whole, tmp_path)
    assert problem.value.strerror
