"""The models to beat, on the same codes and features: GRU, full causal attention, no history.

In: `Chunk`s. Out: vectors of the targets and logits, as `Transformer` gives them. They are for
comparison and are never served, so they have no folded form.

`no history` is `Shape(history=False)` of the Transformer itself. The GRU runs over context and
targets of a chunk in one go; full attention lets every event of a window attend to all before it
in the account. Both read the fields of the event through the same tables and join the window
features at the end of the history part, as the served model does at its start.
"""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from model import tokens
from model.loop import Source, cover, wanted
from model.rows import table_sum
from model.transformer import Chunk, Norm, Shape, Transformer
from model.waves import Waved


class Rival(nn.Module):
    """A sequence model over event embeddings, joined with the served model's start vector."""

    def __init__(self, shape: Shape, knots: NDArray[np.float32], width: int) -> None:
        super().__init__()
        self.shape = shape
        # The start vector (own fields and window features) is the served model's, without history.
        self.start = Waved(replace(shape, history=False), knots)
        self.knots = self.start.knots
        self.table = nn.Parameter(torch.randn(tokens.ROWS, width) * 0.1)
        self.join = nn.Linear(width + shape.width, shape.hidden)
        self.out = nn.Linear(shape.hidden, shape.width)
        self.norm = Norm(shape.width)
        self.head = nn.Linear(shape.width, 1)
        self.event_dropout = 0.0
        self.feature_dropout = 0.0

    def events(self, chunk: Chunk) -> Tensor:
        """Embeddings [B, S, width] of context and targets, their responses included.

        A target does not learn its own: `past` is read one event earlier.
        """
        b, s, fields = chunk.context.shape
        index = chunk.context + torch.tensor(tokens.OFFSETS, device=chunk.context.device)
        share = torch.ones(b * s, fields)
        return table_sum(self.table, index.view(b * s, fields), share).view(b, s, -1)

    def past(self, chunk: Chunk) -> Tensor:
        """[B, T, width]: what the history before each target says."""
        raise NotImplementedError

    def forward(self, chunk: Chunk) -> Tensor:
        both = torch.cat([self.past(chunk), self.start(chunk)], -1)
        found: Tensor = self.norm(self.out(torch.relu(self.join(both))))
        return found

    def logit(self, h: Tensor) -> Tensor:
        """Log-odds of fraud."""
        found: Tensor = self.head(h).squeeze(-1)
        return found


class Gru(Rival):
    """A GRU over the events; its state before the target speaks for the history."""

    def __init__(self, shape: Shape, knots: NDArray[np.float32], width: int = 128) -> None:
        super().__init__(shape, knots, width)
        self.cell = nn.GRU(width, width, batch_first=True)

    def past(self, chunk: Chunk) -> Tensor:
        t = chunk.reach.shape[1]
        states: Tensor = self.cell(self.events(chunk))[0][:, -t - 1 : -1]
        return states * (chunk.reach > 0)[..., None].to(states.dtype)


class CausalAttention(Rival):
    """Every event attends to all before it in the account, in every layer."""

    def __init__(
        self, shape: Shape, knots: NDArray[np.float32], width: int = 64, layers: int = 2
    ) -> None:
        super().__init__(shape, knots, width)
        self.position = nn.Parameter(torch.randn(tokens.REACH + 2 + 64, width) * 0.02)
        layer = nn.TransformerEncoderLayer(
            width, 4, 2 * width, 0.0, batch_first=True, norm_first=True
        )
        self.stack = nn.TransformerEncoder(layer, layers, enable_nested_tensor=False)

    def past(self, chunk: Chunk) -> Tensor:
        t = chunk.reach.shape[1]
        e = self.events(chunk)
        b, s, _ = e.shape
        back = torch.arange(s)[:, None] - torch.arange(s)[None, :]
        allowed = (back >= 0) & (back <= tokens.REACH)
        reach = torch.full((b, s), tokens.REACH)
        reach[:, -t:] = chunk.reach
        mask = ~(allowed[None] & (back[None] <= reach[..., None]))
        mask = mask.repeat_interleave(4, 0)
        found: Tensor = self.stack(e + self.position[:s], mask=mask)
        return found[:, -t - 1 : -1] * (chunk.reach > 0)[..., None].to(found.dtype)


@torch.no_grad()
def logits_by_chunks(
    model: Rival | Transformer, source: Source, rows: NDArray[np.int64], count: int = 64
) -> NDArray[np.float64]:
    """Log-odds of rows by the training form, for models without a kernel."""
    chosen = np.zeros(len(source), bool)
    chosen[rows] = True
    found = np.zeros(len(source), np.float64)
    starts = cover(chosen, count)
    for at in range(0, len(starts), 64):
        chunk, where = source.chunk(starts[at : at + 64], count)
        kept = wanted(chosen, where)
        found[where[kept]] = model.logit(model(chunk)).numpy()[kept]
    return found[rows]
