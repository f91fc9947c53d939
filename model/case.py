"""One transaction of a training set explained: for `fraudstream explain`.

In: a scorer, a dataset, a row. Out: a dictionary of plain numbers and field values. Does not know
words for groups.
"""

from __future__ import annotations

from datetime import UTC, datetime
from typing import Any, Final

import numpy as np
import xxhash
from numpy.typing import NDArray

from model.data import Dataset, gather
from model.explain import contributions, similar
from model.inputs import (
    AMOUNT_SHIFT,
    CHANNEL_MASK,
    CHANNEL_SHIFT,
    CHANNELS,
    COUNTRY_MASK,
    COUNTRY_SHIFT,
    ENTRY_MASK,
    ENTRY_MODES,
    ENTRY_SHIFT,
    EVENT_TYPES,
    HISTORY,
    ID_SHIFT,
    MCC_MASK,
    TIME_SHIFT,
    TYPE_MASK,
    TYPE_SHIFT,
)
from model.score import Scorer
from model.unlabelled import likely, read

MAX_CASES: Final = 2_000
"""Of each label, the newest earlier cases that are searched for similar ones."""
LOOKED_AT: Final = 5
"""Past events named, those with the most attention."""


def rows_of(dataset: Dataset, transaction_id: str) -> NDArray[np.int64]:
    """The rows of a transaction_id, by the 48 bits of it that the words keep: several where more
    than one account uses it."""
    text = transaction_id.encode(errors="surrogatepass")  # what is no text is found nowhere
    wanted = np.uint64(max(xxhash.xxh3_64_intdigest(text) >> 16, 1))
    return np.flatnonzero((np.asarray(dataset.words[:, 2]) >> np.uint64(ID_SHIFT)) == wanted)


def _name(code: int, names: tuple[str, ...]) -> str | None:
    return names[code - 1] if 1 <= code <= len(names) else None


def event_of(dataset: Dataset, row: int) -> dict[str, Any]:
    """The fields of a row that a set keeps, named as in the schema; what is not given is left
    out."""
    w0, w1, _, w3 = (int(word) for word in dataset.words[row])
    country = (w3 >> COUNTRY_SHIFT) & COUNTRY_MASK
    first, second = divmod(country - 1, 26)
    mcc = w1 & MCC_MASK
    found = {
        "event_time": w0 >> TIME_SHIFT,
        "time": datetime.fromtimestamp((w0 >> TIME_SHIFT) / 1000, UTC).isoformat(" ", "seconds")[
            :19
        ],
        "amount": w1 >> AMOUNT_SHIFT,
        "currency": dataset.currencies[dataset.currency[row]],
        "event_type": _name((w0 >> TYPE_SHIFT) & TYPE_MASK, EVENT_TYPES),
        "channel": _name((w0 >> CHANNEL_SHIFT) & CHANNEL_MASK, CHANNELS),
        "entry_mode": _name((w0 >> ENTRY_SHIFT) & ENTRY_MASK, ENTRY_MODES),
        "mcc": f"{mcc:04d}" if mcc else None,
        "merchant_country": chr(65 + first) + chr(65 + second) if 0 < country <= 676 else None,
    }
    return {name: value for name, value in found.items() if value is not None}


def _cases(dataset: Dataset, row: int) -> NDArray[np.int64]:
    """Rows with a verdict, of other accounts and before `row`: the newest of each kind.

    What came after is left out first: in a large set the newest of all are later than most rows.
    """
    label, account, time = np.asarray(dataset.label), np.asarray(dataset.account), dataset.time
    earlier = (time < time[row]) & (account != account[row])
    parts = []
    for verdict in (0, 1):
        rows = np.flatnonzero(earlier & (label == verdict))
        parts.append(rows[np.argsort(time[rows], kind="stable")][-MAX_CASES:])
    return np.sort(np.concatenate(parts))


def explain_row(scorer: Scorer, dataset: Dataset, row: int) -> dict[str, Any]:
    """Score, log-odds by group, past events by attention, the three most similar past cases.

    `attention` holds the share of each past event, the one before first. A case is an earlier
    payment of another account with a verdict.
    """
    batch = gather(dataset, dataset.place(), np.array([row]))
    label = np.asarray(dataset.label)
    near = similar(scorer.bundle.model(), dataset, row, _cases(dataset, row))
    attention = scorer.attention(batch)[0][::-1][: min(int(batch.length[0]), HISTORY)]
    most = np.argsort(-attention, kind="stable")[:LOOKED_AT].tolist()
    found: dict[str, Any] = {
        "score": float(scorer.score(batch)[0]),
        "event": event_of(dataset, row),
        "groups": contributions(scorer, batch)[0],
        "attention": [float(a) for a in attention],
        "looked_at": [
            {"back": k + 1, "share": float(attention[k]), **event_of(dataset, row - k - 1)}
            for k in most
        ],
        "similar": [
            {"row": r, "cosine": c, "label": int(label[r]), **event_of(dataset, r)} for r, c in near
        ],
    }
    if scorer.bundle.only_pretrained:
        reading = read(scorer.bundle, dataset, np.array([row]))
        found["surprise"] = {name: float(nats[0]) for name, nats in reading.nats.items()}
        found["likely"] = likely(dataset, reading)
    return found
