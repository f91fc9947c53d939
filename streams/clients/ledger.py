"""The books of one partition: what became of each offset of `transactions`.

In: messages, one at a time. Out: arrays, one element an offset. Does not know Kafka's client, nor
when the books balance (`audit.py`).

A row costs 51 bytes whatever the message's size, so millions of messages fit.
"""

from __future__ import annotations

import re
from collections import Counter
from typing import Any, Final

import numpy as np
import xxhash
from numpy.typing import NDArray

from streams.labels import transaction_key
from streams.schema import Decision, Reject

NEVER: Final = np.iinfo(np.int64).max
DECISIONS: Final = tuple(decision.value for decision in Decision)
NOTHING: Final = -1
BEFORE_MS: Final = 60_000
"""A result appended so long before its transaction is of another message, that had the offset in a
topic of that name that is gone. Clocks of brokers differ by less."""
REFUSED, ERASED = 1, 2
"""Kinds of dead letter: an erasure may replace a score that was published already."""
PRODUCED: Final = re.compile(rb'"produced_time":\d+')


def digest(data: bytes | None) -> int:
    """64 bits of some bytes."""
    return xxhash.xxh3_64_intdigest(data or b"")


def content_of(key: bytes | None, value: bytes | None) -> int:
    """What makes a message the same one: its key and its bytes."""
    return xxhash.xxh3_64_intdigest(value or b"", seed=digest(key))


class Ledger:
    """Offsets base .. end-1 of one partition; rows are offset - base.

    present, null: was a message read there; had it no value (an erasure)
    older:         digests of open messages that stand before the base, too, or earlier in another
                   partition
    content, time: digest of key and value; broker append time (latest: of the last message)
    scored, dead:  what came out of it; decision, late, identity of the score
                   (dead: 0, REFUSED or ERASED; reason: which of `names`, of a dead letter)
    alert:         decision of its alert, NOTHING without one
    repeats:       messages that came a second time, equal to the first, by topic
    foreign:       results of messages of a topic that is gone, by topic; they count for nothing
    faults:        what must not be, counted
    """

    def __init__(self, partition: int, base: int, end: int) -> None:
        n = max(0, end - base)
        self.partition, self.base, self.rows = partition, base, n
        self.present = np.zeros(n, np.bool_)
        self.null = np.zeros(n, np.bool_)
        self.content = np.zeros(n, np.uint64)
        self.time = np.zeros(n, np.int64)
        self.scored = np.zeros(n, np.bool_)
        self.dead = np.zeros(n, np.int8)
        self.reason = np.zeros(n, np.int32)
        self.late = np.zeros(n, np.bool_)
        self.decision = np.full(n, NOTHING, np.int8)
        self.alert = np.full(n, NOTHING, np.int8)
        self.latest = 0
        self.score_time = np.zeros(n, np.int64)
        self.score_content = np.zeros(n, np.uint64)
        self.identity = np.zeros(n, np.uint64)
        self.older: set[int] = set()
        self._alert_content: dict[int, int] = {}
        self.names: dict[str, int] = {}
        self.repeats: Counter[str] = Counter()
        self.foreign: Counter[str] = Counter()
        self.faults: Counter[str] = Counter()

    def _row(self, offset: int) -> int | None:
        """The row of an offset; None outside the books."""
        row = offset - self.base
        return row if 0 <= row < self.rows else None

    def _own_row(self, topic: str, offset: int, time: int) -> int | None:
        """The row that a result is about; None outside the books, and for one of before."""
        row = self._row(offset)
        if row is not None:
            appended = int(self.time[row])
        else:
            # Past the end is what was appended after all that is here, or what was there before.
            appended = self.latest if offset >= self.base + self.rows else 0
        if time < appended - BEFORE_MS:
            self.foreign[topic] += 1
            return None
        return row

    def transaction(self, offset: int, key: bytes | None, value: bytes | None, time: int) -> None:
        """A message of `transactions`."""
        row = self._row(offset)
        if row is None:
            return
        self.present[row] = True
        self.null[row] = value is None
        self.content[row] = content_of(key, value)
        self.time[row] = time
        self.latest = max(self.latest, time)

    def add_score(self, record: dict[str, Any], value: bytes, time: int) -> None:
        """A message of `scores` whose source is this partition, parsed and as it came."""
        row = self._own_row("scores", record["source"]["offset"], time)
        if row is None:
            return
        content = digest(PRODUCED.sub(b"", value))
        if self.scored[row]:
            self._again("scores", content == self.score_content[row])
            return
        self.scored[row] = True
        self.decision[row] = DECISIONS.index(record["decision"])
        self.late[row] = record["late"]
        self.score_time[row] = time
        self.score_content[row] = content
        self.identity[row] = transaction_key(record["account_id"], record["transaction_id"])

    def add_alert(self, record: dict[str, Any], value: bytes, time: int) -> None:
        """A message of `alerts`, likewise."""
        row = self._own_row("alerts", record["source"]["offset"], time)
        if row is None:
            return
        content = digest(PRODUCED.sub(b"", value))
        if self.alert[row] != NOTHING:
            self._again("alerts", content == self._alert_content[row])
            return
        self.alert[row] = DECISIONS.index(record["decision"])
        self._alert_content[row] = content

    def add_dead(self, offset: int, reason: str, time: int) -> None:
        """A dead letter whose source is this partition."""
        row = self._own_row("transactions.dlq", offset, time)
        if row is None:
            return
        if self.dead[row]:
            self._again("transactions.dlq", True)
            return
        self.dead[row] = ERASED if reason == Reject.FORGOTTEN else REFUSED
        self.reason[row] = self.names.setdefault(reason, len(self.names))

    def reasons(self, rows: NDArray[np.bool_]) -> Counter[str]:
        """Why the messages of these rows, dead letters all, were refused."""
        found = np.bincount(self.reason[rows], minlength=len(self.names)).tolist()
        return Counter({name: n for name, n in zip(self.names, found, strict=True) if n})

    def _again(self, topic: str, same: bool) -> None:
        if same:
            self.repeats[topic] += 1
        else:
            self.faults[f"{topic}: a repeat differs from the first"] += 1

    def duplicates(self) -> NDArray[np.bool_]:
        """Rows whose key and bytes stood in the partition before."""
        found = np.zeros(self.rows, np.bool_)
        rows = np.flatnonzero(self.present & ~self.null)
        _, first = np.unique(self.content[rows], return_index=True)
        found[rows] = True
        found[rows[first]] = False
        if self.older:
            found |= np.isin(self.content, np.array(sorted(self.older), np.uint64))
        return found

    def unexplained(self) -> set[int]:
        """Digests of messages without a result, seen here for the first time."""
        left = self.present & ~self.null & ~self.scored & (self.dead == 0) & ~self.duplicates()
        return set(self.content[left].tolist())

    def first_times(self, contents: NDArray[np.uint64]) -> NDArray[np.int64]:
        """When each of these, sorted digests, was first appended here; NEVER where it was not."""
        times = np.full(len(contents), NEVER)
        rows = np.flatnonzero(self.present & ~self.null & np.isin(self.content, contents))
        np.minimum.at(times, np.searchsorted(contents, self.content[rows]), self.time[rows])
        return times

    def close(self) -> dict[str, NDArray[np.bool_]]:
        """Every offset under one heading: scored, dead, duplicate, erasure, missing or waiting.

        Workers apply a partition in order. So an offset without a result is `waiting` when nothing
        after it has one either, and `missing` when something has.
        """
        scored = self.scored & self.present
        dead = (self.dead > 0) & self.present & ~scored
        left = self.present & ~scored & ~dead
        erasure = left & self.null
        duplicate = left & ~self.null & self.duplicates()
        place = np.arange(self.rows)
        results = np.flatnonzero(scored | dead)
        reached = int(results[-1]) if len(results) else -1
        open_ = left & ~self.null & ~duplicate
        untouched = np.flatnonzero(open_ & (place > reached))
        # What stands behind the first untouched message is no duplicate yet.
        worked = place < (int(untouched[0]) if len(untouched) else self.rows)
        return {
            "scored": scored,
            "dead": dead,
            "duplicate": duplicate & worked,
            "erasure": erasure & worked,
            "missing": open_ & worked,
            "waiting": (left & ~worked),
        }

    def contradictions(self) -> Counter[str]:
        """What no correct run leaves behind, counted; the faults met while reading included."""
        found = Counter(self.faults)
        found["a result for an offset that holds no message"] = int(
            ((self.scored | (self.dead > 0)) & ~self.present).sum()
        )
        found["an offset both scored and dead"] = int((self.scored & (self.dead == REFUSED)).sum())
        flagged = self.scored & (self.decision > 0)
        found["no alert for a score to review or block"] = int(
            (flagged & (self.alert == NOTHING)).sum()
        )
        found["an alert without such a score"] = int(((self.alert != NOTHING) & ~flagged).sum())
        found["an alert that decides otherwise than its score"] = int(
            (flagged & (self.alert != NOTHING) & (self.alert != self.decision)).sum()
        )
        return Counter({text: count for text, count in found.items() if count})
