"""What a worker's log leaves out of what Faust and aiokafka say."""

from __future__ import annotations

import logging
from types import TracebackType

from aiokafka.errors import GroupAuthorizationFailedError

from model.errors import DeviceFailed
from streams import logs
from streams.errors import BrokerError
from streams.live.quiet import REPEAT_S, is_failure, quiet, said_by_aiokafka
from streams.settings import load


def test_a_broker_that_is_away_is_told_now_and_then() -> None:
    """It was told 60 times a second: what else a worker says could not be found."""
    seldom = logs.Seldom(said_by_aiokafka, again_s=REPEAT_S, over_s=REPEAT_S)

    def passes(name: str, line: int, time_s: float) -> bool:
        record = logging.LogRecord(name, logging.ERROR, "client.py", line, "no %s", ("node",), None)
        record.created = time_s
        return seldom.filter(record)

    assert passes("aiokafka", 7, 100.0) and passes("aiokafka.consumer.fetcher", 8, 100.0)
    assert not any(passes("aiokafka", 7, 100.0 + tenths / 10) for tenths in range(100))
    assert passes("aiokafka", 7, 110.0)
    assert passes("aiokafka", 7, 50.0), "the clock was put back"
    assert all(passes("streams.live.app", 7, 100.0) for _ in range(2)), "ours is all said"


def test_warnings_of_what_is_no_failure_are_left_out() -> None:
    """As Faust and aiokafka word them. The first is heard wherever two workers share the work."""
    coordinator, microbatch = "aiokafka.consumer.group_coordinator", "streams.live.microbatch"

    def passes(name: str, text: str, level: int = logging.WARNING) -> bool:
        return is_failure(logging.LogRecord(name, level, "x.py", 7, text, (), None))

    rejoining = "Heartbeat failed for group g because it is rebalancing"
    assert not passes(coordinator, rejoining)
    assert not passes(microbatch, "[^-RangeConsumer]: wait_empty: Waiting for tasks [(1, 2)]")
    assert not passes(microbatch, "[^MicroBatchApp]: Warning: Task timed out!")
    assert passes(coordinator, rejoining, logging.ERROR) and passes("streams.live.app", rejoining)
    assert passes(coordinator, "Heartbeat failed for group g: generation id is not  current.")
    assert passes(microbatch, "[^MicroBatchApp]: Timer livelocked")


def test_a_deliberate_error_is_told_by_us_and_once() -> None:
    """Faust's tracebacks of it are left out. The warning that the CPU scores in the place of a GPU
    was, too, since it names such an error: no worker ever said it."""
    handler = logging.StreamHandler()
    logging.getLogger().addHandler(handler)
    quiet(load())

    def passes(name: str, told: Exception, raised: Exception | None = None) -> bool:
        exc: tuple[type[Exception], Exception, TracebackType | None] | None = None
        if raised is not None:
            exc = (type(raised), raised, None)
        record = logging.LogRecord(name, logging.ERROR, "x.py", 7, "what: %s", (told,), exc)
        return bool(handler.filter(record))

    lost, refused = BrokerError("gone"), GroupAuthorizationFailedError("group")
    assert passes("model.score", DeviceFailed("the GPU cannot take the model"))
    assert passes("streams.live.intake", lost)
    assert not passes("streams.live.microbatch", lost, lost)
    assert not passes("faust.app", lost) and not passes("mode.services", lost, lost)
    assert not passes("asyncio", refused, refused)
    assert passes("asyncio", ValueError(), ValueError())
