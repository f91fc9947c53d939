"""The store in this process's memory: for replay, backtests and tests.

In: claims and commits. Out: records, outbox, markers, under the same contract as Redis.
Does not know Redis, and outlives nothing: what it holds ends with the object.
"""

from __future__ import annotations

import threading
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import ParamSpec, TypeVar

from streams.errors import Conflict, Fenced, Overtaken, PartitionError, StoreFull, StoreUnready
from streams.privacy import account_digest
from streams.store import MAX_OUTBOX_ENTRIES, WHOLE, Ask, Claim, Commit, Identity, Scrub, Writes

P = ParamSpec("P")
T = TypeVar("T")


@dataclass(slots=True)
class _Part:
    """One partition: the fields of the Redis hash and the keys beside it."""

    identity: Identity | None = None
    token: int = 0
    offset: int | None = None
    erasures: int = 0
    records: dict[str, bytes] = field(default_factory=dict)
    outbox: dict[int, bytes] = field(default_factory=dict)
    gone: dict[bytes, int] = field(default_factory=dict)

    def mark(self, account: str, cut_offset: int) -> None:
        name = account_digest(account)
        self.gone[name] = max(cut_offset, self.gone.get(name, -1))

    def write(self, writes: Writes) -> None:
        for account, pieces in writes:
            record = bytearray(self.records.get(account, b""))
            for at, content in pieces:
                if at == WHOLE:
                    assert len(pieces) == 1, "WHOLE is an account's only piece"
                    record, at = bytearray(), 0
                assert at <= len(record), "a piece past the end of the record"
                record[at : at + len(content)] = content
            if pieces:
                self.records[account] = bytes(record)


def _compare(claim: Claim, part: _Part, at: int | None) -> None:
    """Is the partition where the caller last saw it? Raises Conflict."""
    if part.offset != at:
        raise Conflict(f"the stored offset is {part.offset}", partition=claim.partition, offset=at)
    if part.erasures != claim.erasures:
        raise Overtaken("an account was erased", partition=claim.partition, offset=at)


def _or_error(call: Callable[P, T], *args: P.args, **kwargs: P.kwargs) -> T | PartitionError:
    try:
        return call(*args, **kwargs)
    except PartitionError as error:
        return error


class MemoryStore:
    """A Store in a dictionary; every call holds one lock."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._parts: dict[int, _Part] = {}

    def check(self) -> None:
        """Memory is always fit."""

    def acquire(self, partition: int, identity: Identity) -> Claim:
        with self._lock:
            part = self._parts.setdefault(partition, _Part())
            known = part.identity
            if known is not None and known.topic_id != identity.topic_id:
                raise StoreUnready(f"partition {partition} holds the state of another topic")
            if known is not None and known.partitions != identity.partitions:
                raise StoreUnready(f"partition {partition} is of {known.partitions} partitions")
            part.identity = identity
            part.token += 1
            return Claim(
                partition=partition,
                token=part.token,
                owner=str(part.token),
                generation=0,
                offset=part.offset,
                erasures=part.erasures,
                model_id="" if known is None else known.model_id,
            )

    def load(self, claim: Claim, accounts: Sequence[str], at: int | None) -> list[bytes | None]:
        with self._lock:
            part = self._held(claim)
            _compare(claim, part, at)
            records = part.records
            return [records.get(account) for account in accounts]

    def load_all(self, asked: Sequence[Ask]) -> list[list[bytes | None] | PartitionError]:
        return [_or_error(self.load, *ask) for ask in asked]

    def commit(self, claim: Claim, commit: Commit) -> None:
        with self._lock:
            part = self._held(claim)
            if part.offset == commit.next:
                return
            _compare(claim, part, commit.expected)
            if commit.entry is not None and len(part.outbox) >= MAX_OUTBOX_ENTRIES:
                raise StoreFull("the outbox is full", partition=claim.partition)
            for account, cut_offset in commit.erased:
                part.mark(account, cut_offset)
                part.records.pop(account, None)
            part.write(commit.writes)
            if commit.entry is not None:
                part.outbox[commit.next] = commit.entry
            part.offset = commit.next

    def commit_all(self, steps: Sequence[tuple[Claim, Commit]]) -> list[PartitionError | None]:
        return [_or_error(self.commit, *step) for step in steps]

    def pending(self, claim: Claim) -> list[tuple[int, bytes]]:
        with self._lock:
            return sorted(self._parts[claim.partition].outbox.items())

    def trim(self, claim: Claim, seqs: Sequence[int]) -> None:
        with self._lock:
            outbox = self._held(claim).outbox
            for seq in seqs:
                outbox.pop(seq, None)

    def forget(self, partition: int, account: str, cut_offset: int, scrub: Scrub) -> None:
        with self._lock:
            part = self._parts.setdefault(partition, _Part())
            part.mark(account, cut_offset)
            if part.offset is None or part.offset <= cut_offset:
                part.records.pop(account, None)
                part.erasures += 1
            for seq, entry in list(part.outbox.items()):
                kept = scrub(entry)
                if kept is None:
                    del part.outbox[seq]
                else:
                    part.outbox[seq] = kept

    def forgotten(self, claim: Claim) -> dict[bytes, int]:
        with self._lock:
            return dict(self._parts[claim.partition].gone)

    def close(self) -> None:
        """Nothing to let go."""

    def _held(self, claim: Claim) -> _Part:
        """The partition, if the claim is the newest. Raises Fenced."""
        part = self._parts[claim.partition]
        if part.token != claim.token:
            raise Fenced("a newer owner holds the partition", partition=claim.partition)
        return part
