"""Errors of Kafka that pass by themselves: which they are, what a person who waits is told, and a
question that is asked again because of them.

In: librdkafka's errors. Out: warnings in the log of who publishes or reads; where a partition
begins and ends. Does not know what is sent or read.
"""

from __future__ import annotations

import logging
from functools import partial
from typing import Final

from confluent_kafka import Consumer, KafkaError, TopicPartition

from streams.connect import patiently
from streams.logs import Seldom

PASSING: Final = (
    KafkaError.NOT_LEADER_FOR_PARTITION,
    KafkaError.NOT_COORDINATOR,
    KafkaError.COORDINATOR_NOT_AVAILABLE,
    KafkaError.COORDINATOR_LOAD_IN_PROGRESS,
)
"""A new or moved partition has no leader for a moment, and a new broker no groups' coordinator."""

ANSWER_S: Final = 30.0
"""For one answer, and how long the question is asked again."""

_logger = logging.getLogger(__name__)
# A broker that is away is told of several times a second.
_logger.addFilter(Seldom())


def broker_error(error: KafkaError) -> None:
    """An `error_cb`: nothing has failed yet, but a person who waits is told why."""
    _logger.warning("Kafka: %s", error.str())


def limits(consumer: Consumer, topic: str, partition: int) -> tuple[int, int]:
    """The first offset of a partition, and the one that its next message will get.

    Raises KafkaException.
    """
    ask = partial(
        consumer.get_watermark_offsets, TopicPartition(topic, partition), timeout=ANSWER_S
    )
    low, high = patiently(ask, PASSING, ANSWER_S)
    return int(low), int(high)
