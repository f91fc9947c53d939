"""F12: damaged account records: each bit, each cut, other versions; a worker that meets one.

In: a seed, and for the worker a place. Out: how many records or damages, or the error. Each damage
must be seen; the partition is then made again from the topic.
"""

from __future__ import annotations

from typing import Final

import numpy as np
import redis
from numpy.typing import NDArray

from streams.assembly import judge
from streams.errors import RecordCorrupt
from streams.kernels.cells import before
from streams.kernels.pack import load_records
from streams.offline.replay import Shard
from streams.schema import DAY_MS
from streams.settings import load
from streams.state import Arena
from streams.store import keys
from tests.faults.driver import Place, Run
from tests.faults.source import START_MS, Source
from tests.messages import batch_of

RECORDS: Final = 20
WORD_BITS: Final = 64


def records(seed: int) -> list[bytes]:
    """Records of accounts with few events and with many: some rings, some with pane rows."""
    source = Source(seed, 1, accounts=RECORDS)
    shard = Shard(
        3, [judge(load(flags=["model.bundle=stub"]))], None, max_future_ms=86_400_000, forgotten={}
    )
    made: list[bytes] = []
    while len(made) < RECORDS or len({len(record) for record in made}) <= 5:
        # An account may have been erased by its last message: then some more messages.
        sent = [each for each in source.take(900) if each.value is not None]
        names, values = [each.key for each in sent], [each.value for each in sent]
        shard.step(batch_of(values, names, times=[START_MS + 90 * DAY_MS] * len(sent)))
        made = [record for each in source.accounts if (record := shard.record(each))]
    return made


def caught(record: bytes) -> bool:
    """Is this refused as a record?"""
    try:
        Arena(0, 1).fill([("a", record)])
    except RecordCorrupt:
        return True
    return False


def every_bit(record: bytes) -> int:
    """Flip each bit of a record; how many there were. Raises AssertionError for one not seen."""
    arena = Arena(0, 1 << 20)
    slot = np.zeros(1, np.int32)
    words: NDArray[np.uint64] = np.frombuffer(record, np.uint64).copy()
    starts = np.array([0, len(words)], np.int64)
    for word in range(len(words)):
        for bit in range(WORD_BITS):
            words[word] ^= np.uint64(1) << np.uint64(bit)
            seen = load_records(arena.cells, before(1), words, starts, slot) == 0
            words[word] ^= np.uint64(1) << np.uint64(bit)
            assert seen, f"bit {bit} of word {word} was flipped, and the record taken"
    assert load_records(arena.cells, before(1), words, starts, slot) == 1
    return WORD_BITS * len(words)


def cuts_and_versions(record: bytes) -> int:
    """Cut, prolong, change the version of a record; how many damages there were."""
    assert not caught(record)
    cuts = [record[:at] for at in range(0, len(record), 8)]
    longer = [record + bytes(8), record + record[-8:], record + b"x"]
    versions = [bytes([number]) + record[1:] for number in range(256)]
    versions.remove(record)
    damages = [*cuts, *longer, *versions]
    for damaged in damages:
        assert caught(damaged), f"a damaged record of {len(damaged)} bytes was taken"
    return len(damages)


def damaged(place: Place, seed: int) -> int:
    """All damages of the records of one seed; how many records. `place` notes how many damages."""
    made = records(seed)
    place.seeds.append(seed)
    for record in made:
        place.counts["bits"] += every_bit(record)
        place.counts["cuts and versions"] += cuts_and_versions(record)
    return len(made)


def met_by_a_worker(place: Place, seed: int) -> int:
    """A worker meets a damaged record: it says what to do, and the partition stands until somebody
    did it. Made again from the topic, the state is the oracle's."""
    with Run(place, seed) as run:
        run.publish(300)
        worker = run.start().ready()
        run.drain()
        if worker.stop():
            raise run.failure(["the worker did not leave in order", worker.said()])
        with redis.Redis.from_url(place.redis_url) as client:
            start = keys.of(run.namespace, 0, 0).record
            name = f"{start}{run.source.accounts[0]}"
            kept = client.get(name)
            assert isinstance(kept, bytes)
            client.setrange(name, 40, bytes([kept[40] ^ 4]))
        before_it = run.watch.offsets()
        run.publish(100)
        refused = run.start()
        if refused.ended() != 1 or "fraudstream rebuild" not in refused.said():
            raise run.failure(["a damaged record was not refused", refused.said()])
        run.watch.look()
        if "damaged" not in refused.said() or run.watch.offsets()[0] != before_it[0]:
            raise run.failure(["the partition went on over a damaged record", refused.said()])
        run.put_right(run.rebuild)
        run.judge()
    return 1
