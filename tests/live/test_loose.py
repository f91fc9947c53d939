"""A header name that is no text costs its message the headers, and nobody anything else."""

from __future__ import annotations

import asyncio
import struct
from typing import Any

import aiokafka
import pytest
from aiokafka.consumer.fetcher import PartitionRecords
from aiokafka.errors import CorruptRecordException
from aiokafka.record.default_records import _DefaultRecordBatchBuilderPy
from confluent_kafka import Consumer

from streams.connect import confluent_config, headers_of
from streams.live import loose
from streams.live.chunks import by_chunks
from streams.live.records import RecordBatch
from tests.live.reading import reading, settings_for

GZIP = 1
MANY = 40
"""Python specialises what it has done often; an error that C leaves behind shows only then."""


class NoText(str):
    """A header name as a careless producer sends it."""

    __slots__ = ()

    def encode(self, *_: Any) -> bytes:
        return b"\xff\xfe"


def packed(codec: int = 0) -> bytes:
    """Three messages; the second has a name that is no text, the third one that is not ASCII."""
    builder = _DefaultRecordBatchBuilderPy(2, codec, False, -1, -1, -1, 1 << 20)
    for number, name in enumerate(("one", NoText("x"), "\u00e9")):
        value = b"v%d" % number
        builder.append(number, 1_700_000_000_000, b"k", value, [("a", b"1"), (name, None)])
    return bytes(builder.build())


def chunks(raw: bytes, first: int = 0) -> list[Any]:
    tp = aiokafka.TopicPartition("t", 0)
    records = PartitionRecords(tp, loose.KeptRecords(raw), [], first, None, None, True, 1)
    by_chunks(records)
    return list(records)


@pytest.mark.parametrize("codec", [0, GZIP])
def test_the_message_stays_and_so_do_its_neighbours(codec: int) -> None:
    (chunk,) = chunks(packed(codec))
    assert chunk.offsets == [0, 1, 2] and chunk.values == [b"v0", b"v1", b"v2"]
    assert [list(each) for each in chunk.headers] == [
        [("a", b"1"), ("one", None)],
        [],
        [("a", b"1"), ("\u00e9", None)],
    ]
    assert chunks(packed(codec), first=2)[0].offsets == [2]


def test_damage_is_still_damage() -> None:
    raw = packed()
    short = raw.replace(b"v1", b"v1\0")
    whole = short[:8] + struct.pack(">i", len(short) - 12) + short[12:]
    records = loose.KeptRecords(whole)
    records.next_batch()
    with pytest.raises(CorruptRecordException):
        list(loose.loosely(records))


def test_from_a_broker_live_and_replay_read_the_same(kafka: str, topic_prefix: str) -> None:
    settings = settings_for(kafka, topic_prefix, partitions=1)
    topic = settings.topic("transactions")

    async def check() -> list[list[Any]]:
        async with aiokafka.AIOKafkaProducer(bootstrap_servers=kafka) as producer:
            for raw in (packed(), packed(GZIP)) * MANY:
                batch = RecordBatch(topic, 0, 1_700_000_000_000, 3, _built=raw)
                await (await producer.send_batch(batch, topic, partition=0))
        async with reading(settings) as reader:
            await reader.until(lambda: len(reader.values()) >= 6 * MANY)
            batches = [fetched.batch for fetched in reader.ranges()]
            return [list(each) for batch in batches for each in batch.headers or ()]

    live = asyncio.run(check())
    begin = {"group.id": "x", "auto.offset.reset": "earliest"}
    consumer = Consumer(confluent_config(settings, begin))
    consumer.subscribe([topic])
    try:
        found = [list(headers_of(message)) for message in consumer.consume(6 * MANY, 60)]
        assert found == live
        assert [len(each) for each in live] == [2, 0, 2] * 2 * MANY
    finally:
        consumer.close()
