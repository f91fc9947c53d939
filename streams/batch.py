"""A raw micro-batch of one partition: what every source hands to the pipeline.

In: nothing. Out: the type. Does not know whether Kafka, a recording or a file filled it.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

Headers = Sequence[tuple[str, bytes]]


@dataclass(frozen=True, slots=True)
class Batch:
    """n messages of one partition in offset order.

    offsets:    int64 [n], strictly ascending; gaps are allowed (control records, compaction)
    timestamps: int64 [n], broker append time in ms UTC, -1 where unknown
    headers:    one sequence of pairs a message, or None when no message has any
    next_offset: the offset to resume from once this batch is done, > offsets[-1]
    """

    topic: str
    partition: int
    offsets: NDArray[np.int64]
    timestamps: NDArray[np.int64]
    keys: list[bytes | None]
    values: list[bytes | None]
    headers: list[Headers] | None
    next_offset: int

    def __post_init__(self) -> None:
        n = len(self.values)
        assert self.offsets.shape == (n,) and self.timestamps.shape == (n,) and len(self.keys) == n
        assert self.headers is None or len(self.headers) == n
        assert n == 0 or self.next_offset > self.offsets[-1]

    def __len__(self) -> int:
        return len(self.values)

    @property
    def first(self) -> int:
        """The offset of the first message; `next_offset` where there is none."""
        return int(self.offsets[0]) if len(self) else self.next_offset


def headers_of(batches: Sequence[Batch]) -> list[Headers] | None:
    """The headers of batches end to end, one sequence a message; None when no message has any."""
    if not any(batch.headers for batch in batches):
        return None
    return [each for batch in batches for each in (batch.headers or [()] * len(batch))]
