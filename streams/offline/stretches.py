"""Checksums of a file's bytes, stretch by stretch, that can be looked at before the file is parsed.

In: a file as it is written, or as it is read. Out: `<end>:<checksum>` of each stretch, from the end
of the one before; or a RecordingDamaged that names the stretch.
Does not know Parquet: it is told where a row group ends. What comes after the last is the footer.
"""

from __future__ import annotations

import hashlib
import os
from collections.abc import Sequence
from typing import Any

from streams.errors import RecordingDamaged

READ_BYTES = 1 << 20


class Watched:
    """A file to write into."""

    def __init__(self, out: Any) -> None:
        self._out = out
        self._digest = hashlib.blake2b(digest_size=16)
        self._end = 0
        self.stretches: list[str] = []
        self.closed = False

    def write(self, content: Any) -> int:
        """Called by Arrow, one piece after the other."""
        self._digest.update(content)
        self._out.write(content)
        self._end += len(content)
        return len(content)

    def flush(self) -> None:
        """Called by Arrow; the file's owner flushes it."""

    def cut(self) -> None:
        """Here a stretch ends."""
        self.stretches.append(f"{self._end}:{self._digest.hexdigest()}")
        self._digest = hashlib.blake2b(digest_size=16)


def check(source: Any, size: int, stretches: Sequence[str], name: str) -> None:
    """Compare a file's bytes with their checksums, and go back to its start.

    Raises RecordingDamaged that names the file and the row group.
    """
    found = source.seek(0, os.SEEK_END)
    source.seek(0)
    if found != size:
        raise RecordingDamaged(f"{name} is truncated or not Parquet: {found} bytes, not {size}")
    at = 0
    for number, stretch in enumerate(stretches):
        end, _, expected = stretch.partition(":")
        digest = hashlib.blake2b(digest_size=16)
        while content := source.read(min(READ_BYTES, max(int(end) - at, 0))):
            digest.update(content)
            at += len(content)
        if digest.hexdigest() != expected:
            where = "footer" if number == len(stretches) - 1 else f"row group {number}"
            raise RecordingDamaged(f"{name}, {where}: checksum does not match")
    source.seek(0)
