"""Looks at a run's offsets in Redis all the time, from outside.

In: a Redis address and a namespace. Out: when each offset moved, and whether one ever went back.
Does not know workers. A rollback of Redis that the run makes itself is announced with `rollback`.
"""

from __future__ import annotations

import threading
import time
from contextlib import suppress
from typing import Any

import redis
from redis.backoff import NoBackoff
from redis.retry import Retry

from streams.store import keys

LOOK_EVERY_S = 0.01
PATIENCE_S = 60.0
AWAY = (redis.exceptions.RedisError, OSError)


class Watch:
    """`moves`: (time, partition, offset) of each change seen, in order."""

    def __init__(self, url: str, namespace: str, partitions: int) -> None:
        self.moves: list[tuple[float, int, int]] = []
        self.went_back: list[str] = []
        self._namespace, self._partitions = namespace, partitions
        self._names = self._parts(0)
        self._last: dict[int, tuple[int, int]] = {}
        self._lock = threading.Lock()
        self._done = threading.Event()
        self._client = redis.Redis.from_url(
            url, socket_timeout=1, socket_connect_timeout=1, retry=Retry(NoBackoff(), 0)
        )
        self._thread = threading.Thread(target=self._run, name="watch", daemon=True)
        self._thread.start()

    def _parts(self, generation: int) -> list[str]:
        return [keys.of(self._namespace, generation, n).part for n in range(self._partitions)]

    def _run(self) -> None:
        while not self._done.wait(LOOK_EVERY_S):
            with suppress(*AWAY):
                self._look()

    def look(self) -> None:
        """Look now: what happened before this call is seen when it returns."""
        deadline = time.monotonic() + PATIENCE_S
        while True:
            try:
                return self._look()
            except AWAY:
                if time.monotonic() > deadline:
                    raise
                time.sleep(LOOK_EVERY_S)

    def _look(self) -> None:
        with self._lock:
            pipe = self._client.pipeline(transaction=False)
            for name in self._names:
                pipe.hmget(name, ["offset", "token"])
            self._note(pipe.execute(raise_on_error=False))

    def _note(self, found: list[Any]) -> None:
        now = time.monotonic()
        for partition, answer in enumerate(found):
            if isinstance(answer, Exception):
                continue
            offset, token = (int(each or 0) for each in answer)
            before = self._last.get(partition)
            self._last[partition] = (offset, token)
            if before is None:
                continue  # the first look, and the first after a rollback, sees no move
            if offset < before[0]:
                self.went_back.append(f"partition {partition} went from {before[0]} to {offset}")
            if token < before[1]:
                self.went_back.append(f"the token of partition {partition} went back")
            if offset != before[0]:
                self.moves.append((now, partition, offset))

    def rollback(self) -> None:
        """Redis was put back by the run itself: what was seen before does not bind."""
        with self._lock:
            self._last.clear()

    def rebuilt(self, generation: int) -> None:
        """Look at the keys of another generation from now on."""
        with self._lock:
            self._names = self._parts(generation)
            self._last.clear()

    def offsets(self) -> dict[int, int]:
        """The newest offset seen of each partition."""
        with self._lock:
            return {partition: offset for partition, (offset, _) in self._last.items()}

    def moved(self, since: float) -> set[int]:
        """The partitions whose offset changed after a moment."""
        return {partition for when, partition, _ in list(self.moves) if when > since}

    def resumed_s(self, since: float, partitions: set[int]) -> float:
        """Seconds from a moment until each of these partitions had moved again."""
        first: dict[int, float] = {}
        for when, partition, _ in list(self.moves):
            if when > since and partition in partitions:
                first.setdefault(partition, when - since)
        assert first.keys() == partitions, f"partitions that never moved: {partitions - set(first)}"
        return max(first.values(), default=0.0)

    def stop(self) -> None:
        """Look no longer."""
        self._done.set()
        self._thread.join()
        self._client.close()
