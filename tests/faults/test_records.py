"""F12: a damaged account record is never used: every bit, every cut, another version."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
import pytest
import redis

from streams.assembly import judge
from streams.errors import RecordCorrupt
from streams.kernels.cells import before
from streams.kernels.pack import load_records
from streams.offline.replay import Shard
from streams.schema import DAY_MS
from streams.settings import load
from streams.state import Arena
from streams.store import keys
from tests.faults.conftest import Tally
from tests.faults.driver import Place, Run
from tests.faults.source import START_MS, Source
from tests.messages import batch_of

RECORDS = 20


@pytest.fixture(scope="module")
def records() -> list[bytes]:
    """Records of accounts with few events and with many: some rings, some with pane rows."""
    source = Source(1, 1, accounts=RECORDS)
    shard = Shard(
        3, [judge(load(flags=["model.bundle=stub"]))], None, max_future_ms=86_400_000, forgotten={}
    )
    sent = [each for each in source.take(900) if each.value is not None]
    names, values = [each.key for each in sent], [each.value for each in sent]
    shard.step(batch_of(values, names, times=[START_MS + 90 * DAY_MS] * len(sent)))
    found = [shard.record(account) for account in source.accounts]
    made = [record for record in found if record]
    assert len(made) == RECORDS and len({len(record) for record in made}) > 5
    return made


def caught(record: bytes) -> bool:
    try:
        Arena(0, 1).fill([("a", record)])
    except RecordCorrupt:
        return True
    return False


def test_every_bit(records: list[bytes], tally: Tally) -> None:
    with tally("F12", "one bit of a record flipped") as row:
        arena = Arena(0, 1 << 20)
        slot = np.zeros(1, np.int32)
        for record in records:
            words = np.frombuffer(record, np.uint64).copy()
            starts = np.array([0, len(words)], np.int64)
            for word in range(len(words)):
                for bit in range(64):
                    words[word] ^= np.uint64(1) << np.uint64(bit)
                    assert load_records(arena.cells, before(1), words, starts, slot) == 0, (
                        word,
                        bit,
                    )
                    words[word] ^= np.uint64(1) << np.uint64(bit)
            assert load_records(arena.cells, before(1), words, starts, slot) == 1
            row.count(64 * len(words))


def test_cuts_and_other_versions(records: list[bytes], tally: Tally) -> None:
    with tally("F12", "a record cut, prolonged, of another version") as row:
        for record in records:
            assert not caught(record)
            cuts = [record[:at] for at in range(0, len(record), 8)]
            longer = [record + bytes(8), record + record[-8:], record + b"x"]
            versions = [bytes([number]) + record[1:] for number in range(256)]
            versions.remove(record)
            for damaged in (*cuts, *longer, *versions):
                assert caught(damaged), len(damaged)
                row.count(1)


def test_a_worker_stops_at_a_damaged_record(
    place: Place, seeds: Iterator[int], tally: Tally
) -> None:
    """It says what to do, and the partition stands until somebody did it; here: the record again
    as it was."""
    with tally("F12", "a worker meets a damaged record") as row, Run(place, next(seeds)) as run:
        run.publish(300)
        worker = run.start().ready()
        run.drain()
        assert worker.stop() == 0
        with redis.Redis.from_url(place.redis_url) as client:
            start = keys.of(run.namespace, 0, 0).record
            name = f"{start}{run.source.accounts[0]}"
            kept = client.get(name)
            assert isinstance(kept, bytes)
            client.setrange(name, 40, bytes([kept[40] ^ 4]))
            before = run.watch.offsets()
            run.publish(100)
            refused = run.start()
            assert refused.ended() == 1, refused.said()
            assert "damaged" in refused.said() and "fraudstream rebuild" in refused.said()
            assert run.watch.offsets()[0] == before[0]
            client.set(name, kept)
        run.start(run.another_group()).ready()
        run.judge()
        row.count(1)


def test_two_words_exchanged(records: list[bytes]) -> None:
    """A sum over words alone would not see it."""
    for record in records:
        words = np.frombuffer(record, np.uint64).copy()
        for at in range(2, len(words) - 1):
            if words[at] != words[at + 1]:
                words[[at, at + 1]] = words[[at + 1, at]]
                assert caught(words.tobytes()), at
                words[[at, at + 1]] = words[[at + 1, at]]
