"""Records between the arena and the bytes that a store keeps.

In: little-endian words of whole records; or slots with marks. Out: filled slots; or pieces, each a
run of record words with its place in the record. Does not know account names or stores.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
from numpy.typing import NDArray

from model.inputs import EVENT_WORDS, HISTORY
from streams.kernels import SOURCES
from streams.kernels.cells import LAST_COUNTRY, LAST_PLACE, TRAIL, WHOLE, Before, Cells
from streams.kernels.panes import BLOCK_WORDS, RING_BLOCKS
from streams.kernels.record import (
    CHECKSUM,
    HEADER_WORDS,
    PANE_ROW_WORDS,
    PANE_ROWS,
    PANE_WORDS,
    PANES,
    PANES_AT,
    VERSION,
    VERSION_SHIFT,
    Flag,
    Int,
    Ints,
    Word,
    Words,
    entry,
    kernel,
    mix,
    outline,
)
from streams.kernels.ring import trail_of, unpack_state
from streams.kernels.update import take_block

MAX_RUNS = HISTORY + PANE_ROWS * PANES
"""The most runs of one record, and so the rows of the `runs` that the functions below need."""

GAP_WORDS = 16
"""Two changed runs at most this far apart become one piece: a piece costs more than 128 bytes."""

ALL = -1
"""In the place of a run's first word: the run is the whole record."""

SMALL_WORDS = 128
"""A record up to this long is written whole: that costs a store less than two pieces, and Redis
keeps no slack behind it (benchmarks/store.py)."""

_VERSION_SHIFT = np.uint64(VERSION_SHIFT)


@kernel
def record_words(w0: Word) -> Int:
    """Length of a record by its header."""
    _, count, _, rows = unpack_state(w0)
    return HEADER_WORDS + count * EVENT_WORDS + rows * PANE_ROW_WORDS


@kernel
def header_checksum(head: Words) -> Word:
    """The header's share of the checksum."""
    change = np.uint64(0)
    for word in range(HEADER_WORDS):
        if word != CHECKSUM:
            change ^= mix(head[word], word)
    return change


@kernel
def locate(cells: Cells, slot: Int, word: Int) -> tuple[Int, Int]:
    """(block, word in it) of a record word behind the header. Ring blocks hold columns."""
    behind = word - HEADER_WORDS
    inside = behind % BLOCK_WORDS
    if word < PANES_AT:
        inside = (inside % EVENT_WORDS) * 16 + inside // EVENT_WORDS
    return cells.chain[slot, behind // BLOCK_WORDS], inside


@kernel
def is_sound(words: Words) -> Flag:
    """A whole record has a known version, fitting counts and length, and its checksum."""
    if len(words) < HEADER_WORDS or np.int64(words[0] >> _VERSION_SHIFT) != VERSION:
        return False
    _, count, start, rows = unpack_state(words[0])
    if (count == 0 and rows == 0) or count > HISTORY or start >= HISTORY or rows > PANE_ROWS:
        return False
    if (count < HISTORY and (start != 0 or rows != 0)) or len(words) != record_words(words[0]):
        return False
    change = header_checksum(words)
    for word in range(HEADER_WORDS, len(words)):
        change ^= mix(words[word], word)
    return change == words[CHECKSUM]


@outline
def _load(
    cells: Cells, scratch: Before, words: Words, starts: NDArray[np.int64], slots: Ints
) -> Int:
    """Fill empty slots from records that lie one after the other in `words`.

    starts: int64 [m + 1], record i is words[starts[i] : starts[i + 1]]. The pool holds enough
    blocks. Returns m, or the number of the first record that is not sound.
    """
    for i in range(len(slots)):
        record = words[starts[i] : starts[i + 1]]
        if not is_sound(record):
            return i
        slot = slots[i]
        for word in range(HEADER_WORDS):
            cells.heads[slot, word] = record[word]
        cells.heads[slot, CHECKSUM] ^= header_checksum(record)
        for at in range(HEADER_WORDS, len(record)):
            if (at - HEADER_WORDS) % BLOCK_WORDS == 0:
                cells.chain[slot, (at - HEADER_WORDS) // BLOCK_WORDS] = take_block(cells)
            block, inside = locate(cells, slot, at)
            cells.blocks[block, inside] = record[at]
        _, count, start, _ = unpack_state(record[0])
        trail, places, countries = trail_of(cells.blocks, cells.chain, slot, start, count, scratch)
        cells.trail[slot, TRAIL] = trail
        cells.trail[slot, LAST_PLACE] = places
        cells.trail[slot, LAST_COUNTRY] = countries
    return len(slots)


@kernel
def is_marked(cells: Cells, slot: Int, word: Int) -> Flag:
    """The unit that starts at this record word (a ring event or a pane) differs from the store."""
    one = np.uint64(1)
    if word < PANES_AT:
        place = np.uint64((word - HEADER_WORDS) // EVENT_WORDS)
        return (cells.ring_marks[slot] >> place) & one == one
    row, rest = divmod(word - PANES_AT, PANE_ROW_WORDS)
    pane = np.uint64(rest // PANE_WORDS)
    return (np.uint64(cells.pane_marks[slot, row]) >> pane) & one == one


@outline
def find_pieces(cells: Cells, slot: Int, whole: Flag, runs: NDArray[np.int64]) -> Int:
    """The runs [from, to) of record words to write; from ALL is the whole record. Their number."""
    length = record_words(cells.heads[slot, 0])
    runs[0, 0] = 0
    if whole or length <= SMALL_WORDS:
        runs[0, 0], runs[0, 1] = ALL, length
        return 1
    runs[0, 1] = HEADER_WORDS
    last = 0
    word = HEADER_WORDS
    while word < length:
        size = EVENT_WORDS if word < PANES_AT else PANE_WORDS
        if is_marked(cells, slot, word):
            if word - runs[last, 1] > GAP_WORDS:
                last += 1
                runs[last, 0] = word
            runs[last, 1] = word + size
        word += size
    return last + 1


@outline
def _measure(cells: Cells, slots: Ints, whole: Flag, runs: NDArray[np.int64]) -> tuple[Int, Int]:
    """(pieces, words) that `store_pieces` will make of these slots."""
    pieces, words = 0, 0
    for slot in slots:
        found = find_pieces(cells, slot, whole or cells.state[slot] == WHOLE, runs)
        pieces += found
        for i in range(found):
            words += runs[i, 1] - max(runs[i, 0], 0)
    return pieces, words


@outline
def _store(
    cells: Cells,
    slots: Ints,
    whole: Flag,
    runs: NDArray[np.int64],
    pieces: NDArray[np.int64],
    out: Words,
) -> None:
    """Copy what differs from the store (with `whole`, everything) of each slot into `out`.

    pieces: int64 [p, 3]: number of the slot in `slots`, record word (or ALL), words; in the order
    of `out`.
    """
    piece, at = 0, 0
    for i in range(len(slots)):
        slot = slots[i]
        found = find_pieces(cells, slot, whole or cells.state[slot] == WHOLE, runs)
        for run in range(found):
            pieces[piece, 0] = i
            pieces[piece, 1] = runs[run, 0]
            first = max(runs[run, 0], 0)
            pieces[piece, 2] = runs[run, 1] - first
            piece += 1
            for word in range(first, runs[run, 1]):
                if word < HEADER_WORDS:
                    out[at] = cells.heads[slot, word]
                    if word == CHECKSUM:
                        out[at] ^= header_checksum(cells.heads[slot])
                else:
                    block, inside = locate(cells, slot, word)
                    out[at] = cells.blocks[block, inside]
                at += 1


@outline
def _release(cells: Cells, slots: Ints) -> None:
    """Give the blocks of these slots back to the pool and empty the slots."""
    for slot in slots:
        for i in range(cells.chain.shape[1]):
            if cells.chain[slot, i] >= 0:
                cells.free[cells.tally[0]] = cells.chain[slot, i]
                cells.tally[0] += 1
                cells.chain[slot, i] = -1
        cells.heads[slot, :] = 0
        cells.trail[slot, :] = 0
        cells.ring_marks[slot] = 0
        cells.pane_marks[slot, :] = 0


def _entries(sources: str) -> tuple[Callable[..., Any], ...]:
    """The four above as Python calls them; see `streams.kernels` for `sources`."""

    @entry
    def load_records(
        cells: Cells, scratch: Before, words: Words, starts: NDArray[np.int64], slots: Ints
    ) -> Int:
        assert sources
        return _load(cells, scratch, words, starts, slots)

    @entry
    def measure_pieces(
        cells: Cells, slots: Ints, whole: Flag, runs: NDArray[np.int64]
    ) -> tuple[Int, Int]:
        assert sources
        return _measure(cells, slots, whole, runs)

    @entry
    def store_pieces(
        cells: Cells,
        slots: Ints,
        whole: Flag,
        runs: NDArray[np.int64],
        pieces: NDArray[np.int64],
        out: Words,
    ) -> None:
        assert sources
        _store(cells, slots, whole, runs, pieces, out)

    @entry
    def release_blocks(cells: Cells, slots: Ints) -> None:
        assert sources
        _release(cells, slots)

    return load_records, measure_pieces, store_pieces, release_blocks


load_records, measure_pieces, store_pieces, release_blocks = _entries(SOURCES)

assert RING_BLOCKS * BLOCK_WORDS == PANES_AT - HEADER_WORDS
