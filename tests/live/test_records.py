"""Record batches, read back by aiokafka's own reader; partitions by aiokafka's own partitioner."""

from __future__ import annotations

import random
from collections.abc import Sequence

import numpy as np
import pytest
from aiokafka.partitioner import murmur2
from aiokafka.record.memory_records import MemoryRecords

from streams.alerts import NO_SCORES, OutMessage, Rendered, Scores, Texts
from streams.live import records
from streams.live.records import RecordBatch, packed

Told = tuple[int, bytes | None, bytes | None, Sequence[tuple[str, bytes]]]


def scores_of(pairs: Sequence[tuple[bytes, bytes]]) -> Scores:
    """Keys and values as columns; the keys lie apart, as the strings of a JSON list do."""
    ends = np.cumsum([len(key) + 3 for key, _ in pairs], dtype=np.int64)
    begins = ends - [len(key) + 3 for key, _ in pairs]
    spans = np.stack([begins + 2, ends - 1], axis=1)
    keys = b"".join(b'["' + key + b'"' for key, _ in pairs)
    return Scores(
        Texts(np.frombuffer(keys, np.uint8), spans),
        np.frombuffer(b"".join(value for _, value in pairs), np.uint8),
        np.cumsum([0, *(len(value) for _, value in pairs)], dtype=np.int64),
    )


def read(batch: RecordBatch, sequence: int = 5) -> list[Told]:
    """What aiokafka finds in the bytes, checksum and header tested."""
    batch._set_producer_state(77, 3, sequence)
    found = MemoryRecords(batch._build()).next_batch()
    assert found is not None and found.validate_crc()
    assert (found.producer_id, found.producer_epoch, found.base_sequence) == (77, 3, sequence)
    assert found.next_offset == batch.record_count() and not found.is_control_batch
    told = [(r.offset, r.key, r.value, tuple(r.headers), r.timestamp) for r in found]
    assert [each[4] for each in told] == [1_234] * batch.record_count()
    return [each[:4] for each in told]


@pytest.mark.parametrize("count", [1, 2, 6, 50])
def test_scores_of_any_length_come_back_in_order_from_the_partition_of_their_key(
    count: int,
) -> None:
    rng = random.Random(count)
    sizes = [0, 1, 2, 3, 4, 5, 7, 8, 63, 64, 65, 200, 8_191, 8_192, 20_000]
    first, second = (
        scores_of([(rng.randbytes(rng.randrange(1, 70)), rng.randbytes(n)) for n in sizes * 5])
        for _ in range(2)
    )
    batches = packed([Rendered(first, ()), Rendered(second, ())], {"scores": count}, 1_234)
    found: dict[int, list[Told]] = {batch.partition: read(batch) for batch in batches}
    expected: dict[int, list[Told]] = {}
    for scores in (first, second):
        for i in range(len(scores)):
            key = scores.key(i)
            place = expected.setdefault((murmur2(key) & 0x7FFFFFFF) % count, [])
            place.append((len(place), key, scores.value(i), ()))
    assert found == expected


def test_messages_with_headers_and_nulls_come_back() -> None:
    headers = (("reason", b"too_large"), ("ünï", b""))
    others = [
        OutMessage("transactions.dlq", b"key", b"value", headers),
        OutMessage("transactions.dlq", None, None, headers),
        OutMessage("transactions.dlq", b"", b"", ()),
        OutMessage("alerts", b"key", bytes(70_000), ()),
    ]
    batches = packed(
        [Rendered(NO_SCORES, others)],
        {"p-alerts": 3, "p-transactions.dlq": 1},
        1_234,
        lambda name: f"p-{name}",
    )
    dead, alerts = batches
    assert (dead.topic, alerts.topic) == ("p-transactions.dlq", "p-alerts")
    assert alerts.partition == (murmur2(b"key") & 0x7FFFFFFF) % 3
    assert read(dead) == [(i, *others[i][1:]) for i in range(3)]
    assert read(alerts) == [(0, b"key", bytes(70_000), ())]


def test_a_message_without_a_key_goes_to_any_partition() -> None:
    some = Rendered(NO_SCORES, [OutMessage("alerts", None, b"x", ())] * 200)
    assert {batch.partition for batch in packed([some], {"alerts": 3}, 1_234)} == {0, 1, 2}


def test_no_batch_outgrows_what_brokers_take(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(records, "BATCH_BYTES", 1_000)
    rng = random.Random(3)
    pairs = [(b"a-%d" % i, rng.randbytes(rng.choice([10, 300, 900, 2_000]))) for i in range(90)]
    scores = scores_of(pairs)
    others = [OutMessage("scores", *pair, ()) for pair in pairs]
    batches = packed([Rendered(scores, others)], {"scores": 2}, 1_234)
    assert all(batch.size <= 1_000 or batch.count == 1 for batch in batches)
    for partition in range(2):
        mine = [batch for batch in batches if batch.partition == partition]
        told = [(key, value) for batch in mine for _, key, value, _ in read(batch)]
        expected = [p for p in pairs if (murmur2(p[0]) & 0x7FFFFFFF) % 2 == partition]
        assert told == [*expected, *expected]


def test_sent_again_it_is_the_same_bytes() -> None:
    (batch,) = packed([Rendered(scores_of([(b"a", b"b")]), ())], {"scores": 1}, 1_234)
    batch._set_producer_state(1, 2, 3)
    assert batch._build() == batch._build()
