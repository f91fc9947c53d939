"""A short fit, alone or as one of several processes; writes the weights' sum to a file.

python two_processes.py OUT      or      torchrun --nproc-per-node 2 two_processes.py OUT
"""

from __future__ import annotations

import sys
from pathlib import Path

import numpy as np
import torch

from model import finetune, processes
from model.loop import Recipe
from tests.model import streams_of_words as made
from tests.model.streams_of_words import SMALL


def main(out: Path) -> None:
    """Every process writes what it ended with."""
    torch.set_num_threads(1)
    processes.join("cpu")
    whole = made.dataset(8, 64)
    # In half of the accounts few rows have a label: chunks differ widely in what they hold.
    fit = (whole.account % 2 == 0) | (whole.place() % 16 == 0)
    everything = np.ones(len(whole), bool)
    recipe = Recipe(steps=3, chunk=64, batch=4, every=3, event_dropout=0.0, feature_dropout=0.0)
    found = finetune.fit(whole, finetune.Blocks(fit, everything), SMALL, recipe)
    state = {name: value.numpy() for name, value in found.model.state_dict().items()}
    np.savez(out / f"{processes.count()}-{processes.number()}.npz", **state)
    processes.leave()


if __name__ == "__main__":
    main(Path(sys.argv[1]))
