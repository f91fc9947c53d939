"""Claims: what is resent, where reading starts, and what is refused."""

from __future__ import annotations

from collections.abc import Iterable

import pytest
import redis

from streams.errors import BrokerError, Fenced, LogShort, StoreLost, StoreUnready
from streams.live.partitions import Partitions
from streams.live.patience import Patience
from streams.live.ranges import LogRange
from streams.live.suspects import NOBODY, Care, NotesInMemory, Suspects
from streams.metrics import Metrics
from streams.store import Commit, Identity, Writes, generations
from streams.store.memory import MemoryStore
from streams.store.redis import RedisStore

IDENTITY = Identity("topic-id", 2, "stub@1")
NEW = LogRange(0, 100, None)


class Sent:
    """An outbox that notes what it delivers."""

    def __init__(self) -> None:
        self.batches: list[list[bytes]] = []
        self.fault: Exception | None = None

    def deliver(self, entries: Iterable[bytes]) -> int:
        if self.fault is not None:
            raise self.fault
        self.batches.append(list(entries))
        return len(self.batches[-1])


class Case:
    def __init__(self, store: MemoryStore | RedisStore | None = None) -> None:
        self.store = store or MemoryStore()
        self.outbox = Sent()
        self.metrics = Metrics()
        self.notes_kept = NotesInMemory()
        self.partitions = Partitions(
            self.store,
            self.outbox,  # type: ignore[arg-type]
            Suspects(self.notes_kept, 3, 4_096),
            lambda: IDENTITY,
            "transactions",
            1_000_000,
            Patience(0, self.metrics),
            self.metrics,
        )

    def metric(self, name: str) -> float | None:
        return self.metrics.registry.get_sample_value(f"fraudstream_{name}")


def moved(store: MemoryStore, *steps: int) -> None:
    """Commit these offsets on partition 0, each with an entry named after it."""
    claim = store.acquire(0, IDENTITY)
    at = claim.offset
    for step in steps:
        writes = Writes.of([("a", [(0, bytes(64))])])
        store.commit(claim, Commit(at, step, writes, entry=b"entry %d" % step))
        at = step


def test_a_new_partition_starts_at_the_logs_start() -> None:
    case = Case()
    assert case.partitions.claim({0: LogRange(12, 100, None), 1: NEW}) == {0: 12, 1: 0}
    assert case.partitions.held[0].applied is None
    assert case.outbox.batches == []


def test_a_known_partition_goes_on_and_its_outbox_is_sent_first() -> None:
    store = MemoryStore()
    moved(store, 5, 9)
    case = Case(store)
    assert case.partitions.claim({0: LogRange(0, 100, 3)}) == {0: 9}
    held = case.partitions.held[0]
    assert held.applied == 9 and case.outbox.batches == [[b"entry 5", b"entry 9"]]
    assert store.pending(held.claim) == []
    assert case.metrics.registry.get_sample_value("fraudstream_resent_entries_total") == 2
    held.arena.fill([(account, None) for account in held.arena.missing(["a", "b"])])
    arenas = case.metrics.registry.get_sample_value("fraudstream_arena_bytes")
    assert arenas == held.arena.used_bytes > 0
    case.partitions.drop(0)
    assert case.metrics.registry.get_sample_value("fraudstream_arena_bytes") == 0


def test_a_full_outbox_is_sent_again_whole_and_in_order() -> None:
    store = MemoryStore()
    moved(store, *range(1, 151))
    case = Case(store)
    case.partitions.claim({0: LogRange(0, 200, None)})
    assert max(map(len, case.outbox.batches)) <= 64
    sent = [entry for batch in case.outbox.batches for entry in batch]
    assert sent == [b"entry %d" % step for step in range(1, 151)]
    assert store.pending(case.partitions.held[0].claim) == []
    assert case.metric("resent_entries_total") == 150


def test_memory_is_shared_among_all_that_is_held() -> None:
    """`worker.arena_mb` bounds the sum, also where one partition is claimed again by itself."""
    case = Case()
    alone = Case()
    alone.partitions.claim({0: NEW})
    whole = alone.partitions.held[0].arena.capacity
    case.partitions.claim({0: NEW, 1: NEW})
    assert case.metric("partitions") == 2
    case.partitions.disown(1)
    assert case.metric("partitions") == 1
    case.partitions.claim({1: NEW})
    shares = [held.arena.capacity for held in case.partitions.held.values()]
    assert len(shares) == 2 and all(whole // 2 - 1 <= share <= whole // 2 for share in shares)
    assert Case().partitions.claim({}) == {}


def test_a_claim_that_is_refused_leaves_nothing_held_of_it() -> None:
    """What was in memory is of a claim that the store may have passed on."""
    store = MemoryStore()
    case = Case(store)
    case.partitions.claim({0: NEW})
    store.commit(case.partitions.held[0].claim, Commit(None, 9, Writes.of([])))
    with pytest.raises(StoreUnready):
        case.partitions.claim({0: LogRange(10, 100, None)})
    assert case.partitions.held == {}


def test_what_was_trimmed_is_not_trimmed_again() -> None:
    store = MemoryStore()
    case = Case(store)
    case.partitions.claim({0: NEW})
    held = case.partitions.held[0]
    store.commit(held.claim, Commit(None, 6, Writes.of([]), entry=b"entry 6"))
    held.sent, held.sent_bytes = [6], 7
    case.partitions.trim(held)
    assert store.pending(held.claim) == [] and (held.sent, held.sent_bytes) == ([], 0)


def test_what_cannot_be_sent_again_stays() -> None:
    store = MemoryStore()
    moved(store, 5)
    case = Case(store)
    case.outbox.fault = BrokerError("away")
    with pytest.raises(BrokerError):
        case.partitions.claim({0: NEW})
    assert len(store.pending(store.acquire(0, IDENTITY))) == 1


@pytest.mark.parametrize(
    "log",
    [LogRange(10, 100, None), LogRange(0, 8, None)],
    ids=["deleted by retention", "the log lost its end"],
)
def test_a_log_that_does_not_reach_the_offset_is_refused(log: LogRange) -> None:
    store = MemoryStore()
    moved(store, 9)
    with pytest.raises(StoreUnready, match="rebuild"):
        Case(store).partitions.claim({0: log})


def test_an_empty_store_of_a_group_that_worked_is_refused() -> None:
    with pytest.raises(StoreUnready, match="rebuild"):
        Case().partitions.claim({0: LogRange(0, 100, 40)})


def test_a_claim_fences_the_one_before() -> None:
    store = MemoryStore()
    first, second = Case(store), Case(store)
    first.partitions.claim({0: NEW})
    second.partitions.claim({0: NEW})
    held = first.partitions.held[0]
    with pytest.raises(Fenced):
        store.commit(held.claim, Commit(None, 1, Writes.of([])))


def test_a_partition_that_is_taken_during_the_claim_is_given_up() -> None:
    """The worker ended with an error, where the one that took it goes on."""
    store = MemoryStore()
    moved(store, 5)
    case, other = Case(store), Case(store)
    deliver = case.outbox.deliver

    def taken(entries: Iterable[bytes]) -> int:
        other.partitions.claim({0: NEW})
        return deliver(entries)

    case.outbox.deliver = taken  # type: ignore[method-assign]
    assert case.partitions.claim({0: NEW, 1: NEW}) == {0: 5, 1: 0}
    assert case.partitions.held.keys() == {1}
    assert case.metrics.registry.get_sample_value("fraudstream_fenced_total") == 1
    assert other.partitions.held[0].applied == 5


def test_letting_go_trims_what_was_delivered() -> None:
    store = MemoryStore()
    moved(store, 5)
    case = Case(store)
    case.partitions.claim({0: NEW})
    held = case.partitions.held[0]
    store.commit(held.claim, Commit(5, 6, Writes.of([]), entry=b"entry 6"))
    held.sent = [6]
    case.partitions.release(0)
    assert case.partitions.held == {} and case.metric("partitions") == 0
    assert store.pending(store.acquire(0, IDENTITY)) == []
    case.partitions.release(0)


def test_a_worker_that_ends_in_order_lets_go_of_everything() -> None:
    case = Case()
    case.partitions.claim({2: NEW, 0: NEW, 1: NEW})
    case.partitions.release_all()
    assert case.partitions.held == {} and case.notes_kept.notes == {}


def test_what_was_delivered_before_a_conflict_is_not_sent_again() -> None:
    """An erasure from outside is such a conflict: each would send up to a whole outbox again."""
    store = MemoryStore()
    case = Case(store)
    case.partitions.claim({0: NEW})
    held = case.partitions.held[0]
    for before, after in ((None, 6), (6, 7)):
        writes = Commit(before, after, Writes.of([]), entry=b"entry %d" % after)
        store.commit(held.claim, writes)
    held.sent = [6]
    case.partitions.disown(0)
    case.partitions.claim({0: NEW})
    assert case.outbox.batches == [[b"entry 7"]]


def test_a_conflict_of_a_partition_that_was_taken_is_quiet() -> None:
    case = Case()
    case.partitions.claim({0: NEW})
    case.partitions.held[0].sent = [5]
    case.store.acquire(0, IDENTITY)
    case.partitions.disown(0)
    assert case.partitions.held == {}


def test_letting_go_of_a_partition_that_was_taken_is_quiet() -> None:
    store = MemoryStore()
    case = Case(store)
    case.partitions.claim({0: NEW})
    held = case.partitions.held[0]
    store.commit(held.claim, Commit(None, 6, Writes.of([]), entry=b"entry 6"))
    held.sent = [6]
    taken = store.acquire(0, IDENTITY)
    case.partitions.release(0)
    assert case.partitions.held == {}
    assert store.pending(taken) == [(6, b"entry 6")]


def test_letting_go_does_not_wait_for_a_store_that_is_away(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    case = Case()
    case.partitions.claim({0: NEW})
    case.partitions.held[0].sent = [6]

    def away(*_: object) -> None:
        raise StoreLost("no answer")

    monkeypatch.setattr(case.store, "trim", away)
    case.partitions.release(0)
    assert case.partitions.held == {}
    assert case.notes_kept.read(0), "the note stays: nobody knows how this ended"


def test_a_rebuild_meanwhile_is_no_death(redis_url: str) -> None:
    with redis.Redis.from_url(redis_url) as client:
        case = Case(RedisStore(client))
        case.partitions.claim({0: NEW})
        held = case.partitions.held[0]
        case.store.commit(held.claim, Commit(None, 6, Writes.of([]), entry=b"entry 6"))
        held.sent = [6]
        generation = generations.begin(client, "fs")
        for partition in range(IDENTITY.partitions):
            RedisStore(client, generation=generation).acquire(partition, IDENTITY)
            generations.finish(client, "fs", generation, partition, 6, {})
        generations.switch(client, "fs", generation, IDENTITY.partitions)
        case.partitions.release(0)
        assert not case.notes_kept.read(0)


def test_asking_again_for_a_logs_end_leaves_no_notes() -> None:
    store = MemoryStore()
    moved(store, 5)
    case = Case(store)
    for _ in range(3):
        with pytest.raises(LogShort):
            case.partitions.claim({1: NEW, 0: LogRange(0, 4, None)})
    assert case.partitions.claim({1: NEW, 0: NEW}) == {0: 5, 1: 0}
    assert case.partitions.limit(0) is None and case.partitions.limit(1) is None


@pytest.mark.parametrize("broken", [False, True])
def test_what_a_bug_ended_looks_like_a_death(broken: bool) -> None:
    case = Case()
    case.partitions.claim({0: NEW})
    case.partitions.broken = broken
    case.partitions.release(0)
    case.partitions.claim({0: NEW})
    assert case.partitions.limit(0) == (64 if broken else None)


def test_care_is_taken_after_a_death_and_ends_past_the_stretch(
    caplog: pytest.LogCaptureFixture,
) -> None:
    store = MemoryStore()
    moved(store, 5)
    dead = Case(store)
    dead.partitions.claim({0: NEW})
    case = Case(store)
    case.notes_kept.notes = dead.notes_kept.notes
    case.partitions.claim({0: NEW})
    held = case.partitions.held[0]
    (told,) = (line for line in caplog.messages if "died" in line)
    assert told.startswith("partition 0: the worker before died; 64 messages a round up to offset")
    assert held.care is not None and case.partitions.limit(0) == held.care.limit == 64
    assert not case.partitions.careful(held, 5, 64)
    assert not case.partitions.careful(held, held.care.until, 64)
    assert case.partitions.limit(0) is None and case.notes_kept.read(0)["level"] == 0


def test_the_condemned_message_is_left_unread_and_the_ones_before_are_noted() -> None:
    case = Case()
    case.partitions.claim({0: NEW})
    held = case.partitions.held[0]
    held.care = Care(1, 9, condemned=NOBODY)
    assert not case.partitions.careful(held, 7, 1)
    note = case.notes_kept.read(0)
    assert note["trying"] == 7 and note["trier"] == held.claim.token
    held.care = Care(1, 9, condemned=8)
    assert case.partitions.careful(held, 8, 1)
    assert case.notes_kept.read(0)["trying"] == 7


def test_reading_again_after_a_conflict_follows_no_death() -> None:
    case = Case()
    case.partitions.claim({0: NEW})
    case.partitions.disown(0)
    case.partitions.claim({0: NEW})
    assert case.partitions.limit(0) is None
