"""The arrays that the kernels work on.

In: nothing. Out: the types. Does not know account names, eviction or what a feature means.
"""

from __future__ import annotations

from typing import Final, NamedTuple

import numpy as np
from numpy.typing import NDArray

from streams.kernels.record import HEADER_WORDS

CHUNK: Final = 32
"""Events that go through one step of the pass before the next step takes them: what is between the
steps stays in the processor's nearest memory."""

TOTALS: Final = 8
"""count, sum, squares high, squares low, min, max, places, countries; the last two are sets of 64
bits where panes are meant, and numbers where windows are meant."""


class Cells(NamedTuple):
    """An arena: s slots (one an account) and a pool of b blocks.

    heads:      uint64 [s, 8], record headers; word 1 is the checksum of the body alone
    chain:      int32 [s, 28], blocks of the ring (4) and of the six pane rows (4 each), -1 = none
    blocks:     uint64 [b, 64], each 16 ring events, by columns, or 8 panes
    free:       int32 [b], a stack of free blocks
    tally:      int64 [2], height of `free`, length of `dirty`
    trail:      uint64 [s, 4], of the ring in time order: its digest, and which of its events are
                the last at their place and in their country (ring.py); the fourth is spare, so
                that no trail lies across two lines of the cache
    ring_marks: uint64 [s], bit p: ring place p differs from the store
    pane_marks: uint32 [s, 6], bit p: pane p of the row differs from the store
    state:      uint8 [s], 0 as in the store, CHANGED, or WHOLE: the store needs all of it
    dirty:      int32 [s], slots with a state other than 0
    """

    heads: NDArray[np.uint64]
    chain: NDArray[np.int32]
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

TRAIL, LAST_PLACE, LAST_COUNTRY = 0, 1, 2
"""Columns of `trail`; in `Before.trail` also LATER_SUM."""
LATER_SUM = 3
TRAIL_WORDS: Final = 4


class Events(NamedTuple):
    """The columns of n events that the kernels read, and the slot of each event's account."""

    words: NDArray[np.uint64]
    slots: NDArray[np.int32]
    latitude: NDArray[np.int32]
    longitude: NDArray[np.int32]
    billing: NDArray[np.uint16]
    ip: NDArray[np.uint16]
    risk: NDArray[np.float32]


class Results(NamedTuple):
    """The arrays that the kernels write; see `windows.Work`. `bits` is the memory of `features`."""

    status: NDArray[np.uint8]
    late: NDArray[np.bool_]
    edge: NDArray[np.bool_]
    features: NDArray[np.float32]
    bits: NDArray[np.uint32]
    history: NDArray[np.uint64]
    length: NDArray[np.int32]
    digest: NDArray[np.uint64]


class Before(NamedTuple):
    """What the accounts of one chunk were before each of its events.

    heads:   uint64 [CHUNK, 8]
    trail:   uint64 [CHUNK, 4], of the events up to t; then the sum of amounts later than t
    notes:   int64 [CHUNK, 8], see the names below
    panes:   uint64 [TOTALS], what the panes add to a window
    windows: uint64 [CHUNK, 6, TOTALS], the windows, shortest first
    places:  uint64 [256], countries: uint64 [1024], tables for distinct counting of late events
    epoch:   uint64 [1], their last epoch
    """

    heads: NDArray[np.uint64]
    trail: NDArray[np.uint64]
    notes: NDArray[np.int64]
    panes: NDArray[np.uint64]
    windows: NDArray[np.uint64]
    places: NDArray[np.uint64]
    countries: NDArray[np.uint64]
    epoch: NDArray[np.uint64]


SEEN_PLACE, SEEN_COUNTRY, SEEN_DEVICE, SAME_AMOUNT = 0, 1, 2, 3
LATER, LAST_TIME, DECLINED_1H, DECLINED_24H = 4, 5, 6, 7
"""Columns of `Before.notes`. LATER: counting events of the ring that are later than t; LAST_TIME:
time of the event before, -1 if there is none."""

PLACE_TABLE: Final = 256
COUNTRY_TABLE: Final = 1024


def before(windows: int) -> Before:
    """Memory for one call."""
    return Before(
        heads=np.zeros((CHUNK, HEADER_WORDS), np.uint64),
        trail=np.zeros((CHUNK, 4), np.uint64),
        notes=np.zeros((CHUNK, 8), np.int64),
        panes=np.zeros(TOTALS, np.uint64),
        windows=np.zeros((CHUNK, windows, TOTALS), np.uint64),
        places=np.zeros(PLACE_TABLE, np.uint64),
        countries=np.zeros(COUNTRY_TABLE, np.uint64),
        epoch=np.zeros(1, np.uint64),
    )
