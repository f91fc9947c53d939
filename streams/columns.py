"""The validated columns of one micro-batch: what `decode` makes and every later step reads.

In: nothing. Out: the types. Does not know Kafka, or what the columns are used for.

Every message of the batch is in exactly one of three places: an accepted row (arrays and lists
below, all of one length n, in offset order), a reject, or a tombstone.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Final, overload

import numpy as np
import orjson
from numpy.typing import NDArray

from model.inputs import EVENT_WORDS
from streams.batch import Batch
from streams.schema import Reject

NO_POSITION: Final = np.iinfo(np.int32).min
"""In `latitude` and `longitude`: the message gave no position."""
EARTH_KM: Final = 6371.0088
"""Mean radius of the Earth, by which distances between positions are told (IUGG)."""


@dataclass(frozen=True, slots=True)
class Rejected:
    """A message that goes to the dead letters. `detail` names fields and limits, never a value."""

    row: int
    reason: Reject
    detail: str


class Documents(Sequence[Mapping[str, Any]]):
    """The messages as JSON objects, parsed when one is asked for: few are, as only rules on fields
    beside the columns and the reasons of alerts need them. Read only."""

    __slots__ = ("_parsed", "values")

    def __init__(self, values: Sequence[bytes]) -> None:
        self.values = values
        self._parsed: list[dict[str, Any]] | None = None

    def __len__(self) -> int:
        return len(self.values)

    @overload
    def __getitem__(self, row: int) -> dict[str, Any]: ...

    @overload
    def __getitem__(self, row: slice) -> list[dict[str, Any]]: ...

    def __getitem__(self, row: int | slice) -> Any:
        if isinstance(row, slice):
            return self._all()[row]
        return orjson.loads(self.values[row]) if self._parsed is None else self._parsed[row]

    def __iter__(self) -> Iterator[dict[str, Any]]:
        """All of them; they are then kept for the next rule."""
        return iter(self._all())

    def _all(self) -> list[dict[str, Any]]:
        if self._parsed is None:
            self._parsed = list(map(orjson.loads, self.values))
        return self._parsed


@dataclass(frozen=True, slots=True)
class Columns:
    """n accepted transactions of one batch.

    row:             int32 [n], index in `batch`, ascending
    words:           uint64 [n, 4], the event rows of `model/inputs.py`
    merchant, terminal: uint64 [n], xxh3-64 of merchant_id and terminal_id, 0 = not given
    billing_country, ip_country: uint16 [n], 26*a+b+1 of the two letters, 0 = not given
                     (merchant_country is in the words)
    latitude, longitude: int32 [n], microdegrees, NO_POSITION = not given
    docs:            the messages as JSON objects, for rules and reasons
    rejects:         ascending by row
    tombstones:      (row, account_id): a null value with a key asks for the account's erasure
    """

    batch: Batch
    row: NDArray[np.int32]
    account_id: list[str]
    transaction_id: list[str]
    tenant_id: list[str | None]
    words: NDArray[np.uint64]
    event_time: NDArray[np.int64]
    amount: NDArray[np.int64]
    currency: list[str]
    merchant: NDArray[np.uint64]
    terminal: NDArray[np.uint64]
    billing_country: NDArray[np.uint16]
    ip_country: NDArray[np.uint16]
    latitude: NDArray[np.int32]
    longitude: NDArray[np.int32]
    docs: Documents
    rejects: list[Rejected]
    tombstones: list[tuple[int, str]]

    def __post_init__(self) -> None:
        n = len(self.row)
        assert n + len(self.rejects) + len(self.tombstones) == len(self.batch)
        assert self.words.shape == (n, EVENT_WORDS) and self.words.dtype == np.uint64
        assert self.event_time.shape == self.amount.shape == (n,)
        assert self.merchant.shape == self.terminal.shape == (n,)
        assert self.billing_country.shape == self.ip_country.shape == (n,)
        assert self.latitude.shape == self.longitude.shape == (n,)
        for column in (self.account_id, self.transaction_id, self.tenant_id, self.currency):
            assert len(column) == n
        assert len(self.docs) == n

    def __len__(self) -> int:
        return len(self.row)


def select(columns: Columns, keep: NDArray[np.bool_], reason: Reject, detail: str) -> Columns:
    """The columns with only the rows in `keep` (bool [n]); the others become rejects."""
    if keep.all():
        return columns
    chosen = np.flatnonzero(keep).tolist()
    dropped = [Rejected(int(row), reason, detail) for row in columns.row[~keep]]
    return Columns(
        batch=columns.batch,
        row=columns.row[keep],
        account_id=[columns.account_id[i] for i in chosen],
        transaction_id=[columns.transaction_id[i] for i in chosen],
        tenant_id=[columns.tenant_id[i] for i in chosen],
        words=columns.words[keep],
        event_time=columns.event_time[keep],
        amount=columns.amount[keep],
        currency=[columns.currency[i] for i in chosen],
        merchant=columns.merchant[keep],
        terminal=columns.terminal[keep],
        billing_country=columns.billing_country[keep],
        ip_country=columns.ip_country[keep],
        latitude=columns.latitude[keep],
        longitude=columns.longitude[keep],
        docs=Documents([columns.docs.values[i] for i in chosen]),
        rejects=sorted([*columns.rejects, *dropped], key=lambda each: each.row),
        tombstones=columns.tombstones,
    )


def refused(batch: Batch, reason: Reject, detail: str) -> Columns:
    """Columns without a row: every message of the batch is a reject, unread."""
    none = np.zeros(0, np.int64)
    return Columns(
        batch=batch,
        row=none.astype(np.int32),
        account_id=[],
        transaction_id=[],
        tenant_id=[],
        words=np.zeros((0, EVENT_WORDS), np.uint64),
        event_time=none,
        amount=none,
        currency=[],
        merchant=none.astype(np.uint64),
        terminal=none.astype(np.uint64),
        billing_country=none.astype(np.uint16),
        ip_country=none.astype(np.uint16),
        latitude=none.astype(np.int32),
        longitude=none.astype(np.int32),
        docs=Documents([]),
        rejects=[Rejected(row, reason, detail) for row in range(len(batch))],
        tombstones=[],
    )
