"""When a range is taken from aiokafka, and when it is left there: Faust's flow stands or runs."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import Callable, Iterator
from types import SimpleNamespace
from typing import Any

import aiokafka
import pytest
from aiokafka.consumer.fetcher import FetchResult
from faust.types import TP

from streams.live.chunks import Chunk
from streams.live.fetch import COLLECT_BYTES, COLLECT_MS, DRAIN_BYTES, FetchThread, _drained
from streams.live.microbatch import make_app
from streams.settings import load
from tests.live.reading import Shelf

TP0 = TP("transactions", 0)
AIO0 = aiokafka.TopicPartition("transactions", 0)


class Fetcher:
    """Stands for aiokafka's: messages come while somebody waits for them, and not before."""

    def __init__(self, on_arrival: Callable[[], None]) -> None:
        self._closed = False
        self._records: dict[Any, Any] = {}
        self._subscriptions = SimpleNamespace(
            reassignment_in_progress=False, fetch_context=contextlib.nullcontext
        )
        self._on_arrival = on_arrival
        self._fetch_min_bytes, self._fetch_max_wait_ms = 1, -1
        self.there = False
        self.position, self.has_valid_position = 5, True

    async def fetched_records(
        self, partitions: set[Any], timeout: float, max_records: int
    ) -> dict[Any, list[Chunk]]:
        if not self.there:
            return {}
        self.there, self.position = False, 6
        return {AIO0: [Chunk([5], [1_000], [b"k"], [b"v"], [()])]}

    def _create_fetch_waiter(self) -> asyncio.Future[None]:
        def arrive() -> None:
            self.there = True
            self._on_arrival()
            waiter.set_result(None)

        waiter: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        asyncio.get_running_loop().call_soon(arrive)
        return waiter


@contextlib.contextmanager
def thread_at(position: int) -> Iterator[FetchThread]:
    """The thread's object, not started, that reads TP0 from here."""
    app = make_app(load(), Shelf())
    app.loop = asyncio.get_running_loop()
    thread = app.consumer._thread  # type: ignore[attr-defined]
    assert isinstance(thread, FetchThread)
    thread._cursor[TP0] = (1, position)
    try:
        yield thread
    finally:
        thread.thread_loop.close()


def reading_with(fetcher: Fetcher) -> Any:
    """The part of aiokafka's consumer that a fetch touches."""
    assignment = SimpleNamespace(tps={AIO0}, state_value=lambda _: fetcher)
    subscription = SimpleNamespace(subscription=SimpleNamespace(assignment=assignment))
    return SimpleNamespace(_closed=False, _fetcher=fetcher, _subscription=subscription)


@pytest.mark.parametrize("stands_from", ["the start", "the arrival", "never"])
def test_a_range_is_left_where_it_is_while_the_flow_stands(stands_from: str) -> None:
    async def check() -> None:
        with thread_at(5) as thread:
            flow = thread.consumer

            def arrival() -> None:
                flow.flow_active = stands_from != "the arrival"

            fetcher = Fetcher(arrival)
            flow.flow_active = stands_from != "the start"
            fetcher.there = stands_from == "the start"
            consumer = reading_with(fetcher)
            found = await thread._fetch_records(consumer, {TP0}, timeout=60)
            if stands_from != "never":
                # Faust would drop it: so it must not count as read.
                assert found == {} and fetcher.there and fetcher.position == 5
                assert thread._cursor[TP0] == (1, 5)
                flow.flow_active = True
                found = await thread._fetch_records(consumer, {TP0}, timeout=60)
            (taken,) = found[TP0]
            assert (taken.begin, taken.batch.next_offset, taken.epoch) == (5, 6, 1)

    asyncio.run(check())


@pytest.mark.parametrize("wait_ms", [COLLECT_MS // 2, COLLECT_MS * 2])
def test_brokers_hold_back_the_fetch_after_a_find_and_no_other(wait_ms: int) -> None:
    """A message that comes alone is not waited for more messages with."""

    async def check() -> None:
        with thread_at(5) as thread:
            own, thread.thread_loop = thread.thread_loop, asyncio.get_running_loop()
            thread.transport.fetch_max_wait_ms = wait_ms
            fetcher = Fetcher(lambda: None)
            fetcher._fetch_max_wait_ms = wait_ms
            thread.consumer.flow_active = True
            asked = []

            def ask() -> None:
                asked.append((fetcher._fetch_min_bytes, fetcher._fetch_max_wait_ms))

            async def read() -> None:
                await thread._fetch_records(reading_with(fetcher), {TP0}, timeout=0)
                ask()

            await read()
            fetcher.there = True
            await read()
            await asyncio.sleep(COLLECT_MS / 1_000)
            ask()
            thread.thread_loop = own
            held_back = (COLLECT_BYTES, min(wait_ms, COLLECT_MS))
            assert asked == [(1, wait_ms), held_back, (1, wait_ms)]

    asyncio.run(check())


class Waiting:
    """Stands for aiokafka's fetcher: chunks it holds, and an error for another partition."""

    def __init__(self, chunks: list[Chunk], error: Exception | None = None) -> None:
        self._records: dict[Any, Any] = {AIO0: FetchResult.__new__(FetchResult)}
        self._chunks = chunks
        self._error = error
        if error is not None:
            self._records["other"] = error

    async def fetched_records(
        self, partitions: set[Any], timeout: float, max_records: int
    ) -> dict[Any, list[Chunk]]:
        if self._chunks:
            some, self._chunks = self._chunks[:max_records], self._chunks[max_records:]
            return {AIO0: some}
        if self._error is not None:
            raise self._error
        return {}


def of_size(offset: int, size: int) -> Chunk:
    return Chunk([offset], [1], [None], [bytes(size)], [()])


def test_no_more_is_unpacked_at_once_than_the_limit() -> None:
    """Small batches may unpack to gigabytes together."""
    chunks = [of_size(number, DRAIN_BYTES // 4) for number in range(10)]
    fetcher = Waiting(chunks)
    taken = [len(asyncio.run(_drained(fetcher, {TP0})).get(AIO0, ())) for _ in range(4)]
    assert taken == [4, 4, 2, 0]


def test_empty_messages_weigh_too() -> None:
    chunk = Chunk(list(range(9)), [1] * 9, [None] * 9, [b""] * 9, [[("a", b"xy")]] * 9)
    assert chunk.weight() > 9 * 200


def test_an_error_waits_until_what_came_before_it_is_taken() -> None:
    fetcher = Waiting([of_size(0, 1)], KeyError("no such partition"))
    assert len(asyncio.run(_drained(fetcher, {TP0}))[AIO0]) == 1
    with pytest.raises(KeyError):
        asyncio.run(_drained(fetcher, {TP0}))


def test_the_first_message_after_a_quiet_time_is_no_fault(
    caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Faust looks while it waits for its turn, and finds the last one that was read long ago."""

    async def check() -> None:
        with thread_at(5) as thread:
            now = thread.time_started = 1_000.0
            state = SimpleNamespace(highwater=6, position=5)
            assignment = SimpleNamespace(state_value=lambda _: state)
            subscriptions = SimpleNamespace(subscription=SimpleNamespace(assignment=assignment))
            fetcher = SimpleNamespace(_subscriptions=subscriptions)
            thread._consumer = SimpleNamespace(_fetcher=fetcher)
            monkeypatch.setattr(thread, "_verify_aiokafka_event_path", lambda now, tp: False)
            app: Any = thread.consumer.app
            monkeypatch.setattr(app.topics, "acks_enabled_for", lambda topic: True)
            app.monitor.stream_inbound_time[TP0] = now - 500
            thread.verify_event_path(now, TP0)
            thread._consumer = None

    asyncio.run(check())
    assert not caplog.records


def test_a_thread_that_ends_after_a_stop_that_was_left_says_nothing() -> None:
    """The stop took too long on a busy machine: the loop that waited for it is closed."""

    async def made() -> contextlib.ExitStack:
        kept = contextlib.ExitStack()
        threads.append(kept.enter_context(thread_at(5)))
        return kept

    threads: list[FetchThread] = []
    with asyncio.run(made()):
        threads[0].set_shutdown()
