"""A fetched partition as a few lists instead of an object for each message.

In: aiokafka's records of one partition, not yet looked at. Out: `Chunk`s, one for each of the
broker's record batches; a `Batch` out of chunks; ranges of a bounded size out of a batch.
Does not know Faust, nor where reading started.

`by_chunks` puts another iterator into aiokafka's `PartitionRecords` before anybody used the first.
It is that iterator (0.12 to 0.14) with the innermost loop replaced: what it does about checksums,
aborted transactions, control records and compaction is aiokafka's own. A batch that unpacks to more
than `MAX_UNPACKED_BYTES` is not read: its messages get values that become dead letters. A message
with a header name that is no text is handed on without its headers (`loose.py`).
"""

from __future__ import annotations

import inspect
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from itertools import chain
from typing import Any

import numpy as np
from aiokafka.consumer.fetcher import READ_COMMITTED
from aiokafka.errors import CorruptRecordException
from faust.types import TP

from streams.batch import Batch, Headers
from streams.live import loose, unpack
from streams.live.ranges import Fetched
from streams.live.unpack import TooMuch
from streams.schema import UNREAD

MESSAGE_BYTES = 256
"""What Python adds to the contents of a message."""
_NO_OFFSETS = np.zeros(0, np.int64)


@dataclass(frozen=True, slots=True)
class Chunk:
    """The messages of one record batch; a time is None where the broker gave none."""

    offsets: list[int]
    timestamps: list[int | None]
    keys: list[bytes | None]
    values: list[bytes | None]
    headers: list[Headers]

    def weight(self) -> int:
        """Bytes of memory, about."""
        contents = sum(map(len, filter(None, self.keys))) + sum(map(len, filter(None, self.values)))
        headers = filter(None, self.headers)
        named = sum(len(name) + len(said or b"") for each in headers for name, said in each)
        return contents + named + MESSAGE_BYTES * len(self.offsets)


def by_chunks(records: Any) -> None:
    """Make a `PartitionRecords` yield chunks. Does nothing the second time."""
    unpack.install()
    if records is not None and not isinstance(records._records_iterator, _Chunks):
        assert inspect.getgeneratorstate(records._records_iterator) == inspect.GEN_CREATED
        records._records_iterator = _Chunks(_chunks(records))


class _Chunks:
    """An iterator of chunks that is known as one."""

    def __init__(self, chunks: Iterator[Chunk]) -> None:
        self._chunks = chunks

    def __next__(self) -> Chunk:
        return next(self._chunks)


def _chunks(records: Any) -> Iterator[Chunk]:
    source = records._records
    while source.has_next():
        batch = source.next_batch()
        if records._check_crcs and not batch.validate_crc():
            raise CorruptRecordException(f"Invalid CRC - {records._tp}")
        if records._isolation_level == READ_COMMITTED and batch.producer_id is not None:
            records._consume_aborted_up_to(batch.base_offset)
            if batch.is_control_batch and records._contains_abort_marker(batch):
                records._aborted_producers.discard(batch.producer_id)
            if batch.is_transactional and batch.producer_id in records._aborted_producers:
                records.next_fetch_offset = batch.next_offset
                continue
        if batch.is_control_batch:
            records.next_fetch_offset = batch.next_offset
            continue
        try:
            chunk = _taken_apart(batch, records.next_fetch_offset)
        except TooMuch:
            chunk = _unread(batch, records.next_fetch_offset)
        except (UnicodeDecodeError, CorruptRecordException):
            again = loose.loosely(source)
            if again is None:
                raise
            chunk = _taken_apart(again, records.next_fetch_offset)
            chunk = replace(chunk, headers=list(map(loose.text_only, chunk.headers)))
        # Past what compaction took from the end of the batch, too.
        records.next_fetch_offset = batch.next_offset
        if chunk.offsets:
            yield chunk


def _taken_apart(batch: Any, first: int) -> Chunk:
    """The messages from offset `first` on: a fetch answers with whole record batches."""
    offsets: list[int] = []
    timestamps: list[int | None] = []
    keys: list[bytes | None] = []
    values: list[bytes | None] = []
    headers: list[Headers] = []
    for record in batch:
        offset = record.offset
        if offset >= first:
            offsets.append(offset)
            timestamps.append(record.timestamp)
            keys.append(record.key)
            values.append(record.value)
            headers.append(record.headers)
    return Chunk(offsets, timestamps, keys, values, headers)


def _unread(batch: Any, first: int) -> Chunk:
    """The same of a batch that unpacks to too much: values that tell so, and become dead letters.

    Compaction may have taken some of these offsets; nothing but the batch could say which.
    """
    offsets = list(range(max(first, batch.base_offset), batch.next_offset))
    many = len(offsets)
    times = [None if batch.max_timestamp < 0 else batch.max_timestamp] * many
    return Chunk(offsets, times, [None] * many, [UNREAD] * many, [()] * many)


def to_batch(tp: TP, chunks: Sequence[Chunk], next_offset: int) -> Batch:
    """One batch of a partition's chunks, if any, their bytes untouched."""
    headers = list(chain.from_iterable(chunk.headers for chunk in chunks))
    times = [-1 if at is None else at for chunk in chunks for at in chunk.timestamps]
    return Batch(
        topic=tp.topic,
        partition=tp.partition,
        offsets=np.concatenate([_NO_OFFSETS, *(np.array(c.offsets, np.int64) for c in chunks)]),
        timestamps=np.array(times, np.int64),
        keys=list(chain.from_iterable(chunk.keys for chunk in chunks)),
        values=list(chain.from_iterable(chunk.values for chunk in chunks)),
        headers=headers if any(headers) else None,
        next_offset=next_offset,
    )


def sliced(batch: Batch, begin: int, epoch: int, limit: int | None) -> Iterator[Fetched]:
    """Ranges of at most `limit` messages, from `begin` to the batch's next offset, without gaps."""
    n = len(batch)
    if limit is None or n <= limit:
        yield Fetched(batch, begin, epoch)
        return
    for at in range(0, n, limit):
        to = min(at + limit, n)
        end = batch.next_offset if to == n else int(batch.offsets[to])
        part = Batch(
            topic=batch.topic,
            partition=batch.partition,
            offsets=batch.offsets[at:to],
            timestamps=batch.timestamps[at:to],
            keys=batch.keys[at:to],
            values=batch.values[at:to],
            headers=None if batch.headers is None else batch.headers[at:to],
            next_offset=end,
        )
        yield Fetched(part, begin, epoch)
        begin = end
