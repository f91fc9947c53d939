"""The Transformer: target attention over locally encoded history. Training form, plain PyTorch.

In: codes of events, pairs and features (`model/tokens.py`). Out: one vector an event, and logits of
the heads. Does not know how batches are cut, what the labels mean, or how serving computes it.

An event is the sum of one row of each field's table. From it, and by a *linear* causal convolution
of 3 from the two events before it, come one key and one value, shared by all heads and all layers.
Only the event being scored runs through the deep stack:

    h = fields of the event + window features            (table rows, interpolated between knots)
    for each layer:
        logit(head, r) = q . key(r) + q . relation keys(r) + recency(head, r)
        h += Wo [ sum of softmax weights x (value(r) + relation values(r)) ] ; h += MLP(norm(h))

with r = 1 the event before, up to REACH. `recency` starts at -r, -r/4, -r/16, -r/64 and is learnt.
A learnt "nothing there" logit joins each softmax, so an empty history is an ordinary case.
"""

from __future__ import annotations

from dataclasses import asdict, dataclass
from typing import NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn
from torch.nn import functional

from model import tokens
from model.rows import by_relation, table_sum, told_by_relation

TAPS = 3


@dataclass(frozen=True, slots=True)
class Shape:
    """Sizes of one model."""

    width: int = 128
    layers: int = 2
    heads: int = 4
    key: int = 16
    value: int = 32
    hidden: int = 128
    event: int = 64
    knots: int = 32
    history: bool = True
    """False leaves the attention out: the `no history` rival."""
    windows: bool = True
    """False leaves the window features out (ablation)."""

    def as_dict(self) -> dict[str, int | bool]:
        return asdict(self)


PRESETS = {
    "small": Shape(),
    "base": Shape(width=256, layers=4, heads=8, key=32, value=64, hidden=1024, event=128),
    "large": Shape(width=512, layers=9, heads=16, key=32, value=64, hidden=2048, event=256),
}
"""By the names of the command line."""


class Chunk(NamedTuple):
    """Codes of B runs of T consecutive events, each with its context. See `model/loop.py`."""

    context: Tensor  # int64 [B, T+REACH+2, fields]: rows from REACH+2 before the first target
    behind: Tensor  # int64 [B, T+REACH+2]: rows of the same account before each row, at most 2
    reach: Tensor  # int64 [B, T]: events that each target may attend to, 0..REACH
    relation: Tensor  # int16 [B, T, REACH, relations]: rows of the relation tables
    row: Tensor  # int64 [B, T, F]: rows of the feature tables
    weight: Tensor  # float32 [B, T, F]: weight of the next row


class Norm(nn.Module):
    """Root mean square norm with a gain."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.gain = nn.Parameter(torch.ones(width))

    def forward(self, x: Tensor) -> Tensor:
        return x * torch.rsqrt(x.square().mean(-1, keepdim=True) + 1e-6) * self.gain


def _smooth(rows: int, width: int, offsets: tuple[int, ...], sizes: tuple[int, ...]) -> Tensor:
    """Start of a stack of tables: noise, and smooth curves for fields whose codes are ordered."""
    table = torch.randn(rows, width) * 0.1
    for name, offset, size in zip(tokens.FIELDS, offsets, sizes, strict=True):
        if name in tokens.ORDERED:
            at = torch.arange(size)[:, None] / size
            waves = torch.randn(1, width) * 3.0
            curve = torch.sin(2 * torch.pi * (at * waves + torch.rand(1, width)))
            table[offset : offset + size] = 0.03 * table[offset : offset + size] + 0.2 * curve
    return table


class Layer(nn.Module):
    """Attention of the scored event over keys and values made elsewhere, then an MLP."""

    def __init__(self, shape: Shape) -> None:
        super().__init__()
        self.shape = shape
        self.norm_attention, self.norm_mlp = Norm(shape.width), Norm(shape.width)
        self.query = nn.Linear(shape.width, shape.heads * shape.key)
        self.out = nn.Linear(shape.heads * shape.value, shape.width, bias=False)
        self.relation_key = nn.Parameter(torch.randn(tokens.RELATION_ROWS, shape.key) * 0.02)
        self.relation_value = nn.Parameter(torch.randn(tokens.RELATION_ROWS, shape.value) * 0.02)
        slope = torch.tensor([4.0 ** -(h % 4) for h in range(shape.heads)])
        back = torch.arange(tokens.REACH, 0, -1, dtype=torch.float32)
        self.recency = nn.Parameter(-slope[:, None] * back[None, :])
        self.nothing = nn.Parameter(torch.full((shape.heads,), -2.0))
        self.up = nn.Linear(shape.width, shape.hidden)
        self.down = nn.Linear(shape.hidden, shape.width)
        nn.init.normal_(self.out.weight, std=0.5 / (shape.heads * shape.value) ** 0.5)
        nn.init.normal_(self.down.weight, std=0.5 / shape.hidden**0.5)

    def attend(self, h: Tensor, keys: Tensor, values: Tensor, chunk: Chunk) -> Tensor:
        s = self.shape
        b, t, _ = h.shape
        q = self.query(self.norm_attention(h)).view(b, t, s.heads, s.key) * s.key**-0.5
        logits = _diagonals(q.permute(0, 2, 1, 3).reshape(b, s.heads * t, s.key) @ keys.mT, t)
        reach = chunk.relation.shape[2]
        logits = logits.view(b, s.heads, t, reach)
        by_row = (q @ self.relation_key.T).permute(0, 2, 1, 3)  # [B, H, T, rows]
        logits = logits + by_relation(by_row, chunk.relation)
        back = torch.arange(reach, 0, -1, device=h.device)
        seen = back <= chunk.reach[..., None]  # [B, T, REACH]
        logits = (logits + self.recency[:, None, :]).masked_fill(~seen[:, None], -torch.inf)
        nothing = self.nothing[None, :, None, None].expand(b, s.heads, t, 1)
        weights = torch.softmax(torch.cat([logits, nothing], -1), -1)[..., :-1]
        told = told_by_relation(weights, chunk.relation, tokens.RELATION_ROWS)
        spread = _undiagonals(weights).reshape(b, s.heads * t, -1)
        mixed = (spread @ values).view(b, s.heads, t, s.value) + told @ self.relation_value
        found: Tensor = self.out(mixed.permute(0, 2, 1, 3).reshape(b, t, s.heads * s.value))
        return found

    def forward(self, h: Tensor, keys: Tensor, values: Tensor, chunk: Chunk) -> Tensor:
        if self.shape.history:
            h = h + self.attend(h, keys, values, chunk)
        added: Tensor = self.down(torch.relu(self.up(self.norm_mlp(h))))
        return h + added


def _diagonals(full: Tensor, t: int) -> Tensor:
    """[B, H*T, T-1+REACH] of all pairs to [B, H, T, REACH] of each target's own past.

    Target t's past starts at column t, so reading with a stride longer by one aligns the rows.
    """
    b, rows, s = full.shape
    flat = functional.pad(full.reshape(b, rows // t, t * s), (0, t))
    return flat.view(b, rows // t, t, s + 1)[..., : s - t + 1]


def _undiagonals(own: Tensor) -> Tensor:
    """The reverse of `_diagonals`, zero elsewhere: [B, H, T, REACH] to [B, H, T, T-1+REACH]."""
    b, h, t, reach = own.shape
    flat = functional.pad(own, (0, t)).reshape(b, h, t * (reach + t))
    return flat[..., : t * (reach + t - 1)].reshape(b, h, t, reach + t - 1)


class Transformer(nn.Module):
    """Backbone and heads. `knots` has a row a window feature, in their order."""

    def __init__(self, shape: Shape, knots: NDArray[np.float32]) -> None:
        super().__init__()
        self.shape = shape
        self.features = len(knots)
        rows = self.features * (shape.knots + 1)
        self.knots: Tensor
        self.register_buffer("knots", torch.from_numpy(np.ascontiguousarray(knots)))
        sizes = (tokens.ROWS, shape.event, tokens.OFFSETS, tokens.SIZES)
        self.event_table = nn.Parameter(_smooth(*sizes))
        self.conv = nn.Parameter(
            torch.randn(TAPS, shape.event, shape.key + shape.value) / (2 * shape.event) ** 0.5
        )
        current = _smooth(tokens.ROWS, shape.width, tokens.OFFSETS, tokens.SIZES)
        self.current_table = nn.Parameter(current)
        self.feature_step = nn.Parameter(torch.randn(rows, shape.width) * 0.01)
        self.layers = nn.ModuleList(Layer(shape) for _ in range(shape.layers))
        self.norm = Norm(shape.width)
        self.head = nn.Linear(shape.width, 1)
        nn.init.normal_(self.head.weight, std=0.02)
        self.event_dropout = 0.0
        self.feature_dropout = 0.0

    def feature_table(self) -> Tensor:
        """Rows by knot. Held as steps between knots, so neighbours learn together."""
        step = self.feature_step.view(self.features, self.shape.knots + 1, self.shape.width)
        known = step[:, 1:].cumsum(1)
        return torch.cat([step[:, :1], known], 1)

    def embed_features(self, row: Tensor, weight: Tensor) -> Tensor:
        """Sum over features of the row, moved towards the next by `weight`."""
        b, t, f = row.shape
        table = self.feature_table().flatten(0, 1)
        index = row + torch.arange(f, device=row.device) * (self.shape.knots + 1)
        pair = torch.cat([index, (index + (weight > 0).long())], -1).view(b * t, 2 * f)
        shares = torch.cat([1 - weight, weight], -1)
        if self.training and self.feature_dropout > 0:
            kept = (torch.rand(b, t, f, device=row.device) >= self.feature_dropout).float()
            shares = shares * kept.repeat(1, 1, 2)
        shares = shares.view(b * t, 2 * f).to(table.dtype)
        return table_sum(table, pair, shares).view(b, t, -1)

    def embed_current(self, codes: Tensor, masked: Tensor | None = None) -> Tensor:
        """Sum of the current tables' rows; `masked` [B, T, fields] leaves fields out."""
        b, t, fields = codes.shape
        offsets = torch.tensor(tokens.OFFSETS, device=codes.device)
        index = (codes + offsets).view(b * t, fields)
        keep = torch.ones_like(codes, dtype=self.current_table.dtype)
        keep[..., tokens.AUTH] = 0  # not known when the score is wanted
        if masked is not None:
            keep = keep.masked_fill(masked, 0)
        shares = keep.view(b * t, fields)
        return table_sum(self.current_table, index, shares).view(b, t, -1)

    def keys_values(self, chunk: Chunk) -> tuple[Tensor, Tensor]:
        """Keys and values of the rows that some target of the chunk may see."""
        b, s, fields = chunk.context.shape
        offsets = torch.tensor(tokens.OFFSETS, device=chunk.context.device)
        index = (chunk.context + offsets).view(b * s, fields)
        ones = torch.ones(index.shape, dtype=self.event_table.dtype, device=index.device)
        e = table_sum(self.event_table, index, ones).view(b, s, -1)
        if self.training and self.event_dropout > 0:
            e = functional.dropout(e, self.event_dropout)
        parts = torch.einsum("bse,tek->tbsk", e, self.conv)
        both = parts[0][:, 2:]
        for tap in range(1, TAPS):
            here = (chunk.behind[:, 2:] >= tap).to(e.dtype)[..., None]
            both = both + parts[tap][:, 2 - tap : s - tap] * here
        return both[..., : self.shape.key], both[..., self.shape.key :]

    def forward(
        self, chunk: Chunk, masked: Tensor | None = None, use_features: bool = True
    ) -> Tensor:
        """Vectors [B, T, width] of the targets, normed, ready for a linear head."""
        t = chunk.reach.shape[1]
        h = self.embed_current(chunk.context[:, -t:], masked)
        if use_features and self.shape.windows:
            h = h + self.embed_features(chunk.row, chunk.weight)
        keys, values = self.keys_values(chunk)
        keys, values = keys[:, :-1], values[:, :-1]  # the last row is nobody's past
        for layer in self.layers:
            h = layer(h, keys, values, chunk)
        found: Tensor = self.norm(h)
        return found

    def baked(self) -> Transformer:
        """The model whose parameters are those that a bundle holds: this one."""
        return self

    def logit(self, h: Tensor) -> Tensor:
        """Log-odds of fraud, before calibration."""
        found: Tensor = self.head(h).squeeze(-1)
        return found


def cost(shape: Shape, features: int) -> dict[str, int]:
    """What a shape costs, told before training: parameters, work a score, memory to train."""
    s = shape
    model = Transformer(shape, np.zeros((features, shape.knots), np.float32))
    parameters = sum(p.numel() for p in model.parameters())
    rows = tokens.REACH + 4
    history = rows * len(tokens.FIELDS) * TAPS * (s.key + s.value)
    attention = s.heads * (rows * (s.key + s.value) + tokens.RELATION_ROWS * (s.key + s.value))
    dense = s.width * (s.heads * (s.key + s.value) + 2 * s.hidden)
    events = 64 * 64
    activations = events * (s.layers * (4 * s.width + 2 * s.hidden + s.heads * 600) + 6 * s.width)
    return {
        "parameters": parameters,
        "multiplications": 2 * features * s.width + history + s.layers * (attention + dense),
        # Measured on the presets: five bytes an activation.
        "training_bytes": 16 * parameters + 5 * activations,
    }
