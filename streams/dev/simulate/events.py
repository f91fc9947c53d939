"""The simulator's working form of events: one array a column, codes instead of strings.

In: nothing. Out: `Events`. Does not know cities, habits or frauds; `tables.py` turns the codes into
schema v1 columns.
"""

from __future__ import annotations

from dataclasses import dataclass, fields
from typing import Any

import numpy as np
from numpy.typing import NDArray

NONE = -1
"""The code for "not given" in every coded column."""
NO_POSITION = np.iinfo(np.int32).min

AUTHORIZATION, CAPTURE, TRANSFER, REFUND, REVERSAL, STATUS = range(6)
DEBIT, CREDIT = range(2)
CARD_PRESENT, ECOMMERCE, ATM, TRANSFER_CHANNEL, DIRECT_DEBIT, WALLET = range(6)
CHIP, CONTACTLESS, MAGSTRIPE, MANUAL, ENTRY_ECOMMERCE, ON_FILE = range(6)
APPROVED, DECLINED, REFERRED, PARTIAL, TIMEOUT = range(5)
"""Indices into the tuples of `model/inputs.py`."""


@dataclass(slots=True)
class Events:
    """n events; all arrays have length n.

    merchant indexes the world's merchants, terminal is the number of a till within its merchant,
    scenario is 0 for ordinary life or 1 + the index in `SCENARIOS`; latitude and longitude are
    microdegrees; ip is a country index; fault is 0 or the number of an injected fault.
    """

    time: NDArray[np.int64]
    account: NDArray[np.int32]
    amount: NDArray[np.int64]
    kind: NDArray[np.int8]
    direction: NDArray[np.int8]
    channel: NDArray[np.int8]
    entry: NDArray[np.int8]
    merchant: NDArray[np.int32]
    terminal: NDArray[np.int8]
    counterparty: NDArray[np.int32]
    latitude: NDArray[np.int32]
    longitude: NDArray[np.int32]
    ip: NDArray[np.int16]
    device: NDArray[np.int32]
    auth: NDArray[np.int8]
    scenario: NDArray[np.int8]
    fraud: NDArray[np.bool_]
    fault: NDArray[np.int8]

    def __len__(self) -> int:
        return len(self.time)

    def take(self, index: NDArray[np.intp] | NDArray[np.bool_] | slice) -> Events:
        """The rows of `index`, in its order."""
        return Events(**{f.name: getattr(self, f.name)[index] for f in fields(self)})


def blank(time: NDArray[np.int64], account: NDArray[np.int32]) -> Events:
    """Approved authorizations of these accounts at these times, with nothing else given."""
    n = len(time)
    assert len(account) == n

    def full(value: int, dtype: type) -> NDArray[Any]:
        return np.full(n, value, dtype)

    return Events(
        time=time.astype(np.int64, copy=False),
        account=account.astype(np.int32, copy=False),
        amount=full(0, np.int64),
        kind=full(AUTHORIZATION, np.int8),
        direction=full(DEBIT, np.int8),
        channel=full(NONE, np.int8),
        entry=full(NONE, np.int8),
        merchant=full(NONE, np.int32),
        terminal=full(NONE, np.int8),
        counterparty=full(NONE, np.int32),
        latitude=full(NO_POSITION, np.int32),
        longitude=full(NO_POSITION, np.int32),
        ip=full(NONE, np.int16),
        device=full(NONE, np.int32),
        auth=full(APPROVED, np.int8),
        scenario=full(0, np.int8),
        fraud=np.zeros(n, np.bool_),
        fault=full(0, np.int8),
    )


def concat(parts: list[Events]) -> Events:
    """All parts, in order."""
    return Events(
        **{f.name: np.concatenate([getattr(p, f.name) for p in parts]) for f in fields(Events)}
    )
