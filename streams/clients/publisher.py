"""Publishing to Kafka, as a library: the producer behind `fraudstream publish`.

In: records (dictionaries) or ready keys and values. Out: messages in order of their key, counted.
Does not know files or pacing, and does not check a record: the service answers a bad one with a
dead letter that says why.

    from streams import Publisher

    with Publisher("localhost:9092") as out:
        out.send({"transaction_id": "t1", "account_id": "a1", "event_time": 1735689600000,
                  "amount": 1250, "currency": "EUR"})
"""

from __future__ import annotations

import logging
import time
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import orjson
from confluent_kafka import KafkaError, KafkaException, Message, Producer

from streams.clients.outage import broker_error
from streams.connect import check_kafka, confluent_config
from streams.errors import BrokerError, FormatError
from streams.logs import Seldom
from streams.schema import SCHEMA_VERSION
from streams.settings import Settings, load

FLUSH_S = 60.0
TOPIC_PATIENCE_S = 3.0
QUEUE_MESSAGES = 200_000
QUEUE_KBYTES = 262_144
ERRORS_KEPT = 20
"""Kinds of delivery error kept by name; the rest is counted together."""
QUIET_S = 0.1
LOOK_S = 0.5
SILENT_S = 5.0
"""After so long without a message confirmed, a person who waits is told."""
PATIENCE_S = 5.0
"""How long a publisher that is left by an exception still tries to send what it has."""

_logger = logging.getLogger(__name__)
_logger.addFilter(Seldom())


def settings_for(bootstrap: str | None, settings: Settings | None) -> Settings:
    """The given settings, else those of file and environment; `bootstrap` goes above both."""
    found = settings if settings is not None else load()
    if bootstrap is None:
        return found
    kafka = found.kafka.model_copy(update={"bootstrap": bootstrap})
    return found.model_copy(update={"kafka": kafka})


class Publisher:
    """An idempotent producer with a bounded queue. A context manager: leaving it flushes, and
    raises BrokerError when a message was not delivered.

    sent, failed: messages given to the queue, and messages that Kafka did not take.
    errors: what was said of the failed ones, counted.
    """

    def __init__(
        self,
        bootstrap: str | None = None,
        *,
        settings: Settings | None = None,
        compression: str = "lz4",
        delivery_timeout_s: float = 60.0,
    ) -> None:
        self._settings = settings_for(bootstrap, settings)
        check_kafka(self._settings)
        self._topics: set[str] = set()
        self.sent = 0
        self.failed = 0
        self.errors: Counter[str] = Counter()
        self._closed = False
        self._moved = (0, time.monotonic())
        """How many Kafka had taken or refused when that number last grew, and when."""
        self._producer = Producer(
            confluent_config(
                self._settings,
                {
                    "enable.idempotence": True,
                    "compression.type": compression,
                    "linger.ms": 20,
                    "batch.num.messages": 10_000,
                    "queue.buffering.max.messages": QUEUE_MESSAGES,
                    "queue.buffering.max.kbytes": QUEUE_KBYTES,
                    "delivery.timeout.ms": int(delivery_timeout_s * 1_000),
                    # The Java clients' choice: all publishers agree on an account's partition.
                    "partitioner": "murmur2_random",
                    # A report for each message that arrived would cost more than sending it.
                    "delivery.report.only.error": True,
                    "on_delivery": self._not_delivered,
                    "error_cb": broker_error,
                    "log_level": 2,
                },
            )
        )

    def _not_delivered(self, error: KafkaError | None, message: Message) -> None:
        if error is None:
            return
        self._refused(str(message.topic()), error)

    def _refused(self, topic: str, error: KafkaError) -> None:
        self.failed += 1
        text = f"{topic}: {error.str()}"
        known = text in self.errors or len(self.errors) < ERRORS_KEPT
        self.errors[text if known else "other errors"] += 1

    @property
    def delivered(self) -> int:
        """Messages that Kafka took."""
        return max(0, self.sent - self.failed - len(self._producer))

    def _begin(self) -> None:
        """Before something is sent: where nothing waits, Kafka is silent from now on at most."""
        if not len(self._producer):
            self._moved = self.sent, time.monotonic()

    def _look(self) -> None:
        """Say where Kafka takes nothing: librdkafka tells of no broker that is only silent."""
        now, settled = time.monotonic(), self.sent - len(self._producer)
        before, since = self._moved
        if settled != before or not len(self._producer):
            self._moved = settled, now
        elif now - since >= SILENT_S:
            _logger.warning(
                "Kafka has confirmed nothing for %.0f s; %d messages wait, and are sent when it"
                " answers",
                now - since,
                len(self._producer),
            )

    def topic(self, name: str) -> str:
        """The topic's name on the broker. Raises BrokerError when it does not exist, or no broker
        answers."""
        full = self._settings.topic(name)
        # A topic made a moment ago may not have reached the broker that answers.
        deadline = time.monotonic() + TOPIC_PATIENCE_S
        while full not in self._topics:
            try:
                known = self._producer.list_topics(timeout=FLUSH_S).topics
            except KafkaException as error:
                raise BrokerError(
                    f"the broker does not answer: {error.args[0].str()}", topic=full
                ) from None
            if full in known:
                self._topics.add(full)
            elif time.monotonic() > deadline:
                raise BrokerError(
                    f"there is no topic {full}", remedy="`fraudstream topics create` makes it"
                )
            else:
                try:
                    self._producer.poll(QUIET_S)
                except KafkaException as error:  # fatal: this user may write nowhere
                    raise BrokerError(
                        f"the broker refuses this user: {error.args[0].str()}",
                        topic=full,
                        remedy="Let it write the topic; docs/security.md has the rights",
                    ) from None
        return full

    def send(self, record: Mapping[str, Any], topic: str | None = None) -> None:
        """Publish one transaction (or label, told by `label_id`), keyed by its account_id.

        schema_version is put in when it is missing. Waits while the queue is full. Raises
        FormatError without account_id, BrokerError after `close`; other values are for the service
        to answer, and a float that is no number (NaN) is sent as null.
        """
        if "account_id" not in record:
            raise FormatError("a record without account_id: it is the key of the message")
        whole = {"schema_version": SCHEMA_VERSION, **record}
        name = topic or ("labels" if "label_id" in record else "transactions")
        key = str(record["account_id"]).encode()
        self.send_encoded(self.topic(name), [key], [orjson.dumps(whole)])

    def send_encoded(
        self, full_topic: str, keys: Sequence[bytes | None], values: Sequence[bytes | None]
    ) -> None:
        """Publish ready messages to a topic by its name on the broker, in order."""
        if self._closed:
            raise BrokerError("this publisher is closed", remedy="Open another one")
        self._begin()
        produce = self._producer.produce
        for key, value in zip(keys, values, strict=True):
            try:
                produce(full_topic, value, key)
            except (BufferError, KafkaException) as error:
                self._produce_later(error, full_topic, value, key)
        self.sent += len(values)
        self._producer.poll(0)
        self._look()

    def _produce_later(self, error: Exception, *message: Any, **more: Any) -> None:
        """The queue was full: wait until it has room. What is refused at once (too large, a fatal
        state) is a delivery error like the others."""
        while isinstance(error, BufferError):
            self.wait(QUIET_S)
            try:
                self._producer.produce(*message, **more)
            except (BufferError, KafkaException) as again:
                error = again
            else:
                return
        assert isinstance(error, KafkaException)
        self._refused(message[0], error.args[0])

    def republish(
        self,
        full_topic: str,
        key: bytes | None,
        value: bytes | None,
        headers: list[tuple[str, str | bytes | None]],
        partition: int,
    ) -> None:
        """Publish one message with headers, as it is, to the partition named."""
        self._begin()
        try:
            self._producer.produce(full_topic, value, key, partition, headers=headers)
        except (BufferError, KafkaException) as error:
            self._produce_later(error, full_topic, value, key, partition, headers=headers)
        self.sent += 1
        self._producer.poll(0)

    def flush(self, timeout_s: float = FLUSH_S) -> int:
        """Wait until Kafka has everything, or gave up on it; returns what is still queued."""
        return int(self._producer.flush(timeout_s))

    def flushing(self, timeout_s: float = FLUSH_S) -> Iterator[int]:
        """The same, for who tells how far it is: what is still queued, every LOOK_S."""
        deadline = time.monotonic() + timeout_s
        left = 1
        while left and time.monotonic() < deadline:
            left = self.flush(LOOK_S)
            self._look()
            yield left

    def wait(self, seconds: float) -> None:
        """Serve delivery reports for that long."""
        self._producer.poll(seconds)
        self._look()

    def close(self) -> None:
        """Flush. Raises BrokerError when not all messages were delivered."""
        self._closed = True
        left = self.flush()
        if left:
            self._producer.purge()
            self._producer.flush(1)
        if self.failed:
            told = "; ".join(f"{text} ({n})" for text, n in self.errors.most_common(3))
            raise BrokerError(f"{self.failed} of {self.sent} messages were not delivered: {told}")

    def __enter__(self) -> Publisher:
        return self

    def __exit__(self, kind: type[BaseException] | None, *_: object) -> None:
        if kind is None:
            self.close()
        else:
            self.flush(PATIENCE_S)
