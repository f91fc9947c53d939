"""Record batches unpacked with a limit: a few bytes on the wire may say gigabytes.

In: the compressed bytes of one record batch. Out: the plain ones; or `TooMuch`, before more than
`MAX_UNPACKED_BYTES` were written anywhere. Does not know records, nor what becomes of a batch that
is too much.

`install` puts these functions in the place of aiokafka's (0.14), which take what comes. The broker
does not help: its `message.max.bytes` counts compressed bytes, and it never holds the plain ones.
"""

from __future__ import annotations

import struct
import threading
import zlib
from collections.abc import Callable
from typing import Any, Final

import cramjam
from aiokafka.record._crecords import default_records, legacy_records

from streams.schema import MAX_UNPACKED_BYTES

GZIP_BITS: Final = 31
GZIP_MAGIC: Final = b"\x1f\x8b"
GZIP_PIECE: Final = 4_096
"""Read at once: zlib copies what it was given behind the end of a stream, and of the shortest, of
20 bytes, there may be 50,000 in one batch."""
XERIAL: Final = b"\x82SNAPPY\x00"
XERIAL_HEAD: Final = 16
LENGTH: Final = struct.Struct("!i")


class TooMuch(ValueError):
    """A record batch unpacks to more than MAX_UNPACKED_BYTES."""


def gunzip(packed: Any) -> bytes:
    """Gzip: one stream, or several behind each other. As for Java's reader, what stands behind the
    last and is no stream is nothing."""
    parts: list[bytes] = []
    room, data, at = MAX_UNPACKED_BYTES, memoryview(bytes(packed)), 0
    while not parts or bytes(data[at : at + len(GZIP_MAGIC)]) == GZIP_MAGIC:
        stream = zlib.decompressobj(GZIP_BITS)
        while not stream.eof:
            piece = data[at : at + GZIP_PIECE]
            if not piece:
                raise zlib.error("a gzip stream without an end")
            parts.append(stream.decompress(piece, room + 1))
            room -= len(parts[-1])
            if room < 0:
                raise TooMuch
            at += len(piece) - len(stream.unused_data)
    return b"".join(parts)


def unsnappy(packed: Any) -> bytes:
    """Snappy, plain or in the frames of the Java library. Each block tells its length first."""
    data = bytes(packed)
    if not data.startswith(XERIAL):
        blocks = [data]
    else:
        blocks, at = [], XERIAL_HEAD
        while at < len(data):
            (size,) = LENGTH.unpack_from(data, at)
            at += LENGTH.size
            if size < 0:
                raise ValueError("a snappy block of a negative length")
            blocks.append(data[at : at + size])
            at += size
    if sum(cramjam.snappy.decompress_raw_len(block) for block in blocks) > MAX_UNPACKED_BYTES:
        raise TooMuch
    return b"".join(bytes(cramjam.snappy.decompress_raw(block)) for block in blocks)


_room = bytearray()
"""Where lz4 and zstd unpack; made at the first use."""
_room_lock = threading.Lock()
"""A worker fetches in one thread; but two consumers in one process must not mix their bytes."""


def _into_room(unpack: Callable[[Any, bytearray], int], packed: Any) -> bytes:
    with _room_lock:
        if not _room:
            _room.extend(bytes(MAX_UNPACKED_BYTES))
        try:
            size = unpack(packed, _room)
        except cramjam.DecompressionError as error:
            # What the codecs say when the room is not enough.
            if "failed to write whole buffer" in str(error):
                raise TooMuch from None
            raise
        return bytes(memoryview(_room)[:size])


def unlz4(packed: Any) -> bytes:
    """An lz4 frame."""
    return _into_room(cramjam.lz4.decompress_into, packed)


def unzstd(packed: Any) -> bytes:
    """A zstandard frame."""
    return _into_room(cramjam.zstd.decompress_into, packed)


BOUNDED: Final = {
    "gzip_decode": gunzip,
    "snappy_decode": unsnappy,
    "lz4_decode": unlz4,
    "zstd_decode": unzstd,
}


def install() -> None:
    """From now on aiokafka unpacks with these. Again does nothing."""
    for module in (default_records, legacy_records):
        for name, function in BOUNDED.items():
            if hasattr(module, name):  # the older format knows no zstd
                setattr(module, name, function)
    assert default_records.zstd_decode is unzstd
