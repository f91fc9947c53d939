"""The arrays of an arena, as the kernels see them.

In: nothing. Out: the types. Does not know account names or eviction.
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray


class Cells(NamedTuple):
    """s slots (one an account) and a pool of b blocks.

    heads:      uint64 [s, 8], record headers; word 1 is the checksum of the body alone
    index:      int32 [s, 28], blocks of the ring (4) and of the six pane rows (4 each), -1 = none
    blocks:     uint64 [b, 64], each 16 ring events or 8 panes
    free:       int32 [b], a stack of free blocks
    tally:      int64 [2], height of `free`, length of `dirty`
    trail:      uint64 [s], digest of the ring in order (ring.py)
    ring_marks: uint64 [s], bit p: ring place p differs from the store
    pane_marks: uint32 [s, 6], bit p: pane p of the row differs from the store
    state:      uint8 [s], 0 as in the store, CHANGED, or WHOLE: the store needs all of it
    dirty:      int32 [s], slots with a state other than 0
    """

    heads: NDArray[np.uint64]
    index: NDArray[np.int32]
    blocks: NDArray[np.uint64]
    free: NDArray[np.int32]
    tally: NDArray[np.int64]
    trail: NDArray[np.uint64]
    ring_marks: NDArray[np.uint64]
    pane_marks: NDArray[np.uint32]
    state: NDArray[np.uint8]
    dirty: NDArray[np.int32]


FREE, DIRTY = 0, 1
"""Places in `tally`."""

CHANGED, WHOLE = 1, 2
"""Values of `state`."""
