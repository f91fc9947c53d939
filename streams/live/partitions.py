"""The partitions this worker holds: claim, arena and place in the log of each.

In: a store, an outbox, and what Kafka says of a log. Out: `Held` per partition, ready to be moved
on. Does not know Faust, nor how a transaction is scored. Used by the worker's one thread only.

A claim fences every earlier owner before anything is read, and what an earlier owner committed but
may not have delivered is delivered again before the first new batch.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field

from streams.errors import PartitionError
from streams.live.outbox import Outbox
from streams.live.patience import Patience
from streams.live.ranges import LogRange
from streams.metrics import Metrics
from streams.state import Arena
from streams.store import Claim, Identity, Store
from streams.store.checks import start_offset

RESEND_ENTRIES = 64
"""Outbox entries sent again under one delivery barrier."""

_logger = logging.getLogger(__name__)


@dataclass(slots=True)
class Held:
    """One partition.

    applied:   the offset in the store, None when nothing ever was applied
    forgotten: erased accounts, by digest, and the offset of each erasure
    sent:      outbox entries delivered and not trimmed yet
    """

    claim: Claim
    arena: Arena
    applied: int | None
    forgotten: Mapping[bytes, int]
    sent: list[int] = field(default_factory=list)


class Partitions:
    """What this worker holds."""

    def __init__(
        self,
        store: Store,
        outbox: Outbox,
        identity: Callable[[], Identity],
        topic: str,
        arena_bytes: int,
        patience: Patience,
        metrics: Metrics,
    ) -> None:
        self.held: dict[int, Held] = {}
        self._store = store
        self._outbox = outbox
        self._identity = identity
        self._topic = topic
        self._arena_bytes = arena_bytes
        self._patience = patience
        self._metrics = metrics

    def claim(self, logs: Mapping[int, LogRange]) -> dict[int, int]:
        """Take these partitions over; return where to read each from. All or nothing is kept."""
        identity = self._identity()
        share = self._arena_bytes // max(len(self.held.keys() | logs.keys()), 1)
        starts = {}
        for partition, log in logs.items():
            self.held.pop(partition, None)
            claim = self._patience(self._store.acquire, partition, identity)
            starts[partition] = start_offset(claim, log.start, log.end, log.committed, self._topic)
            self._resend(claim)
            forgotten = self._patience(self._store.forgotten, claim)
            self.held[partition] = Held(claim, Arena(partition, share), claim.offset, forgotten)
        self._metrics.partitions.set(len(self.held))
        return starts

    def _resend(self, claim: Claim) -> None:
        """Deliver what an earlier owner, or this worker before it died, left in the outbox."""
        entries = self._patience(self._store.pending, claim)
        for at in range(0, len(entries), RESEND_ENTRIES):
            some = entries[at : at + RESEND_ENTRIES]
            self._outbox.deliver([entry for _, entry in some])
            self._patience(self._store.trim, claim, [seq for seq, _ in some])
        self._metrics.resent.inc(len(entries))
        if entries:
            _logger.info(
                "partition %d: sent %d outbox entries again", claim.partition, len(entries)
            )

    def trim(self, held: Held) -> None:
        """Drop from the store's outbox what was delivered. Raises Fenced, Conflict."""
        if held.sent:
            self._patience(self._store.trim, held.claim, held.sent)
            held.sent = []

    def drop(self, partition: int) -> None:
        """Forget a partition and its arena, at once and without a word to the store."""
        self.held.pop(partition, None)
        self._metrics.partitions.set(len(self.held))

    def release(self, partition: int) -> None:
        """Let a partition go in order: trim what was delivered, so that nobody sends it again."""
        held = self.held.get(partition)
        if held is not None:
            try:
                self.trim(held)
            except PartitionError as error:
                _logger.info("partition %d: left untrimmed: %s", partition, error)
        self.drop(partition)
