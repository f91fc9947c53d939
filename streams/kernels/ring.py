"""The ring: the last 64 events of an account in (event_time, arrival) order, and its digest.

In: an account's header, its blocks in the arena's pool, an event. Out: the events in order; the
ring with the event in it, and the event that left it. Does not know windows or features.

A ring of n events takes ceil(n / 16) blocks of 16. The trail is a digest of the ring's events in
order: trail = sum of event_digest(i) * BASE^(n-1-i) modulo 2^64, so that an event at the end and
the loss of the first cost one multiplication each. It is not stored: it follows from the events.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from model.inputs import EVENT_WORDS, HISTORY, ID_SHIFT, TIME_SHIFT
from streams.kernels.record import (
    COUNT_SHIFT,
    FLAGS_SHIFT,
    HEAD_SHIFT,
    HEADER_WORDS,
    ROWS_SHIFT,
    VERSION,
    VERSION_SHIFT,
    kernel,
    mix,
    scramble,
)

Words = NDArray[np.uint64]

BASE = np.uint64(0xD1342543DE82EF95)
BASE_TO_63 = np.uint64(pow(0xD1342543DE82EF95, HISTORY - 1, 2**64))
EVENT_KEYS = np.array(
    [0xA0761D6478BD642F, 0xE7037ED1A0B428DB, 0x8EBC6AF09C88C6E3, 0x589965CC75374CC3],
    dtype=np.uint64,
)
"""Odd multipliers of an event's four words in its digest."""

_BYTE = np.uint64(255)
_TIME = np.uint64(TIME_SHIFT)
_ID = np.uint64(ID_SHIFT)
_COUNT = np.uint64(COUNT_SHIFT)
_HEAD = np.uint64(HEAD_SHIFT)
_FLAGS = np.uint64(FLAGS_SHIFT)
_ROWS = np.uint64(ROWS_SHIFT)
_VERSION = np.uint64(VERSION << VERSION_SHIFT)


@kernel
def unpack_state(w0: np.uint64) -> tuple[int, int, int, int]:
    """(flags, count, head, pane rows) of header word 0."""
    return (
        np.int64((w0 >> _FLAGS) & _BYTE),
        np.int64((w0 >> _COUNT) & _BYTE),
        np.int64((w0 >> _HEAD) & _BYTE),
        np.int64((w0 >> _ROWS) & _BYTE),
    )


@kernel
def pack_state(flags: int, count: int, head: int, rows: int) -> np.uint64:
    """Header word 0."""
    return (
        _VERSION
        | (np.uint64(flags) << _FLAGS)
        | (np.uint64(count) << _COUNT)
        | (np.uint64(head) << _HEAD)
        | (np.uint64(rows) << _ROWS)
    )


@kernel
def event_digest(w0: np.uint64, w1: np.uint64, w2: np.uint64, w3: np.uint64) -> np.uint64:
    """64 bits of one event's words."""
    keys = EVENT_KEYS
    return scramble(
        (w0 + keys[1]) * keys[0]
        ^ scramble((w1 + keys[2]) * keys[1] + w2 * keys[2])
        ^ scramble((w3 + keys[3]) * keys[3])
    )


@kernel
def trail_of(view: Words, first: int) -> np.uint64:
    """The trail of events first.. of a right-aligned history, from nothing."""
    trail = np.uint64(0)
    for j in range(first, HISTORY):
        trail = trail * BASE + event_digest(view[j, 0], view[j, 1], view[j, 2], view[j, 3])
    return trail


@kernel
def gather(blocks: Words, index: NDArray[np.int32], head: int, count: int, view: Words) -> None:
    """Copy a ring in time order into a history, right-aligned, zeros on the left."""
    for j in range(HISTORY - count):
        view[j, 0] = 0
        view[j, 1] = 0
        view[j, 2] = 0
        view[j, 3] = 0
    place = head
    for j in range(HISTORY - count, HISTORY):
        block = index[place >> 4]
        at = (place & 15) * EVENT_WORDS
        view[j, 0] = blocks[block, at]
        view[j, 1] = blocks[block, at + 1]
        view[j, 2] = blocks[block, at + 2]
        view[j, 3] = blocks[block, at + 3]
        place = (place + 1) & (HISTORY - 1)


@kernel
def find_same(view: Words, first: int, w2: np.uint64) -> int:
    """0: the id is new; 1: known with the same content; 2: known with other content."""
    for j in range(first, HISTORY):
        if (view[j, 2] ^ w2) >> _ID == np.uint64(0):
            return 1 if view[j, 2] == w2 else 2
    return 0


@kernel
def events_until(view: Words, first: int, t: int) -> int:
    """How many events of a right-aligned history have a time <= t."""
    j = HISTORY
    while j > first and np.int64(view[j - 1, 0] >> _TIME) > t:
        j -= 1
    return j - first


@kernel
def keep_oldest(view: Words, count: int, kept: int) -> None:
    """Drop the newest of a history's events until `kept` are left, right-aligned again."""
    shift = count - kept
    for j in range(HISTORY - 1, HISTORY - 1 - kept, -1):
        for word in range(EVENT_WORDS):
            view[j, word] = view[j - shift, word]
    for j in range(HISTORY - count, HISTORY - kept):
        for word in range(EVENT_WORDS):
            view[j, word] = 0


@kernel
def put(
    blocks: Words, index: NDArray[np.int32], place: int, event: Words, fresh: bool
) -> np.uint64:
    """Write an event at a place of the ring. Returns the change of the checksum."""
    block = index[place >> 4]
    at = (place & 15) * EVENT_WORDS
    position = HEADER_WORDS + place * EVENT_WORDS
    change = np.uint64(0)
    for word in range(EVENT_WORDS):
        if not fresh:
            change ^= mix(blocks[block, at + word], position + word)
        blocks[block, at + word] = event[word]
        change ^= mix(event[word], position + word)
    return change
