"""The same work on every shard: here, over processes, or on a Ray cluster.

In: a function of a module, what it works on, shard numbers. Out: nothing but progress; the work
leaves its result where it likes. Does not know what the work is.

While shards are under way the processes count their messages in shared memory, so that one large
shard shows its time left too. On Ray a shard is counted when it is done. A cluster is the one that
RAY_ADDRESS names or that runs on this machine; without one Ray starts its own here. A path means
the same on every node: recordings may lie on any file system that fsspec knows, but results, risk
snapshots and bundles are plain files, so nodes share a directory. The package is on every node.
"""

from __future__ import annotations

import logging
import multiprocessing
import os
import signal
import socket
from collections import deque
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import FIRST_EXCEPTION, Future, ProcessPoolExecutor, wait
from contextlib import contextmanager
from typing import Any, Literal, TypeVar

from streams.errors import ConfigError

Engine = Literal["processes", "ray"]
Tell = Callable[[int], None]
"""So many more messages are done."""
On = TypeVar("On")
Work = Callable[[On, int, Tell], None]
"""Does one shard."""

ASK_S = 0.5
KNOCK_S = 10.0
_counted: Any = None
"""In a worker process: the counter shared with its parent."""
_ended: Any = None
"""In a worker process: set when its parent gives up; what is under way is of no use then."""


class Ended(Exception):
    """The parent of this process gave up."""


def ready(engine: str) -> None:
    """Raises ConfigError where the engine is not to be had."""
    if engine == "ray":
        _ray()


def each_shard(
    work: Work[On], on: On, shards: Sequence[int], tell: Tell, jobs: int, engine: Engine
) -> None:
    """Run `work(on, shard, tell)` for every shard; raises what the work raises."""
    if engine == "ray":
        _on_ray(work, on, shards, tell)
    elif jobs <= 1 or len(shards) <= 1:
        for shard in shards:
            work(on, shard, tell)
    else:
        _over_processes(work, on, shards, tell, jobs)


def _over_processes(work: Work[On], on: On, shards: Sequence[int], tell: Tell, jobs: int) -> None:
    """This process is one of the `jobs`: it works while the others are still starting.

    It looks after them whenever its own shard tells of messages done. When it is interrupted, or a
    shard fails, they end with the batch that they are at.
    """
    context = multiprocessing.get_context("spawn")
    counter, told, left = context.Value("q", 0), 0, deque(shards)
    ended = context.Event()
    others = min(jobs, len(shards)) - 1
    waiting: set[Future[None]] = set()

    def look_after() -> None:
        nonlocal told
        for future in [each for each in waiting if each.done()]:
            waiting.remove(future)
            future.result()
        while left and len(waiting) < others:
            with _deaf():
                waiting.add(pool.submit(_counting, work, on, left.popleft()))
        now = counter.value
        tell(now - told)
        told = now

    def own(messages: int) -> None:
        tell(messages)
        look_after()

    with ProcessPoolExecutor(
        others, mp_context=context, initializer=_share, initargs=(counter, ended)
    ) as pool:
        try:
            look_after()
            while left:
                work(on, left.popleft(), own)
            while waiting:
                wait(waiting, ASK_S, FIRST_EXCEPTION)
                look_after()
        except BaseException:
            ended.set()
            raise


@contextmanager
def _deaf() -> Iterator[None]:
    """A process that is started inside never hears Ctrl-C: a terminal sends it to the whole group,
    and it is this process that ends the others. One that comes meanwhile takes effect after."""
    before = signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGINT})
    try:
        yield
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, before)


def _share(counter: Any, ended: Any) -> None:
    global _counted, _ended
    _counted, _ended = counter, ended


def _count(messages: int) -> None:
    with _counted.get_lock():
        _counted.value += messages
    if _ended.is_set():
        raise Ended


def _counting(work: Work[On], on: On, shard: int) -> None:
    work(on, shard, _count)


def _there(place: str, work: Work[On], on: On, shard: int) -> int:
    """On a node of the cluster; relative paths are those of the caller."""
    os.chdir(place)
    counts: list[int] = []
    work(on, shard, counts.append)
    return sum(counts)


def _ray() -> Any:
    """Ray, connected. Raises ConfigError when it is not installed or its cluster is not there."""
    os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")
    try:
        import ray
    except ImportError:
        raise ConfigError(
            "the Ray engine is not installed", remedy="pip install 'fraudstream[ray]'"
        ) from None
    if not ray.is_initialized():
        address = os.environ.get("RAY_ADDRESS", "")
        try:
            _knock(address)
            ray.init(log_to_driver=False, include_dashboard=False, logging_level=logging.WARNING)
        except OSError as error:
            raise ConfigError(
                f"no Ray cluster at {address}: {error}",
                remedy="start one with `ray start`, or unset RAY_ADDRESS",
            ) from None
    return ray


def _knock(address: str) -> None:
    """Ray asks an address where nobody listens for minutes; raises OSError after seconds."""
    host, _, port = address.removeprefix("ray://").rpartition(":")
    if port.isdigit():
        socket.create_connection((host, int(port)), KNOCK_S).close()


def _on_ray(work: Work[On], on: On, shards: Sequence[int], tell: Tell) -> None:
    ray = _ray()
    remote: Any = ray.remote(_there)
    waiting = [remote.remote(os.getcwd(), work, on, shard) for shard in shards]
    try:
        while waiting:
            ready, waiting = ray.wait(waiting)
            for count in ray.get(ready):
                tell(count)
    except ray.exceptions.RayTaskError as error:
        for other in waiting:
            ray.cancel(other)
        raise error.cause from None
