"""Rendered messages as Kafka record batches, one or more for each partition of each topic.

In: `Rendered` entries, each topic's number of partitions. Out: batches that aiokafka's producer
takes in the place of its own `BatchBuilder`. Does not know how they are sent.

Keys choose partitions as Java's clients and librdkafka do, so that joins by key meet in one
partition; a message without a key goes to any. Batches are compressed with lz4. A batch is an
object of Python, a score is not: that is what this file is for.
"""

from __future__ import annotations

import random
import struct
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from typing import Final

import numpy as np
from aiokafka.codec import lz4_encode
from aiokafka.record.util import calc_crc32c, encode_varint
from numpy.typing import NDArray

from streams.alerts import OutMessage, Rendered, Scores
from streams.kernels.batches import MOST_FRAME_BYTES, choose_partitions, put_records

BATCH_BYTES: Final = 900_000
"""Of records, before compression; brokers take 1,048,588 bytes, headers included. A larger message
is alone in its batch."""
LZ4: Final = 3
"""In a batch's attributes (KIP-98)."""
FASTEST: Final = 1
"""Level of compression: aiokafka's own default takes ten times as long and saves a tenth."""

_FRONT: Final = struct.Struct(">qiibI")
"""Base offset, length of what follows, leader epoch, magic, checksum of what follows it."""
_REST: Final = struct.Struct(">hiqqqhii")
"""Attributes, place of the last record, first and last time, the producer's id and epoch, its first
sequence number, number of records; then the records."""
_AFTER_LENGTH: Final = 9
"""Bytes of `_FRONT` behind the length."""
_MAGIC: Final = 2
_NO_EPOCH: Final = -1


@dataclass(slots=True)
class RecordBatch:
    """Records of one partition. What has an underscore is what aiokafka 0.14 asks a builder for."""

    topic: str
    partition: int
    time_ms: int
    count: int = 0
    size: int = 0
    _parts: list[bytes] = field(default_factory=list)
    _built: bytes = b""
    _producer: tuple[int, int, int] = (-1, -1, -1)

    def add(self, records: bytes, count: int) -> None:
        """More records, numbered from `count` on."""
        self._parts.append(records)
        self.count += count
        self.size += len(records)

    def record_count(self) -> int:
        """For aiokafka's sequence numbers."""
        return self.count

    def closed(self) -> bool:
        """Nothing is added behind our back, and nothing is waited for."""
        return True

    def _set_producer_state(self, producer_id: int, epoch: int, sequence: int) -> None:
        self._producer = (producer_id, epoch, sequence)

    def _build(self) -> bytes:
        """The bytes to send; the same again when they are sent again."""
        if not self._built:
            body = lz4_encode(b"".join(self._parts), level=FASTEST)
            times = (self.time_ms, self.time_ms)
            rest = _REST.pack(LZ4, self.count - 1, *times, *self._producer, self.count) + body
            length, checksum = _AFTER_LENGTH + len(rest), calc_crc32c(rest)
            self._built = _FRONT.pack(0, length, _NO_EPOCH, _MAGIC, checksum) + rest
            self._parts.clear()
        return self._built


def packed(
    entries: Iterable[Rendered],
    partitions: Mapping[str, int],
    time_ms: int,
    topic: Callable[[str], str] = str,
) -> list[RecordBatch]:
    """The batches of these entries. `topic` gives a schema's name its name at the brokers, and
    `partitions` says how many the topic of that name has."""
    packer = Packer(partitions, time_ms)
    for scores, others in entries:
        if len(scores):
            packer.scores(topic("scores"), scores)
        for message in others:
            packer.message(topic(message.topic), message)
    return packer.batches


class Packer:
    """Fills batches. `partitions` says how many each topic has."""

    def __init__(self, partitions: Mapping[str, int], time_ms: int) -> None:
        self._partitions = partitions
        self._time_ms = time_ms
        self._open: dict[tuple[str, int], RecordBatch] = {}
        self.batches: list[RecordBatch] = []
        """Those of one partition in order."""

    def _batch(self, topic: str, partition: int, size: int) -> RecordBatch:
        """The batch that takes `size` more bytes."""
        batch = self._open.get((topic, partition))
        if batch is None or batch.size + size > BATCH_BYTES:
            batch = RecordBatch(topic, partition, self._time_ms)
            self._open[topic, partition] = batch
            self.batches.append(batch)
        return batch

    def message(self, topic: str, message: OutMessage) -> None:
        """One message, headers and all."""
        count = self._partitions[topic]
        partition = random.randrange(count) if message.key is None else _chosen(message.key, count)
        size = len(message.key or b"") + len(message.value or b"")
        batch = self._batch(topic, partition, size + MOST_FRAME_BYTES)
        batch.add(_record(batch.count, message), 1)

    def scores(self, topic: str, scores: Scores) -> None:
        """All scores of an entry, by a kernel; in parts that surely fit into batches."""
        count = self._partitions[topic]
        chosen = np.empty(len(scores), np.int32)
        choose_partitions(*scores.keys, chosen, count)
        for low, high in _parts(scores):
            self._some(topic, scores, low, high, chosen[low:high], count)

    def _some(
        self,
        topic: str,
        scores: Scores,
        low: int,
        high: int,
        chosen: NDArray[np.int32],
        count: int,
    ) -> None:
        spans, bounds = scores.keys.spans[low:high], scores.bounds[low : high + 1]
        most = _bytes(spans, bounds)
        touched = np.flatnonzero(np.bincount(chosen, minlength=count)).tolist()
        batches = {partition: self._batch(topic, partition, most) for partition in touched}
        counts = np.zeros(count, np.int64)
        for partition, batch in batches.items():
            counts[partition] = batch.count
        ends = np.empty(count + 1, np.int64)
        scratch = np.empty((2, high - low), np.int64)
        out = np.empty(most, np.uint8)
        put_records(
            scores.keys.data, spans, scores.values, bounds, chosen, counts, ends, *scratch, out
        )
        assert ends[-1] <= most
        for partition, batch in batches.items():
            records = out[ends[partition] : ends[partition + 1]].tobytes()
            batch.add(records, int(counts[partition]) - batch.count)


def _bytes(spans: NDArray[np.int64], bounds: NDArray[np.int64]) -> int:
    """The most that the records of these keys and values take."""
    keys = int((spans[:, 1] - spans[:, 0]).sum())
    return keys + int(bounds[-1] - bounds[0]) + len(spans) * MOST_FRAME_BYTES


def _parts(scores: Scores) -> Iterator[tuple[int, int]]:
    """Runs of rows that fit into one batch, whatever their partitions."""
    if _bytes(scores.keys.spans, scores.bounds) <= BATCH_BYTES:
        yield 0, len(scores)
        return
    spans = scores.keys.spans
    size = np.diff(scores.bounds) + spans[:, 1] - spans[:, 0] + MOST_FRAME_BYTES
    ends = np.cumsum(size)
    low = 0
    while low < len(scores):
        reach = BATCH_BYTES + (int(ends[low - 1]) if low else 0)
        high = max(int(np.searchsorted(ends, reach, "right")), low + 1)
        yield low, high
        low = high


def _chosen(key: bytes, count: int) -> int:
    chosen = np.empty(1, np.int32)
    spans = np.array([[0, len(key)]])
    choose_partitions(np.frombuffer(key, np.uint8), spans, chosen, count)
    return int(chosen[0])


def _record(place: int, message: OutMessage) -> bytes:
    """One record; see `kernels/batches.py`. A null is of length -1."""
    out = bytearray(1)
    write = out.append
    encode_varint(0, write)
    encode_varint(place, write)
    for content in (message.key, message.value):
        _put_bytes(out, content)
    encode_varint(len(message.headers), write)
    for name, content in message.headers:
        _put_bytes(out, name.encode())
        _put_bytes(out, content)
    length = bytearray()
    encode_varint(len(out), length.append)
    return bytes(length + out)


def _put_bytes(out: bytearray, content: bytes | None) -> None:
    encode_varint(-1 if content is None else len(content), out.append)
    out += content or b""
