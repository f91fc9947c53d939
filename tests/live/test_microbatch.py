"""Every override of Faust and aiokafka, and the same on a real broker."""

from __future__ import annotations

import asyncio
import importlib.util
import itertools
from typing import Any

import faust
import numpy as np
import pytest
from faust.types import TP

from streams.batch import Batch
from streams.errors import ConfigError
from streams.live import microbatch
from streams.live.chunks import Chunk, sliced, to_batch
from streams.live.fetch import FetchThread
from streams.live.microbatch import (
    MicroBatchApp,
    MicroBatchScheduler,
    RangeConsumer,
    RangeMessage,
    make_app,
)
from streams.live.ranges import Fetched, LogRange, Reach
from streams.settings import load
from tests.live.reading import Shelf

TP0, TP1 = TP("transactions", 0), TP("transactions", 1)


def test_another_version_of_faust_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(faust, "__version__", "0.15.4")
    spec = importlib.util.spec_from_file_location("another", microbatch.__file__)
    assert spec is not None and spec.loader is not None
    with pytest.raises(ConfigError, match=r"0\.15\.4.*0\.15\.3"):
        spec.loader.exec_module(importlib.util.module_from_spec(spec))


def chunk(*offsets: int, **given: Any) -> Chunk:
    n = len(offsets)
    fields: dict[str, Any] = {
        "timestamps": [1_000 + offset for offset in offsets],
        "keys": [b"k"] * n,
        "values": [b"%d" % offset for offset in offsets],
        "headers": [()] * n,
        **given,
    }
    return Chunk(list(offsets), **fields)


def test_a_batch_holds_the_bytes_themselves() -> None:
    value = b"\xff\x00 not utf-8"
    odd = chunk(4, 9, values=[value, None], keys=[b"k", None], timestamps=[1_004, None])
    batch = to_batch(TP1, [odd, chunk(12)], 15)
    assert batch.values[0] is value
    assert batch.values[1:] == [None, b"12"] and batch.keys == [b"k", None, b"k"]
    assert batch.offsets.tolist() == [4, 9, 12] and batch.timestamps.tolist() == [1_004, -1, 1_012]
    assert (batch.topic, batch.partition, batch.next_offset) == ("transactions", 1, 15)
    assert batch.headers is None


def test_headers_are_kept_when_anyone_has_them() -> None:
    batch = to_batch(TP0, [chunk(0), chunk(1, headers=[[("trace", b"1")]])], 2)
    assert batch.headers == [(), [("trace", b"1")]]


@pytest.mark.parametrize("limit", [1, 2, 3, 5, 6, 100, None])
def test_slices_of_a_batch_leave_no_gap_and_nothing_out(limit: int | None) -> None:
    headers = [[("n", b"%d" % n)] for n in range(6)]
    batch = to_batch(TP0, [chunk(10, 11, 15, 16, 17, 30, headers=headers)], 33)
    parts = list(sliced(batch, 8, 4, limit))
    assert max(len(part.batch) for part in parts) <= (limit or 6)
    assert [value for part in parts for value in part.batch.values] == batch.values
    assert [each for part in parts for each in part.batch.headers or ()] == headers
    assert [int(at) for part in parts for at in part.batch.offsets] == batch.offsets.tolist()
    ranges = [(part.begin, part.batch.next_offset) for part in parts]
    assert ranges[0][0] == 8 and ranges[-1][1] == 33
    assert all(a[1] == b[0] for a, b in itertools.pairwise(ranges))
    assert {part.epoch for part in parts} == {4}


def test_the_scheduler_takes_partitions_in_turn_and_each_in_order() -> None:
    a, b, c = fetched(0, 4), fetched(4, 5), fetched(5, 9)
    d = fetched(0, 2, tp=TP1)
    records = {TP0: [a, b, c], TP1: [d]}
    assert together(1, records) == [[a], [d], [b], [c]]
    assert together(3, records) == [[a, d, b], [c]], "as many as have at most 3 messages"
    assert together(4, records) == [[a, d, b, c]]
    assert together(4, {}) == []


def test_a_range_above_the_limit_goes_alone() -> None:
    large = Fetched(to_batch(TP0, [chunk(0, 1, 2)], 3), 0, 1)
    small, after = fetched(0, 1, tp=TP1), fetched(3, 4)
    assert together(2, {TP1: [small], TP0: [large, after]}) == [[small], [large], [after]]


def together(limit: int, records: dict[TP, list[Fetched]]) -> list[list[Fetched]]:
    """What the scheduler makes of the records; each event is filed under its first partition."""
    turns = list(MicroBatchScheduler(limit).iterate(records))
    assert all(tp == ranges[0].tp for tp, ranges in turns)
    return [ranges for _, ranges in turns]


def fetched(begin: int, end: int, epoch: int = 1, tp: TP = TP0) -> Fetched:
    """A range with one message in it."""
    one = np.array([begin], np.int64)
    batch = Batch(tp.topic, tp.partition, one, one, [b"k"], [b"v"], None, end)
    return Fetched(batch, begin, epoch)


class Thread:
    """Stands for the fetch thread: notes seeks."""

    def __init__(self) -> None:
        self.seeks: list[tuple[dict[TP, int], int]] = []
        self.forgotten: set[TP] = set()

    async def place(self, positions: dict[TP, int], epoch: int) -> None:
        self.seeks.append((dict(positions), epoch))

    def forget(self, partitions: set[TP]) -> None:
        self.forgotten |= set(partitions)


async def unstarted(shelf: Shelf | None = None) -> tuple[MicroBatchApp, RangeConsumer, Thread]:
    """A consumer that never connects, in generation 7."""
    app = make_app(load(), shelf or Shelf())
    app.loop = asyncio.get_running_loop()
    consumer = app.consumer
    assert isinstance(consumer, RangeConsumer)
    app.consumer_generation_id = 7
    thread = Thread()
    consumer._thread.thread_loop.close()
    consumer._thread = thread  # type: ignore[assignment]
    return app, consumer, thread


def test_an_ack_means_every_range_that_was_not_left() -> None:
    async def check() -> None:
        _, consumer, _ = await unstarted()
        await consumer.place({TP0: 0, TP1: 0})
        ranges = [fetched(0, 5), fetched(0, 3, tp=TP1), fetched(5, 6), fetched(0, 9, epoch=0)]
        message = consumer._to_message(TP0, ranges)
        assert message.events == 4 and (message.tp, message.offset) == (TP0, 0)
        message.left.add(2)
        assert consumer.ack(message)
        assert (consumer._new_offset(TP0), consumer._new_offset(TP1)) == (5, 3)
        rest = consumer._to_message(TP1, [fetched(3, 4, tp=TP1)])
        rest.left.add(0)
        assert not consumer.ack(rest) and consumer._new_offset(TP1) is None

    asyncio.run(check())


def test_acks_commit_the_contiguous_prefix_of_ranges() -> None:
    async def check() -> None:
        _, consumer, _ = await unstarted()
        await consumer.place({TP0: 100})
        first, second, third = (
            consumer._to_message(TP0, [fetched(*ends)])
            for ends in ((100, 103), (103, 110), (110, 111))
        )
        assert consumer._new_offset(TP0) is None
        assert consumer.ack(second) and consumer.ack(third)
        assert consumer._new_offset(TP0) is None, "the first range is still open"
        assert consumer.ack(first)
        assert list(consumer._filter_tps_with_pending_acks()) == [TP0]
        assert consumer._new_offset(TP0) == 111
        assert consumer._new_offset(TP0) is None, "nothing moved since"
        assert consumer._n_acked == 3

    asyncio.run(check())


def test_a_hole_inside_a_range_needs_no_gap() -> None:
    async def check() -> None:
        _, consumer, _ = await unstarted()
        await consumer.place({TP0: 0})
        await consumer._add_gap(TP0, 1, 1_000_000)
        assert not consumer._gap
        # Offsets 1 to 49 do not exist; the next range begins where this one ends.
        consumer.ack(consumer._to_message(TP0, [fetched(0, 50)]))
        consumer.ack(consumer._to_message(TP0, [fetched(50, 51)]))
        assert consumer._new_offset(TP0) == 51

    asyncio.run(check())


def test_acks_of_another_generation_or_epoch_are_refused() -> None:
    async def check() -> None:
        app, consumer, _ = await unstarted()
        await consumer.place({TP0: 0})
        stale = consumer._to_message(TP0, [fetched(0, 5)])
        app.consumer_generation_id = 8
        consumer._unacked_messages.add(stale)
        assert not consumer.ack(stale)
        assert not consumer._unacked_messages, "a rebalance would wait for it for ever"
        before = consumer._to_message(TP0, [fetched(0, 5)])
        await consumer.place({TP0: 0})
        assert not consumer.ack(before), "read before the seek"
        now = consumer._to_message(TP0, [fetched(0, 5, epoch=2)])
        assert consumer.ack(now) and not consumer.ack(now)
        assert not consumer.ack(consumer._to_message(TP1, [fetched(0, 5, tp=TP1)])), "not ours"
        assert consumer._new_offset(TP0) == 5

    asyncio.run(check())


def test_a_released_message_is_neither_waited_for_nor_committed() -> None:
    async def check() -> None:
        _, consumer, _ = await unstarted()
        await consumer.place({TP0: 0})
        message = consumer._to_message(TP0, [fetched(0, 5)])
        consumer._unacked_messages.add(message)
        consumer.release(message)
        assert not consumer._unacked_messages
        assert not consumer.ack(message) and consumer._new_offset(TP0) is None

    asyncio.run(check())


def test_reading_starts_where_the_owner_says() -> None:
    async def check() -> None:
        shelf = Shelf()
        _, consumer, thread = await unstarted(shelf)
        consumer._starts = {TP0: 40, TP1: 0}
        await consumer.perform_seek()
        assert thread.seeks == [({TP0: 40, TP1: 0}, 1)]
        assert shelf.epochs == {0: 1, 1: 1}
        # Faust asks again when it stops the flow; without a new claim nothing moves.
        await consumer.perform_seek()
        assert thread.seeks[1:] == [({}, 2)]
        await consumer.seek(TP0, 20)
        assert thread.seeks[2:] == [({TP0: 20}, 3)]
        assert consumer._read_offset[TP0] is None, "else what is below would be dropped for ever"

    asyncio.run(check())


def test_revoked_partitions_are_forgotten() -> None:
    async def check() -> None:
        shelf = Shelf()
        app, consumer, thread = await unstarted(shelf)
        thread.assignment = lambda: set()  # type: ignore[attr-defined]
        await consumer.place({TP0: 0, TP1: 0})
        consumer.ack(consumer._to_message(TP0, [fetched(0, 5)]))
        app.on_rebalance_start()
        await consumer.on_partitions_revoked({TP0})
        assert shelf.released == [0] and thread.forgotten == {TP0}
        assert consumer._ranges.keys() == consumer._frontier.keys() == {TP1}
        assert not consumer.ack(consumer._to_message(TP0, [fetched(5, 6)]))

    asyncio.run(check())


def test_a_partition_is_closed_before_faust_drops_its_ranges() -> None:
    """Faust's task of the rebalance before may seek and resume the flow in the middle of this."""

    async def check() -> None:
        shelf = Shelf()
        app, consumer, thread = await unstarted(shelf)
        assigned = {TP0}

        def assignment() -> set[TP]:  # Faust asks first thing when it stops the flow
            assert shelf.closed == [0] and consumer._starts == {TP1: 9} and not shelf.released
            return assigned

        thread.assignment = assignment  # type: ignore[attr-defined]
        consumer._starts = {TP0: 3, TP1: 9}
        app.on_rebalance_start()
        await consumer.on_partitions_revoked({TP0})
        assert app.crash_reason is None and shelf.released == [0]

    asyncio.run(check())


def test_a_refused_claim_crashes_the_app() -> None:
    async def check() -> None:
        class Refusing(Shelf):
            async def claim(self, log: Any) -> Any:
                raise ConfigError("no")

        app, consumer, thread = await unstarted(Refusing())

        async def log_ranges(partitions: set[TP]) -> dict[TP, LogRange]:
            return {tp: LogRange(0, 0, None) for tp in partitions}

        thread.log_ranges = log_ranges  # type: ignore[attr-defined]
        await consumer.on_partitions_assigned({TP0}, 7)
        assert isinstance(app.crash_reason, ConfigError)
        assert not consumer.flow_active or not thread.seeks

    asyncio.run(check())


def test_a_full_queue_does_not_stop_the_partition() -> None:
    async def check() -> None:
        _, consumer, _ = await unstarted()
        consumer._set_active_tps({TP0})
        consumer.on_buffer_full(TP0)
        consumer.on_buffer_drop(TP0)
        assert consumer._get_active_partitions() == {TP0}

    asyncio.run(check())


def test_fetch_wait_and_isolation_are_ours() -> None:
    async def check() -> None:
        app = make_app(load(flags=["kafka.fetch_max_wait_ms=33"]), Shelf())
        app.loop = asyncio.get_running_loop()
        thread = app.consumer._thread  # type: ignore[attr-defined]
        assert isinstance(thread, FetchThread)
        consumer = thread._create_worker_consumer(app.transport)
        assert consumer._fetch_max_wait_ms == 33
        assert consumer._isolation_level == "read_committed"
        assert not consumer._enable_auto_commit
        consumer._closed = True  # it never opened, and would warn that nobody closed it
        thread.thread_loop.close()

    asyncio.run(check())


@pytest.mark.parametrize(
    ("applied", "lag"),
    [(10, 20), (17, 13), (20, 6), (25, 6)],
    ids=["some fetched", "some applied", "all fetched applied", "more"],
)
def test_lag_counts_messages_and_not_control_records(applied: int, lag: int) -> None:
    # Fetched up to 20; offsets 20 to 23 are control records; the log ends at 30.
    assert Reach(fetched=20, position=24, end=30).lag(applied) == lag


def test_messages_show_no_content() -> None:
    message = RangeMessage([fetched(0, 1)], 1)
    assert "b'v'" not in repr(message) and "b'k'" not in repr(message)
