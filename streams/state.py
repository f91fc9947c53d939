"""The arena: the records of one partition's accounts, in arrays, bounded in bytes.

In: record bytes from a store, slots changed by the kernels. Out: slots for the kernels; for each
changed account the byte pieces that a store must write. Does not know Redis, Kafka or features.

It is a cache of the store. The order of use for each micro-batch, one at a time:

    arena.fill(zip(names, store.load(names)))   with names = arena.missing(accounts)
    apply(columns, arena, risk)                 changes records
    store.commit(..., arena.writes(), ...)      then arena.settled()

After any error between `apply` and `settled`, drop the arena: the store holds the truth.

An account takes a slot (header, block index, marks) and blocks of 512 bytes from one pool: one for
each 16 events of its ring, four for each pane row. Slots and blocks are reserved once, for the
given capacity; the system makes them resident only when they are first used. Over capacity the
accounts not seen for longest go, never those of the current batch and never unsettled ones; only
when the current batch alone is too large the arrays grow beyond the capacity.
"""

from __future__ import annotations

import itertools
import sys
from collections.abc import Iterable, Iterator, Sequence
from typing import Final, TypeVar, cast

import numpy as np
from numpy.typing import NDArray

from streams.errors import RecordCorrupt
from streams.kernels.cells import DIRTY, FREE, TRAIL_WORDS, Cells, before
from streams.kernels.pack import (
    MAX_RUNS,
    load_records,
    measure_pieces,
    release_blocks,
    store_pieces,
)
from streams.kernels.panes import BLOCK_WORDS, INDEX_WORDS
from streams.kernels.record import HEADER_WORDS, PANE_ROWS
from streams.schema import MAX_BATCH_EVENTS
from streams.writes import WHOLE, Writes

BLOCK_BYTES: Final = BLOCK_WORDS * 8
SLOT_BYTES: Final = (
    (HEADER_WORDS + TRAIL_WORDS) * 8 + INDEX_WORDS * 4 + 8 + PANE_ROWS * 4 + 1 + 4 + 8
)
NAME_BYTES: Final = 220
"""Measured cost of an account's name: the string, its place in the dictionary and in the list."""
ACCOUNT_BYTES: Final = SLOT_BYTES + NAME_BYTES + BLOCK_BYTES
"""What an account with up to 16 events costs; each further block is BLOCK_BYTES."""
EVICT_SHARE: Final = 32
"""At least one slot in so many goes at a time, so that the search for the oldest is paid rarely."""

LINE_BYTES: Final = 64

Number = TypeVar("Number", bound=np.generic)

assert sys.byteorder == "little", "records are little-endian words"


class Arena:
    """The accounts of one partition. `capacity_bytes` bounds what it holds, names included."""

    def __init__(self, partition: int, capacity_bytes: int) -> None:
        self.partition = partition
        self.capacity = max(1, capacity_bytes // ACCOUNT_BYTES)
        self._slot_of: dict[str, int] = {}
        self._names: list[str | None] = []
        self._free: list[int] = []
        self._clock = 0
        self._asked: Sequence[str] = ()
        self._asked_slots = np.empty(0, np.int32)
        self._seen = np.empty(0, np.int64)
        self._told_slots = self._told_blocks = 0
        self.cells = _cells(0, 0)
        self._grow(self.capacity, self.capacity)

    def __len__(self) -> int:
        return len(self._slot_of)

    def __contains__(self, account: str) -> bool:
        return account in self._slot_of

    @property
    def used_bytes(self) -> int:
        """What the accounts held now cost."""
        blocks = len(self.cells.blocks) - int(self.cells.tally[FREE])
        return len(self) * (SLOT_BYTES + NAME_BYTES) + blocks * BLOCK_BYTES

    @property
    def crowded(self) -> bool:
        """Whether unsettled records are in the way: they hold half of the slots, or few blocks are
        left and a quarter of the accounts could not be evicted for them."""
        tally, blocks = self.cells.tally, len(self.cells.blocks)
        few_left = 4 * tally[FREE] < blocks and 4 * tally[DIRTY] > len(self)
        return bool(2 * tally[DIRTY] > len(self._names) or few_left)

    def ahead(self, size: int) -> list[NDArray[np.generic]]:
        """The untouched memory that the next `size` bytes of accounts will use, each part once.

        Contiguous rows of the arrays; empty until half of what was told before is used.
        """
        cells, more = self.cells, max(1, size // ACCOUNT_BYTES)
        slots, blocks = len(self._names), len(cells.blocks)
        next_slots = min(slots, slots - len(self._free) + more)
        next_blocks = min(blocks, blocks - int(cells.tally[FREE]) + more)
        found: list[NDArray[np.generic]] = []
        if (next_blocks - self._told_blocks) * 2 > more or next_blocks == blocks:
            found.append(cells.blocks[self._told_blocks : next_blocks])
            self._told_blocks = max(self._told_blocks, next_blocks)
        if (next_slots - self._told_slots) * 2 > more or next_slots == slots:
            of_slots = (cells.heads, cells.trail, cells.ring_marks, cells.pane_marks)
            found += [rows[self._told_slots : next_slots] for rows in of_slots]
            self._told_slots = max(self._told_slots, next_slots)
        return [rows for rows in found if len(rows)]

    def missing(self, accounts: Sequence[str]) -> list[str]:
        """The accounts to load before `apply`, each once. Those held stay until the next call."""
        self._clock += 1
        slots = np.fromiter(
            map(self._slot_of.get, accounts, itertools.repeat(-1)), np.int32, len(accounts)
        )
        self._asked, self._asked_slots = accounts, slots
        present = slots >= 0
        self._seen[slots[present]] = self._clock
        if present.all():
            return []
        return list(dict.fromkeys(accounts[i] for i in np.flatnonzero(~present).tolist()))

    def fill(self, records: Iterable[tuple[str, bytes | None]]) -> None:
        """Take in what the store holds of missing accounts; None = the store has no record.

        Raises RecordCorrupt when a record fails its version, length or checksum.
        """
        given = list(records)
        known = [(account, record) for account, record in given if record is not None]
        for _, record in known:
            if not record or len(record) % 8:
                raise self._corrupt(f"length {len(record)}")
        sizes = np.array([len(record) // 8 for _, record in known], np.int64)
        blocks = int((-(-np.maximum(sizes - HEADER_WORDS, 0) // BLOCK_WORDS)).sum())
        self._make_room(len(given), blocks)
        for account, _ in given:
            assert account not in self._slot_of, "fill: the account is already in the arena"
            slot = self._free.pop()
            self._slot_of[account] = slot
            self._names[slot] = account
        taken = self.slots([account for account, _ in given])
        self._seen[taken] = self._clock
        if not known:
            return
        words = np.frombuffer(b"".join(record for _, record in known), np.uint64)
        starts = np.concatenate([np.zeros(1, np.int64), np.cumsum(sizes)])
        slots = self.slots([account for account, _ in known])
        bad = load_records(self.cells, before(1), words, starts, slots)
        if bad != len(known):
            raise self._corrupt(f"record {bad + 1} of {len(known)} in this load")

    def slots(self, accounts: Sequence[str]) -> NDArray[np.int32]:
        """The slot of each account, int32 [n]. All must be held."""
        if accounts is not self._asked:
            return np.fromiter(map(self._slot_of.__getitem__, accounts), np.int32, len(accounts))
        # The very list of the last `missing`: whoever was there then has kept its slot.
        for i in np.flatnonzero(self._asked_slots < 0).tolist():
            self._asked_slots[i] = self._slot_of[accounts[i]]
        return self._asked_slots

    def make_room_for_blocks(self, blocks: int) -> None:
        """Called by `apply` when the pool runs low in the middle of a batch."""
        self._make_room(0, blocks)

    def erase(self, account: str) -> None:
        """Forget the account's record; the store must delete it in the same commit."""
        slot = self._slot_of.get(account)
        if slot is not None:
            release_blocks(self.cells, np.array([slot], np.int32))

    def writes(self) -> Writes:
        """For each account changed since `settled`: the pieces that make the store's record equal.

        A record that the store does not have, that gained a pane row or is small comes whole.
        At most MAX_BATCH_EVENTS accounts may have changed; `pages` has no such limit.
        """
        return self._writes(self._changed())

    def pages(self) -> Iterator[Writes]:
        """The same in parts that a store takes in one step each."""
        slots = self._changed()
        for at in range(0, len(slots), MAX_BATCH_EVENTS):
            yield self._writes(slots[at : at + MAX_BATCH_EVENTS])

    def _changed(self) -> NDArray[np.int32]:
        dirty = self.cells.dirty[: self.cells.tally[DIRTY]]
        changed: NDArray[np.int32] = dirty[self.cells.heads[dirty, 0] != 0]
        return changed

    def _writes(self, slots: NDArray[np.int32]) -> Writes:
        pieces, blob = self._pieces(slots, whole=False)
        counts = np.bincount(pieces[:, 0], minlength=len(slots)).astype("<u2")
        spans = pieces[:, 1:] * 8
        spans[pieces[:, 1] < 0, 0] = WHOLE
        names = [self._names[slot] for slot in slots.tolist()]
        return Writes(
            accounts=cast(list[str], names),
            counts=counts.tobytes(),
            spans=spans.astype("<u4").tobytes(),
            blob=blob,
        )

    def settled(self) -> None:
        """The store has committed `writes()`."""
        cells = self.cells
        dirty = cells.dirty[: cells.tally[DIRTY]]
        cells.state[dirty] = 0
        cells.ring_marks[dirty] = 0
        cells.pane_marks[dirty] = 0
        cells.tally[DIRTY] = 0

    def record(self, account: str) -> bytes:
        """The whole record of an account as a store keeps it; empty if it has none."""
        slots = self.slots([account])
        if self.cells.heads[slots[0], 0] == 0:
            return b""
        return self._pieces(slots, whole=True)[1]

    def _pieces(self, slots: NDArray[np.int32], *, whole: bool) -> tuple[NDArray[np.int64], bytes]:
        """The rows that `store_pieces` makes, and their bytes one after the other."""
        runs = np.empty((MAX_RUNS, 2), np.int64)
        count, words = measure_pieces(self.cells, slots, whole, runs)
        pieces = np.empty((count, 3), np.int64)
        out = np.empty(words, np.uint64)
        store_pieces(self.cells, slots, whole, runs, pieces, out)
        return pieces, out.tobytes()

    def _make_room(self, slots: int, blocks: int) -> None:
        """See that so many slots and blocks are free: evict, and only then grow."""
        free_blocks = int(self.cells.tally[FREE])
        if len(self._free) >= slots and free_blocks >= blocks:
            return
        self._evict(slots - len(self._free), blocks - free_blocks)
        more_slots = max(0, slots - len(self._free))
        more_blocks = max(0, blocks - int(self.cells.tally[FREE]))
        if more_slots or more_blocks:
            self._grow(more_slots, more_blocks)

    def _evict(self, slots: int, blocks: int) -> None:
        """Drop settled accounts not seen in the current batch, the longest unseen first."""
        cells = self.cells
        idle = np.flatnonzero((self._seen >= 0) & (self._seen < self._clock) & (cells.state == 0))
        idle = idle[np.argsort(self._seen[idle], kind="stable")].astype(np.int32)
        freed = np.cumsum((cells.chain[idle] >= 0).sum(axis=1))
        wanted = max(
            slots, int(np.searchsorted(freed, blocks)) + 1, len(self._names) // EVICT_SHARE, 1
        )
        gone = idle[:wanted]
        release_blocks(cells, gone)
        self._seen[gone] = -1
        for slot in gone.tolist():
            name = self._names[slot]
            assert name is not None
            del self._slot_of[name]
            self._names[slot] = None
        self._free.extend(gone.tolist())

    def _grow(self, slots: int, blocks: int) -> None:
        """Add free slots and blocks; what was there keeps its number."""
        old = self.cells
        had_slots, had_blocks = len(old.heads), len(old.blocks)
        new = _cells(had_slots + slots, had_blocks + blocks)
        for name in Cells._fields:
            source = getattr(old, name)
            getattr(new, name)[: len(source)] = source
        height = int(old.tally[FREE])
        new.free[height : height + blocks] = np.arange(had_blocks + blocks - 1, had_blocks - 1, -1)
        new.tally[FREE] = height + blocks
        self.cells = new
        seen = np.full(had_slots + slots, -1, np.int64)
        seen[:had_slots] = self._seen
        self._seen = seen
        self._names.extend([None] * slots)
        self._free.extend(range(had_slots + slots - 1, had_slots - 1, -1))

    def _corrupt(self, what: str) -> RecordCorrupt:
        return RecordCorrupt(
            f"an account record is damaged ({what})",
            partition=self.partition,
            remedy="run `fraudstream rebuild`",
        )


def _cells(slots: int, blocks: int) -> Cells:
    """Empty arrays. Zeros and untouched memory cost nothing until they are used."""
    chain = _rows(slots, INDEX_WORDS, np.int32)
    chain[:] = -1
    return Cells(
        heads=_rows(slots, HEADER_WORDS, np.uint64),
        chain=chain,
        blocks=_rows(blocks, BLOCK_WORDS, np.uint64),
        free=np.empty(blocks, np.int32),
        tally=np.zeros(2, np.int64),
        trail=_rows(slots, TRAIL_WORDS, np.uint64),
        ring_marks=np.zeros(slots, np.uint64),
        pane_marks=np.zeros((slots, PANE_ROWS), np.uint32),
        state=np.zeros(slots, np.uint8),
        dirty=np.zeros(slots, np.int32),
    )


def _rows(count: int, width: int, kind: type[Number]) -> NDArray[Number]:
    """Zeros [count, width] that begin at a line of the processor's cache.

    A header or a block then takes no line more than it must: that is worth a fifth of the pass.
    """
    size = count * width * np.dtype(kind).itemsize
    memory = np.zeros(size + LINE_BYTES, np.uint8)
    first = -memory.ctypes.data % LINE_BYTES
    return memory[first : first + size].view(kind).reshape(count, width)
