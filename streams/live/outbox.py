"""Outbox entries to Kafka, with a barrier: when `deliver` returns, the brokers have them all.

In: packed entries. Out: messages in `scores`, `alerts` and `transactions.dlq`, each at least once.
Does not know how entries are kept or trimmed, nor what a message says (`render` does).

One idempotent producer: the brokers drop what it repeats and keep its order. An entry delivered
again by another worker repeats its messages; ids in them let a reader drop those.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable

from streams.alerts import Rendered
from streams.live.producer import BatchProducer
from streams.live.records import packed
from streams.settings import Settings

Render = Callable[[bytes, int], Rendered]


class Outbox:
    """Used by one thread at a time."""

    def __init__(
        self,
        settings: Settings,
        render: Render,
        *,
        clock_ms: Callable[[], int] = lambda: time.time_ns() // 1_000_000,
    ) -> None:
        self._render = render
        self._clock_ms = clock_ms
        self._topic = settings.topic
        self.waiting = 0
        """Entries that the brokers are to confirm. They have `worker.retry_s` to do so: no progress
        meanwhile is not a fault of the worker."""
        self._producer = BatchProducer(settings, max(settings.worker.retry_s, 1.0))

    def deliver(self, entries: Iterable[bytes]) -> int:
        """Send these entries' messages; return their number once the brokers have them.

        Raises BrokerError when some are not confirmed in `worker.retry_s`: all may be sent again.
        """
        given = list(entries)
        self.waiting = len(given)
        try:
            return self._deliver(given, self._clock_ms())
        finally:
            self.waiting = 0

    def _deliver(self, entries: list[bytes], now_ms: int) -> int:
        rendered = [self._render(entry, now_ms) for entry in entries]
        sent = sum(len(each.scores) + len(each.others) for each in rendered)
        if sent:
            names = {message.topic for each in rendered for message in each.others}
            if any(len(each.scores) for each in rendered):
                names.add("scores")
            self._producer.send(
                [self._topic(name) for name in names],
                lambda partitions: packed(rendered, partitions, now_ms, self._topic),
            )
        return sent

    def close(self) -> None:
        """Let the connections go; what was not confirmed stays in the store's outbox."""
        self._producer.close()
