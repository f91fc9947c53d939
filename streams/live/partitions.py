"""The partitions this worker holds: claim, arena and place in the log of each.

In: a store, an outbox, and what Kafka says of a log. Out: `Held` per partition, ready to be moved
on. Does not know Faust, nor how a transaction is scored. Used by the worker's one thread only.

A claim fences every earlier owner before anything is read, and what an earlier owner committed but
may not have delivered is delivered again before the first new batch.
"""

from __future__ import annotations

import logging
import time
from collections.abc import Callable, Mapping
from contextlib import suppress
from dataclasses import dataclass, field

from streams.errors import Conflict, Fenced, Overtaken, StoreError
from streams.live.ahead import Ahead
from streams.live.outbox import Outbox
from streams.live.patience import Patience
from streams.live.ranges import LogRange
from streams.live.suspects import Care, Suspects
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
    care:      a worker died here: how to go on; None where no care is needed
    asked:     when the store was last asked whether the claim still holds (monotonic)
    """

    claim: Claim
    arena: Arena
    applied: int | None
    forgotten: Mapping[bytes, int]
    sent: list[int] = field(default_factory=list)
    sent_bytes: int = 0
    care: Care | None = None
    asked: float = field(default_factory=time.monotonic)


class Partitions:
    """What this worker holds."""

    def __init__(
        self,
        store: Store,
        outbox: Outbox,
        suspects: Suspects,
        identity: Callable[[], Identity],
        topic: str,
        arena_bytes: int,
        patience: Patience,
        metrics: Metrics,
    ) -> None:
        self.held: dict[int, Held] = {}
        self.broken = False
        """Whether a round failed by a fault of ours: a message may be why, so notes stay as they
        do after a death."""
        self._store = store
        self._outbox = outbox
        self._suspects = suspects
        self._identity = identity
        self._topic = topic
        self._arena_bytes = arena_bytes
        self._patience = patience
        self._metrics = metrics
        self._ahead = Ahead()
        # Prometheus asks from its own thread, hence the copy.
        metrics.arena_bytes.set_function(
            lambda: sum(each.arena.used_bytes for each in list(self.held.values()))
        )

    def claim(self, logs: Mapping[int, LogRange]) -> dict[int, int]:
        """Take these partitions over; return where to read each from. All or nothing is kept, but
        for a partition that another worker has taken meanwhile: it has a start and is not held."""
        identity = self._identity()
        share = self._arena_bytes // max(len(self.held.keys() | logs.keys()), 1)
        starts, claims = {}, {}
        # All logs are looked at before anything is noted: who asks again after LogShort must not
        # find notes of its own, and take them for deaths.
        for partition, log in logs.items():
            self.held.pop(partition, None)
            claim = claims[partition] = self._patience(self._store.acquire, partition, identity)
            starts[partition] = start_offset(claim, log.start, log.end, log.committed, self._topic)
        for partition, claim in claims.items():
            try:
                self.held[partition] = self._begun(claim, starts[partition], share)
            except Fenced as error:
                _logger.warning("%s; giving the partition up", error)
                self._metrics.fenced.inc()
        self._metrics.partitions.set(len(self.held))
        return starts

    def _begun(self, claim: Claim, start: int, arena_bytes: int) -> Held:
        """What is held of a partition before its first round. Raises Fenced."""
        self._resend(claim)
        forgotten = self._patience(self._store.forgotten, claim)
        held = Held(claim, Arena(claim.partition, arena_bytes), claim.offset, forgotten)
        self.look_ahead(held)
        held.care = self._patience(self._suspects.claimed, claim.partition, start, claim.token)
        if held.care is not None:
            _logger.warning(
                "partition %d: the worker before died; %d messages a round up to offset %d",
                claim.partition,
                held.care.limit,
                held.care.until,
            )
        return held

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

    def look_ahead(self, held: Held) -> None:
        """Have the memory that the next rounds will need made ready, while this one goes on."""
        self._ahead.see(held.arena)

    def trim(self, held: Held) -> None:
        """Drop from the store's outbox what was delivered. Raises Fenced, Conflict."""
        if held.sent:
            self._patience(self._store.trim, held.claim, held.sent)
            held.sent, held.sent_bytes = [], 0

    def limit(self, partition: int) -> int | None:
        """Messages of this partition that may go into one round; None for any number."""
        held = self.held.get(partition)
        return None if held is None or held.care is None else held.care.limit

    def careful(self, held: Held, offset: int, count: int) -> bool:
        """Before a round: note what it begins with. True when this message is to be left unread."""
        if held.care is None:
            return False
        if offset >= held.care.until:
            self._patience(self._suspects.passed, held.claim.partition, held.claim.token)
            held.care = None
            return False
        assert count <= held.care.limit
        if held.care.limit == 1:
            if held.care.condemned == offset:
                return True
            self._patience(self._suspects.trying, held.claim.partition, offset, held.claim.token)
        return False

    def disown(self, partition: int) -> None:
        """Forget a partition of which memory was wrong; claiming it again follows no death, and
        sends nothing again that was delivered."""
        held = self.held.get(partition)
        if held is not None:
            with suppress(Fenced, Conflict):  # Then the next claim finds what is there.
                self.trim(held)
            self._patience(self._suspects.released, partition, held.claim.token)
        self.drop(partition)

    def drop(self, partition: int) -> None:
        """Forget a partition and its arena, at once and without a word to the store."""
        self.held.pop(partition, None)
        self._metrics.partitions.set(len(self.held))

    def release(self, partition: int) -> None:
        """Let a partition go in order: trim what was delivered, so that nobody sends it again.

        Does not wait for a store that is away: the next owner waits for this.
        """
        held = self.held.get(partition)
        if held is not None:
            try:
                if held.sent:
                    with suppress(Overtaken):  # A rebuild has taken the outbox away; nobody died.
                        self._store.trim(held.claim, held.sent)
                if not self.broken:
                    self._suspects.released(partition, held.claim.token)
            except StoreError as error:
                _logger.info("partition %d: not let go in order: %s", partition, error)
        self.drop(partition)

    def release_all(self) -> None:
        """Let every partition go in order."""
        for partition in sorted(self.held):
            self.release(partition)
