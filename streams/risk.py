"""What merchants and terminals were known for on a day: immutable snapshots, and looking them up.

In: snapshots (built by `risk_build.py`) and the columns of a batch. Out: risk columns for each
event, and the version of the snapshot it was looked up in. Does not know how a snapshot is built,
kept or waited for.

The snapshot of day D tells of each merchant (terminal) its transactions, frauds and amount over the
1, 7 and 30 event days that end `delay` days before D, and how the frauds of the 30 lie among the
other payments; docs/risk.md is the contract. Every day up to the front has one; those with nothing
in them are left out, and an event of such a day has the version "none" and no risk columns, like an
event before the first day.

The day of an event is that of its event_time, but never later than that of its append time where
that is known: a clock that runs ahead cannot ask for the snapshot of a day that has not begun.
"""

from __future__ import annotations

import hashlib
import struct
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray

from streams.columns import Columns
from streams.errors import StoreError
from streams.features import (
    RISK_AGGREGATES,
    RISK_COUNT,
    RISK_COURSE,
    RISK_DAYS,
    RISK_ENTITIES,
    UNKNOWN,
)
from streams.schema import DAY_MS

NO_SNAPSHOT: Final = "none"
MAGIC: Final = b"fsr2"
"""Of a snapshot's bytes; it changes with what they hold."""
WINDOWS: Final = len(RISK_DAYS)
PER_ENTITY: Final = RISK_COUNT // len(RISK_ENTITIES)

_HEAD: Final = struct.Struct("<4siiII")


def kind(delay: int) -> dict[str, Any]:
    """What snapshots depend on beside their source: kept ones of another kind are made anew."""
    return {"delay_days": delay, "format": MAGIC.decode()}


def event_days(columns: Columns) -> NDArray[np.int64]:
    """The day (since 1970, UTC) whose snapshot each event is looked up in."""
    appended = columns.batch.timestamps[columns.row]
    times = np.where(appended >= 0, np.minimum(columns.event_time, appended), columns.event_time)
    return np.asarray(times // DAY_MS, np.int64)


@dataclass(frozen=True, slots=True)
class Totals:
    """Merchants or terminals with at least one transaction in the longest window.

    ids:          uint64 [m] ascending
    transactions, frauds: int64 [3, m]; amounts: int64 [3, m], minor units; one row a window
    course:       int64 [5, m], the rows of RISK_COURSE; all 0 where no fraud is known
    """

    ids: NDArray[np.uint64]
    transactions: NDArray[np.int64]
    frauds: NDArray[np.int64]
    amounts: NDArray[np.int64]
    course: NDArray[np.int64]

    def __post_init__(self) -> None:
        m = len(self.ids)
        for array, rows in zip(self.arrays(), ROWS, strict=True):
            assert array.shape == (rows, m) and array.dtype == np.int64
        assert self.ids.dtype == np.uint64

    def arrays(self) -> tuple[NDArray[np.int64], ...]:
        """All but the ids, in the order of the bytes; ROWS says how many rows each has."""
        return self.transactions, self.frauds, self.amounts, self.course

    def columns(self) -> NDArray[np.float32]:
        """float32 [m, 17]: for each window transactions, frauds, fraud share, mean amount; then
        the course, unknown where no fraud is."""
        m = len(self.ids)
        table = np.empty((m, WINDOWS, len(RISK_AGGREGATES)), np.float32)
        seen = self.transactions.T
        some = seen > 0
        divisor = np.where(some, seen, 1)
        table[:, :, 0] = seen
        table[:, :, 1] = self.frauds.T
        table[:, :, 2] = np.where(some, self.frauds.T / divisor, UNKNOWN)
        table[:, :, 3] = np.where(some, self.amounts.T / divisor, UNKNOWN)
        course = np.where(self.frauds[-1] > 0, self.course, UNKNOWN).T.astype(np.float32)
        return np.concatenate([table.reshape(m, WINDOWS * len(RISK_AGGREGATES)), course], axis=1)


ROWS: Final = (WINDOWS, WINDOWS, WINDOWS, len(RISK_COURSE))
NOTHING: Final = Totals(np.zeros(0, np.uint64), *(np.zeros((rows, 0), np.int64) for rows in ROWS))


@dataclass(frozen=True, slots=True)
class Snapshot:
    """What was known at the start of `day`. The same content has the same bytes and digest."""

    day: int
    delay: int
    merchants: Totals
    terminals: Totals

    @property
    def empty(self) -> bool:
        """Nothing happened in its windows."""
        return not (len(self.merchants.ids) or len(self.terminals.ids))

    def to_bytes(self) -> bytes:
        """Canonical bytes."""
        parts = [
            _HEAD.pack(
                MAGIC, self.day, self.delay, len(self.merchants.ids), len(self.terminals.ids)
            )
        ]
        for totals in (self.merchants, self.terminals):
            parts.append(totals.ids.astype("<u8").tobytes())
            parts += [array.astype("<i8").tobytes() for array in totals.arrays()]
        return b"".join(parts)

    @classmethod
    def from_bytes(cls, content: bytes) -> Snapshot:
        """The snapshot of these bytes. Raises StoreError when they are damaged or foreign."""
        if len(content) < _HEAD.size or content[:4] != MAGIC:
            raise StoreError("not a risk snapshot of this version")
        _, day, delay, merchants, terminals = _HEAD.unpack_from(content)
        words = 1 + sum(ROWS)
        if len(content) != _HEAD.size + 8 * words * (merchants + terminals):
            raise StoreError(f"risk snapshot of day {day} is cut short")
        at = _HEAD.size
        found = []
        for size in (merchants, terminals):
            block = content[at : at + 8 * words * size]
            at += len(block)
            ids = np.frombuffer(block[: 8 * size], "<u8")
            table = np.frombuffer(block[8 * size :], "<i8").reshape(sum(ROWS), size)
            found.append(Totals(ids, *np.split(table, np.cumsum(ROWS)[:-1])))
        return cls(day, delay, found[0], found[1])


def digest_of(content: bytes) -> str:
    """The name of a snapshot's bytes: `versions.risk` of the scores that used it."""
    return hashlib.blake2b(content, digest_size=8).hexdigest()


@dataclass(frozen=True, slots=True)
class Sheet:
    """A snapshot ready for looking up."""

    version: str
    ids: tuple[NDArray[np.uint64], NDArray[np.uint64]]
    tables: tuple[NDArray[np.float32], NDArray[np.float32]]

    @classmethod
    def of(cls, content: bytes, version: str) -> Sheet:
        """From a snapshot's bytes. Raises StoreError unless they are what `version` names."""
        if digest_of(content) != version:
            raise StoreError(f"risk snapshot {version} is damaged")
        snapshot = Snapshot.from_bytes(content)
        both = (snapshot.merchants, snapshot.terminals)
        return cls(
            version,
            (both[0].ids, both[1].ids),
            (both[0].columns(), both[1].columns()),
        )

    def fill(
        self, out: NDArray[np.float32], rows: NDArray[np.int64] | slice, which: int, ids: Any
    ) -> None:
        """Write the columns of merchants (0) or terminals (1); 0 and unknown ids stay unknown."""
        known = self.ids[which]
        if not len(known):
            return
        at = np.minimum(np.searchsorted(known, ids), len(known) - 1)
        found = known[at] == ids
        span = slice(which * PER_ENTITY, (which + 1) * PER_ENTITY)
        out[rows, span] = np.where(found[:, None], self.tables[which][at], np.float32(UNKNOWN))


class RiskView:
    """The snapshots at hand. `front`: the newest day decided; all days up to it are.

    A day up to the front without a sheet is empty. An event after the front is looked up in the
    front's snapshot: it is stale.
    """

    def __init__(self, sheets: Mapping[int, Sheet], front: int | None) -> None:
        self._sheets = sheets
        self._front = front

    def lookup(self, columns: Columns) -> tuple[NDArray[np.float32], list[str]]:
        """Risk columns float32 [n, RISK_COUNT] and the snapshot version of each event."""
        n = len(columns)
        out = np.full((n, RISK_COUNT), UNKNOWN, np.float32)
        if not n or self._front is None:
            return out, [NO_SNAPSHOT] * n
        days = np.minimum(event_days(columns), self._front)
        first = int(days[0])
        if (days == first).all():
            return out, [self._fill(out, slice(None), first, columns)] * n
        versions = np.empty(n, object)
        for day in np.unique(days).tolist():
            rows = np.flatnonzero(days == day)
            versions[rows] = self._fill(out, rows, day, columns)
        return out, versions.tolist()

    def _fill(
        self,
        out: NDArray[np.float32],
        rows: NDArray[np.int64] | slice,
        day: int,
        columns: Columns,
    ) -> str:
        sheet = self._sheets.get(day)
        if sheet is None:
            return NO_SNAPSHOT
        sheet.fill(out, rows, 0, columns.merchant[rows])
        sheet.fill(out, rows, 1, columns.terminal[rows])
        return sheet.version


def needed_days(columns: Iterable[Columns]) -> list[int]:
    """The days whose snapshots these batches are looked up in, ascending."""
    days = [np.unique(event_days(each)) for each in columns if len(each)]
    return np.unique(np.concatenate(days)).tolist() if days else []
