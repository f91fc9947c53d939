"""One run: a seeded log, workers over it, faults between them, and the verdict at the end.

In: a place to run in, and a seed. Out: `Broken` with the seed, or how long things took.
Does not know which faults are made: the modules beside it (`deaths.py`, `redis_faults.py`, ...) do.

    with Run(place, seed, partitions=2) as run:
        run.publish(500)
        worker = run.start().ready()
        ... faults ...
        run.judge()
"""

from __future__ import annotations

import itertools
import threading
import time
from collections import Counter
from collections.abc import Callable, Iterable, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path
from types import TracebackType

import redis
from confluent_kafka import KafkaException, Producer

from streams.connect import confluent_config
from streams.offline.rebuild import rebuild
from streams.settings import Settings
from streams.store import keys
from tests.faults.expected import Expected, expect
from tests.faults.expected import Place as Offset
from tests.faults.promises import Broken, broken, look
from tests.faults.source import Source
from tests.faults.watch import Watch
from tests.faults.workers import Worker
from tests.live.reading import contents, settings_for
from tests.live.reading import ends as read_ends

DRAIN_S = 120.0
FEED_EVERY_S = 0.05

_numbers = itertools.count(1)


def ends(settings: Settings, name: str) -> dict[int, int]:
    """Where the partitions of a topic end; a broker that starts or moves leaders is asked again."""
    deadline = time.monotonic() + DRAIN_S
    while True:
        try:
            return read_ends(settings, name)
        except KafkaException:
            if time.monotonic() > deadline:
                raise
            time.sleep(0.1)


@dataclass(frozen=True, slots=True)
class Place:
    """Where runs happen: servers, and a directory for logs. `seeds` notes what was run; `counts`
    what else a run did, for whoever wants to tell it."""

    kafka: str
    redis_url: str
    directory: Path
    seeds: list[int] = field(default_factory=list)
    resumed_s: list[float] = field(default_factory=list)
    counts: Counter[str] = field(default_factory=Counter)


class Run:
    """A log with topics, a group and a namespace of its own."""

    def __init__(
        self,
        place: Place,
        seed: int,
        *flags: str,
        partitions: int = 2,
        like: Run | None = None,
        watched: str | None = None,
    ) -> None:
        self.seed = seed
        self.place = place
        number = next(_numbers)
        self._names = itertools.count()
        # A run `like` another reads the same log into a namespace of its own.
        self.prefix: str = f"f{number}-" if like is None else like.prefix
        self.namespace = f"f{number}"
        self.settings: Settings = settings_for(
            place.kafka,
            self.prefix,
            f"redis.namespace={self.namespace}",
            f"redis.url={place.redis_url}",
            f"kafka.group={self.prefix}{number}",
            *flags,
            partitions=partitions,
        )
        self.partitions = partitions
        self.source: Source = Source(seed, partitions) if like is None else like.source
        # Workers may reach Redis over a bad line; the run itself looks at the server.
        self._redis_url = watched or place.redis_url
        self.watch = Watch(self._redis_url, self.namespace, partitions)
        self.workers: list[Worker] = []
        self.aside: set[Offset] = set()
        """Messages that no worker is to read."""
        self.generation = 0
        """Of the keys that hold the state now; `rebuild` makes the next."""
        self._producer: Producer | None = None
        self._feeding = threading.Event()
        self._feeder: threading.Thread | None = None
        place.seeds.append(seed)

    # The log.

    def publish(self, count: int) -> None:
        """The next messages of the seed's log; returns when the broker has them."""
        if self._producer is None:
            self._producer = Producer(
                confluent_config(self.settings, {"linger.ms": 5, "log_level": 0})
            )
        topic = self.settings.topic("transactions")
        for sent in self.source.take(count):
            self._producer.produce(topic, sent.value, sent.key, partition=sent.partition)
            self._producer.poll(0)
        if left := self._producer.flush(DRAIN_S):
            raise self.failure([f"the broker did not take {left} messages"])

    def feed(self, per_second: int) -> None:
        """Publish all the time from now on, until `starve`."""
        self._feeding.clear()
        chunk = max(1, int(per_second * FEED_EVERY_S))

        def run() -> None:
            while not self._feeding.wait(FEED_EVERY_S):
                self.publish(chunk)

        self._feeder = threading.Thread(target=run, name="feeder", daemon=True)
        self._feeder.start()

    def starve(self) -> None:
        """Publish no more."""
        self._feeding.set()
        if self._feeder is not None:
            self._feeder.join()
            self._feeder = None

    def lag(self) -> int:
        """Offsets that the store has not applied."""
        self.watch.look()
        applied = self.watch.offsets()
        log = ends(self.settings, "transactions")
        return sum(end - applied.get(partition, 0) for partition, end in log.items())

    # The workers.

    def flags(self) -> list[str]:
        """What every worker of this run is told."""
        kafka = self.settings.kafka
        return [
            f"kafka.bootstrap={kafka.bootstrap}",
            f"kafka.topic_prefix={kafka.topic_prefix}",
            f"kafka.group={kafka.group}",
            f"kafka.session_timeout_ms={kafka.session_timeout_ms}",
            f"redis.url={self.place.redis_url}",
            f"redis.namespace={self.namespace}",
            "model.bundle=stub",
            "risk.enabled=false",
            "worker.arena_mb=16",
            # These deaths are nobody's message's fault: no message is to be put aside for them.
            "worker.quarantine_after=100",
        ]

    def start(
        self,
        *flags: str,
        mutant: str | None = None,
        spare_mb: int | None = None,
        clock: Path | None = None,
        environment: Mapping[str, str] | None = None,
    ) -> Worker:
        """One more worker."""
        log = self.place.directory / f"{self.namespace}-{len(self.workers)}.log"
        worker = Worker([*self.flags(), *flags], log, mutant, spare_mb, clock, environment)
        self.workers.append(worker)
        return worker

    def another_group(self) -> str:
        """A flag that spares a worker the wait for the session of a dead one to end.

        Where to go on is read from Redis alone, so the group's name plays no part in the promises.
        """
        return f"kafka.group={self.settings.kafka.group}-{next(self._names)}"

    def until(self, done: Callable[[], bool], patience_s: float = DRAIN_S) -> None:
        """Wait; a run that stands still is a broken one."""
        deadline = time.monotonic() + patience_s
        while not done():
            if time.monotonic() > deadline:
                raise self.failure([f"nothing happens for {patience_s:.0f} s", *self._tails()])
            time.sleep(0.02)

    def drain(self, patience_s: float = DRAIN_S) -> None:
        """Wait until the whole log is applied."""
        log = ends(self.settings, "transactions")

        def applied() -> bool:
            found = self.watch.offsets()
            return all(found.get(partition, 0) >= end for partition, end in log.items())

        self.until(applied, patience_s)

    def _tails(self) -> Iterable[str]:
        return (f"{worker.log.name}: ...{worker.said()[-1500:]}" for worker in self.workers[-3:])

    def rebuild(self) -> None:
        """Make the state again from the log, as `fraudstream rebuild` does."""
        self.generation = rebuild(self.settings).generation
        self.watch.rebuilt(self.generation)

    def moving(self, since: float) -> float:
        """Wait until every partition has moved after a moment; seconds from then."""
        every = set(range(self.partitions))
        self.until(lambda: self.watch.moved(since) >= every)
        return self.watch.resumed_s(since, every)

    def put_right(self, remedy: Callable[[], object], *flags: str) -> None:
        """Workers refuse: the remedy, another worker, and how long until all partitions moved."""
        began = time.monotonic()
        remedy()
        since = time.monotonic()
        self.publish(100)
        self.start(self.another_group(), *flags).ready()
        self.place.resumed_s.append(since - began + self.moving(since))

    # The verdict.

    def finish(self) -> None:
        """Drain, and let every worker go in order: what is left in an outbox is then an error."""
        self.drain()
        for worker in self.workers:
            # One that is still starting does not yet know how to leave in order.
            worker.until(lambda: "ready" in worker.said() or not worker.alive)  # noqa: B023
            if worker.alive:
                code = worker.stop()
                if code:
                    raise self.failure([f"a worker left with {code}", worker.said()])

    def expected(self) -> Expected:
        """What the log asks for."""
        return expect(
            self.settings,
            contents(self.settings, "transactions"),
            ends(self.settings, "transactions"),
            self.aside,
        )

    def faults(self, expected: Expected | None = None) -> list[str]:
        """The promises that do not hold now."""
        with redis.Redis.from_url(self._redis_url) as client:
            seen = look(self.settings, client, self.generation)
            waiting = client.keys(f"{keys.prefix(self.namespace, self.generation)}:*:out")
        seen.went_back = list(self.watch.went_back)
        seen.said = [line for worker in self.workers for line in worker.said().splitlines()]
        found = list(
            broken(seen, expected or self.expected(), self.source.accounts, self.source.amounts)
        )
        if waiting:
            found.append(f"outboxes are not empty: {waiting}")
        return found

    def judge(self) -> None:
        """Come to the end and check the promises. Raises Broken."""
        self.finish()
        found = self.faults()
        if found:
            raise self.failure(found)

    def failure(self, found: Sequence[str]) -> Broken:
        """What a failing run says."""
        return Broken("\n".join([f"seed {self.seed} (again: FAULT_SEED={self.seed})", *found]))

    def __enter__(self) -> Run:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        with suppress(Exception):
            self.starve()
        for worker in self.workers:
            if worker.alive:
                worker.kill()
        self.watch.stop()
