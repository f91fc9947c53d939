"""A topic's partitions read together, in the order in which the broker took the messages.

In: a confluent-kafka configuration, a topic, a range per partition. Out: messages in groups; within
a partition always by offset, across partitions by append time as far as times are known.
Does not know what a message means, nor who asked.

A group ends at the earliest of the partitions' newest times read so far: whatever is read later is
later. A partition far ahead is paused, so memory stays bounded, whatever their sizes.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from time import monotonic
from typing import Any, Final

from confluent_kafka import Consumer, KafkaError, KafkaException, Message, TopicPartition

from streams.batch import Headers
from streams.clients import outage
from streams.connect import headers_of, topic_remedy
from streams.errors import BrokerError

POLL_MESSAGES: Final = 5_000
AHEAD: Final = 50_000
"""Messages of one partition waiting for slower ones before it is paused."""
STALL_S: Final = 60.0


@dataclass(frozen=True, slots=True)
class LogMessage:
    """One message and its place."""

    partition: int
    offset: int
    time_ms: int
    key: bytes | None
    value: bytes | None
    headers: Headers = ()


@dataclass(slots=True)
class _Part:
    position: int
    end: int
    waiting: list[tuple[int, LogMessage]] = field(default_factory=list)
    """By the time that counts for the order: it never goes back within a partition."""
    time_ms: int = -1
    paused: bool = False

    @property
    def finished(self) -> bool:
        return self.position >= self.end


class MergedLog:
    """Reads each range of offsets once. Close it."""

    def __init__(self, config: Mapping[str, Any], topic: str) -> None:
        self._topic = topic
        self._consumer = Consumer(
            dict(config)
            | {
                "enable.auto.commit": False,
                "enable.partition.eof": True,
                "auto.offset.reset": "error",
                "fetch.wait.max.ms": 50,
                "fetch.queue.backoff.ms": 20,
                "queued.min.messages": 20_000,
            }
        )

    def limits(self, partition: int) -> tuple[int, int]:
        """First offset and end of the log. Raises BrokerError."""
        try:
            return outage.limits(self._consumer, self._topic, partition)
        except KafkaException as error:
            raise self._failed(error.args[0]) from None

    def committed(self, partitions: int) -> dict[int, int]:
        """What the configured group has committed, where it has."""
        places = [TopicPartition(self._topic, number) for number in range(partitions)]
        try:
            found = self._consumer.committed(places, timeout=30)
        except KafkaException as error:
            raise self._failed(error.args[0]) from None
        return {each.partition: each.offset for each in found if each.offset >= 0}

    def read(self, ranges: Mapping[int, tuple[int, int]]) -> Iterator[list[LogMessage]]:
        """Messages of offsets [from, to) of each partition. Raises BrokerError."""
        parts = {number: _Part(low, high) for number, (low, high) in ranges.items() if low < high}
        self._consumer.assign(
            [TopicPartition(self._topic, number, part.position) for number, part in parts.items()]
        )
        heard = monotonic()
        while not all(part.finished for part in parts.values()):
            messages = self._consumer.consume(POLL_MESSAGES, timeout=0.2)
            for message in messages:
                self._take(parts, message)
            heard = monotonic() if messages else heard
            if monotonic() - heard > STALL_S:
                raise BrokerError(f"no message for {STALL_S:.0f} s", topic=self._topic)
            group = _ready(parts)
            self._balance(parts)
            if group:
                yield group
        self._consumer.unassign()

    def _take(self, parts: Mapping[int, _Part], message: Message) -> None:
        number, offset, error = message.partition(), message.offset(), message.error()
        if error is not None and error.code() != KafkaError._PARTITION_EOF:
            if outage.passes(error):
                return
            raise self._failed(error, number, offset)
        assert number is not None and offset is not None
        part = parts[number]
        if error is not None:
            part.position = max(part.position, offset)
            return
        part.position = offset + 1
        if offset < part.end:
            time_ms = int(message.timestamp()[1])
            part.time_ms = max(part.time_ms, time_ms)
            key, value = message.key(), message.value()
            assert not isinstance(key, str) and not isinstance(value, str)
            taken = LogMessage(number, offset, time_ms, key, value, headers_of(message))
            part.waiting.append((part.time_ms, taken))

    def _balance(self, parts: Mapping[int, _Part]) -> None:
        """Pause who is far ahead, resume who no longer is."""
        for number, part in parts.items():
            ahead = len(part.waiting) > AHEAD
            if ahead != part.paused and not part.finished:
                place = [TopicPartition(self._topic, number)]
                (self._consumer.pause if ahead else self._consumer.resume)(place)
                part.paused = ahead

    def _failed(
        self, error: KafkaError, partition: int | None = None, offset: int | None = None
    ) -> BrokerError:
        return BrokerError(
            f"cannot read: {error.str()}",
            topic=self._topic,
            partition=partition,
            offset=offset,
            remedy=topic_remedy(error),
        )

    def close(self) -> None:
        """Let the broker go."""
        self._consumer.close()


def _ready(parts: Mapping[int, _Part]) -> list[LogMessage]:
    """Take out what nothing unread can precede."""
    open_parts = [part for part in parts.values() if not part.finished]
    if any(not part.waiting and part.time_ms < 0 for part in open_parts):
        return []
    until = min((part.time_ms for part in open_parts), default=None)
    taken: list[tuple[int, LogMessage]] = []
    for part in parts.values():
        split = len(part.waiting)
        if until is not None:
            while split and part.waiting[split - 1][0] > until:
                split -= 1
        taken += part.waiting[:split]
        del part.waiting[:split]
    # Stable, and times never go back within a partition: offsets stay in order.
    taken.sort(key=lambda each: each[0])
    return [message for _, message in taken]
