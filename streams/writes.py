"""The changed bytes of account records, on their way from an arena to a store.

In: pieces of records. Out: the same, packed. Does not know what a record holds, nor any store.
"""

from __future__ import annotations

import itertools
import struct
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Final

from streams.schema import MAX_BATCH_EVENTS

WHOLE: Final = 0xFFFF_FFFF
"""As the offset of an account's only piece: these bytes replace the record, or begin it."""

Piece = tuple[int, bytes]
"""(offset in the record or WHOLE, bytes); the offset is never past the record's end."""


@dataclass(frozen=True, slots=True)
class Writes:
    """The changed bytes of a step's accounts, packed so that nobody handles them one by one.

    accounts: every changed account once
    counts:   u16 little endian an account: its pieces
    spans:    two u32 little endian a piece: offset in the record (or WHOLE), length
    blob:     the pieces' bytes, one after the other
    """

    accounts: Sequence[str]
    counts: bytes
    spans: bytes
    blob: bytes

    def __post_init__(self) -> None:
        assert len(self.counts) == 2 * len(self.accounts) and len(self.spans) % 8 == 0
        assert len(self.accounts) <= MAX_BATCH_EVENTS

    def __len__(self) -> int:
        return len(self.accounts)

    @classmethod
    def of(cls, changed: Sequence[tuple[str, Sequence[Piece]]]) -> Writes:
        """Pack pieces given one by one."""
        spans = [
            number
            for _, pieces in changed
            for at, content in pieces
            for number in (at, len(content))
        ]
        return cls(
            accounts=[account for account, _ in changed],
            counts=struct.pack(f"<{len(changed)}H", *(len(pieces) for _, pieces in changed)),
            spans=struct.pack(f"<{len(spans)}I", *spans),
            blob=b"".join(content for _, pieces in changed for _, content in pieces),
        )

    def __iter__(self) -> Iterator[tuple[str, list[Piece]]]:
        """The pieces one by one, as `of` takes them."""
        spans = struct.iter_unpack("<II", self.spans)
        counts = struct.iter_unpack("<H", self.counts)
        at = 0
        for account, (count,) in zip(self.accounts, counts, strict=True):
            pieces = []
            for offset, length in itertools.islice(spans, count):
                pieces.append((offset, self.blob[at : at + length]))
                at += length
            yield account, pieces


NO_WRITES: Final = Writes((), b"", b"", b"")
