"""Target attention with one part taken out or changed: the ablations of `benchmarks/rivals.py`.

In: what `Waved` takes, and its chunks. Out: vectors and logits as `Waved` gives them.
They are for comparison and are never served, so they have no folded form. Does not know how they
are fitted or judged. Three of them cannot be served as they are:

- `LongHistory` sees more events than an account's record holds (64).
- `RiskTokens` reads the risk of the place of each past event, which a record does not hold either.
- `Encoded` computes a feature's vector instead of looking it up.
"""

from __future__ import annotations

from typing import Final

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from model import tokens
from model.data import Dataset
from model.loop import Rows, Source
from model.transformer import TAPS, Chunk, Shape
from model.waves import Waved

LONG: Final = 256
RISK_CODES: Final = 32
"""As many as the five spare bits of an event word hold."""
RISK_COLUMNS: Final = ("merchant_7d_fraud_share", "terminal_7d_fraud_share")
WAVES: Final = 8


class Variant(Waved):
    """The model with parts taken out. `reach`: most events seen; `conv`, `since`: without them."""

    source: type[Source] = Source
    """What cuts its chunks."""
    hushed: bool = True
    """Fitted as `model/quiet.py` has it."""

    def __init__(
        self,
        shape: Shape,
        knots: NDArray[np.float32],
        reach: int = tokens.REACH,
        conv: bool = True,
        recency: bool = True,
        since: bool = True,
    ) -> None:
        super().__init__(shape, knots)
        self.reach_limit, self.since = reach, since
        if not conv:
            with torch.no_grad():
                self.conv[1:] = 0
            self.conv.register_hook(lambda g: torch.cat([g[:1], torch.zeros_like(g[1:])]))
        if not recency:
            for layer in self.layers:
                layer.recency.requires_grad_(False).zero_()

    def forward(
        self, chunk: Chunk, masked: Tensor | None = None, use_features: bool = True
    ) -> Tensor:
        chunk = chunk._replace(reach=chunk.reach.clamp(max=self.reach_limit))
        if not self.since:
            relation, context = chunk.relation.clone(), chunk.context.clone()
            relation[..., 1] = tokens.RELATION_OFFSETS[1]
            context[..., tokens.FIELDS.index("gap")] = 0
            context[..., tokens.FIELDS.index("hour")] = 0
            chunk = chunk._replace(relation=relation, context=context)
        found: Tensor = super().forward(chunk, masked, use_features)
        return found


class OwnKeys(Variant):
    """Keys and values of each layer by its own convolution, not shared."""

    def __init__(self, shape: Shape, knots: NDArray[np.float32]) -> None:
        super().__init__(shape, knots)
        first = self.conv
        self.convs = torch.nn.ParameterList(
            [torch.nn.Parameter(torch.randn_like(first) * first.std()) for _ in self.layers]
        )

    def forward(
        self, chunk: Chunk, masked: Tensor | None = None, use_features: bool = True
    ) -> Tensor:
        t = chunk.reach.shape[1]
        h = self.embed_current(chunk.context[:, -t:], masked)
        h = h + self.embed_features(chunk.row, chunk.weight)
        for layer, conv in zip(self.layers, self.convs, strict=True):
            self.conv = conv
            keys, values = self.keys_values(chunk)
            h = layer(h, keys[:, :-1], values[:, :-1], chunk)
        found: Tensor = self.norm(h)
        return found


class Encoded(Variant):
    """Another encoding of the window features. A feature enters as its place among its own knots,
    0 to 1: times one vector (`waves` 0), or as sines and cosines of learnt frequencies, each times
    a vector (the periodic encoding of Gorishniy, Rubachev and Babenko, 2022).
    """

    def __init__(self, shape: Shape, knots: NDArray[np.float32], waves: int) -> None:
        super().__init__(shape, knots)
        self.waves = waves
        known = torch.from_numpy(np.isfinite(knots).sum(1).astype(np.float32))
        self.last: Tensor
        self.register_buffer("last", (known - 1).clamp(min=1))
        parts = 2 * waves if waves else 1
        self.frequency = torch.nn.Parameter(torch.randn(self.features, max(waves, 1)) * 3.0)
        self.part_table = torch.nn.Parameter(
            torch.randn(self.features, parts, shape.width) * 0.1 / parts**0.5
        )
        self.unknown_table = torch.nn.Parameter(torch.randn(self.features, shape.width) * 0.01)

    def embed_features(self, row: Tensor, weight: Tensor) -> Tensor:
        unknown = row == 0
        at = ((row - 1 + weight) / self.last).clamp(min=0.0)
        if self.waves:
            turn = 2 * torch.pi * at[..., None] * self.frequency
            parts = torch.cat([torch.sin(turn), torch.cos(turn)], -1)
        else:
            parts = (2 * at - 1)[..., None]
        kept = torch.ones_like(at)
        if self.training and self.feature_dropout > 0:
            kept = (torch.rand_like(at) >= self.feature_dropout).float()
        parts = parts * (kept * ~unknown)[..., None]
        found = parts.flatten(2) @ self.part_table.flatten(0, 1)
        return found + (kept * unknown) @ self.unknown_table


class LongSource(Source):
    """Chunks whose targets see up to LONG - 4 events."""

    reach = LONG - 4


class PlaceSizes(Variant):
    """Learns from the size of places without a known fraud, too."""

    hushed = False


class LongHistory(Variant):
    """Sees the last 252 events where the shipped model sees 60."""

    source = LongSource

    def __init__(self, shape: Shape, knots: NDArray[np.float32]) -> None:
        super().__init__(shape, knots, reach=LongSource.reach)
        back = torch.arange(LongSource.reach, 0, -1, dtype=torch.float32)
        slope = torch.tensor([4.0 ** -(h % 4) for h in range(shape.heads)])
        for layer in self.layers:
            layer.recency = torch.nn.Parameter(-slope[:, None] * back[None, :])


def risk_codes(dataset: Dataset) -> NDArray[np.int64]:
    """0 unknown, 1 no known fraud, 2 to 31 by rank of the share: the risk of each event's place
    as it was known when the event was scored."""
    columns = [dataset.names.index(name) for name in RISK_COLUMNS if name in dataset.names]
    share = np.asarray(dataset.features[:, columns]).max(1)
    found = np.where(share < 0, 0, 1)
    some = share > 0
    edges = np.unique(np.quantile(share[some], np.linspace(0, 1, RISK_CODES - 1)[1:-1]))
    found[some] = 2 + np.searchsorted(edges, share[some], side="right")
    return found.astype(np.int64)


class RiskSource(Source):
    """Chunks whose context has one more column: the code of the place's risk at that time."""

    def __init__(self, dataset: Dataset, knots: NDArray[np.float32]) -> None:
        super().__init__(dataset, knots)
        self.risk = risk_codes(dataset)

    def chunk(self, first: Rows, count: int) -> tuple[Chunk, Rows]:
        made, rows = super().chunk(first, count)
        around = first[:, None] + np.arange(count - made.context.shape[1], count)
        around = np.clip(around, 0, len(self.words) - 1)
        risk = self._tensor(self.risk[around][..., None])
        return made._replace(context=torch.cat([made.context, risk], -1)), rows


class RiskTokens(Variant):
    """Past events carry the risk of their place into keys and values."""

    source = RiskSource

    def __init__(self, shape: Shape, knots: NDArray[np.float32]) -> None:
        super().__init__(shape, knots)
        self.risk_table = torch.nn.Parameter(torch.randn(RISK_CODES, shape.event) * 0.1)
        self._risk: Tensor | None = None

    def forward(
        self, chunk: Chunk, masked: Tensor | None = None, use_features: bool = True
    ) -> Tensor:
        self._risk = chunk.context[..., -1]
        return super().forward(
            chunk._replace(context=chunk.context[..., :-1]), masked, use_features
        )

    def keys_values(self, chunk: Chunk) -> tuple[Tensor, Tensor]:
        """What the fields say, and by the same linear convolution what the risk says."""
        keys, values = super().keys_values(chunk)
        assert self._risk is not None
        parts = torch.einsum("bse,tek->tbsk", self.risk_table[self._risk], self.conv)
        both = parts[0][:, 2:]
        for tap in range(1, TAPS):
            here = (chunk.behind[:, 2:] >= tap).float()[..., None]
            both = both + parts[tap][:, 2 - tap : -tap] * here
        return keys + both[..., : self.shape.key], values + both[..., self.shape.key :]
