"""The rules in force in a worker: the file's, and over them what the topic `rules` says.

In: settings, the rule book of the file. Out: a `RuleSet`, newer whenever the topic has a message.
Does not know what a rule means. Each worker reads the whole topic for itself, without a group: at
start up to its end, so that no transaction is decided by fewer rules than there are; then as
messages come. A message that is no rule is logged by its place, and changes nothing.
"""

from __future__ import annotations

import logging
import threading
import time
from typing import Final

from confluent_kafka import Consumer, KafkaError, KafkaException, Message, TopicPartition

from streams.clients.outage import passes
from streams.connect import confluent_config, content_bytes, topic_remedy
from streams.errors import BrokerError, ConfigError
from streams.rulebook import RuleBook
from streams.rules import RuleSet
from streams.settings import Settings

START_S: Final = 30.0
TOPIC_PATIENCE_S: Final = 3.0
POLL_S: Final = 0.2
PAUSE_S: Final = 2.0
MESSAGES: Final = 500

_logger = logging.getLogger(__name__)


class RuleSource:
    """Use as a context; `rules` from any thread."""

    def __init__(self, settings: Settings, book: RuleBook) -> None:
        self._book = book
        self._rules = book.rules()
        self._topic = settings.topic("rules")
        self._stopping = threading.Event()
        self._consumer = Consumer(
            confluent_config(
                settings,
                {
                    "group.id": f"{settings.kafka.group}-rules",
                    "enable.auto.commit": False,
                    "enable.auto.offset.store": False,
                    "auto.offset.reset": "earliest",
                    "enable.partition.eof": True,
                    # Of a broker that is away aiokafka tells, and not twenty times a second.
                    "log_level": 2,
                },
            )
        )
        self._thread = threading.Thread(target=self._follow, name="rules", daemon=True)

    def __enter__(self) -> RuleSource:
        try:
            self._begin()
        except KafkaException as error:
            self._consumer.close()
            fault = error.args[0]
            raise BrokerError(
                f"cannot read the rules: {fault.str()}",
                topic=self._topic,
                remedy=topic_remedy(fault),
            ) from None
        except BrokerError:
            self._consumer.close()
            raise
        self._thread.start()
        return self

    def __exit__(self, *rest: object) -> None:
        self._stopping.set()
        self._thread.join()
        self._consumer.close()

    def rules(self) -> RuleSet:
        """The rules in force now. The same object as long as they do not change."""
        return self._rules

    def _begin(self) -> None:
        """Read the topic to its end. Raises BrokerError, KafkaException."""
        left = self._partitions()
        self._consumer.assign([TopicPartition(self._topic, number, 0) for number in sorted(left)])
        deadline = time.monotonic() + START_S
        while left:
            left -= self._read()
            if left and time.monotonic() > deadline:
                raise BrokerError("the rules do not come to their end", topic=self._topic)

    def _partitions(self) -> set[int]:
        """Those of the topic. One made a moment ago may not have reached the broker that answers.

        Raises BrokerError, KafkaException.
        """
        deadline = time.monotonic() + TOPIC_PATIENCE_S
        while True:
            found = self._consumer.list_topics(self._topic, timeout=START_S).topics[self._topic]
            if found.error is None and found.partitions:
                return set(found.partitions)
            if time.monotonic() > deadline:
                raise BrokerError(
                    "cannot read the rules: no such topic",
                    topic=self._topic,
                    remedy="`fraudstream topics create` makes the topics",
                )
            time.sleep(POLL_S)

    def _read(self) -> set[int]:
        """Take in what is there; the partitions that were read to their end."""
        ended: set[int] = set()
        book, fault = self._book, None
        for message in self._consumer.consume(MESSAGES, POLL_S):
            error, partition = message.error(), message.partition()
            if error is not None and error.code() != KafkaError._PARTITION_EOF:
                # Of no partition at all, it may be: a group is refused so.
                if not passes(error):
                    fault = error
                continue
            assert partition is not None
            if error is None:
                ended.discard(partition)
                book = self._after(book, message)
            else:
                ended.add(partition)
        # What came before a fault is read, and would not come again.
        if book is not self._book:
            rules = book.rules()
            self._book = book
            if rules.digest != self._rules.digest:
                _logger.info("rules %s are in force (%d rules)", rules.digest, len(rules.rules))
                self._rules = rules
        if fault is not None:
            raise KafkaException(fault)
        return ended

    def _after(self, book: RuleBook, message: Message) -> RuleBook:
        try:
            return book.with_message(content_bytes(message.key()), content_bytes(message.value()))
        except ConfigError as error:
            _logger.warning(
                "a message of %s is left out (partition %s offset %s): %s",
                self._topic, message.partition(), message.offset(), error,
            )  # fmt: skip
            return book

    def _follow(self) -> None:
        while not self._stopping.is_set():
            try:
                self._read()
            except KafkaException as error:
                _logger.warning("cannot read the rules: %s; trying again", error)
                self._stopping.wait(PAUSE_S)
