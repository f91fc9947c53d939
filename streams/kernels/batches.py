"""Texts as Kafka records, those of one partition one after another.

In: keys and values. Out: the partition of each, and the bytes of the records.
Does not know brokers, nor how a batch of records begins.

A record without headers (KIP-98, "message format v2"), numbers as zigzag varints but for the
attributes:

    length | attributes, one byte: 0 | time after the batch's first: 0 | place in the batch |
    length of the key | key | length of the value | value | number of headers: 0
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Final

import numpy as np
from numpy.typing import NDArray

from streams.kernels import SOURCES
from streams.kernels.lexical import Bytes
from streams.kernels.record import Int, entry, kernel
from streams.kernels.texts import Spans, put

MOST_FRAME_BYTES: Final = 24
"""Of a record without headers, beside its key and value."""


@kernel
def _murmur2(data: Bytes, low: Int, high: Int) -> Int:
    """Murmur2 as Kafka's Java clients compute it of a key, 32 bits."""
    mask, factor = 0xFFFFFFFF, 0x5BD1E995
    h = 0x9747B28C ^ (high - low)
    at = low
    while high - at >= 4:
        k = np.int64(data[at]) | np.int64(data[at + 1]) << 8
        k |= np.int64(data[at + 2]) << 16 | np.int64(data[at + 3]) << 24
        k = k * factor & mask
        k = (k ^ k >> 24) * factor & mask
        h = h * factor & mask ^ k
        at += 4
    if at < high:
        for i in range(high - at):
            h ^= np.int64(data[at + i]) << 8 * i
        h = h * factor & mask
    h = (h ^ h >> 13) * factor & mask
    return h ^ h >> 15


@kernel
def _varint_bytes(number: Int) -> Int:
    """Bytes of a number >= 0 as a zigzag varint."""
    size, left = 1, number >> 6
    while left > 0:
        size += 1
        left >>= 7
    return size


@kernel
def _put_varint(out: Bytes, at: Int, number: Int) -> Int:
    """A number >= 0 as a zigzag varint; where it ends."""
    left = number << 1
    while left > 127:
        out[at] = left & 127 | 128
        left >>= 7
        at += 1
    out[at] = left
    return at + 1


def _entries(sources: str) -> tuple[Callable[..., None], Callable[..., None]]:
    """See `streams.kernels` for `sources`."""

    @entry
    def choose_partitions(keys: Bytes, spans: Spans, chosen: NDArray[np.int32], count: Int) -> None:
        """The partition of each key among `count`, as Java's clients and librdkafka choose it."""
        assert sources
        for i in range(len(chosen)):
            chosen[i] = (_murmur2(keys, spans[i, 0], spans[i, 1]) & 0x7FFFFFFF) % count

    @entry
    def put_records(
        keys: Bytes,
        key_spans: Spans,
        values: Bytes,
        bounds: NDArray[np.int64],
        chosen: NDArray[np.int32],
        counts: NDArray[np.int64],
        ends: NDArray[np.int64],
        places: NDArray[np.int64],
        sizes: NDArray[np.int64],
        out: Bytes,
    ) -> None:
        """A record for each row, those of one partition one after another, in the rows' order.

        counts: int64 [partitions], the records that each partition's batch already has; brought
        up to date. ends: int64 [partitions + 1], partition p is out[ends[p] : ends[p + 1]].
        places, sizes: int64 [n], scratch.
        """
        assert sources
        ends[:] = 0
        for i in range(len(chosen)):
            p = chosen[i]
            places[i] = counts[p]
            counts[p] += 1
            key, value = key_spans[i, 1] - key_spans[i, 0], bounds[i + 1] - bounds[i]
            size = 3 + _varint_bytes(places[i])
            size += _varint_bytes(key) + key + _varint_bytes(value) + value
            sizes[i] = size
            ends[p + 1] += size + _varint_bytes(size)
        for p in range(len(counts)):
            ends[p + 1] += ends[p]
        for i in range(len(chosen)):
            p = chosen[i]
            at = _put_varint(out, ends[p], sizes[i])
            out[at] = 0
            out[at + 1] = 0
            at = _put_varint(out, at + 2, places[i])
            at = _put_varint(out, at, key_spans[i, 1] - key_spans[i, 0])
            at = put(out, at, keys, key_spans[i, 0], key_spans[i, 1])
            at = _put_varint(out, at, bounds[i + 1] - bounds[i])
            at = put(out, at, values, bounds[i], bounds[i + 1])
            out[at] = 0
            ends[p] = at + 1
        # Each has moved to where the next one begins.
        for p in range(len(counts), 0, -1):
            ends[p] = ends[p - 1]
        ends[0] = 0

    return choose_partitions, put_records


choose_partitions, put_records = _entries(SOURCES)
