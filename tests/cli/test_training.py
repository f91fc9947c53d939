"""What a person at a terminal sees of a training run."""

from __future__ import annotations

import io
import re

from rich.console import Console

from streams.cli.training import Training


def shown(text: str) -> list[str]:
    """Lines as they stand on the screen: what a carriage return and an erasure leave of them."""
    plain = re.sub(r"\x1b\[[0-9;?]*[a-zA-Z]", "", text)
    return [line.split("\r")[-1] for line in plain.split("\n")]


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
