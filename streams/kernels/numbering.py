"""Numbers for 64-bit keys: the first new key gets 0, the next 1, and so on.

In: keys. Out: their numbers. Does not know what a key stands for. Key 0 is no key: number -1.

Open addressing with linear probing at most half full; a key is never removed, the owner makes a new
table instead. The keys are hashes already, so their low bits choose the place.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from streams.kernels.record import entry

LEAST = 1_024


@entry
def _add(
    keys: NDArray[np.uint64],
    table: NDArray[np.uint64],
    numbers: NDArray[np.int32],
    count: int,
    out: NDArray[np.int32],
) -> int:
    mask = np.uint64(len(table) - 1)
    one, none = np.uint64(1), np.uint64(0)
    for i in range(len(keys)):
        key = keys[i]
        if key == none:
            out[i] = -1
            continue
        at = key & mask
        while table[at] != none and table[at] != key:
            at = (at + one) & mask
        if table[at] == none:
            table[at] = key
            numbers[at] = count
            count += 1
        out[i] = numbers[at]
    return count


@entry
def _find(
    keys: NDArray[np.uint64],
    table: NDArray[np.uint64],
    numbers: NDArray[np.int32],
    out: NDArray[np.int32],
) -> None:
    mask = np.uint64(len(table) - 1)
    one, none = np.uint64(1), np.uint64(0)
    for i in range(len(keys)):
        key = keys[i]
        at = key & mask
        while table[at] != none and table[at] != key:
            at = (at + one) & mask
        out[i] = numbers[at] if key != none and table[at] == key else -1


class Numbering:
    """A table that grows."""

    def __init__(self) -> None:
        self.count = 0
        self._table = np.zeros(LEAST, np.uint64)
        self._numbers = np.zeros(LEAST, np.int32)

    def add(self, keys: NDArray[np.uint64]) -> NDArray[np.int32]:
        """Each key's number; unseen keys get the next ones, in order."""
        if 2 * (self.count + len(keys)) > len(self._table):
            self._grow(self.count + len(keys))
        out = np.empty(len(keys), np.int32)
        keys = np.ascontiguousarray(keys)
        self.count = int(_add(keys, self._table, self._numbers, self.count, out))
        return out

    def find(self, keys: NDArray[np.uint64]) -> NDArray[np.int32]:
        """Each key's number, -1 for keys never added."""
        out = np.empty(len(keys), np.int32)
        _find(np.ascontiguousarray(keys), self._table, self._numbers, out)
        return out

    def keys(self) -> NDArray[np.uint64]:
        """Every key, by its number."""
        used = np.flatnonzero(self._table)
        found = np.empty(self.count, np.uint64)
        found[self._numbers[used]] = self._table[used]
        return found

    def _grow(self, least: int) -> None:
        known = self.keys()
        size = len(self._table)
        while size < 2 * least:
            size *= 2
        self._table = np.zeros(2 * size, np.uint64)
        self._numbers = np.zeros(2 * size, np.int32)
        out = np.empty(len(known), np.int32)
        assert _add(known, self._table, self._numbers, 0, out) == self.count
