"""Ranges of offsets, and who keeps them: what the micro-batch consumer and the service agree on.

In: nothing. Out: the types. Does not know how Faust fetches.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Protocol

from faust.types import TP

from streams.batch import Batch


@dataclass(frozen=True, slots=True)
class LogRange:
    """What Kafka knows of a partition: first and next offset, and the group's commit, if any."""

    start: int
    end: int
    committed: int | None


@dataclass(frozen=True, slots=True)
class Fetched:
    """A batch and the range of offsets [begin, batch.next_offset) that it accounts for."""

    batch: Batch
    begin: int
    epoch: int

    @property
    def tp(self) -> TP:
        """Whose range it is."""
        return TP(self.batch.topic, self.batch.partition)


@dataclass(frozen=True, slots=True)
class Reach:
    """How far reading came: end of the last range, next offset to fetch, end of the log.

    `position` may be past `fetched`: a control record was all that a fetch found.
    """

    fetched: int
    position: int
    end: int

    def lag(self, applied: int) -> int:
        """Messages not applied, when all up to `applied` are."""
        return self.end - (self.position if applied >= self.fetched else applied)


class Ownership(Protocol):
    """Who keeps the offsets. All calls come from the event loop, one at a time."""

    async def claim(self, log: Mapping[TP, LogRange]) -> Mapping[TP, int]:
        """Partitions were assigned: take them over; answer where to read from. May refuse."""

    async def placed(self, positions: Mapping[TP, int], epoch: int) -> None:
        """From `epoch` on, ranges of these partitions begin at these offsets."""

    def close(self, partitions: Sequence[TP]) -> None:
        """Partitions are about to be revoked: rounds going on may end, and none begins."""

    async def release(self, partitions: Sequence[TP]) -> None:
        """Partitions were revoked: forget everything about them."""
