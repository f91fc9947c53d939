"""What a replay's results are judged by: one table of scored events with the labels known by then.

In: result rows and label messages. Out: `Events`. Does not know how the results came about, nor
what is measured over them.

A label counts from its `label_time` on. `as_of` is the moment of judgement: labels that became
known later do not exist. An event without a label known by then counts as legitimate if it is older
than the label delay, else it is left out: nobody could know yet. So is what is disputed.

An event takes some 70 bytes of memory and 10 a model; its strings are read and dropped by the way.
"""

from __future__ import annotations

import logging
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from numpy.typing import NDArray

from model.data import commonest
from streams.errors import ConfigError
from streams.labels import FRAUD, NOT_KNOWN, LabelBook, transaction_keys
from streams.money import exponent
from streams.offline import results
from streams.offline.refused import tell_early, tell_far, tell_strange, utc
from streams.schema import DAY_MS


@dataclass(frozen=True, slots=True)
class Terms:
    """What a user may set. review_cost: what looking at one alert costs, in units of the currency
    that most of the events are in."""

    budget_a_day: int = 50
    review_cost: float = 5.0


DEFAULT_TERMS = Terms()

_logger = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class Events:
    """Scored events with a judgement, arrays of one length n.

    key: uint64, the transaction's hash (`labels.transaction_keys`); time: int64 ms UTC
    label: int8, 1 fraud, 0 legitimate, as known by `as_of`
    amount: int64 minor units of `currency`, in which most events are; 0 of an event in another, for
    sums over several currencies mean nothing; counted: bool, whether it is in `currency`
    account, channel, country: int32 codes; names of the last two beside them
    score: float64 [models, n]; decision: int8 [models, n], 0 approve, 1 review, 2 block
    all_day: int32 [m], all_alert: bool [models, m], of every scored event: an alert is work,
    whether or not it can be judged yet
    """

    partition: NDArray[np.int32]
    offset: NDArray[np.int64]
    key: NDArray[np.uint64]
    time: NDArray[np.int64]
    label: NDArray[np.int8]
    amount: NDArray[np.int64]
    counted: NDArray[np.bool_]
    account: NDArray[np.int32]
    segments: dict[str, tuple[NDArray[np.int32], list[str]]]
    score: NDArray[np.float64]
    decision: NDArray[np.int8]
    all_day: NDArray[np.int32]
    all_alert: NDArray[np.bool_]
    currency: str
    unlabelled: int
    as_of: int
    delay_days: int
    judged_from: int = 0
    terms: Terms = DEFAULT_TERMS

    @property
    def day(self) -> NDArray[np.int32]:
        """Days since 1970."""
        return _day(self.time)

    @property
    def lost(self) -> NDArray[np.int64]:
        """The defrauded amount of each, minor units."""
        lost: NDArray[np.int64] = self.amount * self.label
        return lost

    @property
    def review_cost_minor(self) -> int:
        """What looking at one alert costs, in minor units of the currency."""
        return round(self.terms.review_cost * 10.0 ** exponent(self.currency))

    def __len__(self) -> int:
        return len(self.day)


def _day(times: NDArray[np.int64]) -> NDArray[np.int32]:
    days: NDArray[np.int32] = (times // DAY_MS).astype(np.int32)
    return days


class _Codes:
    """Strings to numbers, the same over all row groups."""

    def __init__(self) -> None:
        self._known: dict[str | None, int] = {}

    def of(self, column: pa.ChunkedArray) -> NDArray[np.int32]:
        """The code of each string; null is one of them."""
        coded = column.combine_chunks().dictionary_encode(null_encoding="encode")
        names = coded.dictionary.to_pylist()
        codes = [self._known.setdefault(name, len(self._known)) for name in names]
        found: NDArray[np.int32] = np.array(codes, np.int32)[coded.indices.to_numpy()]
        return found

    def names(self) -> list[str]:
        """By code."""
        return ["not given" if name is None else name for name in self._known]


_ID = "transaction_id"
_COLUMNS = ("offset", "outcome", _ID, "account_id", "event_time", "amount", "currency")
_SEGMENTS = ("channel", "country")


def nothing_to_judge() -> ConfigError:
    """Why there is nothing to measure where nobody ever said anything."""
    return ConfigError(
        "no event can be judged: no label is known",
        remedy="record the labels too, or give --labels FILE; with --as-of alone, what is older"
        " than the label delay at that moment counts as legitimate",
    )


def _none_judged(scored: int, moment: int, delay_days: int, judge_from: int) -> ConfigError:
    """Why there is nothing to measure though there are labels, or a moment of judgement."""
    if not scored:
        since = f" from {utc(judge_from)} on" if judge_from else ""
        return ConfigError(
            f"no event can be judged: no accepted transaction{since}",
            remedy="give an earlier --judge-from" if since else "name another recording or file",
        )
    return ConfigError(
        f"no event can be judged: at {utc(moment)} none of the {scored:,} events had a verdict,"
        f" and none without a label was older than {delay_days} days",
        remedy="give a later --as-of, or labels of these transactions with --labels",
    )


def _tell_odd(
    book: LabelBook, joined: dict[str, NDArray[Any]], as_of: int | None, moment: int
) -> None:
    """Warn of labels that look wrong: of no event, older than theirs, or far too late."""
    tell_strange(book.strange(joined["seen"]))
    tell_early(book.early(joined["seen"], joined["seen_time"]))
    if as_of is None:
        tell_far(moment, int(joined["event_time"].max()), "give --as-of")


def gather(
    out: Path,
    book: LabelBook,
    models: int,
    *,
    as_of: int | None,
    delay_days: int,
    judge_from: int = 0,
    terms: Terms = DEFAULT_TERMS,
) -> Events:
    """Read the results of a replay and join the labels known by `as_of` (default: all of them).

    Raises ConfigError when nothing is left to judge.
    """
    columns = [*_COLUMNS, *_SEGMENTS]
    columns += [f"{name}_{k}" for k in range(models) for name in ("score", "decision")]
    moment = book.latest if as_of is None else as_of
    codes = {name: _Codes() for name in ("account_id", "currency", *_SEGMENTS)}
    parts: dict[str, list[NDArray[Any]]] = {}
    scored = judged = 0
    for shard, whole in results.tables(out, columns):
        table = whole.filter(pc.equal(whole["outcome"], results.SCORED))
        every = transaction_keys(*(table[name].to_pylist() for name in ("account_id", _ID)))
        time = table["event_time"].to_numpy()
        chosen = time >= judge_from
        scored += int(chosen.sum())
        known = book.at(every, moment)
        if as_of is not None:  # a label may be too early; its event had not happened all the same
            chosen &= time <= moment
        flagged = [_decisions(table[f"decision_{k}"])[chosen] > 0 for k in range(models)]
        kept = chosen & known_enough(time, known, moment, delay_days)
        table = table.filter(pa.array(kept))
        judged += len(table)
        part = {
            "partition": np.full(len(table), shard, np.int32),
            "seen": every,
            "seen_time": time,
            "key": every[kept],
            "all_day": _day(time[chosen]),
            **{f"all_alert_{k}": each for k, each in enumerate(flagged)},
            "label": (known[kept] == FRAUD).astype(np.int8),
            **{name: each.of(table[name]) for name, each in codes.items()},
            **{name: table[name].to_numpy() for name in ("offset", "event_time", "amount")},
            **{f"score_{k}": table[f"score_{k}"].to_numpy() for k in range(models)},
            **{f"decision_{k}": _decisions(table[f"decision_{k}"]) for k in range(models)},
        }
        for name, values in part.items():
            parts.setdefault(name, []).append(values)
    if not judged:
        raise _none_judged(scored, int(moment), delay_days, judge_from)
    joined = {name: np.concatenate(parts.pop(name)) for name in list(parts)}
    _tell_odd(book, joined, as_of, int(moment))
    main, counted = commonest(joined["currency"])
    return Events(
        **{name: joined[name] for name in ("partition", "offset", "key", "label", "all_day")},
        all_alert=np.stack([joined[f"all_alert_{k}"] for k in range(models)]),
        amount=np.where(counted, joined["amount"], 0),
        counted=counted,
        currency=codes["currency"].names()[main],
        time=joined["event_time"],
        account=joined["account_id"],
        segments={name: (joined[name], codes[name].names()) for name in _SEGMENTS},
        score=np.nan_to_num([joined[f"score_{k}"] for k in range(models)]),  # NaN: rules alone
        decision=np.stack([joined[f"decision_{k}"] for k in range(models)]),
        unlabelled=scored - judged,
        as_of=int(moment),
        delay_days=delay_days,
        judged_from=judge_from,
        terms=terms,
    )


def known_enough(
    times: NDArray[np.int64], known: NDArray[np.int8], moment: int, delay_days: int
) -> NDArray[np.bool_]:
    """Which events can be judged at a moment, given what is known of each by then."""
    silent = (known == NOT_KNOWN) & (times < moment - delay_days * DAY_MS)
    judged: NDArray[np.bool_] = (known >= 0) | silent
    return judged


def _decisions(column: pa.ChunkedArray) -> NDArray[np.int8]:
    order = pa.array(["approve", "review", "block"])
    found: NDArray[np.int8] = pc.index_in(column, order).to_numpy().astype(np.int8)
    return found
