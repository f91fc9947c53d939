"""Memory is resident before it is used, and is none the worse for it."""

from __future__ import annotations

import ctypes
import mmap
import os

import numpy as np
import pytest
from numpy.typing import NDArray

from streams.errors import ConfigError
from streams.live import app
from streams.live.ahead import AHEAD_BYTES, Ahead, check_room, made_resident
from streams.settings import load
from streams.state import ACCOUNT_BYTES, Arena

ROOM = 256 << 20


def resident(rows: NDArray[np.generic]) -> float:
    """The share of the whole pages inside that the system has given: mincore(2)."""
    at = -(-rows.ctypes.data // mmap.PAGESIZE) * mmap.PAGESIZE
    pages = (rows.ctypes.data + rows.nbytes - at) // mmap.PAGESIZE
    told = (ctypes.c_ubyte * pages)()
    mincore = ctypes.CDLL(None, use_errno=True).mincore
    mincore.argtypes = [ctypes.c_void_p, ctypes.c_size_t, ctypes.c_void_p]
    assert mincore(at, pages * mmap.PAGESIZE, told) == 0
    return sum(page & 1 for page in told) / pages


def filled(arena: Arena, first: int, count: int) -> None:
    names = [f"account-{number}" for number in range(first, first + count)]
    arena.fill([(name, None) for name in arena.missing(names)])


def test_what_an_arena_uses_next_is_resident_and_no_more() -> None:
    arena, ahead = Arena(0, ROOM), Ahead()
    blocks = arena.cells.blocks
    near = AHEAD_BYTES // ACCOUNT_BYTES
    assert resident(blocks[:near]) < 0.5
    made = ahead.see(arena)
    assert made is not None
    made.result()
    assert resident(blocks[:near]) == 1
    assert resident(blocks[2 * near :]) < 0.1


def test_it_is_told_again_when_half_is_used_and_each_part_once() -> None:
    arena = Arena(0, ROOM)
    near = AHEAD_BYTES // ACCOUNT_BYTES
    assert len(arena.ahead(AHEAD_BYTES)[0]) == near
    assert arena.ahead(AHEAD_BYTES) == []
    filled(arena, 0, near // 2)
    assert arena.ahead(AHEAD_BYTES) == []
    filled(arena, near, near)
    heads, *_ = arena.ahead(AHEAD_BYTES)
    assert np.shares_memory(heads, arena.cells.heads[near : near + len(heads)])
    assert len(heads) == near // 2 + near


def test_a_full_arena_was_told_whole_and_evictions_ask_for_nothing() -> None:
    arena = Arena(0, 100 * ACCOUNT_BYTES)
    told = arena.ahead(AHEAD_BYTES)
    assert [len(rows) for rows in told] == [100] * len(told)
    for first in range(0, 1_000, 50):
        filled(arena, first, 50)
        assert arena.ahead(AHEAD_BYTES) == []


def test_what_is_written_there_stays() -> None:
    rows = np.arange(1 << 20, dtype=np.uint64)
    before = rows.copy()
    assert made_resident(rows) == 0
    assert np.array_equal(rows, before)


def test_a_system_that_cannot_is_asked_once(monkeypatch: pytest.MonkeyPatch) -> None:
    arena, ahead = Arena(0, ROOM), Ahead()
    monkeypatch.setattr("streams.live.ahead.POPULATE_WRITE", 9_999)
    made = ahead.see(arena)
    assert made is not None
    made.result()
    filled(arena, 0, AHEAD_BYTES // ACCOUNT_BYTES)
    assert ahead.see(arena) is None


def test_arenas_larger_than_the_machine_are_refused_in_words() -> None:
    """They ended the worker with two tracebacks of numpy; a little smaller, days later, unasked."""
    there_mb = os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE") // 2**20
    check_room(there_mb)
    with pytest.raises(ConfigError, match=r"worker.arena_mb .* Set it lower"):
        app.run(load(flags=[f"worker.arena_mb={there_mb + 1}", "kafka.bootstrap=127.0.0.1:1"]))
