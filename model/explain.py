"""Why a score is high: what each feature group adds, by taking it away and scoring again.

In: a scorer and the rows of alerts. Out: log-odds added by each group, and the attention paid to
past events. Does not know reason codes or words: `streams/reasons.py` turns groups into sentences.

Taking away is the definition of a faithful explanation (the deletion curve measures just this), and
the kernel is fast enough to do it: some twenty scores an alert. A group's features become what is
usual in legitimate payments; where the group also stands in the event's own fields, these become
usual or "not given" too, or the model would read there what was taken away.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

import numpy as np
from numpy.typing import NDArray

from model.inputs import (
    AMOUNT_SHIFT,
    COUNTRY_SHIFT,
    DEVICE_MASK,
    MCC_MASK,
    PLACE_SHIFT,
    TIME_SHIFT,
    ScoringBatch,
    stack,
)

if TYPE_CHECKING:
    from collections.abc import Sequence

    from model.data import Dataset
    from model.score import Scorer
    from model.transformer import Transformer

HISTORY_GROUP: Final = "history"
"""The sequence of past events, apart from the windows over it."""


def groups_of(scorer: Scorer) -> tuple[str, ...]:
    """All groups, in the order of the feature list, the history last."""
    return (*dict.fromkeys(scorer.bundle.groups), HISTORY_GROUP)


def _without_fields(group: str, current: NDArray[np.uint64], usual_amount: int) -> None:
    """Take a group out of the event's own words, in place."""
    if group == "amount":
        current[:, 1] &= np.uint64(MCC_MASK)
        current[:, 1] |= np.uint64(usual_amount) << np.uint64(AMOUNT_SHIFT)
    elif group == "kind":
        low = np.uint64((1 << TIME_SHIFT) - 1)
        current[:, 0] &= ~low
        current[:, 1] &= ~np.uint64(MCC_MASK)
    elif group == "place":
        current[:, 3] &= ~np.uint64(0x3FF << COUNTRY_SHIFT)
    elif group == "novelty":
        current[:, 3] &= ~np.uint64(DEVICE_MASK)
        current[:, 3] &= np.uint64((1 << PLACE_SHIFT) - 1)


def without(scorer: Scorer, batch: ScoringBatch, group: str) -> ScoringBatch:
    """The rows with one group taken away."""
    if group == HISTORY_GROUP:
        return ScoringBatch(
            current=batch.current,
            history=np.zeros_like(batch.history),
            length=np.zeros_like(batch.length),
            features=batch.features,
        )
    bundle = scorer.bundle
    chosen = np.array([name == group for name in bundle.groups])
    features = batch.features.copy()
    features[:, chosen] = bundle.usual[chosen]
    current = batch.current.copy()
    amount = bundle.names.index("amount") if "amount" in bundle.names else -1
    usual_amount = int(max(bundle.usual[amount], 0)) if amount >= 0 else 0
    _without_fields(group, current, usual_amount)
    return ScoringBatch(current, batch.history, batch.length, features)


def contributions(scorer: Scorer, batch: ScoringBatch) -> list[dict[str, float]]:
    """Per row, the log-odds that each group adds: positive speaks for fraud.

    Before calibration: its line is flat at the top, where a sure fraud would have no reason.
    """
    if not len(batch):
        return []
    base = scorer.logits(batch).astype(np.float64)
    found = {
        group: base - scorer.logits(without(scorer, batch, group)).astype(np.float64)
        for group in groups_of(scorer)
    }
    return [{group: float(v[i]) for group, v in found.items()} for i in range(len(batch))]


def vectors(model: Transformer, dataset: Dataset, rows: NDArray[np.int64]) -> NDArray[np.float32]:
    """The model's vector of each row, of length 1: what its heads see."""
    import torch

    from model.loop import Source

    source = Source(dataset, model.knots.numpy())
    parts = []
    with torch.no_grad():
        for at in range(0, len(rows), 256):
            chunk, _ = source.chunk(rows[at : at + 256], 1)
            parts.append(model(chunk)[:, 0].numpy())
    found = np.concatenate(parts)
    return np.asarray(found / np.linalg.norm(found, axis=1, keepdims=True), np.float32)


def similar(
    model: Transformer, dataset: Dataset, row: int, among: NDArray[np.int64], count: int = 3
) -> list[tuple[int, float]]:
    """The most similar of `among` to a row: (row, cosine), of other accounts first seen before."""
    account, time = np.asarray(dataset.account), dataset.time
    among = among[(account[among] != account[row]) & (time[among] < time[row])]
    if not len(among):
        return []
    known = vectors(model, dataset, among)
    near = known @ vectors(model, dataset, np.array([row]))[0]
    order = np.argsort(-near, kind="stable")[:count]
    return [(int(among[k]), float(near[k])) for k in order]


def deletion_curve(
    scorer: Scorer, batch: ScoringBatch, orders: Sequence[Sequence[str]]
) -> NDArray[np.float64]:
    """Mean score after taking away 0, 1, 2, ... groups of each row, in the row's given order.

    A good order lets the score fall fast. Rows are scored in the order of `orders`.
    """
    found = [scorer.score(batch)]
    rest = [batch_row(batch, i) for i in range(len(batch))]
    for step in range(len(orders[0])):
        rest = [without(scorer, one, orders[i][step]) for i, one in enumerate(rest)]
        found.append(scorer.score(stack(rest)))
    return np.asarray([scores.mean() for scores in found])


def batch_row(batch: ScoringBatch, i: int) -> ScoringBatch:
    """One row of a batch."""
    part = slice(i, i + 1)
    return ScoringBatch(
        batch.current[part], batch.history[part], batch.length[part], batch.features[part]
    )
