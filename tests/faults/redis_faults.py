"""Faults of Redis: killed, frozen, put back, emptied, full.

In: a place whose Redis is this module's own, and a seed. Out: nothing, or `Broken`.
"""

from __future__ import annotations

import contextlib
import os
import random
import shutil
import signal
import time
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import redis

from streams.dev import process
from streams.dev import redis as redis_server
from tests.faults.driver import Place, Run, ends
from tests.faults.line import Line
from tests.live.reading import committed

ROUND = 40
WAITS = "waiting for the store (full)"


class Server:
    """A Redis with a file, which can be killed and come back on the same port."""

    def __init__(self, directory: Path) -> None:
        self.directory = directory
        self._server = redis_server.start(directory, die_with_parent=True)

    @property
    def url(self) -> str:
        return self._server.url

    @property
    def port(self) -> int:
        return self._server.port

    def client(self) -> redis.Redis:
        return redis.Redis.from_url(self.url)

    @property
    def pid(self) -> int:
        return self._server.child.pid

    @property
    def alive(self) -> bool:
        return process.alive(self._server.child)

    def signal(self, number: signal.Signals) -> None:
        os.kill(self.pid, number)

    def kill(self) -> None:
        """`kill -9`."""
        process.stop(self._server.child, 0)

    def start(self) -> None:
        """Come back with what the file holds."""
        self._server = redis_server.start(self.directory, port=self.port, die_with_parent=True)

    @property
    def files(self) -> Path:
        return self.directory / "appendonlydir"


@contextlib.contextmanager
def own_server(place: Place) -> Iterator[tuple[Place, Server]]:
    """The same place with a Redis of its own."""
    server = Server(place.directory / f"redis{len(place.seeds)}")
    try:
        yield replace(place, redis_url=server.url), server
    finally:
        with contextlib.suppress(ProcessLookupError):
            server.signal(signal.SIGCONT)
        server.kill()


def killed(place: Place, seed: int, times: int) -> int:
    """F6: `kill -9` of Redis under load, and a restart a moment later."""
    chance = random.Random(f"redis killed {seed}")
    with own_server(place) as (here, server), Run(here, seed) as run:
        run.start(f"worker.batch_events={ROUND}").ready()
        run.feed(200)
        for _ in range(times):
            until_moving(run)
            time.sleep(chance.uniform(0, 1))
            server.kill()
            time.sleep(chance.uniform(0, 1))
            server.start()
            resumed(run)
        run.starve()
        run.judge()
    return times


def frozen(place: Place, seed: int, times: int, seconds: float) -> int:
    """F6: Redis stands still; requests time out, and are done later though nobody waits."""
    with own_server(place) as (here, server), Run(here, seed) as run:
        run.start(f"worker.batch_events={ROUND}", "redis.timeout_s=1").ready()
        run.feed(200)
        for _ in range(times):
            until_moving(run)
            server.signal(signal.SIGSTOP)
            time.sleep(seconds)
            server.signal(signal.SIGCONT)
            resumed(run)
        run.starve()
        run.judge()
    return times


def put_back(place: Place, seed: int, times: int) -> int:
    """F6: Redis is restored to an older file while the worker runs; what it lost is done again,
    and comes out the same."""
    with own_server(place) as (here, server), Run(here, seed) as run:
        run.start(f"worker.batch_events={ROUND}").ready()
        run.feed(200)
        older = server.directory / "older"
        for _ in range(times):
            until_moving(run)
            server.kill()
            shutil.rmtree(older, ignore_errors=True)
            shutil.copytree(server.files, older)
            server.start()
            resumed(run)
            before = sum(run.watch.offsets().values())
            run.until(lambda: sum(run.watch.offsets().values()) > before + ROUND)  # noqa: B023
            server.kill()
            run.watch.rollback()
            shutil.rmtree(server.files)
            shutil.copytree(older, server.files)
            run.watch.rollback()
            server.start()
            resumed(run)
        run.starve()
        run.judge()
    return times


def emptied(place: Place, seed: int) -> int:
    """F6: Redis comes back empty. The running worker ends; so does the next one, which joins in
    the same seconds, where the group had committed (odd seeds); both say what to do; nothing is
    written. With the files back, all goes on."""
    witnessed = seed % 2 == 1
    with own_server(place) as (here, server), Run(here, seed) as run:
        worker = run.start().ready()
        run.publish(400)
        run.drain()
        if witnessed:
            run.until(lambda: committed(run.settings) == ends(run.settings, "transactions"))
        server.kill()
        kept = server.directory / "kept"
        shutil.move(server.files, kept)
        run.watch.rollback()
        server.start()
        refused = 0
        run.publish(100)
        for refusing in [worker, run.start()] if witnessed else [worker]:
            if refusing.ended() != 1 or "fraudstream rebuild" not in refusing.said():
                raise run.failure(["an empty Redis was not refused", refusing.said()])
            refused += 1
        with server.client() as client:
            left = [key for key in client.keys("*") if b":a:" in key or b":out" in key]
        if left:
            raise run.failure([f"an empty Redis was written to: {left}"])

        def files_back() -> None:
            server.kill()
            shutil.rmtree(server.files)
            shutil.move(kept, server.files)
            run.watch.rollback()
            server.start()

        run.put_right(files_back)
        run.judge()
    return refused


def full(place: Place, seed: int, times: int) -> int:
    """F6: Redis is out of memory; the worker waits, says so, and goes on when there is room."""
    with own_server(place) as (here, server), Run(here, seed) as run, server.client() as client:
        worker = run.start(f"worker.batch_events={ROUND}").ready()
        run.feed(100)
        for number in range(1, times + 1):
            until_moving(run)
            client.config_set("maxmemory", "1mb")
            run.until(lambda: worker.said().count(WAITS) >= number)  # noqa: B023
            run.watch.look()
            stood = run.watch.offsets()
            time.sleep(1)
            run.watch.look()
            if run.watch.offsets() != stood or not worker.alive:
                raise run.failure(["a full Redis took a commit, or the worker ended"])
            client.config_set("maxmemory", "0")
            resumed(run)
        run.starve()
        run.judge()
    return times


def promoted(place: Place, seed: int) -> int:
    """F7: a replica that missed the primary's last commits takes its place."""
    with (
        own_server(place) as (here, primary),
        own_server(replace(place, directory=place.directory / "replica")) as (_, replica),
        Line(primary.port, seed) as line,
        replica.client() as client,
    ):
        client.execute_command("REPLICAOF", "127.0.0.1", primary.port)
        far = replace(here, redis_url=f"redis://127.0.0.1:{line.port}/0")
        with Run(far, seed) as run:
            worker = run.start(f"worker.batch_events={ROUND}").ready()
            run.feed(200)
            until_moving(run)
            run.until(lambda: client.info("replication")["master_link_status"] == "up")
            client.execute_command("REPLICAOF", "NO", "ONE")
            before = sum(run.watch.offsets().values())
            run.until(lambda: sum(run.watch.offsets().values()) > before + 2 * ROUND)
            primary.kill()
            run.watch.rollback()
            line.lead_to(replica.port)
            resumed(run)
            if not worker.alive:
                raise run.failure(["the worker did not outlive the primary", worker.said()])
            run.starve()
            run.judge()
    return 1


def until_moving(run: Run) -> None:
    """Wait until every partition moves."""
    run.moving(time.monotonic())


def resumed(run: Run) -> None:
    """Wait until every partition has moved again, and note how long that took."""
    run.place.resumed_s.append(run.moving(time.monotonic()))
