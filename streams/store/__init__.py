"""The state store: what an account's history is kept in, and the one step that moves it on.

In: records and outbox entries as opaque bytes. Out: the `Store` protocol and its types.
Does not know what a record or an entry holds, nor where transactions come from.

The promise every store keeps (`tests/contract/test_store.py` runs one list over all of them):

1. `acquire` takes the partition over: from its return on, no commit, trim or load-and-commit of an
   earlier claim has any effect; the earlier owner gets `Fenced`.
2. `commit` does everything or nothing: records, erasures, outbox entry and offset together, and
   only if the claim is the newest, the stored offset is `expected`, and nobody was erased since.
3. A commit repeated after a lost answer has no second effect and answers like the first.
4. The outbox loses an entry by `trim` alone: by name, under the newest claim, never by count.

Errors: `Fenced` (give the partition up), `Conflict` (drop what you know, acquire again),
`StoreFull` (nothing was written: wait, then repeat the same call), `StoreLost` (no answer came:
repeat the same call with the same arguments; it is safe), `StoreUnready` (a person must act).
"""

from __future__ import annotations

import itertools
import struct
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Final, Protocol

from streams.errors import PartitionError

KEY_FORMAT: Final = 1
"""Version of the key layout; a store written by another version is refused at `acquire`."""

WHOLE: Final = 0xFFFF_FFFF
"""As the offset of an account's only piece: these bytes replace the record, or begin it."""

MAX_COMMIT_ACCOUNTS: Final = 8_192
MAX_RECORD_BYTES: Final = 65_536
MAX_OUTBOX_ENTRIES: Final = 4_096
"""Entries of one partition not yet acknowledged by Kafka; a commit above it gets `StoreFull`."""

Piece = tuple[int, bytes]
"""(offset in the record or WHOLE, bytes); the offset is never past the record's end."""

Scrub = Callable[[bytes], bytes | None]
"""An outbox entry without one account's rows; None when nothing is left of it."""


@dataclass(frozen=True, slots=True)
class Identity:
    """What a partition's state belongs to; a stored partition with another identity is refused.

    topic_id:   Kafka's id of the topic; a topic deleted and made again has another one
    partitions: how many partitions the topic has, hence which accounts are in this one
    model_id:   noted for the operator; may change from claim to claim
    """

    topic_id: str
    partitions: int
    model_id: str = ""


@dataclass(frozen=True, slots=True)
class Claim:
    """The right to move one partition on, until somebody else acquires it.

    offset:   first offset not yet applied; None when nothing ever was
    erasures: how many accounts were erased from outside so far; a commit under an older count
              gets `Conflict`
    model_id: the model of the claim before this one ("" when there was none)
    """

    partition: int
    token: int
    owner: str
    generation: int
    offset: int | None
    erasures: int
    model_id: str


@dataclass(frozen=True, slots=True)
class Writes:
    """The changed bytes of a step's accounts, packed so that nobody handles them one by one.

    accounts: every changed account once
    counts:   u16 little endian an account: its pieces
    spans:    two u32 little endian a piece: offset in the record (or WHOLE), length
    blob:     the pieces' bytes, one after the other

    Which form is cheaper was measured (benchmarks/store.py): WHOLE costs the server less than two
    pieces up to a record of about 1 KB, and leaves no slack, where a piece past the end of the
    record makes Redis reserve up to twice its length.
    """

    accounts: Sequence[str]
    counts: bytes
    spans: bytes
    blob: bytes

    def __post_init__(self) -> None:
        assert len(self.counts) == 2 * len(self.accounts) and len(self.spans) % 8 == 0
        assert len(self.accounts) <= MAX_COMMIT_ACCOUNTS

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
        at = 0
        for account, (count,) in zip(
            self.accounts, struct.iter_unpack("<H", self.counts), strict=True
        ):
            pieces = []
            for offset, length in itertools.islice(spans, count):
                pieces.append((offset, self.blob[at : at + length]))
                at += length
            yield account, pieces


NO_WRITES: Final = Writes((), b"", b"", b"")


@dataclass(frozen=True, slots=True)
class Commit:
    """One step of one partition.

    expected: the offset last seen (`claim.offset`, then the `next` of the commit before)
    next:     first offset not yet applied after this step, above `expected`; also the sequence
              number of `entry`
    writes:   the changed bytes of the records; an account erased in the same step comes WHOLE
    erased:   (account, offset of its tombstone): the record goes before `writes` are made, and a
              marker stays that offsets below are not to be applied again
    entry:    what is to be published, packed; None when nothing is
    """

    expected: int | None
    next: int
    writes: Writes = NO_WRITES
    erased: Sequence[tuple[str, int]] = ()
    entry: bytes | None = None

    def __post_init__(self) -> None:
        assert self.next >= 0 and (self.expected is None or self.next > self.expected)
        assert self.entry is None or self.entry


class Store(Protocol):
    """All calls block; a store may be used from several threads."""

    def check(self) -> None:
        """Is the store fit to hold state? Raises StoreUnready with the remedy."""

    def acquire(self, partition: int, identity: Identity) -> Claim:
        """Take the partition over. Raises StoreUnready when its state belongs to another topic."""

    def load(self, claim: Claim, accounts: Sequence[str]) -> list[bytes | None]:
        """The accounts' records in order, None where there is none."""

    def commit(self, claim: Claim, commit: Commit) -> None:
        """Do one step, or raise one of the errors above and do nothing."""

    def commit_all(self, steps: Sequence[tuple[Claim, Commit]]) -> list[PartitionError | None]:
        """Steps of several partitions in one round trip (and one disk sync); each stands alone.

        A partition's own failure is returned in its place; StoreLost is raised.
        """

    def pending(self, claim: Claim) -> list[tuple[int, bytes]]:
        """The outbox, by ascending sequence: what may not have reached Kafka."""

    def trim(self, claim: Claim, seqs: Sequence[int]) -> None:
        """Drop the outbox entries with these sequence numbers. Raises Fenced, Conflict."""

    def forget(self, partition: int, account: str, cut_offset: int, scrub: Scrub) -> None:
        """Erase an account from outside: record, outbox rows; leave a marker, count the erasure.

        Offsets of the account below `cut_offset` are not to be applied again.
        """

    def forgotten(self, claim: Claim) -> dict[bytes, int]:
        """The markers: digest of the account (`privacy.account_digest`) -> cut offset."""

    def close(self) -> None:
        """Let connections go. The store holds nothing else."""
