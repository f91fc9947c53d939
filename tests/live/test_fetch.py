"""When a range is taken from aiokafka, and when it is left there: Faust's flow stands or runs."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import Callable, Iterator
from types import SimpleNamespace
from typing import Any

import aiokafka
import pytest
from faust.types import TP

from streams.live.chunks import Chunk
from streams.live.fetch import FetchThread
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
        self.there = False
        self.position = 5

    async def fetched_records(self, partitions: set[Any], timeout: float) -> dict[Any, list[Chunk]]:
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
    assignment = SimpleNamespace(state_value=lambda _: fetcher)
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
