"""The training form to the serving form: everything before the attention becomes table rows.

In: a `Transformer` (or the tensors of a bundle). Out: `Folded`, plain float32 arrays; and
`forward`, the same mathematics in torch for a GPU. Does not know how the CPU kernel walks them.

    event row   -> its share of key and value for each of the three convolution taps
    current row -> as trained, with the auth_response rows zero (unknown at scoring time)
    feature     -> the value at each knot; between knots the kernel interpolates
    norm gains  -> into the matrix that follows; the query's scale too
Sums are made in float64 and rounded once, so folded and unfolded scores agree to 1e-6 (tested).
"""

from __future__ import annotations

from typing import Any, NamedTuple

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional

from model import tokens
from model.inputs import HISTORY
from model.rows import marks
from model.transformer import TAPS, Transformer

Floats = Any
"""float32: numpy arrays for the CPU kernel, tensors for `forward`."""


class Folded(NamedTuple):
    """Weights as the kernels read them: [in, out] matrices, layers stacked in front."""

    knots: Floats  # [F, knots]
    feature: Floats  # [F, knots + 1, width]
    current: Floats  # [ROWS, width]
    event: Floats  # [ROWS, TAPS * (key + value)]
    query: Floats  # [layers, width, heads * key]
    query_bias: Floats  # [layers, heads * key]
    relation_key: Floats  # [layers, key, RELATION_ROWS]
    relation_value: Floats  # [layers, RELATION_ROWS, value]
    recency: Floats  # [layers, heads, HISTORY]; the oldest are never attended to
    nothing: Floats  # [layers, heads]
    out: Floats  # [layers, heads * value, width]
    up: Floats  # [layers, width, hidden]
    up_bias: Floats  # [layers, hidden]
    down: Floats  # [layers, hidden, width]
    down_bias: Floats  # [layers, width]
    head: Floats  # [width]
    head_bias: Floats  # [1]


def fold(model: Transformer) -> Folded:
    """The serving form of a trained model."""
    model = model.baked()
    m = {name: value.detach().cpu().double() for name, value in model.state_dict().items()}
    shape = model.shape

    def layers(name: str) -> Tensor:
        return torch.stack([m[f"layers.{i}.{name}"] for i in range(shape.layers)])

    step = m["feature_step"].view(model.features, shape.knots + 1, shape.width)
    feature = torch.cat([step[:, :1], step[:, 1:].cumsum(1)], 1)
    if not shape.windows:
        feature = torch.zeros_like(feature)
    current = m["current_table"].clone()
    auth = tokens.OFFSETS[tokens.AUTH]
    current[auth : auth + tokens.SIZES[tokens.AUTH]] = 0
    gain = layers("norm_attention.gain")[:, :, None]
    scale = shape.key**-0.5
    out = layers("out.weight").mT
    if not shape.history:
        out = torch.zeros_like(out)
    arrays = Folded(
        knots=m["knots"],
        feature=feature,
        current=current,
        event=torch.cat([m["event_table"] @ m["conv"][tap] for tap in range(TAPS)], 1),
        query=layers("query.weight").mT * gain * scale,
        query_bias=layers("query.bias") * scale,
        relation_key=layers("relation_key").mT,
        relation_value=layers("relation_value"),
        recency=functional.pad(layers("recency"), (HISTORY - tokens.REACH, 0)),
        nothing=layers("nothing"),
        out=out,
        up=layers("up.weight").mT * layers("norm_mlp.gain")[:, :, None],
        up_bias=layers("up.bias"),
        down=layers("down.weight").mT,
        down_bias=layers("down.bias"),
        head=m["head.weight"][0] * m["norm.gain"],
        head_bias=m["head.bias"],
    )
    return Folded(*(np.ascontiguousarray(a.numpy().astype(np.float32)) for a in arrays))


class Codes(NamedTuple):
    """Integer codes of n scored events, as `model/kernel.py` makes them."""

    event: Tensor  # [n, HISTORY + 1, fields], rows of the tables; the last is the event itself
    before: Tensor  # [n, HISTORY + 1]: taps that stay inside the account, 0..2
    seen: Tensor  # bool [n, HISTORY]
    relation: Tensor  # [n, HISTORY, relations], rows of the relation tables
    row: Tensor  # [n, F]
    weight: Tensor  # [n, F]


def _unit(h: Tensor) -> Tensor:
    return h * torch.rsqrt(h.square().mean(-1, keepdim=True) + 1e-6)


def begin(w: Folded, codes: Codes) -> Tensor:
    """Start vectors [n, width]: the event's own fields and its features."""
    h = functional.embedding_bag(codes.event[:, -1].long(), w.current, mode="sum")
    f = codes.row.shape[1]
    row = codes.row.long() + torch.arange(f, device=codes.row.device) * w.feature.shape[1]
    pair = torch.cat([row, row + (codes.weight > 0).long()], 1)
    shares = torch.cat([1 - codes.weight, codes.weight], 1).to(w.feature.dtype)
    table = w.feature.flatten(0, 1)
    return h + functional.embedding_bag(pair, table, per_sample_weights=shares, mode="sum")


def remember(w: Folded, codes: Codes) -> Tensor:
    """Keys and values [n, HISTORY, key + value] of the past events."""
    n = len(codes.before)
    index = codes.event[:, :-1].long()
    parts = functional.embedding_bag(index.flatten(0, 1), w.event, mode="sum")
    parts = parts.view(n, index.shape[1], TAPS, -1)
    both = parts[:, :, 0]
    for tap in range(1, TAPS):
        moved = functional.pad(parts[:, :-tap, tap], (0, 0, tap, 0))
        both = both + moved * (codes.before[:, :-1] >= tap).to(moved.dtype)[..., None]
    return both


def decide(w: Folded, codes: Codes, h: Tensor, both: Tensor) -> Tensor:
    """Log-odds [n] from start vectors, and keys and values.

    What pairs share goes through products with `marks`, whose sums have a fixed order: on a GPU the
    same row gets the same bits each time, which adding by `scatter_add` would not give.
    """
    n = len(h)
    heads = w.recency.shape[1]
    key, value = w.relation_key.shape[1], w.relation_value.shape[2]
    keys, values = both[..., :key], both[..., key:]
    shared = marks(codes.relation, tokens.RELATION_ROWS, h.dtype)
    hidden = ~codes.seen[:, None]
    for i in range(w.query.shape[0]):
        q = (_unit(h) @ w.query[i] + w.query_bias[i]).view(n, heads, key)
        logits = q @ keys.transpose(1, 2) + w.recency[i]  # not .mT: ONNX has none
        logits = logits + (q @ w.relation_key[i]) @ shared.transpose(1, 2)
        nothing = w.nothing[i][None, :, None].expand(n, heads, 1)
        logits = torch.cat([logits.masked_fill(hidden, -torch.inf), nothing], 2)
        weights = torch.softmax(logits, 2)[..., :-1]
        mixed = weights @ values + (weights @ shared) @ w.relation_value[i]
        h = h + mixed.reshape(n, heads * value) @ w.out[i]
        h = h + torch.relu(_unit(h) @ w.up[i] + w.up_bias[i]) @ w.down[i] + w.down_bias[i]
    found: Tensor = _unit(h) @ w.head + w.head_bias[0]
    return found


def forward(w: Folded, codes: Codes) -> Tensor:
    """Log-odds [n] from folded weights held as tensors: the GPU's way, fixed shapes."""
    return decide(w, codes, begin(w, codes), remember(w, codes))
