"""The ring: the last 64 events of an account in (event_time, arrival) order.

In: an account's blocks in the arena's pool. Out: what a new event finds among the events; the
history; the trail. Does not know windows, features or how an event gets in (update.py).

A ring of n events takes ceil(n / 16) blocks. A block holds 16 events by columns: word w of its
event e is at 16 w + e, so that a question to all events ("the same merchant?") reads one column and
comes back as a set of bits. Event i in time order lies at place (head + i) % 64, that is in block
place // 16.

A history is n events in time order, right-aligned in 64 rows: row 63 is the newest. Sets of rows
are bits of a word, bit 63 for row 63.

The trail of a history is three words. First a digest of its events in order: the sum of
event_digest(i) * BASE^(n-1-i) modulo 2^64. Then two sets of rows: the counting events that are the
last at their place, and the last in their country. With them the number of different places since
row r is the number of bits from r on. All three follow from the events, so they are not stored, and
an event at the end changes them in a few operations.
"""

from __future__ import annotations

from typing import Any

import numpy as np

from model.inputs import (
    AMOUNT_SHIFT,
    AUTH_MASK,
    AUTH_RESPONSES,
    AUTH_SHIFT,
    COUNTRY_MASK,
    COUNTRY_SHIFT,
    COUNTS_SHIFT,
    DEVICE_MASK,
    EVENT_WORDS,
    HISTORY,
    ID_SHIFT,
    PLACE_SHIFT,
    TIME_SHIFT,
)
from streams.kernels.cells import COUNTRY_TABLE, PLACE_TABLE, Before
from streams.kernels.lanes import equal, natural, popcount
from streams.kernels.record import (
    COUNT_SHIFT,
    FLAGS_SHIFT,
    HEAD_SHIFT,
    ROWS_SHIFT,
    VERSION,
    VERSION_SHIFT,
    Flag,
    Int,
    Ints,
    Word,
    Words,
    kernel,
    outline,
    scramble,
)

BASE = np.uint64(0xD1342543DE82EF95)
BASE_TO_63 = np.uint64(pow(0xD1342543DE82EF95, HISTORY - 1, 2**64))
_K0 = np.uint64(0xA0761D6478BD642F)
_K1 = np.uint64(0xE7037ED1A0B428DB)
_K2 = np.uint64(0x8EBC6AF09C88C6E3)
_K3 = np.uint64(0x589965CC75374CC3)

NEWEST_BIT = np.uint64(1 << 63)

ZERO, ONE = np.uint64(0), np.uint64(1)
_RESPONSE = np.uint64(AUTH_MASK << AUTH_SHIFT | 1 << COUNTS_SHIFT)
_DECLINED = np.uint64((AUTH_RESPONSES.index("declined") + 1) << AUTH_SHIFT | 1 << COUNTS_SHIFT)
_BYTE = np.uint64(255)
_TIME = np.uint64(TIME_SHIFT)
_AMOUNT = np.uint64(AMOUNT_SHIFT)
_COUNTS = np.uint64(COUNTS_SHIFT)
_COUNTING = np.uint64(1 << COUNTS_SHIFT)
_ID_MASK = np.uint64(2**64 - 2**ID_SHIFT)
_AMOUNT_MASK = np.uint64(2**64 - 2**AMOUNT_SHIFT)
_PLACE_MASK = np.uint64(2**64 - 2**PLACE_SHIFT)
_PLACE = np.uint64(PLACE_SHIFT)
_COUNTRY = np.uint64(COUNTRY_SHIFT)
_COUNTRY_MASK = np.uint64(COUNTRY_MASK)
_DEVICE_MASK = np.uint64(DEVICE_MASK)
_COUNT = np.uint64(COUNT_SHIFT)
_HEAD = np.uint64(HEAD_SHIFT)
_FLAGS = np.uint64(FLAGS_SHIFT)
_ROWS = np.uint64(ROWS_SHIFT)
_VERSION = np.uint64(VERSION << VERSION_SHIFT)
_32, _63, _64 = np.uint64(32), np.uint64(63), np.uint64(64)
_63_INT = HISTORY - 1


@kernel
def unpack_state(w0: Word) -> tuple[Int, Int, Int, Int]:
    """(flags, count, head, pane rows) of header word 0."""
    return (
        np.int64((w0 >> _FLAGS) & _BYTE),
        np.int64((w0 >> _COUNT) & _BYTE),
        np.int64((w0 >> _HEAD) & _BYTE),
        np.int64((w0 >> _ROWS) & _BYTE),
    )


@kernel
def pack_state(flags: Int, count: Int, head: Int, rows: Int) -> Word:
    """Header word 0."""
    return (
        _VERSION
        | (np.uint64(flags) << _FLAGS)
        | (np.uint64(count) << _COUNT)
        | (np.uint64(head) << _HEAD)
        | (np.uint64(rows) << _ROWS)
    )


@kernel
def time_of(w0: Word) -> Int:
    """event_time of word 0."""
    return np.int64(w0 >> _TIME)


@kernel
def counts(w0: Word) -> Flag:
    """The event enters the windows."""
    return (w0 >> _COUNTS) & ONE == ONE


@kernel
def amount_of(w1: Word) -> Word:
    """The amount of word 1."""
    return w1 >> _AMOUNT


@kernel
def place_of(w3: Word) -> Word:
    """The place of word 3, 0 = none."""
    return w3 >> _PLACE


@kernel
def country_of(w3: Word) -> Word:
    """The country of word 3, 0 = none."""
    return (w3 >> _COUNTRY) & _COUNTRY_MASK


@kernel
def event_digest(w0: Word, w1: Word, w2: Word, w3: Word) -> Word:
    """64 bits of one event's words."""
    middle = scramble((w1 + _K2) * _K1 + w2 * _K2)
    last = scramble((w3 + _K3) * _K3)
    return scramble(((w0 + _K1) * _K0) ^ middle ^ last)


@kernel
def at_place(chain: Ints, slot: Int, place: Int) -> tuple[Int, Int]:
    """(block, event in it) of a place of the ring."""
    return natural(chain[slot, place >> 4]), place & 15


@kernel
def rows_of(places: Word, head: Int, count: Int) -> Word:
    """A set of ring places as a set of history rows."""
    turn = np.uint64(head)
    turned = (places >> turn) | (places << ((_64 - turn) & _63))
    return turned << np.uint64(HISTORY - count) if count > 0 else ZERO


@kernel
def four_of(chain: Ints, slot: Int, count: Int) -> Any:
    """The ring's four blocks. Where it has not got one yet, another stands in for it, so that all
    four can be asked; what is said of places from `count` on has no meaning."""
    first = natural(chain[slot, 0]) if count > 0 else 0
    return (
        first,
        natural(chain[slot, 1]) if count > 16 else first,
        natural(chain[slot, 2]) if count > 32 else first,
        natural(chain[slot, 3]) if count > 48 else first,
    )


@kernel
def compare(
    blocks: Words, four: Any, count: Int, w1: Word, w2: Word, w3: Word
) -> tuple[Word, Word, Word, Word, Word, Word, Word]:
    """The ring places whose events share the event's id, place, country, device, amount; those of
    declined payments; and those that enter the windows."""
    if count == 0:
        return ZERO, ZERO, ZERO, ZERO, ZERO, ZERO, ZERO
    used = first_places(count)
    return (
        equal(blocks, four, 2, w2, _ID_MASK) & used,
        equal(blocks, four, 3, w3, _PLACE_MASK) & used,
        equal(blocks, four, 3, w3, _COUNTRY_MASK << _COUNTRY) & used,
        equal(blocks, four, 3, w3, _DEVICE_MASK) & used,
        equal(blocks, four, 1, w1, _AMOUNT_MASK) & used,
        equal(blocks, four, 0, _DECLINED, _RESPONSE) & used,
        equal(blocks, four, 0, _COUNTING, _COUNTING) & used,
    )


@kernel
def first_places(count: Int) -> Word:
    """The set of so many places from 0 on."""
    return ~ZERO >> np.uint64(HISTORY - count) if count > 0 else ZERO


@kernel
def turned(places: Word, by: Int) -> Word:
    """A set of places, each moved on by so many around the ring."""
    turn = np.uint64(by)
    return (places << turn) | (places >> ((_64 - turn) & _63))


@outline
def verdict(blocks: Words, chain: Ints, slot: Int, ids: Word, w2: Word) -> Int:
    """1 if an event in a set of places has the same content, else 2."""
    for place in range(HISTORY):
        if (ids >> np.uint64(place)) & ONE == ONE:
            block, e = at_place(chain, slot, place)
            if blocks[block, 32 + e] == w2:
                return 1
    return 2


@kernel
def copy_history(
    blocks: Words, chain: Ints, slot: Int, head: Int, count: Int, past: Words, row: Int
) -> None:
    """Copy the first `count` events in time order into history `row`, zeros on the left."""
    for j in range(HISTORY - count):
        for word in range(EVENT_WORDS):
            past[row, j, word] = ZERO
    done, place = HISTORY - count, head
    while done < HISTORY:
        block, first = at_place(chain, slot, place)
        run = min(16 - first, HISTORY - done)
        for j in range(run):
            past[row, done + j, 0] = blocks[block, first + j]
            past[row, done + j, 1] = blocks[block, first + j + 16]
            past[row, done + j, 2] = blocks[block, first + j + 32]
            past[row, done + j, 3] = blocks[block, first + j + 48]
        done += run
        place = (place + run) & _63_INT


@kernel
def step(lasts: Word, same: Word, is_last: Flag) -> Word:
    """A set of last rows after one more event, which becomes row 63: all others move down by one.

    `same` are the rows of the event's own place; the one that was the last there is no more.
    """
    if is_last:
        return ((lasts & ~same) >> ONE) | NEWEST_BIT
    return lasts >> ONE


@kernel
def bits_from(lasts: Word, row: Int) -> Word:
    """How many rows of a set are at or behind `row`."""
    return popcount(lasts >> np.uint64(row)) if row < HISTORY else ZERO


@kernel
def is_new(table: Words, mask: Int, key: Word, epoch: Word) -> Flag:
    """Enter a 32-bit key in a table that is never cleared. True if this epoch had not seen it."""
    at = np.int64(key) & mask
    mine = (epoch << _32) | key
    while table[at] >> _32 == epoch:
        if table[at] == mine:
            return False
        at = (at + 1) & mask
    table[at] = mine
    return True


@outline
def trail_of(
    blocks: Words, chain: Ints, slot: Int, head: Int, count: Int, before: Before
) -> tuple[Word, Word, Word]:
    """The trail of the first `count` events, from nothing. For late events and loaded records."""
    before.epoch[0] += ONE
    epoch = before.epoch[0]
    trail, lasts, last_countries = ZERO, ZERO, ZERO
    for i in range(count):
        block, e = at_place(chain, slot, (head + i) & _63_INT)
        w0, w1 = blocks[block, e], blocks[block, 16 + e]
        trail = trail * BASE + event_digest(w0, w1, blocks[block, 32 + e], blocks[block, 48 + e])
    for i in range(count - 1, -1, -1):
        block, e = at_place(chain, slot, (head + i) & _63_INT)
        if not counts(blocks[block, e]):
            continue
        bit = ONE << np.uint64(HISTORY - count + i)
        place, country = place_of(blocks[block, 48 + e]), country_of(blocks[block, 48 + e])
        if place != ZERO and is_new(before.places, PLACE_TABLE - 1, place, epoch):
            lasts |= bit
        if country != ZERO and is_new(before.countries, COUNTRY_TABLE - 1, country, epoch):
            last_countries |= bit
    return trail, lasts, last_countries


@outline
def not_later(
    blocks: Words, chain: Ints, slot: Int, head: Int, count: Int, t: Int
) -> tuple[Int, Int, Word]:
    """How many of a ring's events have a time <= t; of the others, number and sum of counting."""
    later, total, kept = 0, ZERO, count
    while kept > 0:
        block, e = at_place(chain, slot, (head + kept - 1) & _63_INT)
        w0 = blocks[block, e]
        if time_of(w0) <= t:
            break
        if counts(w0):
            later += 1
            total += amount_of(blocks[block, 16 + e])
        kept -= 1
    return kept, later, total
