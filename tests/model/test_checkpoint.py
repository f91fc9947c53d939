"""Checkpoints: what a run that goes on tells, and where a file is written."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from model import pretrain
from model.data import Dataset
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
    assert lines[0].startswith(f"step 4/20 loss {losses[0]:.5f} ")
    assert lines[1].startswith(f"step 6/20 loss {(losses[1] + losses[2]) / 2:.5f} ")
