"""The accounts' state made again from the topic, beside the one in use; then the switch.

In: Settings. Out: a new key generation in Redis that workers use from then on, and what was done.
Does not know how a message becomes state: each partition is a replay (`replay.py`) without judges
whose store is Redis.

It reads every partition up to what the group has committed, i.e. to where all output is on Kafka;
a topic that replaced the one of the state, not at all: its messages wait for their scores.
The workers go on from there, under the new generation; what they had done beyond it they do again,
with the same ids. So nothing is lost and nothing is sent that readers do not drop, whether workers
run meanwhile or not, and whether Redis was lost, damaged, or made for fewer partitions.

It needs room in Redis for a second copy of the state until the switch.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterator, Mapping
from dataclasses import asdict, dataclass
from typing import Any, Final, cast

import numpy as np
import redis

from streams import topics
from streams.batch import Batch
from streams.connect import check_kafka, check_redis, confluent_config, redis_client
from streams.errors import Conflict, StoreError, StoreFull
from streams.offline import aside
from streams.offline.erased import cut_of
from streams.offline.merged import LogMessage, MergedLog
from streams.offline.replay import BATCH_EVENTS, Shard
from streams.offline.routing import Route, find
from streams.settings import Settings
from streams.store import Identity, generations, keys
from streams.store.redis import RedisStore

SAMPLE: Final = 500
"""Messages at either end of each partition from which the publishers' rule is told."""
CLOSE_ENOUGH: Final = 10_000
"""Messages that workers may have to do again, before another pass is worth it."""
MAX_PASSES: Final = 5

Progress = Callable[[int, int], None]
_logger = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class Result:
    """What a rebuild did. moved: accounts may lie in another partition than their old messages.
    misplaced: of the messages that wait for workers, those in a partition of before; their accounts
    get a record there, too. offsets: where the workers of each partition go on."""

    generation: int
    partitions: int
    messages: int
    moved: bool
    misplaced: int
    offsets: dict[int, int]
    swept_keys: int

    def document(self) -> dict[str, Any]:
        """As JSON."""
        return asdict(self)


def rebuild(settings: Settings, progress: Progress = lambda done, total: None) -> Result:
    """Make the state again and put it in use. Raises BrokerError, StoreError."""
    check_kafka(settings)
    topic_id, count = topics.describe(settings, "transactions")
    config = confluent_config(settings, {"group.id": settings.kafka.group})
    client = redis_client(settings)
    log = MergedLog(config, settings.topic("transactions"))
    try:
        check_redis(settings, client)
        _, letters = topics.describe(settings, "transactions.dlq")
        put_aside = aside.read(config, settings, letters)
        identity = Identity(topic_id, count)
        return _Rebuild(settings, client, log, identity, put_aside).run(progress)
    except Conflict:
        raise StoreError(
            "an account was erased, or another rebuild began, while the state was made again;"
            " nothing was switched",
            remedy="Run `fraudstream rebuild` again",
        ) from None
    except StoreFull as error:
        raise StoreError(
            f"no room in Redis: {error}",
            remedy="A rebuild holds a second copy of the state until it is done: raise maxmemory"
            " and run it again",
        ) from None
    finally:
        log.close()
        client.close()


class _Rebuild:
    """One run."""

    def __init__(
        self,
        settings: Settings,
        client: redis.Redis,
        log: MergedLog,
        identity: Identity,
        put_aside: aside.Aside,
    ) -> None:
        self._client = client
        self._log = log
        self._aside = put_aside
        self._identity = identity
        self._namespace = settings.redis.namespace
        RedisStore(client, require_durable=settings.redis.require_durable).check()
        self._old = generations.read(client, self._namespace)
        self._own = self._require_own(settings)
        # The count of another topic, which this one replaced, says nothing of moves in this one.
        self._before = self._old.partitions if self._own else None
        self._markers = self._read_markers()
        self._max_future_ms = settings.worker.max_future_s * 1000
        self._arena_bytes = settings.worker.arena_mb * 1_048_576 // identity.partitions
        self._done = 0

    def run(self, progress: Progress) -> Result:
        count = self._identity.partitions
        start, ends = self._ranges()
        route = self._route(start)
        if self._old.before is not None:
            # A rebuild that died between its switch and its sweep left these keys, perhaps without
            # the marks: a worker may still be at work on them.
            generations.retire(self._client, self._namespace, self._old.before, count)
            generations.sweep(self._client, self._namespace, self._old.before)
        generation = generations.begin(self._client, self._namespace)
        _logger.info("building key generation %d from %d partitions", generation, count)
        writers = [self._writer(number, generation) for number in range(count)]
        for _ in range(MAX_PASSES):
            total = self._done + sum(ends[number] - start[number] for number in range(count))
            ranges = {number: (start[number], ends[number]) for number in range(count)}
            for group in self._log.read(ranges):
                for message in self._kept(group):
                    writers[route(message.key, message.partition)].add(message)
                self._done += len(group)
                progress(self._done, total)
            start = ends
            ends = self._ends(start)
            if sum(ends[number] - start[number] for number in range(count)) < CLOSE_ENOUGH:
                break
        for writer in writers:
            writer.flush()
        for number, at in start.items():
            markers = self._markers.get(number, {})
            generations.finish(self._client, self._namespace, generation, number, at, markers)
        generations.switch(self._client, self._namespace, generation, count)
        # `forget` marks the generation in use first, then the one being built, whose markers were
        # just replaced: what it marked meanwhile is carried over.
        for number, cuts in self._read_markers().items():
            if number < count and cuts != self._markers.get(number, {}):
                generations.mark(self._client, self._namespace, generation, number, cuts)
        swept = generations.sweep(self._client, self._namespace, self._old.current)
        moved = route.rule is not None
        misplaced = self._misplaced(route, start) if moved else 0
        return Result(generation, count, self._done, moved, misplaced, start, swept)

    def _require_own(self, settings: Settings) -> bool:
        """Whether the state is of this topic, and not of one that is gone.

        Raises StoreError where it is of another topic, and that one is still there.
        """
        parts = [
            keys.of(self._namespace, self._old.current, number).part
            for number in range(self._old.partitions or 0)
        ]
        found = {self._client.hget(part, "topic") for part in parts}
        others = found - {None, self._identity.topic_id.encode()}
        for other in others:
            name = topics.named(settings, cast(bytes, other).decode())
            if name is not None:
                raise StoreError(
                    f"redis.namespace {self._namespace} holds the state of another service, whose"
                    f" topic is {name}",
                    remedy="Give this one a redis.namespace and a kafka.group of its own",
                )
        return not others

    def _misplaced(self, route: Route, start: Mapping[int, int]) -> int:
        """Messages behind `start` that do not lie where their accounts' state is now."""
        waiting = {number: (at, self._log.limits(number)[1]) for number, at in start.items()}
        return sum(
            route(message.key, message.partition) != message.partition
            for group in self._log.read(waiting)
            for message in group
        )

    def _read_markers(self) -> dict[int, dict[bytes, int]]:
        """Erasures noted by offset; those of another topic's offsets mean nothing here."""
        found: dict[int, dict[bytes, int]] = {}
        for number in range(min(self._old.partitions or 0, self._identity.partitions)):
            own = keys.of(self._namespace, self._old.current, number)
            if self._client.hget(own.part, "topic") in (None, self._identity.topic_id.encode()):
                cuts = cast(dict[bytes, bytes], self._client.hgetall(own.gone))
                # A log that lost its end, and with it a tombstone, uses the same offsets again: the
                # erasure covers what the log holds now, not what is still to come.
                end = self._log.limits(number)[1]
                found[number] = {digest: min(int(cut), end) for digest, cut in cuts.items()}
        return found

    def _ranges(self) -> tuple[dict[int, int], dict[int, int]]:
        """Each log's first offset, and how far the group has committed."""
        start = {n: self._log.limits(n)[0] for n in range(self._identity.partitions)}
        return start, self._ends(start)

    def _ends(self, start: Mapping[int, int]) -> dict[int, int]:
        # Nobody worked on a topic that replaced the state's. A worker that ran meanwhile committed
        # the old one's offset to it, all the same: aiokafka asks until there is a topic again.
        committed = self._log.committed(self._identity.partitions) if self._own else {}
        return {
            number: max(low, min(committed.get(number, low), self._log.limits(number)[1]))
            for number, low in start.items()
        }

    def _route(self, start: Mapping[int, int]) -> Route:
        """Where accounts belong, from samples of the logs' two ends."""
        high = {number: self._log.limits(number)[1] for number in start}
        first = {n: (low, min(low + SAMPLE, high[n])) for n, low in start.items()}
        last = {n: (max(low, high[n] - SAMPLE), high[n]) for n, low in start.items()}
        count = self._identity.partitions
        before = self._before or count
        return find(self._sample(first), self._sample(last), count, before)

    def _sample(self, ranges: Mapping[int, tuple[int, int]]) -> list[tuple[bytes, int]]:
        return [
            (message.key, message.partition)
            for group in self._log.read(ranges)
            for message in group
            # One whose key is not its account is a dead letter, wherever it lies.
            if message.key and message.value and message.key in message.value
        ]

    def _kept(self, group: list[LogMessage]) -> Iterator[LogMessage]:
        """Without what killed every worker, and what is marked as erased: by the account's digest
        and the log's own offset."""
        for message in group:
            if self._aside.has(message.partition, message.offset, message.value):
                continue
            cuts = self._markers.get(message.partition)
            if cuts and message.key is not None:
                name = message.key.decode(errors="replace")
                if message.offset < cut_of(cuts, name):
                    continue
            yield message

    def _writer(self, number: int, generation: int) -> _Writer:
        store = RedisStore(self._client, self._namespace, generation=generation)
        shard = Shard(
            number,
            [],
            None,
            max_future_ms=self._max_future_ms,
            forgotten={},
            arena_bytes=self._arena_bytes,
            store=store,
            identity=self._identity,
        )
        return _Writer(number, shard)


class _Writer:
    """Gathers one partition's messages to batches. They count from 0: `finish` says where the
    partition stands in the log, which after a move is not where its messages came from."""

    def __init__(self, number: int, shard: Shard) -> None:
        self._number = number
        self._shard = shard
        self._waiting: list[LogMessage] = []
        self._next = 0

    def add(self, message: LogMessage) -> None:
        self._waiting.append(message)
        if len(self._waiting) == BATCH_EVENTS:
            self.flush()

    def flush(self) -> None:
        waiting, self._waiting = self._waiting, []
        if not waiting:
            return
        first, self._next = self._next, self._next + len(waiting)
        # A message may be refused for its headers, here as it was live.
        headers = [message.headers for message in waiting]
        self._shard.step(
            Batch(
                topic="transactions",
                partition=self._number,
                offsets=np.arange(first, self._next),
                timestamps=np.array([message.time_ms for message in waiting], np.int64),
                keys=[message.key for message in waiting],
                values=[message.value for message in waiting],
                headers=headers if any(headers) else None,
                next_offset=self._next,
            )
        )
