"""A pretrained backbone as a bundle, and what it says of an account by itself.

In: a `Pretrained`. Out: a bundle whose fraud head is untrained, with the field heads beside; what
an account will likely do next (propensity); surprise by field (anomaly). Does not know labels.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from model.bundle import Bundle, weights_of
from model.calibrate import IDENTITY
from model.data import Dataset
from model.finetune import golden_rows, logits_of
from model.loop import Source
from model.pretrain import TARGETS, Heads, Pretrained, hide
from model.score import calibrate


def to_bundle(dataset: Dataset, found: Pretrained, name: str, groups: Sequence[str]) -> Bundle:
    """Pack it; its scores mean nothing before a fine-tuning."""
    rows = np.arange(len(dataset))[:: max(len(dataset) // 4_096, 1)]
    golden = golden_rows(dataset, rows, logits_of(found.model, dataset, rows))
    bundle = Bundle(
        name=name,
        shape=found.model.shape,
        weights=weights_of(found.model),
        names=dataset.names,
        feature_digest=dataset.feature_digest,
        groups=tuple(groups),
        usual=np.median(np.asarray(dataset.features[rows]), axis=0).astype(np.float32),
        calibration=IDENTITY,
        golden=golden,
        about={"nats": dict(found.nats), "card": "Pretrained only; scores are not probabilities."},
        extra={f"heads.{k}": v.detach().numpy() for k, v in found.heads.state_dict().items()},
    )
    return with_golden_scores(bundle)


def with_golden_scores(bundle: Bundle) -> Bundle:
    """The bundle with the scores of its golden rows, by the serving kernel."""
    from dataclasses import replace

    from model.fold import fold
    from model.inputs import HISTORY
    from model.kernel import kernel_of

    g = bundle.golden
    assert g is not None
    folded = fold(bundle.model())
    out = np.empty(len(g), np.float32)
    none = np.zeros((0, HISTORY), np.float32)
    kernel_of(folded)(g.current, g.history, g.length, g.features, folded, out, none)
    return replace(bundle, golden_scores=calibrate(out, bundle.calibration))


def heads_of(bundle: Bundle) -> Heads:
    """The field heads of a pretrained bundle. Raises KeyError where it has none."""
    heads = Heads(bundle.shape.width)
    state = {
        k.removeprefix("heads."): torch.from_numpy(v.copy())
        for k, v in bundle.extra.items()
        if k.startswith("heads.")
    }
    heads.load_state_dict(state)
    return heads.eval()


@torch.no_grad()
def propensity(
    bundle: Bundle, dataset: Dataset, rows: NDArray[np.int64], field: str
) -> NDArray[np.float32]:
    """Distribution over the classes of a field of the event at each row, from its past alone."""
    assert field in TARGETS, field
    model, heads = bundle.model(), heads_of(bundle)
    source = Source(dataset, model.knots.numpy())
    parts: list[Any] = []
    for at in range(0, len(rows), 512):
        chunk, _ = source.chunk(rows[at : at + 512], 1)
        hidden = torch.ones(*chunk.reach.shape, chunk.context.shape[-1], dtype=torch.bool)
        h = model(hide(chunk, hidden), masked=hidden, use_features=False)
        parts.append(torch.softmax(heads.maps[field](h[:, 0]), -1).numpy())
    return np.concatenate(parts)


def hit_at_k(chances: NDArray[np.float32], truth: NDArray[np.int64], k: int) -> float:
    """Share of rows whose true class is among the k likeliest."""
    top = np.argsort(-chances, axis=1, kind="stable")[:, :k]
    return float((top == truth[:, None]).any(1).mean())


def own_frequencies(
    codes: NDArray[np.int64], place: NDArray[np.int32], rows: NDArray[np.int64], classes: int
) -> NDArray[np.float32]:
    """The simple rival of `propensity`: how often the account's last 64 events had each class."""
    out = np.zeros((len(rows), classes), np.float32)
    for i, row in enumerate(rows.tolist()):
        past = codes[row - min(int(place[row]), 64) : row]
        np.add.at(out[i], past, 1.0)
    return out
