"""The ring: the last 64 events of an account in (event_time, arrival) order.

In: an account's blocks in the arena's pool. Out: its events as a history; what a new event finds
among them; the trail. Does not know windows, features or how an event gets in (update.py).

A history has 64 rows: the events in time order, right-aligned, so that row 63 is the newest. A ring
of n events takes ceil(n / 16) blocks of 16.

The trail of a history is three words. First a digest of its events in order: the sum of
event_digest(i) * BASE^(n-1-i) modulo 2^64. Then two sets of rows, as bits: the counting events that
are the last at their place, and the last in their country. With them the number of different
places since row s is the number of bits from s on. All three follow from the events, so they are
not stored, and an event at the end changes them in a few operations.
"""

from __future__ import annotations

import numpy as np

from model.inputs import (
    AMOUNT_SHIFT,
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
_BYTE = np.uint64(255)
_TIME = np.uint64(TIME_SHIFT)
_AMOUNT = np.uint64(AMOUNT_SHIFT)
_COUNTS = np.uint64(COUNTS_SHIFT)
_ID = np.uint64(ID_SHIFT)
_PLACE = np.uint64(PLACE_SHIFT)
_COUNTRY = np.uint64(COUNTRY_SHIFT)
_COUNTRY_MASK = np.uint64(COUNTRY_MASK)
_DEVICE_MASK = np.uint64(DEVICE_MASK)
_COUNT = np.uint64(COUNT_SHIFT)
_HEAD = np.uint64(HEAD_SHIFT)
_FLAGS = np.uint64(FLAGS_SHIFT)
_ROWS = np.uint64(ROWS_SHIFT)
_VERSION = np.uint64(VERSION << VERSION_SHIFT)
_32 = np.uint64(32)


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
def gather(
    blocks: Words, chain: Ints, slot: Int, head: Int, count: Int, past: Words, row: Int
) -> None:
    """Copy a ring in time order into rows 64 - count .. 63 of history `row`."""
    done, place = HISTORY - count, head
    while done < HISTORY:
        block, at = chain[slot, place >> 4], place & 15
        run = min(16 - at, HISTORY - done)
        for j in range(run):
            for word in range(EVENT_WORDS):
                past[row, done + j, word] = blocks[block, (at + j) * EVENT_WORDS + word]
        done += run
        place = (place + run) & (HISTORY - 1)


@kernel
def blank(past: Words, row: Int, until: Int) -> None:
    """Zero the rows before `until`."""
    for j in range(until):
        for word in range(EVENT_WORDS):
            past[row, j, word] = ZERO


@kernel
def known(past: Words, row: Int, first: Int, w2: Word) -> Int:
    """0: the id is new; 1: known with the same content; 2: known with other content."""
    same = 0
    for j in range(first, HISTORY):
        same = max(same, j + 1 if (past[row, j, 2] ^ w2) >> _ID == ZERO else 0)
    if same == 0:
        return 0
    return 1 if past[row, same - 1, 2] == w2 else 2


@kernel
def compare(
    past: Words, row: Int, first: Int, w1: Word, w3: Word
) -> tuple[Int, Int, Int, Int, Int, Int]:
    """An event against those of a history: how many share its place, country, device, amount; and
    row + 1 of the last counting one at its place, and in its country, 0 = none."""
    places, countries, devices, amounts, last_place, last_country = 0, 0, 0, 0, 0, 0
    for j in range(first, HISTORY):
        other = past[row, j, 3] ^ w3
        counting = counts(past[row, j, 0])
        place = place_of(other) == ZERO
        country = country_of(other) == ZERO
        places += place
        countries += country
        devices += other & _DEVICE_MASK == ZERO
        amounts += amount_of(past[row, j, 1] ^ w1) == ZERO
        last_place = max(last_place, j + 1 if place & counting else 0)
        last_country = max(last_country, j + 1 if country & counting else 0)
    return places, countries, devices, amounts, last_place, last_country


@kernel
def step(lasts: Word, last: Int, is_last: Flag) -> Word:
    """A set of rows after one more event: all move down by one, the event is row 63.

    `last` is row + 1 of the one that was last at the event's place so far.
    """
    if is_last:
        if last > 0:
            lasts &= ~(ONE << np.uint64(last - 1))
        return (lasts >> ONE) | NEWEST_BIT
    return lasts >> ONE


@kernel
def bits_from(lasts: Word, row: Int) -> Word:
    """How many rows of a set are at or behind `row`."""
    return popcount(lasts >> np.uint64(row)) if row < HISTORY else ZERO


@kernel
def popcount(x: Word) -> Word:
    """Set bits of a word."""
    x = x - ((x >> ONE) & np.uint64(0x5555555555555555))
    x = (x & np.uint64(0x3333333333333333)) + ((x >> np.uint64(2)) & np.uint64(0x3333333333333333))
    x = (x + (x >> np.uint64(4))) & np.uint64(0x0F0F0F0F0F0F0F0F)
    return (x * np.uint64(0x0101010101010101)) >> np.uint64(56)


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
def trail_of(past: Words, row: Int, first: Int, before: Before) -> tuple[Word, Word, Word]:
    """The trail of a history, from nothing. For late events and loaded records."""
    before.epoch[0] += ONE
    epoch = before.epoch[0]
    trail, lasts, last_countries = ZERO, ZERO, ZERO
    for j in range(first, HISTORY):
        w0, w1, w2, w3 = past[row, j, 0], past[row, j, 1], past[row, j, 2], past[row, j, 3]
        trail = trail * BASE + event_digest(w0, w1, w2, w3)
    for j in range(HISTORY - 1, first - 1, -1):
        if not counts(past[row, j, 0]):
            continue
        place, country = place_of(past[row, j, 3]), country_of(past[row, j, 3])
        if place != ZERO and is_new(before.places, PLACE_TABLE - 1, place, epoch):
            lasts |= ONE << np.uint64(j)
        if country != ZERO and is_new(before.countries, COUNTRY_TABLE - 1, country, epoch):
            last_countries |= ONE << np.uint64(j)
    return trail, lasts, last_countries


@outline
def keep_until(past: Words, row: Int, first: Int, t: Int) -> tuple[Int, Int, Word]:
    """Drop the events later than t from a history, right-aligned again.

    Returns the first row left; of those dropped, the number and sum of the counting ones.
    """
    later, total, dropped = 0, ZERO, 0
    j = HISTORY - 1
    while j >= first and time_of(past[row, j, 0]) > t:
        dropped += 1
        if counts(past[row, j, 0]):
            later += 1
            total += amount_of(past[row, j, 1])
        j -= 1
    while j >= first:
        for word in range(EVENT_WORDS):
            past[row, j + dropped, word] = past[row, j, word]
        j -= 1
    return first + dropped, later, total
