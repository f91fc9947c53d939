"""Pretraining without labels: predict the fields of each event from what came before it.

In: a `Dataset` (its labels are not read), a shape, a recipe. Out: a model, and linear heads that
turn its vector into a distribution over each field. Does not know what will be fine-tuned.

Half of the targets hide every field at once (the next event); the others hide each field on its
own with even chance (masked fields of the current event). A hidden field is also taken out of the
codes of pairs that tell of it: merchant, device, country and category from `same`, the amount from
`ratio`, the gap from `since`. Window features describe the event itself, so they are left out.

What is unlikely under the heads is surprising: -log p of a field is kept as the anomaly score of
that field; the same distributions answer what an account is likely to do next (propensity).
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Final

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn
from torch.nn import functional

from model import tokens
from model.data import Dataset
from model.loop import Recipe, Rows, Source, Tell, Watch, train, wanted
from model.transformer import Chunk, Shape, Transformer

TARGETS: Final = {"kind": 64, "way": 64, "amount": 64, "mcc": 512, "country": 680, "gap": 64}
"""Predicted fields and the number of classes of each."""
MERGED: Final = {"amount": 4, "gap": 2}
"""Neighbouring codes that count as one class: half an octave."""
_AT: Final = {name: tokens.FIELDS.index(name) for name in tokens.FIELDS}
_SAME: Final = tokens.RELATION_OFFSETS[0]
_SINCE: Final = tokens.RELATION_OFFSETS[1]
_EVEN: Final = tokens.RELATION_OFFSETS[2] + 16


class Heads(nn.Module):
    """One linear map a field, from the model's vector to its classes."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.maps = nn.ModuleDict({n: nn.Linear(width, size) for n, size in TARGETS.items()})

    def forward(self, h: Tensor) -> dict[str, Tensor]:
        return {name: head(h) for name, head in self.maps.items()}


@dataclass
class Pretrained:
    """The backbone, its heads, and the mean nats of each field on some of the rows it was fitted on
    (`model/unlabelled.py` measures on others)."""

    model: Transformer
    heads: Heads
    nats: Mapping[str, float]


def classes(codes: Tensor) -> dict[str, Tensor]:
    """The class of each predicted field of events [..., fields]."""
    return {name: codes[..., _AT[name]] // MERGED.get(name, 1) for name in TARGETS}


def hide(chunk: Chunk, hidden: Tensor) -> Chunk:
    """The chunk without what pairs tell of hidden fields; `hidden` is bool [B, T, fields]."""
    relation = chunk.relation.clone()
    place = hidden[..., _AT["place"]] | hidden[..., _AT["mcc"]] | hidden[..., _AT["country"]]
    relation[..., 0] = torch.where(place[..., None], _SAME, relation[..., 0])
    gap = (hidden[..., _AT["gap"]] | hidden[..., _AT["hour"]])[..., None]
    relation[..., 1] = torch.where(gap, _SINCE, relation[..., 1])
    amount = hidden[..., _AT["amount"]][..., None]
    relation[..., 2] = torch.where(amount, _EVEN, relation[..., 2])
    return chunk._replace(relation=relation)


def _tied(hidden: Tensor) -> Tensor:
    """Fields that tell of each other are hidden together: place and match with mcc and country."""
    place = hidden[..., _AT["place"]] | hidden[..., _AT["mcc"]] | hidden[..., _AT["country"]]
    hidden[..., _AT["place"]] = place
    hidden[..., _AT["match"]] |= place
    hidden[..., _AT["hour"]] |= hidden[..., _AT["gap"]]
    hidden[..., tokens.AUTH] = True
    return hidden


def draw(shape: torch.Size, generator: torch.Generator | None = None) -> Tensor:
    """What to hide of each target."""
    b, t = shape
    hidden = torch.rand(b, t, len(tokens.FIELDS), generator=generator) < 0.5
    whole = torch.rand(b, t, 1, generator=generator) < 0.5
    return _tied(hidden | whole)


def field_nats(
    model: Transformer, heads: Heads, chunk: Chunk, hidden: Tensor
) -> dict[str, tuple[Tensor, Tensor]]:
    """Per field: -log p of the true class [B, T], and which targets had it hidden."""
    h = model(hide(chunk, hidden), masked=hidden, use_features=False)
    t = hidden.shape[1]
    truth = classes(chunk.context[:, -t:])
    found = {}
    for name, logits in heads(h).items():
        nats = functional.cross_entropy(
            logits.flatten(0, 1), truth[name].flatten(), reduction="none"
        )
        found[name] = (nats.view(truth[name].shape), hidden[..., _AT[name]])
    return found


def pretrain(
    dataset: Dataset,
    chosen: NDArray[np.bool_],
    shape: Shape,
    recipe: Recipe,
    tell: Tell = lambda _: None,
    checkpoint: Path | None = None,
    device: str = "cpu",
    watch: Watch = lambda step, told: None,
) -> Pretrained:
    """Fit on the chosen rows (events before some moment). Features only set the knots."""
    torch.manual_seed(recipe.seed)
    rows = np.flatnonzero(chosen)
    sample = rows[:: max(len(rows) // 200_000, 1)]
    knots = tokens.quantile_knots(np.asarray(dataset.features[sample], np.float32), shape.knots)
    model = Transformer(shape, knots).to(device)
    heads = Heads(shape.width).to(device)
    source = Source(dataset, knots, device)

    def loss(current: Transformer, chunk: Chunk, _: Rows) -> Tensor:
        hidden = draw(chunk.reach.shape).to(chunk.reach.device)
        total = torch.zeros((), device=chunk.reach.device)
        for nats, counted in field_nats(current, heads, chunk, hidden).values():
            total = total + (nats * counted).sum() / counted.sum().clamp(min=1)
        return total / len(TARGETS)

    train(model, source, chosen, loss, recipe, None, tell, checkpoint, heads, watch)
    nats = surprise_of_chunks(model, heads, source, chosen, rows[-4_096::64])
    return Pretrained(model.cpu(), heads.cpu(), nats)


@torch.no_grad()
def surprise_of_chunks(
    model: Transformer, heads: Heads, source: Source, chosen: NDArray[np.bool_], starts: Rows
) -> dict[str, float]:
    """Mean nats of each field over the chosen rows of chunks, when the whole event is hidden."""
    chunk, rows = source.chunk(starts, 64)
    hidden = torch.ones(*chunk.reach.shape, len(tokens.FIELDS), dtype=torch.bool)
    found = field_nats(model, heads, chunk, hidden.to(chunk.reach.device))
    kept = torch.from_numpy(wanted(chosen, rows)).to(chunk.reach.device)
    return {name: float(nats[kept].mean()) for name, (nats, _) in found.items()}
