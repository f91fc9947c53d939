"""A second task for the fit: to tell how surprising each event is to a pretrained backbone.

In: surprise by field (`model/unlabelled.py`), the network's vectors. Out: a term of the loss. Does
not know how surprise is read, nor what the first task is.

Frauds are few, and a network that learns from them alone finds little in the history that it was
not told. What a payment says against the account's past is known of every event, labelled or not.
A network that must tell it from the same vector as the fraud has it at hand for the fraud, too. The
second head is dropped at the end: the service runs what it ran before. On simulated streams this is
worth as much as surprise as an input, which would cost a second pass an event (`model/LOG.md`,
2026-11-29).

Source: Caruana, Multitask Learning (1997).
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn
from torch.nn import functional

from model import processes
from model.loop import Rows, wanted

WEIGHT: Final = 0.1
"""Of the second task beside the first; 0.05 and 0.3 did as well (`model/LOG.md`, 2026-11-29)."""
REACH: Final = 8.0
"""Deviations from the mean beyond which surprise is not told apart."""


@dataclass(frozen=True)
class Surprise:
    """columns: float32 [n, k], as the bundle reads them; rows: bool [n], the events it has read."""

    columns: NDArray[np.float32]
    rows: NDArray[np.bool_]


class Second(nn.Module):
    """A linear head [width -> k], and what it is to tell, in standard deviations from the mean."""

    def __init__(self, width: int, told: Surprise) -> None:
        super().__init__()
        self.head = nn.Linear(width, told.columns.shape[1])
        known = told.columns[told.rows]
        deviation = np.maximum(known.std(0, dtype=np.float64), 1e-6)
        scaled = (told.columns - known.mean(0, dtype=np.float64)) / deviation
        self.target = np.clip(scaled, -REACH, REACH).astype(np.float32)
        self.rows = told.rows

    def forward(self, h: Tensor, rows: Rows) -> Tensor:
        """WEIGHT x the mean Huber loss over the events of a chunk [B, T] that were read."""
        read = wanted(self.rows, rows)
        target = torch.from_numpy(self.target[rows]).to(h.device)
        each = functional.smooth_l1_loss(self.head(h), target, reduction="none").mean(-1)
        counted = torch.from_numpy(read.astype(np.float32)).to(h.device)
        return WEIGHT * (each * counted).sum() / processes.share_of(int(read.sum()), h.device)
