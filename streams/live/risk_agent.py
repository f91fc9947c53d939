"""Builds the risk snapshots live from all of `transactions` and `labels`, and publishes them.

In: settings; Kafka; Redis. Out: snapshots in Redis. Does not know the workers; they wait for it.

One process per worker runs `risk_lock.serve`; the one that holds the lock builds.
The state is a function of the two topics alone. Snapshots go to Redis together with the offsets
from which a builder after this one can go on (about `delay` + 30 days back), so that a new builder
starts there and not at the start of the log.
"""

from __future__ import annotations

import logging
from collections.abc import Callable
from typing import Final

from confluent_kafka import KafkaException

from streams.decode import decode
from streams.errors import BrokerError
from streams.labels import decode_labels
from streams.live.risk_lock import Leadership
from streams.live.risk_log import Chunk, RiskLog
from streams.live.risk_store import KEEP_DAYS, RiskStore
from streams.risk import digest_of
from streams.risk_feed import NO_PERIOD, RiskFeed
from streams.risk_pace import Pace
from streams.settings import Settings

AHEAD_DAYS: Final = 20
"""A partition so far ahead of the slowest one is not read on: memory holds what lies between."""

_logger = logging.getLogger(__name__)


class Builder:
    """Builds while it holds the lock."""

    def __init__(self, settings: Settings, store: RiskStore, lead: Leadership) -> None:
        self._store = store
        self._lead = lead
        self._max_future_ms = settings.worker.max_future_s * 1_000
        self._pace = Pace.of(settings.risk)
        self._log = RiskLog(settings)
        self._kept: dict[int, str] = {}
        self._marked = NO_PERIOD
        self._marks: dict[tuple[str, int], int] = {}
        self._held: set[int] = set()

    def run(self, stopped: Callable[[float], bool]) -> None:
        """Read and publish until stopped. Raises NotLeader, BrokerError, StoreError."""
        try:
            feed = self._begin(stopped)
            while not stopped(0.0):
                self._lead.beat()
                for chunk in self._log.read():
                    self._add(feed, chunk)
                    self._lead.beat()
                self._advance(feed)
                self._balance(feed)
        finally:
            self._log.close()

    def _begin(self, stopped: Callable[[float], bool]) -> RiskFeed:
        """Start where the builder before stopped, or at the start of the log."""
        about = self._log.about(self._pace)
        state = self._store.state()
        if state.about != about:
            self._store.begin(self._lead.token, about)
            state = self._store.state()
        restart = state.restart or {}
        transactions = self._log.open("transactions", restart.get("transactions", {}))
        labels = self._log.open("labels", restart.get("labels", {}))
        self._kept = self._store.named()
        feed = RiskFeed(self._pace, transactions, labels, state.front)
        self._read_labels(feed, stopped)
        return feed

    def _read_labels(self, feed: RiskFeed, stopped: Callable[[float], bool]) -> None:
        """All labels of now first: no snapshot can be due before, and they are few."""
        marks = self._log.ends("labels")
        self._log.assign(["labels"])
        while not (self._passed("labels", marks) or stopped(0.0)):
            self._lead.beat()
            for chunk in self._log.read():
                self._add(feed, chunk)
                self._lead.beat()
        self._log.assign(["transactions", "labels"])

    def _add(self, feed: RiskFeed, chunk: Chunk) -> None:
        if chunk.topic == "transactions":
            feed.add(decode(chunk.batch, self._max_future_ms))
        else:
            batch = chunk.batch
            first = int(batch.offsets[0])
            labels = decode_labels(batch.values)
            if labels.bad:
                _logger.warning(
                    "%s, partition %d: %d of %d messages before offset %d are no labels, and are"
                    " passed over",
                    batch.topic, batch.partition, labels.bad, len(batch), batch.next_offset,
                )  # fmt: skip
            feed.add_labels(batch.partition, labels, first, batch.next_offset)

    def _passed(self, topic: str, marks: dict[int, int]) -> bool:
        read = self._log.positions(topic)
        return all(read[partition] >= end for partition, end in marks.items())

    def _advance(self, feed: RiskFeed) -> None:
        """Publish what is due."""
        if feed.newest == NO_PERIOD or (feed.front is not None and feed.newest <= feed.front):
            return
        if self._marked == NO_PERIOD or (feed.front or NO_PERIOD) >= self._marked:
            # The ends of now: they were not reached before a transaction of `newest` was seen.
            self._marks = {
                (topic, partition): end
                for topic in ("transactions", "labels")
                for partition, end in self._log.ends(topic).items()
            }
            self._marked = feed.newest
        ended: list[int] = []
        for (topic, partition), end in self._marks.items():
            read = self._log.positions(topic)[partition] >= end
            if topic == "labels" and not read:
                return
            if topic == "transactions" and read:
                ended.append(partition)
        self._publish(feed, min(feed.ready(ended), self._marked))

    def _publish(self, feed: RiskFeed, until: int) -> None:
        before = feed.front
        for snapshot in feed.snapshots(until):
            content = snapshot.to_bytes()
            digest = digest_of(content)
            self._kept.setdefault(snapshot.period, digest)
            self._store.publish(
                self._lead.token,
                snapshot.period,
                digest,
                content,
                dropped=self._outdated(snapshot.period),
            )
            self._lead.beat()
        if feed.front is not None and feed.front != before:
            transactions, labels = feed.restart()
            restart = {"transactions": transactions, "labels": labels}
            self._store.publish(self._lead.token, feed.front, None, None, restart)

    def _outdated(self, front: int) -> dict[int, str]:
        oldest = front - self._pace.periods(KEEP_DAYS)
        old = {each: digest for each, digest in self._kept.items() if each < oldest}
        for each in old:
            del self._kept[each]
        return old

    def _balance(self, feed: RiskFeed) -> None:
        """Hold partitions that are far ahead of the slowest one that still has messages."""
        reached = feed.reached()
        ahead = self._pace.periods(AHEAD_DAYS)
        behind = [at for p, at in reached.items() if not self._log.at_end("transactions", p)]
        slowest = max(min(behind, default=feed.newest), feed.front or NO_PERIOD)
        for partition, period in reached.items():
            if partition in self._held and period <= slowest + ahead // 2:
                self._held.discard(partition)
                self._log.resume(partition)
            elif partition not in self._held and period > slowest + ahead:
                self._held.add(partition)
                self._log.pause(partition)


def check_topics(settings: Settings) -> str:
    """The identity that snapshots of these topics have. Raises BrokerError when one is missing."""
    log = RiskLog(settings)
    try:
        return log.about(Pace.of(settings.risk))
    except KafkaException as error:
        raise BrokerError(f"cannot describe the topics: {error}") from None
    finally:
        log.close()
