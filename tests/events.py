"""Oracle events as the columns that `decode` would make of them, and runs of them through an arena.

In: `Event`s. Out: `Columns`; one `Line` for each event of a run. For tests only.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from streams.batch import Batch
from streams.columns import NO_POSITION, Columns
from streams.features import COUNT
from streams.state import Arena
from streams.windows import Work, apply
from streams.writes import WHOLE
from tests.oracle import Result
from tests.oracle_record import Event

STATUS = ("applied", "duplicate", "id_conflict")


class FixedRisk:
    """Risk columns as the events give them."""

    def __init__(self, events: Sequence[Event]) -> None:
        self._table = np.array([event.risk for event in events], np.float32)

    def lookup(self, columns: Columns) -> tuple[NDArray[np.float32], list[str]]:
        """The events' own numbers."""
        assert len(columns) == len(self._table)
        return self._table, ["fixed"] * len(columns)


def columns_of(events: Sequence[Event]) -> Columns:
    """The columns of one batch."""
    n = len(events)
    batch = Batch(
        topic="transactions",
        partition=0,
        offsets=np.arange(n, dtype=np.int64),
        timestamps=np.full(n, -1, np.int64),
        keys=[event.account.encode() for event in events],
        values=[b"{}"] * n,
        headers=None,
        next_offset=n,
    )
    positions = [event.position or (NO_POSITION, NO_POSITION) for event in events]
    return Columns(
        batch=batch,
        row=np.arange(n, dtype=np.int32),
        account_id=[event.account for event in events],
        transaction_id=[str(event.name) for event in events],
        tenant_id=[None] * n,
        words=np.array([event.words() for event in events], np.uint64).reshape(n, 4),
        event_time=np.array([event.time for event in events], np.int64),
        amount=np.array([event.amount for event in events], np.int64),
        currency=["EUR"] * n,
        merchant=np.zeros(n, np.uint64),
        terminal=np.zeros(n, np.uint64),
        billing_country=np.array([event.billing for event in events], np.uint16),
        ip_country=np.array([event.ip for event in events], np.uint16),
        latitude=np.array([lat for lat, _ in positions], np.int32),
        longitude=np.array([lon for _, lon in positions], np.int32),
        docs=[{}] * n,
        rejects=[],
        tombstones=[],
    )


@dataclass(frozen=True)
class Line:
    """What the windows said of one event, in a form that compares to the bit."""

    status: str
    late: bool
    edge: bool
    features: bytes
    history: tuple[tuple[int, ...], ...]
    digest: int


def lines_of(work: Work) -> list[Line]:
    """One line for each row; the padding of the history must be zero."""
    lines = []
    for i in range(len(work.columns)):
        used = int(work.length[i])
        assert not work.history[i, : 64 - used].any()
        lines.append(
            Line(
                STATUS[work.status[i]],
                bool(work.late[i]),
                bool(work.edge[i]),
                work.features[i].tobytes(),
                tuple(tuple(row) for row in work.history[i, 64 - used :].tolist()),
                int(work.digest[i]),
            )
        )
    return lines


def line_of(result: Result) -> Line:
    """What the oracle says, in the same form."""
    row = np.array(list(result.features.values()) or [0.0] * COUNT, np.float32)
    return Line(
        result.status, result.late, result.edge, row.tobytes(), result.history, result.digest
    )


class Shelf:
    """The smallest store: records by account, written by pieces."""

    def __init__(self) -> None:
        self.records: dict[str, bytes] = {}

    def load(self, accounts: Iterable[str]) -> list[tuple[str, bytes | None]]:
        """What there is of each account."""
        return [(account, self.records.get(account)) for account in accounts]

    def commit(self, arena: Arena) -> None:
        """Write what changed, as the commit script does: bytes at an offset."""
        for account, pieces in arena.writes():
            record = bytearray(self.records.get(account, b""))
            for offset, data in pieces:
                if offset == WHOLE:
                    record = bytearray(data)
                    continue
                record.extend(bytes(max(0, offset - len(record))))
                record[offset : offset + len(data)] = data
            self.records[account] = bytes(record)
        arena.settled()


def run(
    events: Sequence[Event], cuts: Sequence[int], arena: Arena, shelf: Shelf | None = None
) -> list[Line]:
    """Apply the events in batches that end at `cuts`, with a commit after each."""
    lines: list[Line] = []
    start = 0
    shelf = shelf or Shelf()
    for end in [*sorted(cuts), len(events)]:
        chunk = events[start:end]
        start = end
        if not chunk:
            continue
        columns = columns_of(chunk)
        arena.fill(shelf.load(arena.missing(columns.account_id)))
        lines += lines_of(apply(columns, arena, FixedRisk(chunk)))
        shelf.commit(arena)
    return lines
