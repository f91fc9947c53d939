"""Record a range of topics from Kafka: resumable, nothing lost or repeated, whatever ends it.

In: a confluent-kafka configuration and what to record. Out: a recording (`recording.py`).
Does not know what a transaction means. Progress is reported through a callback.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from time import monotonic
from typing import Any

import numpy as np
from confluent_kafka import (
    OFFSET_END,
    Consumer,
    KafkaError,
    KafkaException,
    Message,
    TopicCollection,
    TopicPartition,
)
from confluent_kafka.admin import AdminClient

from streams.batch import Batch
from streams.clients.outage import at_times, limits, passes
from streams.connect import headers_of, topic_remedy
from streams.errors import BrokerError, RecordingError
from streams.offline.columns import with_schema_columns
from streams.offline.recording import FOLLOWED, HOME, Manifest, Recording, resumable, to_table

FILE_ROWS = 131_072
"""Messages a file: a recorder that dies repeats at most this many of a partition."""
HELD_ROWS = 2 * FILE_ROWS
"""Messages in memory, of all partitions together; then the fullest partition is written."""
FLUSH_S = 10.0
"""With `--follow`, a quiet partition is written at least this often."""
POLL_MESSAGES = 5_000
SAID = ("scores", "alerts", "transactions.dlq")
"""What the service says of transactions."""
STALL_S = 60.0

Progress = Callable[[int, int], None]


@dataclass(frozen=True, slots=True)
class Request:
    """What to record. Times are broker append times in ms UTC; None means from the log's start,
    or to its end as of now. `follow` goes on until `stop` says so."""

    topics: dict[str, str]
    """Schema name of a topic to its name on the broker."""
    from_ms: int | None = None
    to_ms: int | None = None
    follow: bool = False
    file_rows: int = FILE_ROWS


@dataclass(slots=True)
class _Open:
    """Messages of one partition not yet in a file."""

    topic: str
    partition: int
    end: int | None
    position: int
    since: float
    messages: list[Message] = field(default_factory=list)

    @property
    def finished(self) -> bool:
        return self.end is not None and self.position >= self.end


def _place(message: Message) -> tuple[str, int, int]:
    """Topic, partition and offset of a message that came from a broker."""
    topic, partition, offset = message.topic(), message.partition(), message.offset()
    assert topic is not None and partition is not None and offset is not None
    return topic, partition, offset


def _no_topic(error: KafkaError, topic: str) -> BrokerError:
    return BrokerError(
        f"cannot record: {error.str()}",
        topic=topic,
        remedy=topic_remedy(error),
    )


class Recorder:
    """One run of a recorder. Call `run`; call it again on the same path to resume."""

    def __init__(self, config: dict[str, Any], request: Request, recording: Recording) -> None:
        self._request = request
        self._recording = recording
        self._admin = AdminClient(config)
        self.left_out: str | None = None
        """Why nothing was added to a whole recording, and what to do about it."""
        self._consumer = Consumer(
            config
            | {
                "group.id": "fraudstream-record",
                "enable.auto.commit": False,
                "enable.partition.eof": True,
                "auto.offset.reset": "error",
                "fetch.wait.max.ms": 50,
                "fetch.queue.backoff.ms": 20,
                "queued.min.messages": 100_000,
            }
        )

    def run(
        self,
        progress: Progress = lambda done, total: None,
        stop: Callable[[], bool] = lambda: False,
    ) -> Manifest:
        """Record until everything asked for is there. Raises BrokerError, RecordingError."""
        try:
            with resumable(self._recording):
                return self._record(self._open_manifest(), progress, stop)
        except KafkaException as error:
            raise BrokerError(f"cannot record: {error.args[0].str()}") from error
        finally:
            self._consumer.close()

    def _open_manifest(self) -> Manifest:
        if self._recording.exists():
            manifest = self._recording.manifest()
            asked = {f"{topic}" for topic in self._request.topics}
            held = {key.rpartition(":")[0] for key in manifest.start}
            if asked != held:
                raise RecordingError(
                    f"{self._recording.path} records {sorted(held)}, not {sorted(asked)}",
                    remedy="name another directory, or ask for the same topics to resume",
                )
            self._same_origin(manifest)
            self._recording.sweep(manifest)
            if self._request.follow:
                manifest.end, manifest.complete = {}, False
            elif manifest.end:
                if manifest.complete:
                    self.left_out = self._left_out(manifest)
                return manifest
        else:
            manifest = Manifest(origin=self._topic_ids() | self._asked())
            if "transactions" in self._request.topics:
                manifest.origin[HOME] = self._request.topics["transactions"]
        manifest.origin.pop(FOLLOWED, None)
        if self._request.follow:
            manifest.origin[FOLLOWED] = "yes"
        for name, actual in self._request.topics.items():
            for partition in self._partitions(actual):
                low, high = limits(self._consumer, actual, partition)
                key = f"{name}:{partition}"
                if key not in manifest.start:
                    first = self._offset(actual, partition, self._request.from_ms, low)
                    manifest.start[key] = first
                if not self._request.follow and key not in manifest.end:
                    manifest.end[key] = self._end(name, actual, partition, high)
        self._recording.save(manifest)
        return manifest

    def _end(self, name: str, actual: str, partition: int, high: int) -> int:
        """Where to stop. What was said of the last transactions was said after them: all of it."""
        said = name in SAID
        return self._offset(actual, partition, None if said else self._request.to_ms, high)

    def _left_out(self, manifest: Manifest) -> str:
        """What came after a whole recording: its end was fixed when it was begun."""
        newer = 0
        for name, actual in self._request.topics.items():
            for partition in self._partitions(actual):
                low, high = limits(self._consumer, actual, partition)
                newer += high - max(low, manifest.end.get(f"{name}:{partition}", 0))
        end = "its --to" if "to" in manifest.origin else "the moment when it was begun"
        told = f"{self._recording.path} is complete up to {end}; {newer:,} newer messages"
        if not newer:
            return f"{told}: nothing was added"
        return f"{told} are not in it: record to another directory, or add them with --follow"

    def _asked(self) -> dict[str, str]:
        """The range that was asked for, as the manifest remembers it."""
        asked = {"from": self._request.from_ms, "to": self._request.to_ms}
        return {name: str(moment) for name, moment in asked.items() if moment is not None}

    def _topic_ids(self) -> dict[str, str]:
        """Kafka's id of each topic: one that was deleted and made again has another."""
        actual = self._request.topics
        asked = self._admin.describe_topics(TopicCollection(list(actual.values())))
        found = {}
        for name, topic in actual.items():
            try:
                found[name] = str(asked[topic].result().topic_id)
            except KafkaException as error:
                raise _no_topic(error.args[0], topic) from None
        return found

    def _same_origin(self, manifest: Manifest) -> None:
        """Raises RecordingError for another range or other topics than this recording is of."""
        for name, found in self._topic_ids().items():
            if manifest.origin.get(name) != found:
                raise RecordingError(
                    f"{self._recording.path} is of another topic {name}, which had the same name",
                    remedy="its offsets mean other messages now: name another directory",
                )
        for name, moment in self._asked().items():
            if name == "to" and not manifest.end:
                continue
            if manifest.origin.get(name) != moment:
                raise RecordingError(
                    f"{self._recording.path} was begun with another --{name}",
                    remedy="name another directory, or leave the times out to resume",
                )

    def _partitions(self, actual: str) -> list[int]:
        metadata = self._consumer.list_topics(actual, timeout=30).topics[actual]
        if metadata.error is not None:
            raise _no_topic(metadata.error, actual)
        return sorted(metadata.partitions)

    def _offset(self, actual: str, partition: int, time_ms: int | None, default: int) -> int:
        if time_ms is None:
            return default
        found = at_times(self._consumer, [TopicPartition(actual, partition, time_ms)])[0].offset
        if found in (-1, OFFSET_END):
            return limits(self._consumer, actual, partition)[1]
        return int(found)

    def _record(self, manifest: Manifest, progress: Progress, stop: Callable[[], bool]) -> Manifest:
        parts: dict[tuple[str, int], _Open] = {}
        for key, start in manifest.start.items():
            name, _, number = key.rpartition(":")
            resume = manifest.resume_at(name, int(number))
            position = start if resume is None else resume
            actual = self._request.topics[name]
            part = _Open(name, int(number), manifest.end.get(key), position, monotonic())
            parts[actual, int(number)] = part
        self._consumer.assign(
            [TopicPartition(t, p, o.position) for (t, p), o in parts.items() if not o.finished]
        )
        total = sum(o.end - o.position for o in parts.values() if o.end is not None)
        done, heard, rows = 0, monotonic(), self._request.file_rows
        while not all(o.finished for o in parts.values()) and not stop():
            messages = self._consumer.consume(min(POLL_MESSAGES, rows), timeout=0.2)
            for message in messages:
                done += self._take(parts, message)
            now = monotonic()
            heard = now if messages else heard
            if not self._request.follow and now - heard > STALL_S:
                raise BrokerError(
                    f"no message for {STALL_S:.0f} s", remedy="run it again to resume"
                )
            for part in parts.values():
                waited = self._request.follow and now - part.since > FLUSH_S
                if len(part.messages) >= rows or part.finished or waited:
                    self._flush(manifest, part)
            if sum(len(part.messages) for part in parts.values()) > HELD_ROWS:
                self._flush(manifest, max(parts.values(), key=lambda part: len(part.messages)))
            progress(done, total)
        for part in parts.values():
            self._flush(manifest, part)
        manifest.origin.pop(FOLLOWED, None)
        manifest.complete = all(o.finished for o in parts.values())
        self._recording.save(manifest)
        return manifest

    def _take(self, parts: Mapping[tuple[str, int], _Open], message: Message) -> int:
        """Add one message; past the end asked for, only the position moves."""
        error = message.error()
        if error is not None and error.code() != KafkaError._PARTITION_EOF:
            if passes(error):
                return 0
            raise BrokerError(
                f"cannot record: {error.str()}",
                topic=message.topic(),
                partition=message.partition(),
                offset=message.offset(),
                remedy=topic_remedy(error),
            )
        topic, partition, offset = _place(message)
        part = parts[topic, partition]
        if error is not None:
            part.position = max(part.position, offset)
            return 0
        part.position = offset + 1
        if part.end is not None and offset >= part.end:
            return 0
        part.messages.append(message)
        return 1

    def _flush(self, manifest: Manifest, part: _Open) -> None:
        part.since = monotonic()
        if not part.messages:
            return
        messages, part.messages = part.messages, []
        batch = Batch(
            topic=part.topic,
            partition=part.partition,
            offsets=np.array([_place(m)[2] for m in messages], np.int64),
            timestamps=np.array([m.timestamp()[1] for m in messages], np.int64),
            keys=[m.key() for m in messages],
            values=[m.value() for m in messages],
            headers=[list(headers_of(m)) for m in messages],
            next_offset=_place(messages[-1])[2] + 1,
        )
        table = with_schema_columns(part.topic, to_table(batch))
        entry = self._recording.write(part.topic, part.partition, table, batch.next_offset)
        manifest.files.append(entry)
        self._recording.save(manifest)
