"""`replay --to-topic`: the same keys, bytes, partitions and order, on a real broker."""

from __future__ import annotations

import random
import time
from pathlib import Path

import pytest
from aiokafka.partitioner import murmur2
from confluent_kafka import Producer

from streams.errors import BrokerError
from streams.offline.record import Recorder, Request
from streams.offline.recording import Recording
from streams.offline.resend import resend
from streams.offline.source import RecordingSource
from streams.privacy import account_digest
from tests.offline import kafka_log
from tests.offline.kafka_log import Log

PARTITIONS = 3
COUNT = 200


@pytest.fixture
def recording(kafka: str, topic_prefix: str, tmp_path: Path) -> Recording:
    """A recording of a topic with three partitions."""
    topic = f"{topic_prefix}source"
    kafka_log.make_topics(kafka, {topic: PARTITIONS})
    for partition in range(PARTITIONS):
        kafka_log.publish(kafka, topic, partition, 10 * partition, COUNT)
    made = Recording(str(tmp_path / "r"))
    Recorder({"bootstrap.servers": kafka}, Request({"transactions": topic}), made).run()
    return made


def without_place(log: Log) -> dict[int, list[tuple[object, ...]]]:
    """Key, value and headers in order; the broker gives new offsets and times."""
    return {partition: [row[2:] for row in rows] for partition, rows in log.items()}


@pytest.mark.parametrize("speed", [0.0, 100.0])
def test_the_topic_gets_the_same_messages(
    kafka: str, topic_prefix: str, recording: Recording, speed: float
) -> None:
    topic = f"{topic_prefix}again"
    kafka_log.make_topics(kafka, {topic: PARTITIONS})
    began, told = time.monotonic(), []
    sent, left_out = resend(
        {"bootstrap.servers": kafka},
        RecordingSource(recording.path),
        topic,
        speed,
        forgotten={},
        progress=lambda done, total: told.append((done, total)),
    )
    assert (sent, left_out) == (PARTITIONS * COUNT, 0)
    assert told[-1] == (sent, sent)
    got = kafka_log.read(kafka, topic, PARTITIONS)
    assert without_place(got) == without_place(kafka_log.recorded(recording, "transactions"))
    if speed:
        recorded_s = COUNT + 10 * (PARTITIONS - 1) - 1
        assert time.monotonic() - began >= recorded_s / speed, "the recorded pace is kept"


@pytest.mark.parametrize("count", [2, 5])
def test_a_topic_with_other_partitions_keeps_accounts_together(
    kafka: str, topic_prefix: str, recording: Recording, count: int
) -> None:
    """Fewer or more: by key, where all other publishers put the account, too."""
    topic = f"{topic_prefix}other"
    kafka_log.make_topics(kafka, {topic: count})
    resend({"bootstrap.servers": kafka}, RecordingSource(recording.path), topic, 0.0, forgotten={})
    got = kafka_log.read(kafka, topic, count)
    places: dict[bytes, set[int]] = {}
    for partition, rows in got.items():
        for row in rows:
            if row[2] is not None:
                places.setdefault(row[2], set()).add(partition)
    assert sum(map(len, got.values())) == PARTITIONS * COUNT
    assert all(len(where) == 1 for where in places.values())
    assert places == {key: {(murmur2(key) & 0x7FFFFFFF) % count} for key in places}


def test_what_an_erased_account_did_before_is_not_sent(
    kafka: str, topic_prefix: str, recording: Recording
) -> None:
    topic = f"{topic_prefix}again"
    kafka_log.make_topics(kafka, {topic: PARTITIONS})
    recorded = kafka_log.recorded(recording, "transactions")
    offset, key = next(row[:3:2] for row in recorded[1][COUNT // 2 :] if row[2] is not None)
    told: list[tuple[int, int]] = []
    sent, left_out = resend(
        {"bootstrap.servers": kafka},
        RecordingSource(recording.path),
        topic,
        0.0,
        forgotten={account_digest(key.decode()): offset},
        progress=lambda *step: told.append(step),
    )
    kept = {
        partition: [row for row in rows if row[2] != key or row[0] >= offset]
        for partition, rows in recorded.items()
    }
    assert without_place(kafka_log.read(kafka, topic, PARTITIONS)) == without_place(kept)
    assert sent == sum(map(len, kept.values())) and sent + left_out == PARTITIONS * COUNT
    assert left_out > 0 and told[-1] == (PARTITIONS * COUNT, PARTITIONS * COUNT)


def test_a_recording_that_grows_is_sent_as_it_was_when_it_was_opened(
    kafka: str, topic_prefix: str, tmp_path: Path
) -> None:
    """What came later may hold the erasure of an account, and nobody has looked there for it."""
    names = {"transactions": f"{topic_prefix}source"}
    topic = f"{topic_prefix}again"
    kafka_log.make_topics(kafka, {names["transactions"]: 1, topic: 1})
    made = Recording(str(tmp_path / "r"))

    def record(follow: bool) -> None:
        kafka_log.publish(kafka, names["transactions"], 0, 0, COUNT)
        recorder = Recorder({"bootstrap.servers": kafka}, Request(names, follow=follow), made)
        recorder.run(stop=lambda: follow and made.manifest().rows("transactions") >= COUNT)

    record(follow=True)
    source, held = RecordingSource(made.path), kafka_log.recorded(made, "transactions")
    record(follow=False)
    assert len(kafka_log.recorded(made, "transactions")[0]) > len(held[0])
    resend({"bootstrap.servers": kafka}, source, topic, 0.0, forgotten={})
    assert without_place(kafka_log.read(kafka, topic, 1)) == without_place(held)


def test_what_only_the_broker_may_refuse(
    kafka: str, topic_prefix: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Near the broker's limit, which is above the client's own; a narrower topic says no."""
    source, narrow = f"{topic_prefix}large", f"{topic_prefix}narrow"
    kafka_log.make_topics(kafka, {source: 1, f"{topic_prefix}again": 1})
    kafka_log.make_topics(kafka, {narrow: 1}, **{"max.message.bytes": "100000"})
    large = random.Random(1).randbytes(1_040_000)
    producer = Producer({"bootstrap.servers": kafka, "message.max.bytes": 2_000_000})
    for value in (b"small", large, b"small, too"):
        producer.produce(source, value, b"a")
    assert producer.flush(120) == 0
    made = Recording(str(tmp_path / "r"))
    Recorder({"bootstrap.servers": kafka}, Request({"transactions": source}), made).run()
    config = {"bootstrap.servers": kafka}
    assert resend(
        config, RecordingSource(made.path), f"{topic_prefix}again", 0.0, forgotten={}
    ) == (3, 0)
    got = kafka_log.read(kafka, f"{topic_prefix}again", 1)
    assert [row[3] for row in got[0]] == [b"small", large, b"small, too"]
    with pytest.raises(BrokerError, match="not delivered") as told:
        resend(config, RecordingSource(made.path), narrow, 0.0, forgotten={})
    assert (told.value.topic, told.value.partition, told.value.offset) == (narrow, 0, 1)
    assert told.value.remedy is not None and "may be on the topic already" in told.value.remedy
    monkeypatch.setattr("streams.offline.resend.SENDABLE_BYTES", 1_000)
    with pytest.raises(BrokerError, match=r"not delivered.* too large") as told:
        resend(config, RecordingSource(made.path), narrow, 0.0, forgotten={})
    assert (told.value.topic, told.value.partition, told.value.offset) == (narrow, 0, 1)


def test_a_topic_that_is_not_there(kafka: str, topic_prefix: str, recording: Recording) -> None:
    with pytest.raises(BrokerError, match=r"no topic to send.*make.*with \d+ partitions"):
        resend(
            {"bootstrap.servers": kafka},
            RecordingSource(recording.path),
            f"{topic_prefix}absent",
            0.0,
            forgotten={},
        )
