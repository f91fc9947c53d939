"""Errors of Kafka that pass by themselves: which they are, what a person who waits is told, and a
question that is asked again because of them.

In: librdkafka's errors. Out: warnings in the log of who publishes or reads; where a partition
begins and ends. Does not know what is sent or read.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Sequence
from contextlib import suppress
from functools import partial
from itertools import count
from typing import Final, TypeVar

from confluent_kafka import Consumer, KafkaError, KafkaException, TopicPartition
from confluent_kafka.admin import AdminClient

from streams.connect import patiently
from streams.logs import Seldom

LEADERLESS: Final = (
    KafkaError.NOT_LEADER_FOR_PARTITION,
    KafkaError.LEADER_NOT_AVAILABLE,
    KafkaError.FENCED_LEADER_EPOCH,
    KafkaError.UNKNOWN_LEADER_EPOCH,
)
"""A new or moved partition has no leader for a moment; a new leader and who asks it do not know yet
of each other."""
UNANSWERED: Final = (KafkaError._TIMED_OUT, KafkaError._TRANSPORT)
"""The broker that was asked is away, or slow."""

PASSING: Final = (
    *LEADERLESS,
    KafkaError.NOT_COORDINATOR,
    KafkaError.COORDINATOR_NOT_AVAILABLE,
    KafkaError.COORDINATOR_LOAD_IN_PROGRESS,
    KafkaError._DESTROY_BROKER,
    KafkaError.OFFSET_NOT_AVAILABLE,
)
"""What a question may meet: a new broker has no groups' coordinator for a moment, and a new leader
does not know how far its copies are. One that waits for a broker ends when the others no longer
name it: another one answers."""
READING_ON: Final = (
    *LEADERLESS,
    *UNANSWERED,
    KafkaError._ALL_BROKERS_DOWN,
    KafkaError._RESOLVE,
    KafkaError.BROKER_NOT_AVAILABLE,
    KafkaError.KAFKA_STORAGE_ERROR,
    KafkaError.NETWORK_EXCEPTION,
    KafkaError.REPLICA_NOT_AVAILABLE,
    KafkaError.REQUEST_TIMED_OUT,
)
"""What may come in the place of a message while librdkafka tries again."""

ANSWER_S: Final = 30.0
"""How long a question is asked again, all in all."""
FIRST_S: Final = 2.0
"""For the first answer, and twice as long each time: one that comes too late counts for nothing."""

Answer = TypeVar("Answer")

_logger = logging.getLogger(__name__)
# A broker that is away is told of several times a second.
_logger.addFilter(Seldom())


def broker_error(error: KafkaError) -> None:
    """An `error_cb`: nothing has failed yet, but a person who waits is told why."""
    _logger.warning("Kafka: %s", error.str())


def passes(error: KafkaError) -> bool:
    """Does librdkafka try again by itself after this error, which came in the place of a message?

    `error.retriable()` does not tell: it is False for every error of a consumer.
    """
    return not error.fatal() and error.code() in READING_ON


def limits(consumer: Consumer, topic: str, partition: int) -> tuple[int, int]:
    """The first offset of a partition, and the one that its next message will get.

    Raises KafkaException.
    """
    place = TopicPartition(topic, partition)
    low, high = asked(consumer, topic, partial(consumer.get_watermark_offsets, place))
    return int(low), int(high)


def answered(found: list[TopicPartition]) -> list[TopicPartition]:
    """The same. Raises KafkaException where one is an error: its offset is then no answer."""
    for each in found:
        if each.error is not None:
            raise KafkaException(each.error)
    return found


def at_times(consumer: Consumer, places: Sequence[TopicPartition]) -> list[TopicPartition]:
    """The first offset of each partition at or after the time that stands in its place.

    Raises KafkaException.
    """

    def ask(timeout: float) -> list[TopicPartition]:
        return answered(consumer.offsets_for_times(list(places), timeout=timeout))

    return asked(consumer, places[0].topic, ask) if places else []


def asked(client: Consumer | AdminClient, topic: str, question: Callable[..., Answer]) -> Answer:
    """The answer to a question with a `timeout` about a topic. Raises KafkaException."""
    waits = count()

    def ask() -> Answer:
        asked_before = next(waits)
        if asked_before:
            # librdkafka goes on waiting for the leader that it knew, until somebody asks who leads.
            with suppress(KafkaException):
                client.list_topics(topic, timeout=FIRST_S)
        return question(timeout=min(ANSWER_S, FIRST_S * 2**asked_before))

    return patiently(ask, (*PASSING, *UNANSWERED), ANSWER_S)
