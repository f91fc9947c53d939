"""What a person at a terminal sees of a training run."""

from __future__ import annotations

import io
import re
from pathlib import Path

import numpy as np
from rich.console import Console
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

from model import pretrain
from model.forecast import Job
from model.loop import Recipe
from streams.cli.training import Training
from tests.model import streams_of_words as made
from tests.model.streams_of_words import SMALL


def shown(text: str) -> list[str]:
    """Lines as they stand on the screen: what a carriage return and an erasure leave of them."""
    plain = re.sub(r"\x1b\[[0-9;?]*[a-zA-Z]", "", text)
    return [line.split("\r")[-1] for line in plain.split("\n")]


def test_a_fit_that_its_checkpoint_holds_counts_on_the_bar(tmp_path: Path) -> None:
    """Else the steps of the fits after it were counted from too early a place."""
    whole = made.dataset(2, 20)
    chosen, path = np.ones(len(whole), bool), tmp_path / "run.pt"
    recipe = Recipe(steps=2, chunk=16, batch=2)
    pretrain.pretrain(whole, chosen, SMALL, recipe, checkpoint=path)
    out, told = io.StringIO(), list[str]()
    training = Training(2, 1, "cpu", None)
    training.draw(Console(file=out, force_terminal=True, width=100), 4)
    pretrain.pretrain(
        whole, chosen, SMALL, recipe, checkpoint=path, tell=told.append, watch=training.watch
    )
    assert told == [f"going on from step 2 of 2, as {path} holds it"]
    training.watch(1, {"loss": 0.5})
    training.__exit__(RuntimeError)
    assert "3/4" in shown(out.getvalue())[-2]


def test_lines_stand_above_the_bar_and_the_last_judgement_stays() -> None:
    out = io.StringIO()
    training = Training(2, 1, "cpu", None)
    training.draw(Console(file=out, force_terminal=True, width=100), 2)
    training.watch(1, {"loss": 0.5, "judged": 0.25, "left_s": 1.0})
    training.say("step 1/2 loss 0.50000 [judged] 0.25000")
    training.watch(2, {"loss": 0.125})
    training.__exit__(RuntimeError)
    lines = shown(out.getvalue())
    assert "step 1/2 loss 0.50000 [judged] 0.25000" in lines
    assert "2/2" in lines[-2]
    assert "loss 0.1250 judged 0.2500" in lines[-2]


def test_a_board_shows_no_step_twice_of_a_run_that_went_on(tmp_path: Path) -> None:
    """Of a run that was killed at step 6, when its checkpoint was of step 4."""
    whole, recipe = made.dataset(2, 20), Recipe(steps=8, chunk=16, batch=2)
    for done, last in ((0, 6), (4, 8)):
        with Training(8, 1, "cpu", tmp_path) as training:
            training.plan(whole, "small", SMALL, recipe, Job(done=(done,)))
            for step in range(done + 1, last + 1):
                training.watch(step, {"loss": float(done)})
    board = EventAccumulator(str(tmp_path))
    board.Reload()
    assert [(event.step, event.value) for event in board.Scalars("loss")] == [
        *((step, 0.0) for step in range(1, 5)),
        *((step, 4.0) for step in range(5, 9)),
    ]
