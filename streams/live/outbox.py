"""Outbox entries to Kafka, with a barrier: when `deliver` returns, the brokers have them all.

In: packed entries. Out: messages in `scores`, `alerts` and `transactions.dlq`, each at least once.
Does not know how entries are kept or trimmed, nor what a message says (`render` does).

One idempotent producer: the brokers drop what it repeats and keep its order. An entry delivered
again by another worker repeats its messages; ids in them let a reader drop those.
"""

from __future__ import annotations

import logging
import time
from collections.abc import Callable, Iterable, Sequence
from typing import Protocol

from confluent_kafka import KafkaError, KafkaException, Message, Producer

from streams.connect import confluent_config
from streams.errors import BrokerError
from streams.settings import Settings
from streams.topics import MAX_DEAD_LETTER_BYTES

QUEUE_MESSAGES = 200_000
CLOSE_TIMEOUT_S = 2.0

_logger = logging.getLogger(__name__)


class Rendered(Protocol):
    """One message, as `alerts.render` makes it; the topic is the schema's name."""

    @property
    def topic(self) -> str: ...
    @property
    def key(self) -> bytes | None: ...
    @property
    def value(self) -> bytes | None: ...
    @property
    def headers(self) -> Sequence[tuple[str, bytes]]: ...


Render = Callable[[bytes, int], Iterable[Rendered]]


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
        self._patience_s = max(settings.worker.retry_s, 1.0)
        self._names: dict[str, str] = {}
        self._topic = settings.topic
        self._failure: KafkaError | None = None
        self.waiting = False
        """The brokers are to confirm something. They have `worker.retry_s` to do so: no progress
        meanwhile is not a fault of the worker."""
        self._producer = Producer(
            confluent_config(
                settings,
                {
                    "enable.idempotence": True,
                    "compression.type": "lz4",
                    "linger.ms": 5,
                    "message.timeout.ms": int(self._patience_s * 1000),
                    "message.max.bytes": MAX_DEAD_LETTER_BYTES,
                    "queue.buffering.max.messages": QUEUE_MESSAGES,
                    # How long a topic that does not exist may be about to appear.
                    "topic.metadata.propagation.max.ms": 3_000,
                    # As Java clients do it, so that joins by key meet in one partition.
                    "partitioner": "murmur2_random",
                    # Success needs no callback: the barrier is an empty queue and no failure.
                    "delivery.report.only.error": True,
                    "on_delivery": self._failed,
                },
            ),
            logger=_logger,
        )

    def _failed(self, error: KafkaError | None, _message: Message) -> None:
        if error is not None:
            self._failure = error

    def deliver(self, entries: Iterable[bytes]) -> int:
        """Send these entries' messages; return their number once the brokers have them.

        Raises BrokerError when some are not confirmed in `worker.retry_s`: all may be sent again.
        """
        self._failure = None
        self.waiting = True
        try:
            return self._deliver(entries, self._clock_ms())
        finally:
            self.waiting = False

    def _deliver(self, entries: Iterable[bytes], now_ms: int) -> int:
        sent = 0
        names, produce = self._names, self._producer.produce
        for entry in entries:
            for message in self._render(entry, now_ms):
                topic = names.get(message.topic) or self._name(message.topic)
                try:
                    if message.headers:
                        produce(topic, message.value, message.key, headers=list(message.headers))
                    else:
                        produce(topic, message.value, message.key)
                except BufferError:
                    self._produce_later(topic, message)
                except KafkaException as error:
                    raise _broker_error(error.args[0], topic) from None
                sent += 1
        if sent:
            waiting = self._producer.flush(self._patience_s + 1)
            if self._failure is not None:
                raise _broker_error(self._failure)
            if waiting:
                raise BrokerError(f"{waiting} messages not confirmed in {self._patience_s:.0f} s")
        return sent

    def _name(self, topic: str) -> str:
        return self._names.setdefault(topic, self._topic(topic))

    def _produce_later(self, topic: str, message: Rendered) -> None:
        """The queue is full: let some go. A delivery that failed ends the wait, too."""
        deadline = time.monotonic() + self._patience_s
        while time.monotonic() < deadline:
            self._producer.poll(0.05)
            if self._failure is not None:
                raise _broker_error(self._failure)
            try:
                self._producer.produce(
                    topic, message.value, message.key, headers=list(message.headers)
                )
            except BufferError:
                continue
            return
        raise BrokerError("the producer's queue stays full", topic=topic)

    def close(self) -> None:
        """Let the connections go; what was not confirmed stays in the store's outbox."""
        self._producer.purge()
        self._producer.flush(CLOSE_TIMEOUT_S)


def _broker_error(error: KafkaError, topic: str | None = None) -> BrokerError:
    remedy = None
    if (
        error.code() == KafkaError.UNKNOWN_TOPIC_OR_PART
        or error.code() == KafkaError._UNKNOWN_TOPIC
    ):
        remedy = "`fraudstream topics create` makes the topics"
    elif error.code() in (
        KafkaError.TOPIC_AUTHORIZATION_FAILED,
        KafkaError.CLUSTER_AUTHORIZATION_FAILED,
    ):
        remedy = "Give the worker's user Write and IdempotentWrite; see infra/"
    return BrokerError(f"Kafka did not take a message: {error.str()}", topic=topic, remedy=remedy)
