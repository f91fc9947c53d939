"""Reading from Kafka, as a library: the consumer behind `fraudstream alerts` and `scores`.

In: a topic and where to begin. Out: records, each once, in the order of their partitions.
Does not know how records are shown. The service may send a record again after a crash, byte for
byte but for `produced_time`; the second one is dropped here, by its identity.

    from streams import Subscriber

    for alert in Subscriber("alerts", "localhost:9092"):
        print(alert["account_id"], alert["score"], alert["decision"])
"""

from __future__ import annotations

import contextlib
import logging
import re
import threading
import time
import uuid
from collections import OrderedDict
from collections.abc import Iterator, Mapping
from datetime import UTC, datetime
from typing import Any, Final

import orjson
import xxhash
from confluent_kafka import (
    OFFSET_BEGINNING,
    Consumer,
    KafkaError,
    KafkaException,
    Message,
    TopicPartition,
)

from streams.clients.outage import at_times, broker_error, limits, passes
from streams.clients.publisher import settings_for
from streams.clients.records import record_of
from streams.connect import check_kafka, confluent_config, topic_remedy
from streams.errors import BrokerError, ConfigError
from streams.schema import MAX_EVENT_TIME_MS
from streams.settings import Settings

REMEMBERED = 200_000
"""Identities kept to drop repeats: several times what one outbox may send again."""
BATCH = 1_000
POLL_S = 0.2
NEVER = 1 << 63
TIMEOUT_S = 30.0
_logger = logging.getLogger(__name__)

UNITS_S = {"s": 1, "m": 60, "h": 3_600, "d": 86_400}


@contextlib.contextmanager
def _asking(topic: str) -> Iterator[None]:
    """Questions to the broker. Raises BrokerError when no answer comes."""
    try:
        yield
    except KafkaException as error:
        raise BrokerError(
            f"the broker does not answer: {error.args[0].str()}", topic=topic
        ) from None


class Once:
    """Remembers the last REMEMBERED identities."""

    def __init__(self, limit: int = REMEMBERED) -> None:
        self._limit = limit
        # A plain dict finds its oldest by walking over all that were deleted before it.
        self._seen: OrderedDict[int, None] = OrderedDict()

    def first(self, identity: bytes) -> bool:
        """True the first time."""
        digest = xxhash.xxh3_64_intdigest(identity)
        if digest in self._seen:
            return False
        self._seen[digest] = None
        if len(self._seen) > self._limit:
            self._seen.popitem(last=False)
        return True


def identity(record: dict[str, Any]) -> bytes:
    """What makes a record the same one when it is sent again."""
    if "alert_id" in record:
        # With the account: transaction ids are its own, and alert ids are made of them.
        return orjson.dumps([record.get("account_id"), record["alert_id"]])
    if "label_id" in record:
        return str(record["label_id"]).encode()
    parts = [record.get("account_id"), record.get("transaction_id"), record.get("versions")]
    return orjson.dumps(parts, option=orjson.OPT_SORT_KEYS)


def start_time_ms(text: str, now_ms: int) -> int:
    """`2h` (ago) or an ISO 8601 time, UTC where it names no zone. Raises ConfigError."""
    ago = re.fullmatch(r"(\d+)([smhd])", text)
    if ago:
        return now_ms - int(ago[1]) * UNITS_S[ago[2]] * 1_000
    try:
        moment = datetime.fromisoformat(text)
    except ValueError:
        raise ConfigError(
            f"cannot read the time {text!r}",
            remedy="Write earliest, latest, 30m, 2h, 7d, or 2025-01-31T12:00:00",
        ) from None
    return int((moment if moment.tzinfo else moment.replace(tzinfo=UTC)).timestamp() * 1_000)


def fixed(start: str) -> str:
    """`start`, with a span ago as the moment that it means now: the same for all who read from it.

    Raises ConfigError.
    """
    if start in ("earliest", "latest"):
        return start
    moment = min(max(0, start_time_ms(start, int(time.time() * 1_000))), MAX_EVENT_TIME_MS)
    return datetime.fromtimestamp(moment / 1_000, UTC).isoformat()


class Subscriber:
    """Iterates over the records of one topic. Close it, or use it as a context manager.

    start: "earliest", "latest", a span like "2h" (ago) or an ISO time. follow=False ends at what
    the topic held when reading began. A start by offset (partition -> offset; where retention took
    it, at what is left) reads these partitions alone, with `ends` up to them. With a `group`, Kafka
    keeps the place: a record counts as read when the next one is asked for, and the group's members
    share the partitions; `start` then holds only for a group without a place, and only as earliest
    or latest.
    """

    def __init__(
        self,
        topic: str = "alerts",
        bootstrap: str | None = None,
        *,
        settings: Settings | None = None,
        start: str | Mapping[int, int] = "latest",
        ends: Mapping[int, int] | None = None,
        follow: bool = True,
        group: str | None = None,
    ) -> None:
        self._settings = settings_for(bootstrap, settings)
        if isinstance(start, str) and start not in ("earliest", "latest"):
            start_time_ms(start, 0)  # Wrong use is told before anybody waits for a broker.
        check_kafka(self._settings)
        self._name = topic
        self._topic = self._settings.topic(topic)
        self._follow = follow
        self._once = Once()
        self._group = group
        self._pending: Message | None = None
        if group is not None and (not follow or start not in ("earliest", "latest")):
            raise ConfigError("with a group, start is earliest or latest, and follow is on")
        self._consumer = Consumer(
            confluent_config(
                self._settings,
                {
                    "group.id": group or f"fraudstream-reader-{uuid.uuid4().hex}",
                    # Retention may take what we were about to read: go on with what is left.
                    "auto.offset.reset": str(start) if group else "earliest",
                    "enable.auto.commit": group is not None,
                    "enable.auto.offset.store": False,
                    "enable.partition.eof": not follow,
                    "fetch.wait.max.ms": 50,
                    "queued.max.messages.kbytes": 16_384,
                    "error_cb": broker_error,
                    "log_level": 2,
                },
            )
        )
        partitions = self._partitions()
        places = [] if group is not None else self._places(partitions, start)
        if group is not None:
            self._consumer.subscribe([self._topic])
        else:
            self._consumer.assign(places)
        self.partitions: Final = tuple(partitions if isinstance(start, str) else sorted(start))
        """Those that are read; of a group, all."""
        self._open = set(self.partitions)
        self._ends: dict[int, int] = dict(ends or {})

    def end(self, partition: int) -> int:
        """The end of a partition as it was when its first message came; NEVER when following.

        Taken from the answer that brought the message: every broker tells that one right.
        """
        if self._follow:
            return NEVER
        if partition not in self._ends:
            place = TopicPartition(self._topic, partition)
            told = int(self._consumer.get_watermark_offsets(place, cached=True)[1])
            self._ends[partition] = told if told >= 0 else self._end(partition)
        return self._ends[partition]

    def fix_ends(self) -> None:
        """Ask for every end now: what is written from here on is not read (without `follow`)."""
        for partition in self._open:
            self._ends[partition] = self._end(partition)

    def until(self, ending: threading.Event) -> Iterator[dict[str, Any]]:
        """Records as they come; after `ending` is set, until none has come for a moment."""
        for message in self.messages(idle=ending):
            record = self._record(message)
            if record is not None:
                yield record

    def _end(self, partition: int) -> int:
        """The offset that the next message of a partition will get."""
        with _asking(self._topic):
            return limits(self._consumer, self._topic, partition)[1]

    def _partitions(self) -> list[int]:
        with _asking(self._topic):
            known = self._consumer.list_topics(self._topic, timeout=TIMEOUT_S).topics[self._topic]
        if known.error is not None:
            raise BrokerError(
                f"cannot read topic {self._topic}: {known.error.str()}",
                remedy=topic_remedy(known.error),
            )
        return sorted(known.partitions)

    def _places(
        self, partitions: list[int], start: str | Mapping[int, int]
    ) -> list[TopicPartition]:
        if not isinstance(start, str):
            return [TopicPartition(self._topic, number, at) for number, at in start.items()]
        if start == "earliest":
            return [TopicPartition(self._topic, p, OFFSET_BEGINNING) for p in partitions]
        if start == "latest":
            # Looked up now: what is published from here on is read, however slow the start.
            return [TopicPartition(self._topic, p, self._end(p)) for p in partitions]
        moment = start_time_ms(start, int(time.time() * 1_000))
        asked = [TopicPartition(self._topic, p, max(0, moment)) for p in partitions]
        with _asking(self._topic):
            return at_times(self._consumer, asked)

    def messages(self, idle: threading.Event | None = None) -> Iterator[Message]:
        """Raw messages, repeats included; ends when nothing comes while `idle` is set.

        Raises BrokerError when the broker refuses.
        """
        while self._open:
            found = self._consumer.consume(BATCH, POLL_S)
            if not found and idle is not None and idle.is_set():
                break
            for message in found:
                error = message.error()
                if error is None:
                    self._settle()
                    self._pending = message
                    partition, offset = message.partition(), message.offset()
                    assert partition is not None and offset is not None
                    end = self.end(partition)
                    if offset < end:
                        yield message
                    if offset >= end - 1:
                        self._open.discard(partition)
                elif error.code() == KafkaError._PARTITION_EOF:
                    self._open.discard(message.partition())
                elif not passes(error):
                    raise BrokerError(error.str(), topic=self._topic)
        self._settle()

    def _settle(self) -> None:
        """Count the record handed out last as read."""
        if self._group is not None and self._pending is not None:
            self._consumer.store_offsets(message=self._pending)
        self._pending = None

    def __iter__(self) -> Iterator[dict[str, Any]]:
        for message in self.messages():
            record = self._record(message)
            if record is not None:
                yield record

    def _record(self, message: Message) -> dict[str, Any] | None:
        """The record of a message; None for an erasure, a repeat, or what is no record at all."""
        value = message.value()
        if value is None:
            return None
        record = record_of(self._name, value)
        if record is None:
            _logger.warning(
                "%s, partition %s, offset %s: no record of the schema; passed over",
                self._topic,
                message.partition(),
                message.offset(),
            )
            return None
        return record if self._once.first(identity(record)) else None

    def close(self) -> None:
        """Give the connection back; with a group, also the place."""
        try:
            self._consumer.close()
        except KafkaException as error:
            raise BrokerError(f"closing: {error.args[0].str()}", topic=self._topic) from None

    def __enter__(self) -> Subscriber:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()
