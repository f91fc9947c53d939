"""What a pretrained backbone says by itself: how surprising an event is, and what comes next.

In: a pretrained bundle with its field heads, a `Dataset`, rows. Out: surprise by field (the anomaly
score, no label needed), chances of the next event (propensity), and both measured beside simple
rivals. Does not know how the heads were trained (`model/pretrain.py`).

The whole event is hidden from the model, so each field is judged by the account's past alone.
Surprise is -log p in nats. A field may be surprising because the account is: so each field counts
with its surprise minus what was expected (the entropy of the distribution), in standard deviations
of it, and the anomaly score is that of the oddest field. A sum over fields drowns one odd field in
the noise of the others. Propensity mixes the model's chances evenly with the account's own
frequencies, which know what the account likes where the model knows what comes when.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Final

import numpy as np
import torch
from numpy.typing import NDArray

from model import metrics, tokens
from model.bundle import Bundle
from model.data import Dataset
from model.errors import BundleError
from model.inputs import CHANNELS, HISTORY, MCC_MASK
from model.loop import Source, cover, wanted
from model.page import FIELD_WORDS
from model.pretrain import MERGED, TARGETS, Heads, hide

Rows = NDArray[np.int64]
PROPENSITY: Final = {"merchant group": "mcc", "channel": "way", "amount band": "amount"}
"""What offers and personal limits are made from, and the predicted field each is read from."""
_CHANNEL_BITS: Final = 3
TOLD: Final = 0.005
"""Chance from which it is said that an event may be of a kind not seen yet: in whole per cents."""
HITS: Final = (1, 3)
_CHUNKS, _CHUNK = 16, 64
COLUMNS: Final = 2 * len(TARGETS) + 1
"""Of `columns`."""


@dataclass(frozen=True)
class Reading:
    """By field, float32 [n]: surprise in nats, and how much more than expected (see above); by
    propensity: chances, float32 [n, classes]."""

    nats: Mapping[str, NDArray[np.float32]]
    excess: Mapping[str, NDArray[np.float32]]
    chances: Mapping[str, NDArray[np.float32]]


def heads_of(bundle: Bundle) -> Heads:
    """The field heads of a pretrained bundle. Raises BundleError where it has none."""
    state = {
        k.removeprefix("heads."): torch.from_numpy(v.copy())
        for k, v in bundle.extra.items()
        if k.startswith("heads.")
    }
    if not state:
        raise BundleError(
            f"bundle {bundle.model_id} has no field heads", remedy="give one that pretrain wrote"
        )
    heads = Heads(bundle.shape.width)
    try:
        heads.load_state_dict(state)
    except RuntimeError as error:
        raise BundleError(f"field heads of {bundle.model_id} do not fit: {error}") from None
    return heads.eval()


@torch.no_grad()
def read(bundle: Bundle, dataset: Dataset, rows: Rows, *, propensity: bool = True) -> Reading:
    """Surprise and chances of the events at `rows` (in any order).

    Chances take 2 KB an event; without `propensity` there are none.
    """
    model, heads = bundle.model(), heads_of(bundle)
    source = Source(dataset, model.knots.numpy())
    chosen = np.zeros(len(dataset), bool)
    chosen[rows] = True
    held = np.flatnonzero(chosen)
    nats = {name: np.empty(len(held), np.float32) for name in TARGETS}
    excess = {name: np.empty(len(held), np.float32) for name in TARGETS}
    asked = PROPENSITY if propensity else {}
    chances = {name: np.empty((len(held), count_of(name)), np.float32) for name in asked}
    starts = cover(chosen, _CHUNK)
    for at in range(0, len(starts), _CHUNKS):
        chunk, where = source.chunk(starts[at : at + _CHUNKS], _CHUNK)
        hidden = torch.ones(*chunk.reach.shape, len(tokens.FIELDS), dtype=torch.bool)
        h = model(hide(chunk, hidden), masked=hidden, use_features=False)
        kept = wanted(chosen, where)
        place = np.searchsorted(held, where[kept])
        for name, logits in heads(h).items():
            log_p = torch.log_softmax(logits, -1).numpy()[kept]
            truth = class_of(source.codes[where[kept]], name)
            told = -log_p[np.arange(len(truth)), truth]
            nats[name][place], excess[name][place] = told, _excess(told, log_p)
            for one in (one for one, field in asked.items() if field == name):
                chances[one][place] = _merged(one, np.exp(log_p))
    back = np.searchsorted(held, rows)
    return Reading(
        {name: one[back] for name, one in nats.items()},
        {name: one[back] for name, one in excess.items()},
        {name: one[back] for name, one in chances.items()},
    )


def _excess(nats: NDArray[np.float32], log_p: NDArray[np.float32]) -> NDArray[np.float32]:
    """(surprise - entropy) / sqrt(variance of surprise + 1); 1 keeps sure fields from shouting."""
    p = np.exp(log_p)
    expected = -(p * log_p).sum(1)
    spread = (p * log_p**2).sum(1) - expected**2
    return np.asarray((nats - expected) / np.sqrt(np.maximum(spread, 0) + 1), np.float32)


def class_of(codes: NDArray[Any], field: str) -> NDArray[np.int64]:
    """The class of a predicted field, from event codes [n, fields]."""
    column = codes[:, tokens.FIELDS.index(field)].astype(np.int64)
    return column // MERGED.get(field, 1)


def count_of(propensity: str) -> int:
    """Classes of a propensity."""
    size = TARGETS[PROPENSITY[propensity]]
    return size >> _CHANNEL_BITS if propensity == "channel" else size


def answer_of(codes: NDArray[Any], propensity: str) -> NDArray[np.int64]:
    """The true class of a propensity, from event codes."""
    found = class_of(codes, PROPENSITY[propensity])
    return found >> _CHANNEL_BITS if propensity == "channel" else found


def _merged(propensity: str, chances: NDArray[np.float32]) -> NDArray[np.float32]:
    """Chances of channels are sums over their entry modes."""
    if propensity != "channel":
        return chances
    return np.asarray(chances.reshape(len(chances), -1, 1 << _CHANNEL_BITS).sum(2))


def hit_at_k(chances: NDArray[np.float32], truth: NDArray[np.int64], k: int) -> float:
    """Share of rows whose true class is among the k likeliest."""
    top = np.argsort(-chances, axis=1, kind="stable")[:, :k]
    return float((top == truth[:, None]).any(1).mean())


def own_frequencies(
    truth: NDArray[np.int64],
    place: NDArray[np.int32],
    time: NDArray[np.int64],
    rows: Rows,
    classes: int,
) -> NDArray[np.float32]:
    """The simple rival: how often the account's last 64 events had each class, then how often all.

    `truth`, `place` and `time` are of the whole dataset. Classes the account never had follow by
    how common they are among all events before the first of `rows`.
    """
    known = truth[time < time[rows].min()] if len(rows) else truth[:0]
    common = np.bincount(known, minlength=classes) / max(len(known), 1)
    out = np.tile((common * 1e-3).astype(np.float32), (len(rows), 1))
    for i, row in enumerate(rows.tolist()):
        past = truth[row - min(int(place[row]), HISTORY) : row]
        np.add.at(out[i], past, np.float32(1.0))
    return out


def mixed(chances: NDArray[np.float32], frequencies: NDArray[np.float32]) -> NDArray[np.float32]:
    """Half the model's chances, half the account's own frequencies."""
    own = frequencies / np.maximum(frequencies.sum(1, keepdims=True), 1e-9)
    return np.asarray((chances + own) / 2, np.float32)


def anomaly_score(reading: Reading) -> NDArray[np.float32]:
    """How odd each event is: what its oddest field is above its expected surprise."""
    return np.asarray(np.max(list(reading.excess.values()), 0), np.float32)


def columns(bundle: Bundle, dataset: Dataset, chosen: NDArray[np.bool_]) -> NDArray[np.float32]:
    """What a fit on labels may learn from surprise: float32 [n, COLUMNS], zeros where not chosen.

    By field the surprise, then how much more than expected, and the anomaly score at the end.
    """
    rows = np.flatnonzero(chosen)
    reading = read(bundle, dataset, rows, propensity=False)
    told = [*reading.nats.values(), *reading.excess.values(), anomaly_score(reading)]
    found = np.zeros((len(dataset), len(told)), np.float32)
    found[rows] = np.stack(told, 1)
    return found


def anomaly(dataset: Dataset, rows: Rows, reading: Reading) -> dict[str, dict[str, float]]:
    """How high surprise is, and how well it alone ranks the frauds among `rows`: the score, sums,
    each field. Without a known fraud only how high."""
    y = dataset.answer()[rows]
    known = y >= 0
    total, plain = (np.sum(list(one.values()), 0) for one in (reading.excess, reading.nats))
    scores = {
        "anomaly score": anomaly_score(reading),
        "sum above what was expected": total,
        "sum of surprise": plain,
        **reading.nats,
    }
    found = {}
    for name, score in scores.items():
        judged = np.asarray(score, np.float64)[known]
        ranks = {
            "ap": metrics.average_precision(y[known], judged),
            "auc": metrics.roc_auc(y[known], judged),
        }
        told = {k: v for k, v in ranks.items() if np.isfinite(v)}
        found[name] = {**told, "mean": float(np.mean(score))}
    return found


def propensities(dataset: Dataset, rows: Rows, reading: Reading) -> dict[str, dict[str, float]]:
    """hit@k of the next event's classes, beside the account's own frequencies."""
    place = dataset.place()
    codes = tokens.encode_stream(np.ascontiguousarray(dataset.words), place)
    found = {}
    for name, chances in reading.chances.items():
        truth = answer_of(codes, name)
        rival = own_frequencies(truth, place, dataset.time, rows, count_of(name))
        ways = {"": mixed(chances, rival), "model alone ": chances, "own frequencies ": rival}
        found[name] = {
            f"{way}hit@{k}": hit_at_k(told, truth[rows], k)
            for way, told in ways.items()
            for k in HITS
        }
    return found


def report(bundle: Bundle, dataset: Dataset, rows: Rows) -> dict[str, Any]:
    """Both heads measured on rows: the evaluation of a bundle that has seen no label."""
    reading = read(bundle, dataset, rows)
    moment, y = dataset.time[rows], dataset.answer()[rows]
    return {
        "model_id": bundle.model_id,
        "data_digest": dataset.digest,
        "tested": {"from_ms": int(moment.min()), "to_ms": int(moment.max())},
        "events": len(rows),
        "frauds": int((y == 1).sum()),
        "anomaly": anomaly(dataset, rows, reading),
        "propensity": propensities(dataset, rows, reading),
    }


def likely(dataset: Dataset, reading: Reading, count: int = 3) -> dict[str, Any]:
    """The likeliest classes of the one event of `reading` in words, with their chances. What is in
    none of the set's events is told once, with the chance of all of it."""
    words = np.asarray(dataset.words)
    codes = tokens.encode_stream(np.ascontiguousarray(words), dataset.place())
    mcc = (words[:, 1] & np.uint64(MCC_MASK)).astype(np.int64)
    amount = dataset.amount
    found = {}
    for name, chances in reading.chances.items():
        classes = answer_of(codes, name)
        seen = np.bincount(classes, minlength=chances.shape[1]) > 0
        held = np.where(seen, chances[0], 0.0)
        told: list[dict[str, Any]] = []
        for one in np.argsort(-held, kind="stable")[: min(count, int(seen.sum()))].tolist():
            inside = classes == one
            if name == "channel":
                shown = CHANNELS[one - 1] if 1 <= one <= len(CHANNELS) else "not given"
            elif name == "merchant group":
                commonest = np.bincount(mcc[inside]).argmax()
                shown = f"mcc {commonest:04d}" if commonest else "not given"
            else:
                shown = f"{amount[inside].min():,} to {amount[inside].max():,} minor units"
            told.append({"what": shown, "chance": float(chances[0, one])})
        rest = float(chances[0][~seen].sum())
        if rest >= TOLD:
            told.append({"what": "not seen", "chance": rest})
        found[name] = sorted(told, key=lambda each: -each["chance"])[:count]
    return found


def to_text(found: Mapping[str, Any]) -> str:
    """The report for a terminal."""
    lines = [f"{found['model_id']}: {found['events']:,} events, {found['frauds']:,} frauds"]
    for part in ("anomaly", "propensity"):
        lines += [
            f"{part}, {FIELD_WORDS.get(name, name)}: "
            + ", ".join(f"{k} {v:.4f}" for k, v in row.items())
            for name, row in found[part].items()
        ]
    return "\n".join(lines)
