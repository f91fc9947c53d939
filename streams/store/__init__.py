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

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Final, Protocol

from streams.errors import PartitionError
from streams.writes import NO_WRITES, WHOLE, Piece, Writes

__all__ = [
    "KEY_FORMAT",
    "MAX_OUTBOX_ENTRIES",
    "WHOLE",
    "Ask",
    "Claim",
    "Commit",
    "Identity",
    "Piece",
    "Scrub",
    "Store",
    "Writes",
]

KEY_FORMAT: Final = 1
"""Version of the key layout; a store written by another version is refused at `acquire`."""

MAX_OUTBOX_ENTRIES: Final = 4_096
"""Entries of one partition not yet acknowledged by Kafka; a commit above it gets `StoreFull`."""

Scrub = Callable[[bytes], bytes | None]
"""An outbox entry without one account's rows; None when nothing is left of it."""


@dataclass(frozen=True, slots=True)
class Identity:
    """What a partition's state belongs to; a stored partition with another identity is refused.

    topic_id:   Kafka's id of the topic; a topic deleted and made again has another one
    partitions: how many partitions the topic has, hence which accounts are in this one
    model_id:   noted for the operator; may change from claim to claim
    decides:    the thresholds and rules that the owner decides by, noted in the same way
    """

    topic_id: str
    partitions: int
    model_id: str = ""
    decides: str = ""


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


Ask = tuple[Claim, Sequence[str], int | None]
"""What `load` is asked: a claim, accounts, and the offset last seen."""


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

    def load(self, claim: Claim, accounts: Sequence[str], at: int | None) -> list[bytes | None]:
        """The accounts' records in order, None where there is none.

        `at` is the offset last seen: the records are of that moment. Raises Fenced or Conflict
        when the partition has gone on, been taken over or gone back (a restored Redis) since: the
        next commit would be refused anyway, or, after a second restore, wrongly accepted.
        """

    def load_all(self, asked: Sequence[Ask]) -> list[list[bytes | None] | PartitionError]:
        """`load` for several partitions in one round trip; each stands alone.

        A partition's own failure is returned in its place; StoreLost and StoreUnready are raised.
        """

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

        `cut_offset` is where the account's tombstone stands in the log: offsets below it are not
        to be applied again. A partition past it has erased the record itself, and keeps what came
        after.
        """

    def forgotten(self, claim: Claim) -> dict[bytes, int]:
        """The markers: digest of the account (`privacy.account_digest`) -> cut offset."""

    def close(self) -> None:
        """Let connections go. The store holds nothing else."""
