"""The border between `streams` and `model`: the shapes and bits that cross it.

In: nothing. Out: the layout of an event word row and the arrays of one scoring batch.
Does not know where events come from, which window features exist, or what a score is used for.

An event is four u64 words (32 bytes), the same in the Redis record, in the arena, in a training
file and in a scoring batch:

    word 0  event_time ms UTC (44) | event_type (3) | direction (2) | channel (3) | entry_mode (3)
            | auth_response (3) | counts (1) | spare (5)
    word 1  amount in minor units (50) | mcc (14)
    word 2  xxh3-64 of transaction_id, top 48 bits | xxh3-64 of the message bytes, top 16 bits
    word 3  place hash (32) | country (10) | device hash (22)

High bits first. Code 0 of every enumeration means "not given". `counts` is 1 when the event enters
the windows (money leaving the account), 0 when it is history only. The place is merchant_id, else
terminal_id, else counterparty_account_id. A country is 26*a+b+1 of its two letters, 0 if not given.
Hashes are the top bits of xxh3-64 of the UTF-8 string, with 0 kept for "not given" (a hash that
comes out 0 is stored as 1).
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Protocol

import numpy as np
from numpy.typing import NDArray

EVENT_WORDS = 4
"""u64 words an event."""

HISTORY = 64
"""L: past events a score sees, and the length of the ring in a record."""

TIME_BITS, TIME_SHIFT = 44, 20
TYPE_SHIFT, TYPE_MASK = 17, 0x7
DIRECTION_SHIFT, DIRECTION_MASK = 15, 0x3
CHANNEL_SHIFT, CHANNEL_MASK = 12, 0x7
ENTRY_SHIFT, ENTRY_MASK = 9, 0x7
AUTH_SHIFT, AUTH_MASK = 6, 0x7
COUNTS_SHIFT = 5
AMOUNT_SHIFT, AMOUNT_BITS = 14, 50
MCC_MASK = 0x3FFF
ID_SHIFT, CONTENT_MASK = 16, 0xFFFF
PLACE_SHIFT = 32
COUNTRY_SHIFT, COUNTRY_MASK = 22, 0x3FF
DEVICE_MASK = 0x3FFFFF

EVENT_TYPES = ("authorization", "capture", "transfer", "refund", "reversal", "status")
DIRECTIONS = ("debit", "credit")
CHANNELS = ("card_present", "ecommerce", "atm", "transfer", "direct_debit", "wallet", "other")
ENTRY_MODES = ("chip", "contactless", "magstripe", "manual", "ecommerce", "credential_on_file")
AUTH_RESPONSES = ("approved", "declined", "referred", "partial", "timeout")
"""The code of a value is its index + 1; other values of a free-text field get OTHER_CODE."""

OTHER_CODE = 7

NO_CURRENCY = "XXX"
"""ISO 4217 for: no currency."""


@dataclass(frozen=True, slots=True)
class ScoringBatch:
    """What a model needs to score n events; all arrays C-contiguous.

    current:  uint64 [n, 4], the event being scored; its auth_response bits are zero, because the
              response is not known when the score is wanted
    history:  uint64 [n, HISTORY, 4], past events of the account, oldest first, right-aligned:
              row HISTORY-1 is the most recent; unused rows on the left are zero. For a scorer that
              does not look at it [n, 0, 4]
    length:   int32 [n], used rows of history, 0..HISTORY
    features: float32 [n, F], window and risk features in the order of the feature list; NaN never
              occurs, "unknown" is -1
    """

    current: NDArray[np.uint64]
    history: NDArray[np.uint64]
    length: NDArray[np.int32]
    features: NDArray[np.float32]

    def __post_init__(self) -> None:
        n = len(self.current)
        assert self.current.shape == (n, EVENT_WORDS) and self.current.dtype == np.uint64
        assert self.history.shape in ((n, HISTORY, EVENT_WORDS), (n, 0, EVENT_WORDS))
        assert self.history.dtype == np.uint64
        assert self.length.shape == (n,) and self.length.dtype == np.int32
        assert self.features.ndim == 2 and len(self.features) == n
        assert self.features.dtype == np.float32

    def __len__(self) -> int:
        return len(self.current)


def stack(batches: list[ScoringBatch]) -> ScoringBatch:
    """Concatenate batches, in order. Raises ValueError on an empty list."""
    if len(batches) == 1:
        return batches[0]
    return ScoringBatch(
        current=np.concatenate([b.current for b in batches]),
        history=np.concatenate([b.history for b in batches]),
        length=np.concatenate([b.length for b in batches]),
        features=np.concatenate([b.features for b in batches]),
    )


class AnyScorer(Protocol):
    """What a pipeline asks of a model. The score of a row depends on that row alone."""

    @property
    def model_id(self) -> str:
        """Name and digest of the model, as scores and alerts carry it."""
        ...

    @property
    def needs_history(self) -> bool:
        """Whether `ScoringBatch.history` is looked at; without it the gather is left out."""
        ...

    @property
    def fell_back(self) -> bool:
        """Whether the CPU scores in the place of a GPU that failed."""
        ...

    def score(self, batch: ScoringBatch) -> NDArray[np.float64]:
        """Calibrated probabilities, float64 [n]."""
        ...
