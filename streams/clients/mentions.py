"""What a topic says of one transaction.

In: settings, a transaction_id. Out: messages in whose text it stands; its alerts, each once.
Does not know what they are wanted for. A topic has no index: all of it is read from where one
begins, and most messages are passed over without being parsed.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import orjson

from streams.clients.records import record_of
from streams.clients.subscriber import Once, Subscriber, identity
from streams.connect import content_bytes
from streams.settings import Settings


def mentions(
    settings: Settings, topic: str, transaction: str, start: str = "earliest"
) -> Iterator[bytes]:
    """The messages in whose text the id stands, repeats too. Raises BrokerError."""
    try:
        wanted = orjson.dumps(transaction)
    except TypeError:  # no UTF-8, so no message has it
        return
    with Subscriber(topic, settings=settings, start=start, follow=False) as reader:
        for message in reader.messages():
            value = content_bytes(message.value())
            if value is not None and (wanted in value or b"\\" in value):
                yield value


def records(
    settings: Settings, topic: str, transaction: str, start: str = "earliest"
) -> Iterator[dict[str, Any]]:
    """The scores, or alerts, of the transaction, whatever its account. Raises BrokerError."""
    once = Once()
    for value in mentions(settings, topic, transaction, start):
        record = record_of(topic, value)
        if record is None or record["transaction_id"] != transaction:
            continue
        if once.first(identity(record)):
            yield record
