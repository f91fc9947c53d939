"""Faults of Kafka: the broker is killed and comes back.

In: a place, whose broker is replaced by one of this module's own, and a seed.
Out: nothing, or `Broken`.
"""

from __future__ import annotations

import random
import time
from dataclasses import replace

from streams.dev import kafka as kafka_server
from streams.dev import process
from tests.faults.driver import Place, Run

ROUND = 40
WAVE = 600
ALL = {0, 1}


def killed(place: Place, seed: int, times: int) -> int:
    """F9: `kill -9` of the only broker while rounds are read, delivered and acknowledged.

    A worker that cannot deliver for `worker.retry_s` would end; here the broker is back before.
    """
    chance = random.Random(f"broker killed {seed}")
    directory = place.directory / f"kafka-{seed}"
    broker = kafka_server.start(directory, die_with_parent=True)
    here = replace(place, kafka=broker.bootstrap)
    try:
        with Run(here, seed) as run:
            worker = run.start(f"worker.batch_events={ROUND}").ready()
            for _ in range(times):
                since = time.monotonic()
                run.publish(WAVE)
                run.until(lambda: bool(run.watch.moved(since)))  # noqa: B023
                time.sleep(chance.uniform(0, 0.3))
                process.stop(broker.child, 0)
                time.sleep(chance.uniform(0, 2))
                broker = kafka_server.start(directory, die_with_parent=True)
                back = time.monotonic()
                run.publish(WAVE)
                run.until(lambda: run.watch.moved(back) >= ALL)  # noqa: B023
                place.resumed_s.append(run.watch.resumed_s(back, ALL))
            if not worker.alive:
                raise run.failure(["the worker did not outlive the broker", worker.said()])
            run.judge()
    finally:
        process.stop(broker.child, 0)
    return times
