"""How the builder of risk snapshots reads its topics, on a real Kafka.

What it makes of them is in test_risk_agent.py.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from pathlib import Path
from types import SimpleNamespace

import orjson
import pytest
from confluent_kafka import KafkaError, KafkaException, Message, Producer, TopicPartition
from confluent_kafka.admin import AdminClient, NewPartitions

from streams.connect import confluent_config
from streams.errors import BrokerError
from streams.live import risk_log
from streams.live.risk_log import NAMES, Chunk, RiskLog
from streams.risk_pace import Pace
from streams.settings import Settings
from tests.faults.cluster import three_nodes
from tests.live.reading import PATIENCE_S, ends, publish, settings_for


@pytest.fixture
def settings(kafka: str, topic_prefix: str) -> Settings:
    return settings_for(kafka, topic_prefix)


@pytest.fixture
def log(settings: Settings) -> Iterator[RiskLog]:
    for name in NAMES:  # new partitions have no leader for a moment, which is waited for
        ends(settings, name)
    made = RiskLog(settings)
    yield made
    made.close()


def read_until(log: RiskLog, enough: Callable[[list[Chunk]], bool]) -> list[Chunk]:
    deadline = time.monotonic() + PATIENCE_S
    found: list[Chunk] = []
    while not enough(found):
        assert time.monotonic() < deadline, "it did not come in time"
        found += log.read()
    return found


def offsets(chunks: list[Chunk], partition: int) -> list[int]:
    return [at for one in chunks if one.batch.partition == partition for at in one.batch.offsets]


def numbered(partition: int, count: int) -> list[tuple[int, bytes, bytes]]:
    return [(partition, b"k%d" % i, b"v%d" % i) for i in range(count)]


def test_reading_begins_where_it_is_told_and_never_before_what_is_kept(
    settings: Settings, log: RiskLog
) -> None:
    publish(settings, numbered(0, 10) + numbered(1, 3))
    topic = settings.topic("transactions")
    admin = AdminClient(confluent_config(settings))
    for future in admin.delete_records([TopicPartition(topic, 0, 4)]).values():
        future.result(PATIENCE_S)
    assert log.open("transactions", {}) == {0: 4, 1: 0}
    assert log.open("transactions", {"0": 2}) == {0: 4, 1: 0}
    # The builder before knew of one partition only.
    assert log.open("transactions", {"0": 7}) == {0: 7, 1: 0}
    assert log.ends("transactions") == {0: 10, 1: 3}
    log.assign(["transactions"])
    assert not log.at_end("transactions", 0)
    chunks = read_until(log, lambda _: all(log.at_end("transactions", each) for each in (0, 1)))
    assert offsets(chunks, 0) == [7, 8, 9] and offsets(chunks, 1) == [0, 1, 2]
    assert log.positions("transactions") == {0: 10, 1: 3}
    for one in chunks:
        batch = one.batch
        assert one.topic == "transactions" and batch.topic == topic and batch.headers is None
        assert batch.next_offset == batch.offsets[-1] + 1
        assert batch.keys == [b"k%d" % at for at in batch.offsets]
        assert batch.values == [b"v%d" % at for at in batch.offsets]
        assert (batch.timestamps > 1_600_000_000_000).all()


def test_what_a_transaction_leaves_is_read_past_and_what_is_open_is_not_waited_for(
    settings: Settings, log: RiskLog
) -> None:
    """A builder waits for the ends it saw: those of a transaction that nobody ends do not come."""
    config = confluent_config(settings, {"transactional.id": settings.kafka.topic_prefix})
    producer = Producer(config)
    producer.init_transactions()
    log.open("transactions", {})
    log.assign(["transactions"])
    chunks: list[Chunk] = []
    for end, marked in ((producer.commit_transaction, 2), (producer.abort_transaction, 4)):
        producer.begin_transaction()
        producer.produce(settings.topic("transactions"), b"v", b"k", partition=0)
        producer.flush()
        before = log.ends("transactions")
        chunks += read_until(log, lambda _, at=before: log.positions("transactions") == at)
        end()
        # A message and its mark, which comes a moment after.
        closed = {0: marked, 1: 0}
        chunks += read_until(log, lambda _, at=closed: log.ends("transactions") == at)
    chunks += read_until(log, lambda _: log.positions("transactions") == {0: 4, 1: 0})
    assert offsets(chunks, 0) == [0], "what was taken back is not read"
    assert log.at_end("transactions", 0)


def test_a_partition_that_is_held_waits_and_the_others_come(
    settings: Settings, log: RiskLog
) -> None:
    log.open("transactions", {})
    log.assign(["transactions"])
    log.pause(0)
    publish(settings, numbered(0, 4) + numbered(1, 4))
    held = read_until(log, lambda _: log.positions("transactions")[1] == 4)
    held += log.read()
    assert offsets(held, 0) == [] and offsets(held, 1) == [0, 1, 2, 3]
    log.resume(0)
    after = read_until(log, lambda _: log.positions("transactions")[0] == 4)
    assert offsets(after, 0) == [0, 1, 2, 3] and offsets(after, 1) == []


def test_a_topic_with_more_partitions_is_begun_again(
    settings: Settings, log: RiskLog, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name in ("transactions", "labels"):
        log.open(name, {})
    log.assign(["transactions", "labels"])
    topic = settings.topic("labels")
    count = len(log.positions("labels")) + 1
    admin = AdminClient(confluent_config(settings))
    admin.create_partitions([NewPartitions(topic, count)])[topic].result(PATIENCE_S)
    log.read()  # it is not asked each time
    monkeypatch.setattr(risk_log, "RECHECK_EVERY_S", 0.0)
    with pytest.raises(BrokerError, match=f"the partition count changed.*{topic}"):
        read_until(log, lambda _: False)
    assert len(log.open("labels", {})) == count


def test_the_next_leader_tells_the_ends(tmp_path: Path) -> None:
    """A builder that was refused here would begin again, weeks back in the log."""
    with three_nodes(tmp_path) as cluster:
        settings = settings_for(cluster.bootstrap, "", "topics.replication=3", partitions=1)
        publish(settings, numbered(0, 3))
        log = RiskLog(settings)
        try:
            assert log.open("transactions", {}) == {0: 0}
            for _ in range(2):
                cluster.kill(led := cluster.leader("transactions", 0))
                assert log.ends("transactions") == {0: 3}
                cluster.start(led)
                cluster.whole(["transactions"])
        finally:
            log.close()


def test_snapshots_belong_to_these_topics_and_this_pace(settings: Settings, log: RiskLog) -> None:
    about = log.about(Pace(7, 12))
    told = orjson.loads(about)
    assert told["transactions"] != told["labels"]
    assert (told["delay_days"], told["period_hours"]) == (7, 12)
    assert log.about(Pace(7, 12)) == about, "the same words for the same"
    assert log.about(Pace(7, 24)) != about
    elsewhere = settings.model_copy(
        update={"kafka": settings.kafka.model_copy(update={"topic_prefix": "no-such-"})}
    )
    other = RiskLog(elsewhere)
    with pytest.raises(BrokerError, match=r"cannot describe the topic.*topics create"):
        other.about(Pace(7))
    other.close()


def test_of_a_batch_with_faults_and_ends_nothing_is_lost(
    settings: Settings, log: RiskLog, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A partition is at its end only where nothing came after the end that was told of."""
    where = {"topic": settings.topic("labels"), "partition": 0}
    end = KafkaError(KafkaError._PARTITION_EOF)
    come = [
        Message(key=b"a", value=b"1", offset=0, **where),
        Message(error=end, offset=1, **where),
        Message(error=KafkaError(KafkaError._TRANSPORT), **where),
        Message(error=KafkaError(KafkaError._ALL_BROKERS_DOWN)),
        Message(key=b"b", value=b"2", offset=1, headers=[("tenant_id", b"t")], **where),
    ]
    log.open("labels", {})
    monkeypatch.setattr(log, "_consumer", SimpleNamespace(consume=lambda *_: come, close=int))
    (one,) = log.read()
    assert one.topic == "labels" and one.batch.values == [b"1", b"2"]
    assert one.batch.headers is not None and one.batch.headers[1] == [("tenant_id", b"t")]
    assert log.positions("labels")[0] == 2 and not log.at_end("labels", 0)
    # The mark of a transaction lies between.
    come[:] = [Message(error=end, offset=3, **where)]
    assert log.read() == []
    assert log.positions("labels")[0] == 3 and log.at_end("labels", 0)
    come[:] = [Message(key=b"c", value=b"3", offset=3, **where)]
    log.read()
    assert log.positions("labels")[0] == 4 and not log.at_end("labels", 0)
    come[:] = [Message(error=KafkaError(KafkaError.TOPIC_AUTHORIZATION_FAILED), **where)]
    with pytest.raises(KafkaException):
        log.read()
