"""What librdkafka says of brokers that are away, in the log of who publishes or reads.

In: its errors. Out: warnings. Does not know what is sent or read: librdkafka tries again by itself.
"""

from __future__ import annotations

import logging

from confluent_kafka import KafkaError

from streams.logs import Seldom

_logger = logging.getLogger(__name__)
# A broker that is away is told of several times a second.
_logger.addFilter(Seldom())


def broker_error(error: KafkaError) -> None:
    """An `error_cb`: nothing has failed yet, but a person who waits is told why."""
    _logger.warning("Kafka: %s", error.str())
