"""Feature tables as steps and waves: how fine-tuning holds them, until they are baked into rows.

In: a shape and knots, as `Transformer`. Out: a `Transformer` that trains like any other, and from
it a plain one with the same function. Does not know what is fitted.

A feature's table is a curve over its knots. Steps alone (`Transformer`) let it jump anywhere, but
what one payment teaches reaches other knots only as a jump does: all of them, or none. Added to
them are sines and cosines of learnt frequencies of the place among the knots (0 to 1), each times a
vector: the periodic encoding of Gorishniy, Rubachev and Babenko, On Embeddings for Numerical
Features (2022), taken at the knots alone and straight between them. So near knots learn together.
Serving is what it was: the curve's values are the rows of a table.
"""

from __future__ import annotations

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from model.transformer import Shape, Transformer

WAVES = 8
"""Frequencies a feature, of which each gives a sine and a cosine."""
CYCLES = 3.0
"""Deviation of the frequencies at the start, in turns from the first knot to the last."""


class Waved(Transformer):
    """The model with waves on its feature tables. Row 0 of a table, "unknown", has none."""

    def __init__(self, shape: Shape, knots: NDArray[np.float32]) -> None:
        super().__init__(shape, knots)
        known = np.maximum(np.isfinite(knots).sum(1, keepdims=True) - 1, 1)
        place = np.minimum(np.arange(shape.knots) / known, 1.0).astype(np.float32)
        self.place: Tensor
        self.register_buffer("place", torch.from_numpy(place))
        self.frequency = nn.Parameter(torch.randn(self.features, WAVES) * CYCLES)
        parts = 2 * WAVES
        size = 0.1 / parts**0.5
        self.wave_table = nn.Parameter(torch.randn(self.features, parts, shape.width) * size)

    def feature_table(self) -> Tensor:
        """[features, knots + 1, width]: rows by knot."""
        turn = 2 * torch.pi * self.place[..., None] * self.frequency[:, None]
        waves = torch.cat([turn.sin(), turn.cos()], -1) @ self.wave_table
        return super().feature_table() + nn.functional.pad(waves, (0, 0, 1, 0))

    @torch.no_grad()
    def baked(self) -> Transformer:
        """The same function as a plain model, which is what a bundle holds."""
        state = self.state_dict()
        table = self.feature_table().double()
        steps = torch.cat([table[:, :2], table[:, 1:].diff(dim=1)], 1)
        state["feature_step"] = steps.flatten(0, 1).float()
        with torch.device("meta"):  # draws nothing: a judge in the middle of a run changes no run
            plain = Transformer(self.shape, self.knots.cpu().numpy())
        held = {name: state[name].clone() for name in plain.state_dict()}
        plain.load_state_dict(held, assign=True)
        return plain.eval()
