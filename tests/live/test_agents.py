"""Rounds over the real pipeline and a store in memory: order of steps, and each way to fail."""

from __future__ import annotations

from collections.abc import Iterable, Sequence

import numpy as np
import pytest

from model.stub import StubScorer
from streams import features
from streams.alerts import render, run_digest
from streams.assembly import judge
from streams.batch import Batch
from streams.errors import Fenced, PartitionError, StoreFull, StoreLost
from streams.live.agents import ASK_EVERY_S, TRIM_ENTRIES, Round, joined, warm
from streams.live.failpoint import STEPS, Failpoint
from streams.live.partitions import Partitions
from streams.live.patience import Patience
from streams.live.ranges import LogRange
from streams.live.suspects import NotesInMemory, Suspects
from streams.metrics import Metrics
from streams.settings import load
from streams.store import Claim, Commit, Identity
from streams.store.memory import MemoryStore
from tests.messages import BROKER_TIME, message

JUDGE = judge(load(flags=["model.bundle=stub"]))
NEW = LogRange(0, 1_000, None)


class Sent:
    """An outbox that keeps the entries it delivers."""

    def __init__(self) -> None:
        self.entries: list[bytes] = []

    def deliver(self, entries: Iterable[bytes]) -> int:
        given = list(entries)
        self.entries += given
        return len(given)

    def values(self, topic: str) -> list[bytes]:
        return [m.value for e in self.entries for m in render(e, 7) if m.topic == topic and m.value]


class Notes(Failpoint):
    """Failpoints that write down what was passed."""

    def __init__(self) -> None:
        super().__init__(None)
        self.steps: list[str] = []

    def passed(self, step: str) -> None:
        self.steps.append(step)


class Fickle(MemoryStore):
    """Fails as told, per partition, or loses its answer after it acted."""

    def __init__(self) -> None:
        super().__init__()
        self.faults: dict[int, list[PartitionError]] = {}
        self.lose_answers = 0
        self.commits: list[int] = []

    def commit_all(self, steps: Sequence[tuple[Claim, Commit]]) -> list[PartitionError | None]:
        results: list[PartitionError | None] = []
        for claim, commit in steps:
            self.commits.append(claim.partition)
            faults = self.faults.get(claim.partition)
            results.append(faults.pop(0) if faults else super().commit_all([(claim, commit)])[0])
        if self.lose_answers:
            self.lose_answers -= 1
            raise StoreLost("no answer")
        return results


class Case:
    """A worker's round with partitions 0 and 1 claimed."""

    def __init__(self) -> None:
        self.store, self.outbox, self.notes = Fickle(), Sent(), Notes()
        self.metrics = Metrics()
        self.notes_kept = NotesInMemory()
        patience = Patience(5, self.metrics)
        self.partitions = Partitions(
            self.store,
            self.outbox,  # type: ignore[arg-type]
            Suspects(self.notes_kept, 3, 4_096),
            lambda: Identity("id", 2),
            "transactions",
            4_000_000,
            patience,
            self.metrics,
        )
        self.round = Round(
            self.partitions,
            self.store,
            self.outbox,  # type: ignore[arg-type]
            StubScorer(features.DIGEST),
            lambda: JUDGE.policy,
            None,
            max_future_ms=86_400_000,
            patience=patience,
            failpoint=self.notes,
            metrics=self.metrics,
        )
        self.partitions.claim({0: NEW, 1: NEW})

    def metric(self, name: str, **labels: str) -> float:
        return self.metrics.registry.get_sample_value(f"fraudstream_{name}", labels) or 0.0


def batch(partition: int, begin: int, values: Sequence[bytes | None], key: bytes = b"") -> Batch:
    n = len(values)
    return Batch(
        "transactions",
        partition,
        np.arange(begin, begin + n),
        np.full(n, BROKER_TIME),
        [key or b"acct-%d" % partition] * n,
        list(values),
        None,
        begin + n,
    )


def payments(partition: int, begin: int, count: int) -> Batch:
    """Valid transactions of one account."""
    account = f"acct-{partition}"
    return batch(
        partition,
        begin,
        [
            message(account_id=account, transaction_id=f"{partition}-{n}", amount=n)
            for n in range(begin, begin + count)
        ],
    )


def test_every_step_of_a_round_in_order() -> None:
    case = Case()
    assert case.round.run([[payments(0, 0, 3)], [payments(1, 0, 2)]]) == {0: None, 1: None}
    assert tuple(case.notes.steps) == STEPS[:-1], "the last, acked, is the event loop's"
    assert len(case.outbox.values("scores")) == 5
    assert case.metric("transactions_scored_total") == 5
    assert case.metric("stage_seconds_count", stage="commit") == 1


def test_scores_do_not_depend_on_how_messages_fall_into_rounds() -> None:
    def digest(sizes: list[int]) -> str:
        case = Case()
        at = 0
        for size in sizes:
            case.round.run([[payments(0, at, size)]])
            at += size
        return run_digest(case.outbox.values("scores"))

    assert digest([12]) == digest([1] * 12) == digest([5, 7])
    one, two = Case(), Case()
    one.round.run([[payments(0, 0, 4), payments(0, 4, 3)]])
    two.round.run([[payments(0, 0, 7)]])
    assert run_digest(one.outbox.values("scores")) == run_digest(two.outbox.values("scores"))


def test_consecutive_batches_become_one() -> None:
    first = payments(0, 0, 2)
    trace = [(("trace", b"1"),)]
    second = Batch("transactions", 0, np.array([5]), np.array([9]), [None], [None], trace, 8)
    both = joined([first, second])
    assert both.offsets.tolist() == [0, 1, 5] and both.next_offset == 8
    assert both.timestamps.tolist() == [BROKER_TIME, BROKER_TIME, 9]
    assert both.values[2] is None and both.keys == [b"acct-0", b"acct-0", None]
    assert both.headers == [(), (), (("trace", b"1"),)]
    assert joined([first]) is first


def test_bad_messages_leave_as_dead_letters_and_the_offset_moves() -> None:
    case = Case()
    case.round.run([[batch(0, 0, [b"{", message(account_id="acct-0"), b""])]])
    assert case.partitions.held[0].applied == 3
    assert len(case.outbox.values("scores")) == 1
    assert case.metric("dead_letters_total", reason="bad_json") == 1


def test_a_full_store_is_waited_for_and_others_are_not_done_twice() -> None:
    case = Case()
    case.store.faults[0] = [StoreFull("full", partition=0)] * 2
    results = case.round.run([[payments(0, 0, 2)], [payments(1, 0, 2)]])
    assert results == {0: None, 1: None}
    assert case.store.commits == [0, 1, 0, 0]
    assert len(case.outbox.values("scores")) == 4
    assert case.metric("store_waits_total", cause="full") == 2


def test_a_lost_answer_is_asked_for_again_and_has_no_second_effect() -> None:
    case = Case()
    case.store.lose_answers = 2
    assert case.round.run([[payments(0, 0, 3)]]) == {0: None}
    assert case.store.commits == [0, 0, 0]
    assert len(case.outbox.values("scores")) == 3
    case.round.run([[payments(0, 3, 1)]])
    assert case.partitions.held[0].applied == 4


def test_a_fenced_partition_publishes_nothing_and_the_other_goes_on() -> None:
    case = Case()
    taken = case.store.acquire(0, Identity("id", 2))
    results = case.round.run([[payments(0, 0, 2)], [payments(1, 0, 3)]])
    assert isinstance(results[0], Fenced) and results[1] is None
    assert len(case.outbox.values("scores")) == 3
    assert case.store.pending(taken) == []
    assert case.metric("transactions_read_total") == 3


def test_delivered_entries_are_trimmed_some_at_a_time() -> None:
    case = Case()
    for number in range(TRIM_ENTRIES):
        held = case.partitions.held[0]
        assert len(case.store.pending(held.claim)) == len(held.sent) == number
        case.round.run([[payments(0, number, 1)]])
    assert case.store.pending(held.claim) == [] and held.sent == []


def test_one_partition_is_trimmed_at_a_time_unless_it_holds_much(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    case = Case()
    held = case.partitions.held
    for number in range(TRIM_ENTRIES):
        case.round.run([[payments(0, number, 1)], [payments(1, number, 1)]])
    assert sorted(len(each.sent) for each in held.values()) == [0, TRIM_ENTRIES]
    at = TRIM_ENTRIES
    case.round.run([[payments(0, at, 1)], [payments(1, at, 1)]])
    assert sorted(len(each.sent) for each in held.values()) == [0, 1]
    monkeypatch.setattr("streams.live.agents.TRIM_BYTES", 10)
    case.round.run([[payments(0, at + 1, 1)], [payments(1, at + 1, 1)]])
    assert [each.sent for each in held.values()] == [[], []]


def test_a_tombstone_erases_the_account() -> None:
    case = Case()
    case.round.run([[payments(0, 0, 2)]])
    claim = case.partitions.held[0].claim
    assert case.store.load(claim, ["acct-0"], 2)[0]
    case.round.run([[batch(0, 2, [None])]])
    assert case.store.load(claim, ["acct-0"], 3) == [None]
    assert list(case.store.forgotten(claim).values()) == [2]
    assert case.metric("erasures_total") == 1


def test_accounts_in_memory_are_not_loaded_again() -> None:
    case = Case()
    for begin in (0, 2, 4):
        case.round.run([[payments(0, begin, 2)]])
    assert case.metric("arena_misses_total") == 1 and case.metric("arena_hits_total") == 2


def test_a_claim_is_looked_at_now_and_then_though_nothing_is_loaded(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """A rebuild that died as it switched left a worker at work on keys that nobody uses."""
    case = Case()
    case.round.run([[payments(0, 0, 2)]])
    asked: list[Sequence[str]] = []
    load = case.store.load

    def noted(claim: Claim, accounts: Sequence[str], at: int | None) -> list[bytes | None]:
        asked.append(accounts)
        return load(claim, accounts, at)

    monkeypatch.setattr(case.store, "load", noted)
    case.round.run([[payments(0, 2, 2)]])
    assert asked == []
    case.partitions.held[0].asked -= ASK_EVERY_S
    case.round.run([[payments(0, 4, 2)]])
    case.round.run([[payments(0, 6, 2)]])
    assert asked == [[]]


def test_repeats_are_counted_and_not_published() -> None:
    case = Case()
    same = message(account_id="acct-0")
    case.round.run([[batch(0, 0, [same, same])]])
    assert len(case.outbox.values("scores")) == 1
    assert case.metric("duplicates_total") == 1
    case.round.run([[batch(0, 2, [same])]])
    assert case.partitions.held[0].applied == 3, "a batch without anything to publish moves on"


def test_warming_up_goes_the_whole_way() -> None:
    warm(StubScorer(features.DIGEST), JUDGE.policy)


def test_a_batch_of_a_partition_not_held_is_a_bug() -> None:
    with pytest.raises(KeyError):
        Case().round.run([[payments(5, 0, 1)]])
