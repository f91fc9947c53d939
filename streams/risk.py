"""What merchants and terminals were known for: immutable snapshots, and looking them up.

In: snapshots (built by `risk_build.py`) and the columns of a batch. Out: risk columns for each
event, and the version of the snapshot it was looked up in. Does not know how a snapshot is built,
kept or waited for.

The snapshot of a period (a day, unless `risk.period_hours` says less) tells of each merchant
(terminal) its transactions, frauds and amount over the 1, 7 and 30 days that end `delay` days
before the period begins, how the frauds of the 30 lie among the other payments, and when the last
good one before them was; docs/risk.md is the contract. Every period up to the front has one; those
with nothing in them are left out, and an event of such a period has the version "none" and no risk
columns, like an event before the first.
"""

from __future__ import annotations

import hashlib
import struct
from collections.abc import Mapping
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
from streams.risk_pace import HOURS_A_DAY, Pace

NO_SNAPSHOT: Final = "none"
MAGIC: Final = b"fsr4"
"""Of a snapshot's bytes; it changes with what they hold."""
WINDOWS: Final = len(RISK_DAYS)
PER_ENTITY: Final = RISK_COUNT // len(RISK_ENTITIES)

_HEAD: Final = struct.Struct("<4siHHII")


def kind(pace: Pace) -> dict[str, Any]:
    """What snapshots depend on beside their source: kept ones of another kind are made anew."""
    return {**pace.told(), "format": MAGIC.decode()}


@dataclass(frozen=True, slots=True)
class Totals:
    """Merchants or terminals with at least one transaction in the longest window.

    ids:          uint64 [m] ascending
    transactions, frauds: int64 [3, m]; amounts: int64 [3, m], minor units; one row a window
    course:       int64 [6, m], the rows of RISK_COURSE, times in periods; 0 where no fraud is
                  known, and in the last row where no payment was good
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

    def columns(self, period_hours: int) -> NDArray[np.float32]:
        """float32 [m, 18]: for each window transactions, frauds, fraud share, mean amount; then
        the course, its times in days, unknown where no fraud (no good payment) is."""
        m = len(self.ids)
        table = np.empty((m, WINDOWS, len(RISK_AGGREGATES)), np.float32)
        seen = self.transactions.T
        some = seen > 0
        divisor = np.where(some, seen, 1)
        table[:, :, 0] = seen
        table[:, :, 1] = self.frauds.T
        table[:, :, 2] = np.where(some, self.frauds.T / divisor, UNKNOWN)
        table[:, :, 3] = np.where(some, self.amounts.T / divisor, UNKNOWN)
        units = np.where(TIMES, period_hours / HOURS_A_DAY, 1.0)
        known = np.where(OF_GOOD[:, None], self.course > 0, self.frauds[-1] > 0)
        course = np.where(known, self.course * units[:, None], UNKNOWN)
        course = course.T.astype(np.float32)
        return np.concatenate([table.reshape(m, WINDOWS * len(RISK_AGGREGATES)), course], axis=1)


TIMES: Final = np.array([name.startswith("days_since") for name in RISK_COURSE])
OF_GOOD: Final = np.array([name == "days_since_good" for name in RISK_COURSE])
ROWS: Final = (WINDOWS, WINDOWS, WINDOWS, len(RISK_COURSE))
NOTHING: Final = Totals(np.zeros(0, np.uint64), *(np.zeros((rows, 0), np.int64) for rows in ROWS))


@dataclass(frozen=True, slots=True)
class Snapshot:
    """What was known when `period` began. The same content has the same bytes and digest."""

    period: int
    pace: Pace
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
                MAGIC,
                self.period,
                self.pace.delay,
                self.pace.hours,
                len(self.merchants.ids),
                len(self.terminals.ids),
            )
        ]
        for totals in (self.merchants, self.terminals):
            parts.append(totals.ids.astype("<u8").tobytes())
            parts += [array.astype("<i8").tobytes() for array in totals.arrays()]
        return b"".join(parts)

    @classmethod
    def from_bytes(cls, content: bytes) -> Snapshot:
        """The snapshot of these bytes. Raises StoreError when they are damaged or foreign."""
        if len(content) < _HEAD.size or not readable(content):
            raise StoreError("not a risk snapshot of this version")
        _, period, delay, hours, merchants, terminals = _HEAD.unpack_from(content)
        words = 1 + sum(ROWS)
        if len(content) != _HEAD.size + 8 * words * (merchants + terminals):
            raise StoreError(f"risk snapshot of period {period} is cut short")
        at = _HEAD.size
        found = []
        for size in (merchants, terminals):
            block = content[at : at + 8 * words * size]
            at += len(block)
            ids = np.frombuffer(block[: 8 * size], "<u8")
            table = np.frombuffer(block[8 * size :], "<i8").reshape(sum(ROWS), size)
            found.append(Totals(ids, *np.split(table, np.cumsum(ROWS)[:-1])))
        return cls(period, Pace(delay, hours), found[0], found[1])


def readable(content: bytes) -> bool:
    """Whether these bytes are a snapshot as this version writes them."""
    return content[: len(MAGIC)] == MAGIC


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
            (both[0].columns(snapshot.pace.hours), both[1].columns(snapshot.pace.hours)),
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
    """The snapshots at hand. `front`: the newest period decided; all up to it are.

    A period up to the front without a sheet is empty. An event after the front is looked up in the
    front's snapshot: it is stale.
    """

    def __init__(self, pace: Pace, sheets: Mapping[int, Sheet], front: int | None) -> None:
        self._pace = pace
        self._sheets = sheets
        self._front = front

    def lookup(self, columns: Columns) -> tuple[NDArray[np.float32], list[str]]:
        """Risk columns float32 [n, RISK_COUNT] and the snapshot version of each event."""
        n = len(columns)
        out = np.full((n, RISK_COUNT), UNKNOWN, np.float32)
        if not n or self._front is None:
            return out, [NO_SNAPSHOT] * n
        periods = np.minimum(self._pace.of_events(columns), self._front)
        first = int(periods[0])
        if (periods == first).all():
            return out, [self._fill(out, slice(None), first, columns)] * n
        versions = np.empty(n, object)
        for period in np.unique(periods).tolist():
            rows = np.flatnonzero(periods == period)
            versions[rows] = self._fill(out, rows, period, columns)
        return out, versions.tolist()

    def _fill(
        self,
        out: NDArray[np.float32],
        rows: NDArray[np.int64] | slice,
        period: int,
        columns: Columns,
    ) -> str:
        sheet = self._sheets.get(period)
        if sheet is None:
            return NO_SNAPSHOT
        sheet.fill(out, rows, 0, columns.merchant[rows])
        sheet.fill(out, rows, 1, columns.terminal[rows])
        return sheet.version
