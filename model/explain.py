"""Why a score is high: what each feature group adds, by taking it away and scoring again.

In: a scorer and the rows of alerts. Out: log-odds added by each group, and the attention paid to
past events. Does not know reason codes or words: `streams/reasons.py` turns groups into sentences.

Taking away is the definition of a faithful explanation (the deletion curve measures just this), and
the kernel is fast enough to do it: 17 scores an alert. A group's features become what is
usual in legitimate payments; where the group also stands in the event's own fields, these become
usual or "not given" too, or the model would read there what was taken away.

Times are read there as hours and as distances. Without `clock` the whole account is moved, so that
the payment falls on the usual hour and all distances stay; without `tempo` its past alone is moved,
so that the last event lies the usual time before the payment and the distances among past events
stay. Either way the hours of past events move along: hours and distances of one sequence cannot be
changed apart.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

import numpy as np
from numpy.typing import NDArray

from model.inputs import (
    AMOUNT_SHIFT,
    COUNTRY_MASK,
    COUNTRY_SHIFT,
    DEVICE_MASK,
    MCC_MASK,
    PLACE_SHIFT,
    TIME_BITS,
    TIME_SHIFT,
    ScoringBatch,
    stack,
)

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from model.data import Dataset
    from model.score import Scorer
    from model.transformer import Transformer

HISTORY_GROUP: Final = "history"
"""The sequence of past events, apart from the windows over it."""
HOUR_MS: Final = 3_600_000
TIMED: Final = ("clock", "tempo")
"""Groups that the times of events tell of."""
TOLD: Final = ("amount", "hour", "weekday", "since_last_s")
"""Features that the event's own words tell as well."""


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
        current[:, 3] &= ~np.uint64(COUNTRY_MASK << COUNTRY_SHIFT)
    elif group == "novelty":
        current[:, 3] &= ~np.uint64(DEVICE_MASK)
        current[:, 3] &= np.uint64((1 << PLACE_SHIFT) - 1)


def _moved(words: NDArray[np.uint64], by_ms: NDArray[np.int64]) -> NDArray[np.uint64]:
    """Words of events with other times, within the bits that a time has."""
    low = words & np.uint64((1 << TIME_SHIFT) - 1)
    time = (words >> np.uint64(TIME_SHIFT)).astype(np.int64) + by_ms
    time = np.clip(time, 0, (1 << TIME_BITS) - 1)
    return np.asarray((time.astype(np.uint64) << np.uint64(TIME_SHIFT)) | low)


def _at_usual_times(
    group: str, usual: Mapping[str, float], batch: ScoringBatch
) -> tuple[NDArray[np.uint64], NDArray[np.uint64]]:
    """Words 0 of the events and of their past, [n, 1] and [n, HISTORY], moved to usual times."""
    current, history = batch.current[:, :1], batch.history[:, :, 0]
    time = (current >> np.uint64(TIME_SHIFT)).astype(np.int64)
    if group == "clock" and usual.get("hour", -1) >= 0:
        here = time // HOUR_MS + 3 * 24  # the epoch was a Thursday; weeks begin on Monday
        wanted, period = round(usual["hour"]), 24
        if usual.get("weekday", -1) >= 0:
            wanted, period = round(usual["weekday"]) * 24 + wanted, 7 * 24
        by = (wanted - here) % period * HOUR_MS
        return _moved(current, by), _moved(history, by)
    if group == "tempo" and usual.get("since_last_s", -1) >= 0:
        last = (history[:, -1:] >> np.uint64(TIME_SHIFT)).astype(np.int64)
        by = time - round(usual["since_last_s"] * 1_000) - last
        return current, _moved(history, by)
    return current, history


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
    usual = {n: float(v) for n, v in zip(bundle.names, bundle.usual, strict=True) if n in TOLD}
    current, history = batch.current.copy(), batch.history
    _without_fields(group, current, int(max(usual.get("amount", 0), 0)))
    if group in TIMED:
        history = history.copy()
        current[:, :1], history[:, :, 0] = _at_usual_times(group, usual, batch)
    return ScoringBatch(current, history, batch.length, features)


def contributions(scorer: Scorer, batch: ScoringBatch) -> list[dict[str, float]]:
    """Per row, the log-odds that each group adds: positive speaks for fraud.

    Before calibration: its line is flat at the top, where a sure fraud would have no reason.
    """
    if not len(batch):
        return []
    groups = groups_of(scorer)
    # All in one call: a GPU takes as long for one row as for a step of them.
    asked = stack([batch, *(without(scorer, batch, group) for group in groups)])
    base, *less = scorer.logits(asked).astype(np.float64).reshape(1 + len(groups), len(batch))
    found = {group: base - one for group, one in zip(groups, less, strict=True)}
    return [{group: float(v[i]) for group, v in found.items()} for i in range(len(batch))]


def gradient_times_input(scorer: Scorer, batch: ScoringBatch) -> list[dict[str, float]]:
    """The rival of `contributions`: the slope of the log-odds times what a group puts in, by group.

    What a group puts in is the change of the start vector when it is taken away (for the history:
    all keys and values). Source: Shrikumar et al., Learning Important Features (2017), section 2.
    """
    import torch

    from model import fold
    from model.kernel import encode_batch, torch_codes

    def codes_of(b: ScoringBatch) -> fold.Codes:
        parts = (b.current, b.history, b.length, b.features)
        return torch_codes(encode_batch(*parts, folded.knots))

    folded = fold.fold(scorer.bundle.model())
    weights = fold.Folded(*(torch.from_numpy(a) for a in folded))
    codes = codes_of(batch)
    h = fold.begin(weights, codes).requires_grad_()
    both = fold.remember(weights, codes).requires_grad_()
    slope_h, slope_both = torch.autograd.grad(fold.decide(weights, codes, h, both).sum(), (h, both))
    found = {}
    for group in groups_of(scorer):
        if group == HISTORY_GROUP:
            found[group] = (slope_both * both).sum((1, 2))
        else:
            less = fold.begin(weights, codes_of(without(scorer, batch, group)))
            found[group] = (slope_h * (h - less)).sum(1)
    values = {group: one.detach().numpy() for group, one in found.items()}
    return [{group: float(v[i]) for group, v in values.items()} for i in range(len(batch))]


def vectors(model: Transformer, dataset: Dataset, rows: NDArray[np.int64]) -> NDArray[np.float32]:
    """The model's vector of each row, of length 1: what its heads see. float32 [n, width]."""
    import torch

    from model.loop import Source, cover, wanted

    chosen = np.zeros(len(dataset), bool)
    chosen[rows] = True
    held = np.flatnonzero(chosen)
    source = Source(dataset, model.knots.numpy())
    found = np.zeros((len(held), model.shape.width), np.float32)
    starts = cover(chosen, 64)
    with torch.no_grad():
        for at in range(0, len(starts), 32):
            chunk, where = source.chunk(starts[at : at + 32], 64)
            kept = wanted(chosen, where)
            found[np.searchsorted(held, where[kept])] = model(chunk).numpy()[kept]
    found = found[np.searchsorted(held, rows)]
    return np.asarray(found / np.linalg.norm(found, axis=1, keepdims=True), np.float32)


def similar(
    model: Transformer, dataset: Dataset, row: int, among: NDArray[np.int64], count: int = 3
) -> list[tuple[int, float]]:
    """The most similar of `among` to a row, most similar first: (row, cosine). Those of its own
    account, and those that are not earlier, are left out."""
    account, time = np.asarray(dataset.account), dataset.time
    among = among[(account[among] != account[row]) & (time[among] < time[row])]
    if not len(among):
        return []
    known = vectors(model, dataset, among)
    near = known @ vectors(model, dataset, np.array([row]))[0]
    order = np.argsort(-near, kind="stable")[:count]
    return [(int(among[k]), float(near[k])) for k in order]


def curve(
    scorer: Scorer, batch: ScoringBatch, orders: Sequence[Sequence[str]], *, insert: bool = False
) -> NDArray[np.float64]:
    """Mean score after taking away 0, 1, 2, ... groups of each row, in the row's given order.

    With `insert` all are taken away at first, and 0, 1, 2, ... are given back. A good order lets
    the score fall fast, or rise fast. Source: Petsiuk et al., RISE (2018), section 4.
    """
    found = []
    for count in range(len(orders[0]) + 1):
        rows = []
        for i, order in enumerate(orders):
            one = batch_row(batch, i)
            for group in order[count:] if insert else order[:count]:
                one = without(scorer, one, group)
            rows.append(one)
        found.append(float(scorer.score(stack(rows)).mean()))
    return np.asarray(found)


def order_of(told: Mapping[str, float]) -> list[str]:
    """Groups from the one that speaks most for fraud to the one that speaks most against."""
    return sorted(told, key=lambda group: -told[group])


def batch_row(batch: ScoringBatch, i: int) -> ScoringBatch:
    """One row of a batch."""
    part = slice(i, i + 1)
    return ScoringBatch(
        batch.current[part], batch.history[part], batch.length[part], batch.features[part]
    )
