"""Faults of Kafka: brokers are killed and come back, alone and of three; a log loses its tail.

In: a place, whose broker is replaced by one of this module's own, and a seed.
Out: nothing, or `Broken`.
"""

from __future__ import annotations

import random
import time
from collections.abc import Mapping
from dataclasses import replace
from typing import cast

import redis

from streams.dev import kafka as kafka_server
from streams.dev import process
from streams.privacy import account_digest
from tests.faults.cluster import NODES, SESSION, three_nodes
from tests.faults.driver import Place, Run
from tests.faults.promises import equal_records, look
from tests.live.reading import contents

ROUND = 40
WAVE = 600
NAMES = ("transactions", "scores", "alerts", "transactions.dlq")


def killed(place: Place, seed: int, times: int) -> int:
    """F9: `kill -9` of the only broker while rounds are read, delivered and acknowledged.

    A worker that cannot deliver for `worker.retry_s` would end; here the broker is back before.
    """
    chance = random.Random(f"broker killed {seed}")
    directory = place.directory / f"kafka-{seed}"
    broker = kafka_server.start(directory, extra=SESSION, die_with_parent=True)
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
                broker = kafka_server.start(directory, extra=SESSION, die_with_parent=True)
                back = time.monotonic()
                run.publish(WAVE)
                place.resumed_s.append(run.moving(back))
            if not worker.alive:
                raise run.failure(["the worker did not outlive the broker", worker.said()])
            run.judge()
    finally:
        process.stop(broker.child, 0)
    return times


def one_of_three_killed(place: Place, seed: int, times: int) -> int:
    """F9: replication 3, `min.insync.replicas=2`; the leader of a partition is killed under load,
    and comes back. Nobody waits for it: the others go on meanwhile."""
    chance = random.Random(f"one of three {seed}")
    with three_nodes(place.directory / f"three-{seed}") as cluster:
        here = replace(place, kafka=cluster.bootstrap)
        with Run(here, seed, "topics.replication=3") as run:
            topics = [run.settings.topic(name) for name in NAMES]
            worker = run.start(f"worker.batch_events={ROUND}").ready()
            run.feed(200)
            for _ in range(times):
                run.moving(time.monotonic())
                victim = cluster.leader(topics[0], chance.randrange(2))
                died = time.monotonic()
                cluster.kill(victim)
                cluster.without(topics[0], victim)
                led = time.monotonic()
                place.resumed_s.append(led - died + run.moving(led))
                cluster.start(victim)
                cluster.whole(topics)
            run.starve()
            if not worker.alive:
                raise run.failure(["the worker did not outlive one broker", worker.said()])
            run.judge()
    return times


def unclean(place: Place, seed: int) -> int:
    """F9: a replica that lacks the log's tail becomes leader, as only an operator can ask for. The
    state in Redis is then ahead of the log: the running worker ends, a new one refuses and says
    what to do, and nothing is written. After `fraudstream rebuild` the state is the log's."""
    chance = random.Random(f"unclean {seed}")
    with three_nodes(place.directory / f"unclean-{seed}") as cluster:
        here = replace(place, kafka=cluster.bootstrap)
        with Run(here, seed, "topics.replication=3") as run:
            topic = run.settings.topic("transactions")
            old, heir = chance.sample(list(NODES), 2)
            cluster.place_anew(topic, run.partitions, (old, heir))
            worker = run.start().ready()
            run.publish(WAVE)
            run.drain()
            cluster.kill(heir)
            cluster.without(topic, heir)
            run.publish(WAVE)
            run.drain()
            lost = _erased(run)
            cluster.kill(old)
            kept = _stored(run)
            cluster.start(heir)
            cluster.led_by(topic, heir)
            for refusing in (worker, run.start()):
                if refusing.ended() == 0 or "fraudstream rebuild" not in refusing.said():
                    raise run.failure(["a log without its tail was not refused", refusing.said()])
            if _stored(run) != kept:
                raise run.failure(["state was written over a log that lost its tail"])
            cluster.start(old)
            _rebuilt(run, lost)
    return 1


def _erased(run: Run) -> set[str]:
    """The accounts that have a tombstone in the log."""
    found = contents(run.settings, "transactions")
    return {cast(bytes, m.key()).decode() for m in found if m.value() is None}


def _stored(run: Run) -> Mapping[bytes, bytes]:
    """What a fault must not change: records, and the place that each partition has reached."""
    with redis.Redis.from_url(run.place.redis_url) as client:
        names = sorted(client.scan_iter(match=f"{run.namespace}:*:a:*", count=1_000))
        found = dict(zip(names, client.mget(names), strict=True))
        for name in client.scan_iter(match=f"{run.namespace}:*:part"):
            found[name] = client.hget(name, "offset")
        return found


def _rebuilt(run: Run, lost: set[str]) -> None:
    """Make the state again from the log, go on, and compare the records with the oracle's.

    The scores of the lost messages stay on their topic, so I1 and I2 cannot be asked for. `lost`:
    accounts whose tombstone may be gone with the log's end; they stay erased, the log does not say.
    """
    run.put_right(run.rebuild)
    run.finish()
    with redis.Redis.from_url(run.place.redis_url) as client:
        seen = look(run.settings, client, run.generation)
    expected = run.expected()
    digests = {account_digest(name) for name in lost}
    assert any(set(records) - lost for records in expected.records.values())
    for side in (seen.records, expected.records):
        for records in side.values():
            for name in lost & records.keys():
                del records[name]
    for marked in (seen.markers, expected.markers):
        for cuts in marked.values():
            for digest in digests & cuts.keys():
                del cuts[digest]
    if found := list(equal_records(seen, expected)):
        raise run.failure(found)
