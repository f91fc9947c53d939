"""Faults of the network: every connection between a worker and its two servers is harmed.

In: a place, whose servers are replaced by ones of this module's own behind bad lines, and a seed.
Out: how often each line was harmed, or `Broken`.

Kafka tells its clients where to connect, so a relay in front of it must be what it tells: the
broker has a second listener whose advertised address is the relay's. The run itself uses the first.
"""

from __future__ import annotations

import contextlib
import time
from collections.abc import Iterator, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Final

from streams.dev import kafka as kafka_server
from streams.dev import process
from tests.faults.driver import Place, Run
from tests.faults.line import WAYS, Line
from tests.faults.redis_faults import own_server, resumed, until_moving

ROUND = 40
PERIODS: Final = (*((way,) for way in WAYS), WAYS)
"""One way at a time, then all of them, drawn for each connection."""


CHANCE_S: Final = 10.0
CHANCES: Final = 30
"""A worker that waits for Kafka's answer asks Redis nothing, and one that is never answered gives
up after 40 s, often several times: it gets new connections, bad in the same way, before."""


def _harmed(lines: Sequence[Line], before: Sequence[int]) -> bool:
    """Whether each line has harmed a connection since; it is waited for a while."""
    deadline = time.monotonic() + CHANCE_S
    while time.monotonic() < deadline:
        if all(line.faults > at for line, at in zip(lines, before, strict=True)):
            return True
        time.sleep(0.02)
    return False


@contextlib.contextmanager
def relayed_broker(directory: Path, seed: int) -> Iterator[tuple[str, Line]]:
    """A broker, its straight address, and the bad line to its other listener."""
    straight, behind, controller = (process.free_port() for _ in range(3))
    with Line(behind, seed) as line:
        at = f"127.0.0.1:{behind}"
        extra = {
            "listeners": f"PLAINTEXT://127.0.0.1:{straight},RELAYED://{at},"
            f"CONTROLLER://127.0.0.1:{controller}",
            "advertised.listeners": f"PLAINTEXT://127.0.0.1:{straight},"
            f"RELAYED://127.0.0.1:{line.port}",
            "listener.security.protocol.map": "CONTROLLER:PLAINTEXT,PLAINTEXT:PLAINTEXT,"
            "RELAYED:PLAINTEXT",
            "controller.quorum.voters": f"1@127.0.0.1:{controller}",
        }
        broker = kafka_server.start(directory, port=straight, extra=extra, die_with_parent=True)
        try:
            yield broker.bootstrap, line
        finally:
            process.stop(broker.child, 0)


def bad_lines(
    place: Place, seed: int, seconds: float, periods: Sequence[Sequence[str]] = PERIODS
) -> int:
    """F8: for a while each connection to Redis and to Kafka is delayed, sliced, cut, reset, or
    loses what one side said; then the lines are good for a moment; then the next way.

    A worker that gave up is followed by another one, as whoever runs workers would do it.
    """
    with (
        own_server(place) as (here, server),
        Line(server.port, seed) as to_redis,
        relayed_broker(place.directory / f"relayed-{seed}", seed) as (kafka, to_kafka),
    ):
        far = replace(here, redis_url=f"redis://127.0.0.1:{to_redis.port}/0", kafka=kafka)
        flags = [
            f"worker.batch_events={ROUND}",
            "redis.timeout_s=1",
            f"kafka.bootstrap=127.0.0.1:{to_kafka.port}",
        ]
        with Run(far, seed, watched=here.redis_url) as run:
            worker = run.start(*flags).ready()
            run.feed(100)
            lines = (to_redis, to_kafka)
            for ways in periods:
                until_moving(run)
                before = [line.faults for line in lines]
                for line in lines:
                    line.misbehave(ways)
                time.sleep(seconds)
                for _ in range(CHANCES):
                    if not worker.alive:
                        worker = run.start(*flags)
                    if _harmed(lines, before):
                        break
                    for line in lines:
                        line.misbehave(ways)
                else:
                    raise run.failure([f"{ways}: not both lines were harmed", worker.said()])
                for line in lines:
                    line.behave()
                if not worker.alive:
                    worker = run.start(*flags)
                resumed(run)
            run.starve()
            run.judge()
    return len(periods)
