"""Every Prometheus metric of the service, in one list.

In: numbers from whoever counts. Out: `Metrics`, a registry that an HTTP endpoint serves.
Does not know who reads it. Label values are stages, partitions, reasons and decisions: never an
account, a transaction or a merchant.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Final

from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram

from streams.decide import DECISIONS
from streams.schema import Reject

STAGES: Final = (
    "decode",
    "load",
    "risk",
    "advance",
    "score",
    "settle",
    "commit",
    "deliver",
    "trim",
    "round",
)
"""`risk` is the wait for a risk snapshot; `round` is all of a round, `decode` to `trim`."""
STORE_WAITS: Final = ("full", "loading", "lost")
"""Why a worker waits for the store."""

_SECONDS: Final = (0.0005, 0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 10, 60)
_EVENTS: Final = (1, 4, 16, 64, 256, 1_024, 4_096, 8_192)


class Metrics:
    """All metrics, on one registry of their own."""

    def __init__(self) -> None:
        self.registry = CollectorRegistry()
        self.read = self._counter("transactions_read_total", "Messages read from `transactions`.")
        self.scored = self._counter("transactions_scored_total", "Scores made.")
        self.duplicates = self._counter("duplicates_total", "Repeats without effect.")
        self.dead = self._counter(
            "dead_letters_total", "Messages that became dead letters.", "reason"
        )
        self.erased = self._counter("erasures_total", "Accounts erased by a tombstone.")
        self.late = self._counter("late_total", "Scored events older than the account's newest.")
        self.edge = self._counter(
            "edge_total", "Scored events with a window whose oldest part is known to a pane only."
        )
        self.decisions = self._counter("decisions_total", "Decisions.", "decision")
        self.risk_stale = self._counter(
            "risk_stale_total", "Events scored with an older risk snapshot than their period's."
        )
        self.conflicts = self._counter("conflicts_total", "Commits refused: the offset had moved.")
        self.fenced = self._counter("fenced_total", "Partitions given up to a newer owner.")
        self.store_waits = self._counter(
            "store_waits_total", "Waits for the store, by cause.", "cause"
        )
        self.stale = self._counter("stale_batches_total", "Batches dropped: read before a seek.")
        self.resent = self._counter("resent_entries_total", "Outbox entries sent again at a claim.")
        self.arena_hits = self._counter("arena_hits_total", "Accounts found in memory.")
        self.arena_misses = self._counter("arena_misses_total", "Accounts loaded from the store.")
        self.lag = self._gauge("lag_messages", "Messages in the log and not applied.", "partition")
        self.outbox = self._gauge("outbox_entries", "Entries that Kafka is to confirm.")
        self.partitions = self._gauge("partitions", "Partitions held.")
        self.arena_bytes = self._gauge("arena_bytes", "Memory of the arenas.")
        self.stages = self._histogram("stage_seconds", "Time of one stage.", _SECONDS, "stage")
        self.fill = self._histogram("round_events", "Transactions in one round.", _EVENTS)
        self.latency = self._histogram(
            "delivery_seconds", "From append of the oldest transaction to delivery.", _SECONDS
        )
        # A series that is born at 1 has not risen, for Prometheus: each has to be there before.
        for stage in STAGES:
            self.stages.labels(stage)
        for reason in Reject:
            self.dead.labels(reason.value)
        for decision in DECISIONS:
            self.decisions.labels(decision)
        for cause in STORE_WAITS:
            self.store_waits.labels(cause)
        self._lagging: set[str] = set()

    def set_lag(self, lag: Mapping[int, int]) -> None:
        """Messages that wait, of each partition held. One that was let go is another worker's to
        tell: what was true when it went would stay for ever, and sums of it page somebody."""
        held = {str(partition): number for partition, number in lag.items()}
        for partition in self._lagging - held.keys():
            self.lag.remove(partition)
        for partition, number in held.items():
            self.lag.labels(partition).set(number)
        self._lagging = set(held)

    def count(self, counts: Mapping[str, int]) -> None:
        """Add the counts of one settled batch."""
        self.read.inc(counts["in"])
        self.scored.inc(counts["scored"])
        self.duplicates.inc(counts["duplicate"])
        self.erased.inc(counts["erased"])
        self.late.inc(counts["late"])
        self.edge.inc(counts["edge"])
        for decision in DECISIONS:
            self.decisions.labels(decision).inc(counts[decision])
        for name, number in counts.items():
            if name.startswith("dead_"):
                self.dead.labels(name.removeprefix("dead_")).inc(number)

    def _counter(self, name: str, text: str, *labels: str) -> Counter:
        return Counter(f"fraudstream_{name}", text, labels, registry=self.registry)

    def _gauge(self, name: str, text: str, *labels: str) -> Gauge:
        return Gauge(f"fraudstream_{name}", text, labels, registry=self.registry)

    def _histogram(
        self, name: str, text: str, buckets: tuple[float, ...], *labels: str
    ) -> Histogram:
        return Histogram(
            f"fraudstream_{name}", text, labels, buckets=buckets, registry=self.registry
        )
