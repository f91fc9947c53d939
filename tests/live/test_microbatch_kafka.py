"""The micro-batch consumer on a real broker: codecs, aborted messages, seeks, two readers."""

from __future__ import annotations

import asyncio
import itertools
import logging
import time
from contextlib import AsyncExitStack
from functools import partial
from pathlib import Path

import numpy as np
import pytest
from confluent_kafka import Producer, TopicPartition
from confluent_kafka.admin import AdminClient
from faust.types import TP

from streams.connect import confluent_config
from streams.dev import kafka as kafka_server
from streams.dev import process
from streams.errors import BrokerError
from streams.live.microbatch import make_app
from streams.live.ranges import LogRange
from streams.schema import MAX_UNPACKED_BYTES, UNREAD
from streams.settings import Settings, load
from tests.live.reading import PATIENCE_S, Reader, Shelf, publish, reading, settings_for


def test_bytes_keys_and_offsets_survive_every_codec(kafka: str, topic_prefix: str) -> None:
    settings = settings_for(kafka, topic_prefix, partitions=1)
    sent: list[tuple[bytes | None, bytes | None]] = []
    for codec in ("none", "gzip", "snappy", "lz4", "zstd"):
        some = [(b"%d" % i, codec.encode() * 40 + b"\x00\xff%d" % i) for i in range(200)]
        publish(settings, [(0, k, v) for k, v in some], **{"compression.type": codec})
        sent += some
    publish(settings, [(0, None, b"no key"), (0, b"key", None)])
    sent += [(None, b"no key"), (b"key", None)]

    async def check() -> None:
        async with reading(settings) as reader:
            await reader.until(lambda: len(reader.values()) >= len(sent))
            batches = [fetched.batch for fetched in reader.ranges()]
            found = [pair for b in batches for pair in zip(b.keys, b.values, strict=True)]
            assert found == sent
            assert np.concatenate([b.offsets for b in batches]).tolist() == list(range(len(sent)))
            assert all((b.timestamps > 1_600_000_000_000).all() for b in batches)
            assert len(reader.messages) < 100, "batches, not messages"

    asyncio.run(check())


def test_a_broker_that_is_away_at_the_start_is_waited_for(
    topic_prefix: str, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    """It may go in the minute between a worker's first look and its group."""
    broker = kafka_server.start(tmp_path / "kafka", die_with_parent=True)
    try:
        settings = settings_for(broker.bootstrap, topic_prefix, partitions=1)
        publish(settings, [(0, b"k", b"v")])
        process.stop(broker.child, 0)

        async def back() -> kafka_server.Broker:
            while "Unable connect" not in caplog.text:
                await asyncio.sleep(0.05)
            start = partial(kafka_server.start, tmp_path / "kafka", die_with_parent=True)
            return await asyncio.to_thread(start)

        async def check() -> kafka_server.Broker:
            coming = asyncio.create_task(back())
            async with reading(settings) as reader:
                await reader.until(lambda: reader.values() == [b"v"])
            return await coming

        broker = asyncio.run(check())
    finally:
        process.stop(broker.child, 0)


def test_a_broker_that_stays_away_at_the_start_is_an_error_in_words(
    capfd: pytest.CaptureFixture[str],
    caplog: pytest.LogCaptureFixture,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    # A verb that an earlier test ran may have left a handler, of which the stream is closed by now.
    monkeypatch.setattr(logging, "raiseExceptions", False)
    app = make_app(load(flags=["kafka.bootstrap=127.0.0.1:1", "worker.retry_s=1"]), Shelf())

    async def check() -> None:
        app.loop = asyncio.get_running_loop()
        try:
            await app.start()
        finally:
            await app.stop()

    with pytest.raises(BrokerError, match=r"went away as the worker started.*Start it again"):
        asyncio.run(check())
    assert "Traceback" not in capfd.readouterr().err
    assert "Event loop is closed" not in caplog.text


def test_a_batch_that_unpacks_to_too_much_is_not_read(kafka: str, topic_prefix: str) -> None:
    settings = settings_for(kafka, topic_prefix, partitions=1)
    bomb = bytes(MAX_UNPACKED_BYTES + 1)
    for codec in ("gzip", "snappy", "lz4", "zstd"):
        flags = {"compression.type": codec, "message.max.bytes": 2 * len(bomb)}
        for value in (codec.encode(), bomb):
            publish(settings, [(0, b"k", value)], **flags)
    publish(settings, [(0, b"k", b"after")])
    sent = [b"gzip", UNREAD, b"snappy", UNREAD, b"lz4", UNREAD, b"zstd", UNREAD, b"after"]

    async def check() -> None:
        async with reading(settings) as reader:
            await reader.until(lambda: len(reader.values()) >= len(sent))
            assert reader.values() == sent
            batches = [fetched.batch for fetched in reader.ranges()]
            assert np.concatenate([b.offsets for b in batches]).tolist() == list(range(len(sent)))
            assert all((b.timestamps > 1_600_000_000_000).all() for b in batches)

    asyncio.run(check())


def test_aborted_messages_are_left_out_and_leave_no_lag(kafka: str, topic_prefix: str) -> None:
    settings = settings_for(kafka, topic_prefix, partitions=1)
    topic = settings.topic("transactions")
    producer = Producer(confluent_config(settings, {"transactional.id": topic_prefix}))
    producer.init_transactions()
    for number in range(6):
        producer.begin_transaction()
        producer.produce(topic, b"%d" % number, b"k")
        producer.flush()
        if number % 2:
            producer.abort_transaction()
        else:
            producer.commit_transaction()

    async def check() -> None:
        async with reading(settings) as reader:
            await reader.until(lambda: reader.values() == [b"0", b"2", b"4"])
            ranges = [(each.begin, each.batch.next_offset) for each in reader.ranges()]
            assert ranges[0][0] == 0
            assert all(a[1] == b[0] for a, b in itertools.pairwise(ranges))
            tp = TP(topic, 0)
            await reader.until(lambda: reader.consumer.reach()[tp].position == 12)
            assert reader.consumer.reach()[tp].lag(ranges[-1][1]) == 0
            producer.begin_transaction()
            producer.produce(topic, b"6", b"k")
            producer.flush()
            producer.abort_transaction()
            await reader.until(lambda: reader.ranges()[-1].batch.next_offset == 14)
            last = reader.ranges()[-1]
            assert (last.begin, len(last.batch)) == (ranges[-1][1], 0), "offsets without a message"
            publish(settings, [(0, b"k", b"7")])
            await reader.until(lambda: reader.values() == [b"0", b"2", b"4", b"7"])
            assert reader.ranges()[-1].begin == 14

    asyncio.run(check())


def test_kafkas_commit_does_not_decide_where_to_start(kafka: str, topic_prefix: str) -> None:
    settings = settings_for(kafka, topic_prefix, partitions=1)
    publish(settings, [(0, b"k", b"%d" % i) for i in range(10)])

    async def check() -> None:
        async with reading(settings) as reader:
            await reader.until(lambda: len(reader.values()) == 10)
        async with reading(settings, Shelf({0: 4})) as reader:
            await reader.until(lambda: len(reader.values()) >= 6)
            assert reader.shelf.logs[0] == LogRange(0, 10, 10), "the first reader's commit"
            assert reader.values() == [b"%d" % i for i in range(4, 10)]

    asyncio.run(check())


def test_what_is_not_acked_is_not_committed(kafka: str, topic_prefix: str) -> None:
    settings = settings_for(kafka, topic_prefix, partitions=1)
    publish(settings, [(0, b"k", b"v")] * 10)

    async def check() -> None:
        async with reading(settings) as reader:
            reader.ack = False
            await reader.until(lambda: len(reader.values()) == 10)
        async with reading(settings) as reader:
            assert reader.shelf.logs[0].committed is None

    asyncio.run(check())


def test_a_seek_back_starts_an_epoch_and_reads_again(kafka: str, topic_prefix: str) -> None:
    settings = settings_for(kafka, topic_prefix, "worker.batch_events=5", partitions=1)
    publish(settings, [(0, b"k", b"%d" % i) for i in range(200)])
    tp = TP(settings.topic("transactions"), 0)

    async def check() -> None:
        async with reading(settings) as reader:
            await reader.until(lambda: len(reader.messages) >= 3)
            reader.gate.clear()
            await asyncio.sleep(0.1)  # the queue fills behind the closed gate
            await reader.consumer.place({tp: 7})
            epoch = reader.shelf.epochs[0]
            reader.gate.set()
            await reader.until(lambda: newest(reader, epoch) == 200)
            again = reader.ranges(epoch)
            assert [v for f in again for v in f.batch.values] == [b"%d" % i for i in range(7, 200)]
            assert again[0].begin == 7
            ranges = [(f.begin, f.batch.next_offset) for f in again]
            assert all(a[1] == b[0] for a, b in itertools.pairwise(ranges))

    def newest(reader: Reader, epoch: int) -> int:
        ends = [fetched.batch.next_offset for fetched in reader.ranges(epoch)]
        return max(ends, default=0)

    asyncio.run(check())


def full_queues(kafka: str, topic_prefix: str) -> Settings:
    """Settings under which the 400 messages that are there are more than the queues take."""
    settings = settings_for(
        kafka, topic_prefix, "worker.batch_events=10", "worker.buffer_batches=1", partitions=2
    )
    publish(settings, [(i % 2, b"k", b"%d" % i) for i in range(400)])
    return settings


def test_a_full_queue_blocks_and_goes_on_at_once(kafka: str, topic_prefix: str) -> None:
    settings = full_queues(kafka, topic_prefix)

    async def check() -> None:
        async with reading(settings, shut=True) as reader:
            fetched = reader.consumer.reach
            await reader.until(lambda: sum(at.position for at in fetched().values()) == 400)
            assert reader.messages == []
            reader.gate.set()
            began = time.monotonic()
            await reader.until(lambda: len(reader.values()) == 400)
            # Forty ranges, through queues of one.
            assert time.monotonic() - began < 10, "Faust would wait a second each time"

    asyncio.run(check())


def test_lag_grows_while_nobody_takes_what_was_fetched(
    kafka: str, topic_prefix: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A full Redis stops the rounds, and these the fetches: the lag stood still for hours."""
    monkeypatch.setattr("streams.live.fetch.ENDS_EVERY_S", 0.5)
    settings = full_queues(kafka, topic_prefix)
    more = [(i % 2, b"k", b"%d" % i) for i in range(300)]

    async def check() -> None:
        async with reading(settings, shut=True) as reader:
            reach = reader.consumer.reach

            def lag() -> int:
                return sum(at.lag(0) for at in reach().values())

            # What comes first finds aiokafka with nothing in hand; after that it asks for no more.
            for total in (400, 700, 1_000):
                await reader.until(lambda end=total: lag() == end)
                await asyncio.get_running_loop().run_in_executor(None, publish, settings, more)
            await reader.until(lambda: lag() == 1_300)
            reader.gate.set()
            await reader.until(lambda: len(reader.values()) == 1_300)
            assert lag() == 1_300 and all(at.lag(at.fetched) == 0 for at in reach().values())

    asyncio.run(check())


def test_a_worker_stays_in_its_group_however_long_a_round_takes(
    kafka: str, topic_prefix: str
) -> None:
    """After an hour of a full Redis workers left the group, and stood still for ever after it."""
    settings = full_queues(kafka, topic_prefix)

    async def check() -> None:
        async with reading(settings, shut=True) as reader:
            fetched = reader.consumer.reach
            await reader.until(lambda: sum(at.position for at in fetched().values()) == 400)
            subscription = reader.consumer._thread._ensure_consumer()._subscription
            await reader.until(lambda: subscription.fetcher_idle_time > 0)
            subscription._last_fetch_ended -= 30 * 86_400.0
            await asyncio.sleep(3 * settings.kafka.session_timeout_ms / 5_000)  # three heartbeats
            assert reader.shelf.released == []
            reader.gate.set()
            await reader.until(lambda: len(reader.values()) == 400)

    asyncio.run(check())


def test_a_log_that_lost_its_end_is_an_error_and_no_silent_restart(
    kafka: str, topic_prefix: str
) -> None:
    settings = settings_for(kafka, topic_prefix, partitions=1)
    publish(settings, [(0, b"k", b"v")] * 5)

    async def check() -> None:
        async with reading(settings, Shelf({0: 50})) as reader:
            deadline = time.monotonic() + PATIENCE_S
            while not reader.app.crashed and time.monotonic() < deadline:
                await asyncio.sleep(0.05)
            reason = reader.app.crash_reason
            assert isinstance(reason, BrokerError) and reason.offset == 50
            assert "fraudstream rebuild" in str(reason.remedy)
            assert reader.messages == []

    asyncio.run(check())


def test_a_second_reader_takes_half_and_gives_it_back(kafka: str, topic_prefix: str) -> None:
    settings = settings_for(kafka, topic_prefix, partitions=4)

    async def check() -> None:
        async with reading(settings) as one:
            assert one.shelf.epochs.keys() == {0, 1, 2, 3}
            async with reading(settings) as two:
                await one.until(lambda: len(two.shelf.epochs) == 2)
                assert set(one.shelf.released) == {0, 1, 2, 3}, "an eager rebalance"
                publish(settings, [(i % 4, b"k", b"%d" % i) for i in range(100)])
                await one.until(lambda: len({*one.values(), *two.values()}) == 100)
                assert one.messages and two.messages
                # Before the other one leaves: its leaving may take longer than the rebalance.
                first = one.shelf.epochs.copy()
            await one.until(lambda: one.shelf.epochs != first)
            # Nothing is kept in `Shelf`, so the whole log is read again.
            await one.until(lambda: {each.tp.partition for each in one.ranges()} == {0, 1, 2, 3})

    asyncio.run(check())


def test_a_stop_in_the_middle_of_a_rebalance_leaves_the_group(
    kafka: str, topic_prefix: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    settings = settings_for(kafka, topic_prefix, "kafka.session_timeout_ms=20000", partitions=2)
    admin = AdminClient(confluent_config(settings))
    asked = asyncio.Event()

    async def unanswered(*_: object) -> None:
        asked.set()
        await asyncio.Event().wait()

    def members() -> int:
        group = settings.kafka.group
        return len(admin.describe_consumer_groups([group])[group].result().members)

    async def check() -> None:
        async with AsyncExitStack() as stop_one:
            one = await stop_one.enter_async_context(reading(settings))
            monkeypatch.setattr(one.consumer._thread, "_log_ranges", unanswered)
            async with reading(settings):
                await one.until(asked.is_set)
                assert members() == 2
                await stop_one.aclose()
                assert members() == 1

    asyncio.run(check())


def test_deleted_records_show_as_a_range_that_begins_before_its_first_message(
    kafka: str, topic_prefix: str
) -> None:
    settings = settings_for(kafka, topic_prefix, "worker.batch_events=10", partitions=1)
    topic = settings.topic("transactions")
    publish(settings, [(0, b"k", b"v")] * 50)

    async def check() -> None:
        async with reading(settings) as reader:
            await reader.until(lambda: len(reader.values()) == 50)
            await reader.consumer.place({TP(topic, 0): 20})
            admin = AdminClient(confluent_config(settings))
            for future in admin.delete_records([TopicPartition(topic, 0, 40)]).values():
                future.result()
            await reader.consumer.place({TP(topic, 0): 20})
            epoch = reader.shelf.epochs[0]
            await reader.until(lambda: len(reader.ranges(epoch)) > 0)
            first = reader.ranges(epoch)[0]
            assert first.begin == 20 and first.batch.offsets[0] == 40

    asyncio.run(check())
