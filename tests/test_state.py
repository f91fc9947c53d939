"""The arena: records to bytes and back, eviction, erasure, what is written and what is refused."""

from __future__ import annotations

import struct

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from streams.errors import RecordCorrupt
from streams.kernels.update import NEEDED_BLOCKS
from streams.state import ACCOUNT_BYTES, BLOCK_BYTES, Arena
from streams.writes import WHOLE
from tests.events import Line, Shelf, run
from tests.oracle import Oracle
from tests.oracle_record import Event
from tests.stories import START_MS, cuts, story

ROOMY = 1 << 20
SEEDS = st.integers(0, 2**32 - 1)


def many(account: str, count: int, step_ms: int = 1_000) -> list[Event]:
    """A plain story of one account."""
    return [Event(account, START_MS + i * step_ms, name=i + 1) for i in range(count)]


def kept(events: list[Event]) -> bytes:
    """The record that a store holds after these events of account a."""
    shelf = Shelf()
    run(events, [], Arena(0, ROOMY), shelf)
    return shelf.records["a"]


def load(record: bytes) -> Arena:
    """An arena with one record of account a."""
    arena = Arena(3, ROOMY)
    arena.missing(["a"])
    arena.fill([("a", record)])
    return arena


@settings(max_examples=40, deadline=None)
@given(SEEDS, SEEDS, st.integers(1, 4))
def test_eviction_and_loading_change_nothing(seed: int, at: int, accounts: int) -> None:
    """An arena with room for hardly anything, fed from a store, equals one that never evicts."""
    events = story(seed)
    tight, roomy = Arena(0, accounts * ACCOUNT_BYTES), Arena(0, ROOMY)
    shelf = Shelf()
    assert run(events, cuts(at, events), tight, shelf) == run(events, [], roomy)
    for account, record in shelf.records.items():
        assert record == roomy.record(account)


@settings(max_examples=30, deadline=None)
@given(SEEDS, SEEDS)
def test_a_restart_anywhere_changes_nothing(seed: int, where: int) -> None:
    """Drop the arena after a commit; a new one goes on from the store."""
    events = story(seed)
    cut = where % (len(events) + 1)
    shelf = Shelf()
    lines = run(events[:cut], [], Arena(0, ROOMY), shelf)
    lines += run(events[cut:], [], Arena(0, ROOMY), shelf)
    assert lines == run(events, [], Arena(0, ROOMY))


def test_drop_before_the_commit_and_apply_again() -> None:
    """A batch that was applied but not committed leaves no trace in the store."""
    events = story(8)
    shelf = Shelf()
    run(events[:100], [], Arena(0, ROOMY), shelf)
    before = dict(shelf.records)
    lost = Shelf()
    lost.records = dict(before)
    lost.commit = lambda arena: None  # type: ignore[method-assign]
    first = run(events[100:], [], Arena(0, ROOMY), lost)
    assert shelf.records == before
    assert run(events[100:], [], Arena(0, ROOMY), shelf) == first


@pytest.mark.parametrize("count", [1, 15, 16, 17, 63, 64])
def test_length_of_a_record(count: int) -> None:
    assert len(kept(many("a", count))) == 64 + 32 * count


def test_length_with_pane_rows() -> None:
    row = 32 * 64
    assert len(kept(many("a", 65, 1_000))) == 64 + 2_048 + 5 * row, "5 m needs panes, 1 m does not"
    assert len(kept(many("a", 65, 86_400_000))) == 64 + 2_048, "the ring covers all windows"
    assert len(kept(many("a", 65, 9_000_000))) == 64 + 2_048 + 2 * row


def test_every_flipped_bit_is_caught() -> None:
    record = kept(many("a", 5))
    load(record)
    for bit in range(len(record) * 8):
        broken = bytearray(record)
        broken[bit // 8] ^= 1 << bit % 8
        with pytest.raises(RecordCorrupt):
            load(bytes(broken))


@settings(max_examples=200, deadline=None)
@given(st.data())
def test_flipped_bit_in_a_long_record_is_caught(data: st.DataObject) -> None:
    record = bytearray(kept(many("a", 80)))
    record[data.draw(st.integers(0, len(record) - 1))] ^= 1 << data.draw(st.integers(0, 7))
    with pytest.raises(RecordCorrupt):
        load(bytes(record))


@settings(max_examples=200, deadline=None)
@given(st.binary(max_size=400))
def test_any_other_bytes_are_refused(junk: bytes) -> None:
    with pytest.raises(RecordCorrupt):
        load(junk)


@pytest.mark.parametrize("words", [1, 4, 8])
def test_record_of_another_length_is_refused(words: int) -> None:
    record = kept(many("a", 5))
    for other in (record[: -8 * words], record + bytes(8 * words), record[:-1]):
        with pytest.raises(RecordCorrupt, match="rebuild"):
            load(other)


def test_words_that_change_places_are_caught() -> None:
    words = list(struct.unpack("<28Q", kept(many("a", 5))))
    words[8:12], words[12:16] = words[12:16], words[8:12]
    with pytest.raises(RecordCorrupt, match="partition=3"):
        load(struct.pack("<28Q", *words))


def test_only_what_changed_travels() -> None:
    """One more event of a long record: its header, its place in the ring, a pane a row at most."""
    arena, shelf = Arena(0, ROOMY), Shelf()
    events = many("a", 200)
    run(events[:150], [], arena, shelf)
    run(events[150:], list(range(50)), arena, shelf)
    arena.missing(["a"])
    sent: list[int] = []
    plain = shelf.commit

    def watched(arena: Arena) -> None:
        for _, pieces in arena.writes():
            sent.append(sum(len(data) for _, data in pieces))
            assert all(offset != WHOLE for offset, _ in pieces)
        plain(arena)

    shelf.commit = watched  # type: ignore[method-assign]
    run([Event("a", START_MS + 200_000, name=999)], [], arena, shelf)
    assert len(sent) == 1 and sent[0] <= 64 + 32 + 6 * 64 + 7 * 128
    assert shelf.records["a"] == arena.record("a") and len(shelf.records["a"]) > 10_000


def test_nothing_changed_nothing_written() -> None:
    arena, shelf = Arena(0, ROOMY), Shelf()
    events = many("a", 10)
    run(events, [], arena, shelf)
    assert len(arena.writes()) == 0
    run([events[3]], [], arena, shelf)
    assert len(arena.writes()) == 0, "a duplicate changes nothing"


def test_missing_names_each_account_once() -> None:
    arena = Arena(0, ROOMY)
    assert arena.missing(["b", "a", "b"]) == ["b", "a"]
    arena.fill([("b", None), ("a", None)])
    assert arena.missing(["a", "b", "a", "c"]) == ["c"]
    assert len(arena) == 2
    assert "a" in arena and "c" not in arena and arena.record("a") == b""


def test_eviction_takes_the_longest_unseen() -> None:
    arena, shelf = Arena(0, 128 * ACCOUNT_BYTES), Shelf()
    order = [*range(100), 0, *range(100, 130)]
    for at, i in enumerate(order):
        run([Event(f"account-{i}", START_MS + at, name=at + 1)], [], arena, shelf)
    gone = [i for i in range(130) if f"account-{i}" not in arena]
    assert gone == list(range(1, 1 + len(gone))) and 0 < len(gone) < 60


def test_batch_larger_than_the_arena() -> None:
    """All accounts of one batch fit whatever the capacity; the next batch finds room again."""
    arena, shelf = Arena(0, 4 * ACCOUNT_BYTES), Shelf()
    events = [Event(f"account-{i}", START_MS, name=i + 1) for i in range(100)]
    assert all(line.status == "applied" for line in run(events, [], arena, shelf))
    assert len(arena) == 100 and len(shelf.records) == 100
    again = [Event(f"account-{i}", START_MS + 1, name=i + 500) for i in range(0, 100, 9)]
    assert all(len(line.history) == 1 for line in run(again, [], arena, shelf))


def test_pool_runs_low_in_the_middle_of_a_batch() -> None:
    """One account whose panes need more blocks than there are: the pass stops, grows, goes on."""
    events = many("a", 90, 100)
    arena, shelf = Arena(0, ACCOUNT_BYTES), Shelf()
    assert len(arena.cells.blocks) < NEEDED_BLOCKS
    lines = run(events, [], arena, shelf)
    assert lines == run(events, [], Arena(0, ROOMY))
    assert shelf.records["a"] == kept(events)


def test_memory_stays_under_the_setting() -> None:
    """Twenty times as many accounts as fit: what is held stays bounded."""
    capacity = 100 * ACCOUNT_BYTES
    arena, shelf = Arena(0, capacity), Shelf()
    for i in range(0, 2_000, 10):
        batch = [Event(f"account-{j}", START_MS + i, name=j + 1) for j in range(i, i + 10)]
        run(batch, [], arena, shelf)
        assert arena.used_bytes <= capacity
    assert len(arena) < 200 and len(arena.cells.blocks) == 100


def test_blocks_come_back() -> None:
    arena, shelf = Arena(0, ROOMY), Shelf()
    before = arena.used_bytes
    run(many("a", 200), [], arena, shelf)
    assert arena.used_bytes - before == ACCOUNT_BYTES - BLOCK_BYTES + (4 + 5 * 4) * BLOCK_BYTES
    arena.erase("a")
    assert arena.used_bytes == ACCOUNT_BYTES - BLOCK_BYTES


def test_erased_account_begins_anew() -> None:
    arena, shelf = Arena(0, ROOMY), Shelf()
    run(many("a", 80), [], arena, shelf)
    arena.erase("a")
    assert arena.record("a") == b"" and len(arena.writes()) == 0
    del shelf.records["a"]
    fresh = Event("a", START_MS + 999_999, name=1)
    lines: list[Line] = run([fresh], [], arena, shelf)
    assert lines[0].status == "applied" and lines[0].history == ()
    assert shelf.records["a"] == arena.record("a") == kept([fresh])


def test_erasing_between_apply_and_commit() -> None:
    """Erased after a change that was not written: nothing of the account is written."""
    arena = Arena(0, ROOMY)
    shelf = Shelf()
    shelf.commit = lambda arena: None  # type: ignore[method-assign]
    run([*many("a", 3), *many("b", 2)], [], arena, shelf)
    arena.erase("a")
    arena.erase("never seen")
    assert [account for account, _ in arena.writes()] == ["b"]
    arena.settled()
    assert len(arena.writes()) == 0


def test_record_is_the_oracles() -> None:
    oracle, arena = Oracle(), Arena(0, ROOMY)
    events = story(77)
    for event in events:
        oracle.apply(event)
    run(events, [], arena)
    for account in oracle.accounts:
        assert arena.record(account) == oracle.record(account)


def test_header_in_plain_sight() -> None:
    """The layout of docs/windows.md, word by word."""
    events = [
        Event("a", START_MS + 5, 300, name=1, position=(-1_000_000, 2_000_000)),
        Event("a", START_MS + 2, 50, name=2, counts=False),
    ]
    words = np.frombuffer(kept(events), "<u8").tolist()
    assert words[0] == 1 << 56 | 2 << 48 | 2 << 40
    assert words[2:5] == [START_MS + 5, 1, 300]
    assert words[5] == (2**32 - 1_000_000) << 32 | 2_000_000
    assert words[6:8] == [START_MS + 5, START_MS + 2]
    assert tuple(words[8:12]) == events[1].words() and tuple(words[12:16]) == events[0].words()
