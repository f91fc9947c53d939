"""Errors of Kafka that pass by themselves: which they are, and what a person who waits is told.

In: librdkafka's errors. Out: warnings in the log of who publishes or reads. Does not know what is
sent or read.
"""

from __future__ import annotations

import logging
from typing import Final

from confluent_kafka import KafkaError

from streams.logs import Seldom

PASSING: Final = (
    KafkaError.NOT_LEADER_FOR_PARTITION,
    KafkaError.NOT_COORDINATOR,
    KafkaError.COORDINATOR_NOT_AVAILABLE,
    KafkaError.COORDINATOR_LOAD_IN_PROGRESS,
)
"""A new or moved partition has no leader for a moment, and a new broker no groups' coordinator."""

_logger = logging.getLogger(__name__)
# A broker that is away is told of several times a second.
_logger.addFilter(Seldom())


def broker_error(error: KafkaError) -> None:
    """An `error_cb`: nothing has failed yet, but a person who waits is told why."""
    _logger.warning("Kafka: %s", error.str())
