"""The account record: its layout, its checksum, and integer arithmetic for the kernels.

In: u64 words. Out: offsets, mixes, a variance. Does not know windows, arenas or stores.

A record is little-endian u64 words:

    word 0       version (8) | flags (8) | count (8) | head (8) | pane rows (8) | spare (24)
    word 1       checksum
    word 2       newest event_time          word 3  lifetime count of counting events
    word 4       lifetime sum of amounts    word 5  last position: latitude (32) | longitude (32)
    word 6       event_time of it           word 7  oldest event_time ever seen
    8 .. 263     ring: 64 events of 4 words; only `count` of them are stored until it is full
    264 ..       pane rows of 32 panes x 8 words, present only once an event has left the ring:
                 30 d, then 7 d, 24 h, 1 h, 5 m, 1 m; `pane rows` says how many

High bits first. The ring is circular: event i in time order lies at place (head + i) % 64. `count`
and `head` are those of the ring, so a record of n < 64 events is 64 + 32 n bytes.

The checksum is the XOR of mix(word, position) over all words but itself. `mix` is a bijection of
the word for every position and maps 0 to 0, so any one changed word is caught, a word that moved
is caught but for one chance in 2^64, and a change costs two mixes whatever the record's length.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, Final, TypeAlias, TypeVar, cast

import numpy as np
from numba import njit
from numpy.typing import NDArray

from model.inputs import HISTORY
from streams.kernels.lanes import multiply

VERSION: Final = 1
HEADER_WORDS: Final = 8
RING_WORDS: Final = HISTORY * 4
PANES: Final = 32
PANE_WORDS: Final = 8
PANE_ROW_WORDS: Final = PANES * PANE_WORDS
PANE_ROWS: Final = 6
PANES_AT: Final = HEADER_WORDS + RING_WORDS

VERSION_SHIFT: Final = 56
FLAGS_SHIFT: Final = 48
COUNT_SHIFT: Final = 40
HEAD_SHIFT: Final = 32
ROWS_SHIFT: Final = 24
OVERFLOWED: Final = 1
"""Flag: at least one event has left the ring."""
POSITIONED: Final = 2
"""Flag: words 5 and 6 are set."""

CHECKSUM, NEWEST, LIFE_COUNT, LIFE_SUM, POSITION, POSITION_TIME, OLDEST = range(1, 8)
"""Header words by name."""

F = TypeVar("F", bound=Callable[..., object])

Int: TypeAlias = Any
Word: TypeAlias = Any
Real: TypeAlias = Any
Flag: TypeAlias = Any
"""Scalars inside kernels: Numba tells int64, uint64, float64 and bool apart by itself."""

Words: TypeAlias = NDArray[np.uint64]
Ints: TypeAlias = NDArray[np.int32]
Floats: TypeAlias = NDArray[np.float32]


_OPTIONS: Final[dict[str, Any]] = {"error_model": "numpy", "_nrt": False}
"""No `nogil`: a round of a live worker makes dozens of calls of some microseconds, and each that
lets go of the interpreter's lock waits for the event loop or the fetching thread to give it back.
No fastmath: sums and roundings happen as written. The `numpy` error model leaves out the test of
divisors, which the kernels make themselves. `_nrt` False: no kernel may allocate, and in return
arrays are not reference counted inside them, which halves the time of the pass."""


def kernel(function: F) -> F:
    """A function for other kernels to call: becomes part of its caller."""
    return cast(F, njit(**_OPTIONS, forceinline=True)(function))


def outline(function: F) -> F:
    """A function for other kernels to call that stays a call: large, or rarely needed."""
    return cast(F, njit(**_OPTIONS)(function))


def entry(function: F) -> F:
    """A function that Python calls: its machine code is kept on disk."""
    return cast(F, njit(**_OPTIONS, cache=True)(function))


_GOLD = np.uint64(0x9E3779B97F4A7C15)
_M1 = np.uint64(0xFF51AFD7ED558CCD)
_M2 = np.uint64(0xC4CEB9FE1A85EC53)
_S33 = np.uint64(33)


@kernel
def scramble(x: Word) -> Word:
    """A bijection of 64 bits that maps 0 to 0 (the finaliser of MurmurHash3)."""
    x = (x ^ (x >> _S33)) * _M1
    x = (x ^ (x >> _S33)) * _M2
    return x ^ (x >> _S33)


@kernel
def mix(word: Word, position: Int) -> Word:
    """The share of one word in the checksum: odd times odd is odd, so it is a bijection."""
    return scramble(word * (_GOLD * np.uint64(2 * position + 1)))


@kernel
def variance_numerator(n: Word, s: Word, high: Word, low: Word) -> Real:
    """n * (sum of squares) - (sum)^2, exact modulo 2^128, then to float64 by halves."""
    ph, pl = multiply(n, low)
    ph += n * high
    qh, ql = multiply(s, s)
    borrow = np.uint64(1) if pl < ql else np.uint64(0)
    return np.float64(ph - qh - borrow) * 18446744073709551616.0 + np.float64(pl - ql)
