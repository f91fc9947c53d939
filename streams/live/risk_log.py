"""All partitions of some topics as raw batches, without a consumer group.

In: settings, offsets to start from. Out: batches of one partition each, ends, positions.
Does not know what the messages are. Raises BrokerError for a missing topic, KafkaException for what
the client reports as fatal.

The consumer has the name `<group>-risk` and commits nothing: where to start is told by its caller.
"""

from __future__ import annotations

import time
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from functools import partial
from typing import Final

import numpy as np
import orjson
from confluent_kafka import (
    Consumer,
    IsolationLevel,
    KafkaError,
    KafkaException,
    Message,
    TopicCollection,
    TopicPartition,
)
from confluent_kafka.admin import AdminClient, OffsetSpec

from streams.batch import Batch
from streams.clients.outage import asked, passes
from streams.connect import confluent_config, headers_of, topic_remedy
from streams.errors import BrokerError
from streams.risk import kind
from streams.risk_pace import Pace
from streams.schema import MAX_BATCH_EVENTS
from streams.settings import Settings

READ_TIMEOUT_S: Final = 0.1
ADMIN_TIMEOUT_S: Final = 10.0
RECHECK_EVERY_S: Final = 30.0
NAMES: Final = ("transactions", "labels")
_EARLIEST: Final[OffsetSpec] = OffsetSpec.earliest()  # type: ignore[no-untyped-call]
_LATEST: Final[OffsetSpec] = OffsetSpec.latest()  # type: ignore[no-untyped-call]


@dataclass(frozen=True, slots=True)
class Chunk:
    """Messages of one partition; `topic` is the schema's name."""

    topic: str
    batch: Batch


class RiskLog:
    """Reads with one consumer; use from one thread."""

    def __init__(self, settings: Settings) -> None:
        self._names = {settings.topic(name): name for name in NAMES}
        self._topics = {name: full for full, name in self._names.items()}
        self._admin = AdminClient(confluent_config(settings, {"log_level": 2}))
        self._consumer = Consumer(
            confluent_config(
                settings,
                {
                    "group.id": f"{settings.kafka.group}-risk",
                    "enable.auto.commit": False,
                    "enable.auto.offset.store": False,
                    "auto.offset.reset": "earliest",
                    "enable.partition.eof": True,
                    "fetch.wait.max.ms": 50,
                    "fetch.queue.backoff.ms": 5,
                    "queued.min.messages": 20_000,
                    "queued.max.messages.kbytes": 4_096,
                    "log_level": 2,
                },
            )
        )
        self._positions: dict[str, dict[int, int]] = {}
        self._at_end: set[tuple[str, int]] = set()
        self._checked = time.monotonic()

    def close(self) -> None:
        """Let the connections go."""
        self._consumer.close()

    def about(self, pace: Pace) -> str:
        """What snapshots of these topics belong to: their ids, the pace, and what they tell."""
        topics = TopicCollection(list(self._names))
        futures = self._admin.describe_topics(topics, request_timeout=ADMIN_TIMEOUT_S)
        found = kind(pace)
        for full, future in futures.items():
            try:
                found[self._names[full]] = str(future.result().topic_id)
            except KafkaException as error:
                raise BrokerError(
                    f"cannot describe the topic: {error.args[0].str()}",
                    topic=full,
                    remedy=topic_remedy(error.args[0]),
                ) from None
        return orjson.dumps(found, option=orjson.OPT_SORT_KEYS).decode()

    def _partitions(self, name: str) -> list[int]:
        full = self._topics[name]
        found = asked(self._admin, full, partial(self._admin.list_topics, full)).topics[full]
        if found.error is not None:
            raise BrokerError(f"cannot read the topic: {found.error.str()}", topic=full)
        return sorted(found.partitions)

    def _offsets(self, name: str, partitions: Iterable[int], where: OffsetSpec) -> dict[int, int]:
        full = self._topics[name]
        wanted = {TopicPartition(full, partition): where for partition in partitions}

        def ask(timeout: float) -> dict[int, int]:
            futures = self._admin.list_offsets(
                wanted, isolation_level=IsolationLevel.READ_COMMITTED, request_timeout=timeout
            )
            found = {tp.partition: future.result().offset for tp, future in futures.items()}
            if any(offset < 0 for offset in found.values()):
                # What librdkafka says in the place of an error where the leader it knew is away.
                raise KafkaException(KafkaError(KafkaError.LEADER_NOT_AVAILABLE))
            return found

        return asked(self._admin, full, ask)

    def open(self, name: str, restart: Mapping[str, int]) -> dict[int, int]:
        """Begin at these offsets, at the earliest where none is given; where that is."""
        earliest = self._offsets(name, self._partitions(name), _EARLIEST)
        starts = {p: max(start, restart.get(str(p), start)) for p, start in earliest.items()}
        self._positions[name] = dict(starts)
        return starts

    def assign(self, names: Iterable[str]) -> None:
        """Read these topics from where their reading is."""
        self._consumer.assign(
            [
                TopicPartition(self._topics[name], partition, offset)
                for name in names
                for partition, offset in self._positions[name].items()
            ]
        )

    def ends(self, name: str) -> dict[int, int]:
        """The offset after the last message of each partition, now."""
        return self._offsets(name, self._positions[name], _LATEST)

    def positions(self, name: str) -> dict[int, int]:
        """The offset that each partition is read up to."""
        return self._positions[name]

    def at_end(self, name: str, partition: int) -> bool:
        """Had the partition no more messages when it was last read?"""
        return (name, partition) in self._at_end

    def pause(self, partition: int) -> None:
        """Read no more of a partition of transactions for now."""
        self._consumer.pause([TopicPartition(self._topics["transactions"], partition)])

    def resume(self, partition: int) -> None:
        """Read it again."""
        self._consumer.resume([TopicPartition(self._topics["transactions"], partition)])

    def read(self) -> list[Chunk]:
        """What is there, at most a batch; waits a moment for the first message.

        Raises BrokerError when a topic was given more partitions: begin again.
        """
        if time.monotonic() - self._checked > RECHECK_EVERY_S:
            self._checked = time.monotonic()
            for name, known in self._positions.items():
                if len(self._partitions(name)) != len(known):
                    raise BrokerError("the partition count changed", topic=self._topics[name])
        grouped: dict[tuple[str, int], list[Message]] = {}
        ends: dict[tuple[str, int], int] = {}
        for message in self._consumer.consume(MAX_BATCH_EVENTS, READ_TIMEOUT_S):
            full, partition, error = message.topic(), message.partition(), message.error()
            if error is None:
                assert full is not None and partition is not None
                grouped.setdefault((full, partition), []).append(message)
                ends.pop((full, partition), None)
            elif error.code() == KafkaError._PARTITION_EOF:
                assert full is not None and partition is not None
                ends[full, partition] = message.offset() or 0
            elif not passes(error):
                raise KafkaException(error)
        chunks = [self._chunk(*where, messages) for where, messages in grouped.items()]
        for (full, partition), offset in ends.items():
            # Also past what is no message to us, such as the marks of a transaction.
            self._positions[self._names[full]][partition] = offset
            self._at_end.add((self._names[full], partition))
        return chunks

    def _chunk(self, full: str, partition: int, messages: list[Message]) -> Chunk:
        name = self._names[full]
        offsets = np.array([message.offset() for message in messages], np.int64)
        headers = [headers_of(message) for message in messages]
        self._positions[name][partition] = int(offsets[-1]) + 1
        self._at_end.discard((name, partition))
        batch = Batch(
            topic=full,
            partition=partition,
            offsets=offsets,
            timestamps=np.array([message.timestamp()[1] for message in messages], np.int64),
            keys=[message.key() for message in messages],
            values=[message.value() for message in messages],
            headers=headers if any(headers) else None,
            next_offset=int(offsets[-1]) + 1,
        )
        return Chunk(name, batch)
