"""Labels: what became known about transactions, and what was known at a moment.

In: raw label messages. Out: `Labels` columns; `LabelBook`, which answers what was known by then.
Does not know what a label is used for, nor where the messages come from.

A label belongs to the transaction with its account_id and transaction_id, found by a 64-bit hash of
both. Of several labels of a transaction, the newest by label_time that is known at the moment
counts; at equal times the one with the greater hash of (label_id, label), so that the answer does
not depend on the order of arrival. `disputed` is a claim: what it is about is not known, and never
becomes legitimate by waiting, as an event that nobody reported does.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Final, TypeVar

import numpy as np
import orjson
import xxhash
from numpy.typing import NDArray

from streams.privacy import has_pan, has_pan_bytes, strings_in
from streams.schema import (
    LABEL_REQUIRED,
    LABEL_VALUES,
    MAX_EVENT_TIME_MS,
    MAX_ID_LENGTH,
    MAX_MESSAGE_BYTES,
    MAX_TEXT_LENGTH,
    MIN_EVENT_TIME_MS,
    SCHEMA_VERSION,
    Reject,
)
from streams.validate import PAN_FOUND, Check, integer, member, text

Told = TypeVar("Told")
Age = tuple[int, int]
"""(label_time, rank) of a label: of a transaction's labels the one with the greatest counts."""

FRAUD: Final = 1
LEGITIMATE: Final = 0
NOT_KNOWN: Final = -1
DISPUTED: Final = -2
VERDICTS: Final = {"fraud": FRAUD, "legitimate": LEGITIMATE, "disputed": DISPUTED}
assert set(VERDICTS) == set(LABEL_VALUES)

LABEL_CHECKS: Final[Mapping[str, Check]] = {
    "schema_version": integer(SCHEMA_VERSION, SCHEMA_VERSION),
    "label_id": text(MAX_ID_LENGTH),
    "transaction_id": text(MAX_ID_LENGTH),
    "account_id": text(MAX_ID_LENGTH),
    "label": member(
        frozenset(LABEL_VALUES), Reject.BAD_VALUE, f"not one of {', '.join(sorted(LABEL_VALUES))}"
    ),
    "label_time": integer(MIN_EVENT_TIME_MS, MAX_EVENT_TIME_MS),
    "source": text(MAX_TEXT_LENGTH),
    "fraud_type": text(MAX_TEXT_LENGTH),
}


def transaction_key(account: str, transaction: str) -> int:
    """A hash of a transaction, never 0. No id holds a NUL, so the pair is told apart."""
    return xxhash.xxh3_64_intdigest(f"{account}\0{transaction}".encode()) or 1


def transaction_keys(accounts: Iterable[str], transactions: Iterable[str]) -> NDArray[np.uint64]:
    """The hash of each transaction."""
    pairs = zip(accounts, transactions, strict=True)
    return np.array([transaction_key(*pair) for pair in pairs], np.uint64)


@dataclass(frozen=True, slots=True)
class Labels:
    """n labels. key: uint64; time: int64 ms; verdict: int8, FRAUD, LEGITIMATE or DISPUTED;
    rank: uint64, decides between labels of one transaction at one time. `bad`: messages refused."""

    key: NDArray[np.uint64]
    time: NDArray[np.int64]
    verdict: NDArray[np.int8]
    rank: NDArray[np.uint64]
    bad: int = 0

    def __len__(self) -> int:
        return len(self.key)

    def take(self, rows: Any) -> Labels:
        """Some of the labels, by mask or row numbers."""
        return Labels(self.key[rows], self.time[rows], self.verdict[rows], self.rank[rows])


def decode_labels(values: Iterable[bytes | None]) -> Labels:
    """Columns of the messages that are labels; the others are counted in `bad`."""
    accounts: list[str] = []
    transactions: list[str] = []
    times: list[int] = []
    verdicts: list[int] = []
    ranks: list[int] = []
    bad = 0
    for value in values:
        label = _label(value)
        if label is None:
            bad += 1
            continue
        accounts.append(label["account_id"])
        transactions.append(label["transaction_id"])
        times.append(label["label_time"])
        verdicts.append(VERDICTS[label["label"]])
        ranks.append(_rank(label))
    return Labels(
        transaction_keys(accounts, transactions),
        np.array(times, np.int64),
        np.array(verdicts, np.int8),
        np.array(ranks, np.uint64),
        bad,
    )


def frauds(values: Iterable[bytes | None]) -> dict[int, str]:
    """The type of each fraud, "fraud" where none is told, by its hash: of the transactions whose
    newest label says so. Messages that are no labels are passed over."""
    kinds = newest(
        (key, age, (label.get("fraud_type") or "fraud") if label["label"] == "fraud" else None)
        for key, age, label in each_label(values)
    )
    return {key: kind for key, (_, kind) in kinds.items() if kind is not None}


def newest(told: Iterable[tuple[int, Age, Told]]) -> dict[int, tuple[Age, Told]]:
    """What the label that counts tells of each transaction, and its age; of labels in any order, by
    the hash of their transaction."""
    found: dict[int, tuple[Age, Told]] = {}
    for key, age, one in told:
        if key not in found or found[key][0] <= age:
            found[key] = age, one
    return found


def each_label(values: Iterable[bytes | None]) -> Iterator[tuple[int, Age, Mapping[str, Any]]]:
    """The hash of its transaction, its age and its fields, of each message that is a label."""
    for value in values:
        label = _label(value)
        if label is not None:
            key = transaction_key(label["account_id"], label["transaction_id"])
            yield key, (label["label_time"], _rank(label)), label


def _rank(label: Mapping[str, Any]) -> int:
    """Which of a transaction's labels counts, of those with one label_time: the greatest."""
    return xxhash.xxh3_64_intdigest(f"{label['label_id']}\0{label['label']}".encode())


def _label(value: bytes | None) -> dict[str, Any] | None:
    """The fields of a message that is a label; None for one that is none."""
    found = _read(value)
    return None if isinstance(found, str) else found


def fault(value: bytes | None) -> str | None:
    """Why a message is no label: field and rule, never a value. None for a label."""
    found = _read(value)
    return found if isinstance(found, str) else None


def _read(value: bytes | None) -> dict[str, Any] | str:
    """The fields of a label, or what is wrong with it."""
    if not value:
        return "empty"
    if len(value) > MAX_MESSAGE_BYTES:
        return f"longer than {MAX_MESSAGE_BYTES} bytes"
    if has_pan_bytes(value):
        return PAN_FOUND[1]
    try:
        label = orjson.loads(value)
    except orjson.JSONDecodeError:
        return "not JSON"
    if type(label) is not dict:
        return "not a JSON object"
    if not label.keys() <= LABEL_CHECKS.keys():
        return "a field that labels do not have"
    plain = value.isascii() and b"\\" not in value
    if not plain and any(map(has_pan, strings_in(label))):
        return PAN_FOUND[1]
    for name, check in LABEL_CHECKS.items():
        content = label.get(name)
        if content is None and name in LABEL_REQUIRED:
            return f"{name}: missing"
        wrong = None if content is None else check(content)
        if wrong is not None:
            return f"{name}: {wrong[1]}"
    return label


def joined(parts: Sequence[Labels]) -> Labels:
    """Several columns of labels as one."""
    if not parts:
        return decode_labels(())
    return Labels(
        np.concatenate([part.key for part in parts]),
        np.concatenate([part.time for part in parts]),
        np.concatenate([part.verdict for part in parts]),
        np.concatenate([part.rank for part in parts]),
        sum(part.bad for part in parts),
    )


def in_order(labels: Labels) -> Labels:
    """By transaction, then time, then rank; of equal ones the verdicts are equal too."""
    return labels.take(np.lexsort((labels.rank, labels.time, labels.key)))


class LabelBook:
    """All labels of a source, for the question what was known at a moment."""

    def __init__(self, labels: Labels) -> None:
        self._labels = in_order(labels)
        self.bad = labels.bad

    def __len__(self) -> int:
        return len(self._labels)

    def strange(self, keys: NDArray[np.uint64]) -> int:
        """How many transactions have a label and are not among these."""
        return len(np.setdiff1d(self._labels.key, keys))

    @property
    def latest(self) -> int:
        """The newest label_time; 0 without labels."""
        return int(self._labels.time.max()) if len(self._labels) else 0

    def known(
        self, accounts: Iterable[Any], transactions: Iterable[Any], moment: int
    ) -> NDArray[np.int8]:
        """FRAUD, LEGITIMATE, DISPUTED or NOT_KNOWN of each transaction, by labels up to `moment`.

        Takes lists of strings or Arrow arrays.
        """
        return self.at(transaction_keys(_texts(accounts), _texts(transactions)), moment)

    def at(self, keys: NDArray[np.uint64], moment: int) -> NDArray[np.int8]:
        """The same for the hashes that `transaction_keys` gives."""
        then = self._labels.take(self._labels.time <= moment)
        if not len(then):
            return np.full(len(keys), NOT_KNOWN, np.int8)
        last, found = _last(then, keys)
        return np.where(found, then.verdict[last], np.int8(NOT_KNOWN)).astype(np.int8)

    def newest(
        self, accounts: Iterable[Any], transactions: Iterable[Any]
    ) -> tuple[NDArray[np.int8], NDArray[np.int64]]:
        """The last verdict on each transaction, NOT_KNOWN where it is disputed, and when it came;
        -1 without a label."""
        keys = transaction_keys(_texts(accounts), _texts(transactions))
        if not len(self._labels):
            return np.full(len(keys), NOT_KNOWN, np.int8), np.full(len(keys), -1, np.int64)
        last, found = _last(self._labels, keys)
        verdicts = np.where(found, self._labels.verdict[last], np.int8(NOT_KNOWN)).astype(np.int8)
        times = np.where(found, self._labels.time[last], -1)
        return np.maximum(verdicts, np.int8(NOT_KNOWN)), times.astype(np.int64)

    def early(self, keys: NDArray[np.uint64], times: NDArray[np.int64]) -> int:
        """How many of these transactions, by hash and time, are newer than their newest label."""
        if not len(self._labels):
            return 0
        last, found = _last(self._labels, keys)
        return int((found & (self._labels.time[last] < times)).sum())


def _last(labels: Labels, keys: NDArray[np.uint64]) -> tuple[NDArray[np.int64], NDArray[np.bool_]]:
    """The place of each transaction's newest label among some that are in order, and whether it has
    one at all."""
    last = np.searchsorted(labels.key, keys, side="right") - 1
    return last, (last >= 0) & (labels.key[last] == keys)


def _texts(column: Any) -> Iterable[str]:
    texts: Iterable[str] = column.to_pylist() if hasattr(column, "to_pylist") else column
    return texts
