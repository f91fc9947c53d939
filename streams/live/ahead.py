"""Memory of the arenas, made resident shortly before it is needed, by a thread of its own.

In: an arena, after each load. Out: nothing; only when the system clears memory changes, never what
is in it. Does not know partitions, rounds or accounts.

An arena reserves its memory once, and the system hands out and clears a page when it is first
written. In a virtual machine that may have to ask its host for it: 2 MB took up to 7 ms, in the
middle of a round. `madvise(MADV_POPULATE_WRITE)` does the same beforehand, without the
interpreter's lock and without a race with whoever writes there meanwhile. Where the system does not
know it (Linux before 5.14, other systems) pages come when they are first written, as ever.
"""

from __future__ import annotations

import ctypes
import errno
import logging
import mmap
import os
import sys
from collections.abc import Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from typing import Any, Final

from numpy.typing import NDArray

from streams.errors import ConfigError
from streams.state import Arena

AHEAD_BYTES: Final = 8 << 20
"""How far ahead of its use an arena's memory is resident: room for some 8,500 new accounts."""
PIECE_BYTES: Final = 2 << 20
"""What one call asks for, so that nobody who changes the process's mappings waits long for it."""
POPULATE_WRITE: Final = 23
"""MADV_POPULATE_WRITE of Linux, madvise(2); Python's `mmap` has no name for it."""

_logger = logging.getLogger(__name__)


def check_room(arena_mb: int) -> None:
    """Raises ConfigError for arenas that are larger than the machine: they are reserved whole, and
    filled up in days the system would end the worker, time and again."""
    there_mb = os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE") >> 20
    if arena_mb > there_mb:
        raise ConfigError(
            f"worker.arena_mb is {arena_mb:,}, and this machine has {there_mb:,} MiB of memory",
            remedy="Set it lower: accounts over it stay in Redis and are read again when they pay",
        )


class Ahead:
    """The thread. One a worker."""

    def __init__(self) -> None:
        self._thread = ThreadPoolExecutor(1, thread_name_prefix="arena-memory")
        self._able = sys.platform == "linux"

    def see(self, arena: Arena) -> Future[None] | None:
        """Make resident what this arena will use next; None where nothing is to be done now."""
        if not self._able:
            return None
        memory = arena.ahead(AHEAD_BYTES)
        return self._thread.submit(self._make_resident, memory) if memory else None

    def _make_resident(self, memory: Sequence[NDArray[Any]]) -> None:
        for rows in memory:
            fault = made_resident(rows)
            if fault:
                self._able = False
                _logger.info("memory comes when it is first used: %s", errno.errorcode.get(fault))
                return


def made_resident(rows: NDArray[Any]) -> int:
    """Have the whole pages inside a contiguous array made resident; 0, or the system's errno."""
    madvise = ctypes.CDLL(None, use_errno=True).madvise
    madvise.argtypes = [ctypes.c_void_p, ctypes.c_size_t, ctypes.c_int]
    at = rows.ctypes.data
    first = -(-at // mmap.PAGESIZE) * mmap.PAGESIZE
    end = (at + rows.nbytes) // mmap.PAGESIZE * mmap.PAGESIZE
    for begin in range(first, end, PIECE_BYTES):
        if madvise(begin, min(PIECE_BYTES, end - begin), POPULATE_WRITE) != 0:
            return ctypes.get_errno()
    return 0
