"""Faults of disks: full under Redis' file, under the broker, under a recording.

In: a place and a seed. Out: nothing, or `Broken`. Each function is one run.
"""

from __future__ import annotations

import contextlib
import os
import shutil
import time
from dataclasses import replace

from streams.dev import kafka as kafka_server
from streams.dev import process
from streams.errors import RecordingError
from streams.offline.record import Recorder, Request
from streams.offline.recording import Manifest, Recording
from tests.faults.cluster import SESSION
from tests.faults.driver import Place, Run
from tests.faults.redis_faults import own_server, resumed, until_moving
from tests.faults.small_disk import small_disk
from tests.live.reading import contents
from tests.offline.kafka_log import recorded

ROUND = 40
ROOM = 1 << 15
"""Bytes that a recording may write before the disk is full."""
INDEXED = 1 << 16
"""Bytes of each of Kafka's indexes that have their place on the disk before it is full."""


def append_only_file(place: Place, seed: int) -> int:
    """F10: Redis cannot add to its file. With `appendfsync always` it acknowledges nothing that is
    not on disk: it ends. The worker waits; with room and a Redis again, all goes on."""
    with (
        small_disk(place.directory / f"aof-{seed}") as disk,
        own_server(replace(place, directory=disk.path)) as (there, server),
        Run(replace(place, redis_url=there.redis_url), seed) as run,
    ):
        worker = run.start(f"worker.batch_events={ROUND}").ready()
        run.feed(200)
        until_moving(run)
        disk.fill(server.pid)
        run.until(lambda: not server.alive)
        disk.free(server.pid)
        server.start()
        resumed(run)
        if not worker.alive:
            raise run.failure(["the worker did not wait for Redis", worker.said()])
        run.starve()
        run.judge()
    return 1


def broker_log(place: Place, seed: int) -> int:
    """F10: the broker cannot write. It ends, as Kafka does when its only log directory fails; the
    worker keeps what it could not deliver. With room and a broker again, all goes on.

    Kafka's indexes are sparse files in memory. One that gets no page makes an append fail *after*
    its messages were written, and Kafka 4.3.1 then gives their offsets to others: a log that says
    two things at one offset has no oracle (docs/guarantees.md). So they have their pages here.
    """
    with small_disk(place.directory / f"broker-{seed}") as disk:
        directory = disk.path / "kafka"
        broker = kafka_server.start(directory, extra=SESSION, die_with_parent=True)
        try:
            with Run(replace(place, kafka=broker.bootstrap), seed) as run:
                worker = run.start(f"worker.batch_events={ROUND}").ready()
                run.feed(200)
                until_moving(run)
                disk.allocate(INDEXED, "*.index", "*.timeindex")
                disk.fill(broker.child.pid)
                run.until(lambda: not process.alive(broker.child))
                disk.free(broker.child.pid)
                broker = kafka_server.start(directory, extra=SESSION, die_with_parent=True)
                resumed(run)
                if not worker.alive:
                    raise run.failure(["the worker did not wait for Kafka", worker.said()])
                run.starve()
                run.judge()
        finally:
            process.stop(broker.child, 0)
            # The disk goes with the run; what the broker said about its logs does not.
            with contextlib.suppress(OSError):
                shutil.copy(directory / "kafka.log", place.directory / f"broker-{seed}-kafka.log")
    return 1


def recording(place: Place, seed: int) -> int:
    """F10: `record` cannot write. It says so and leaves what it has; run again with room, it goes
    on from there, and the recording is the topic."""
    with small_disk(place.directory / f"recording-{seed}") as disk, Run(place, seed) as run:
        out = disk.path / "r"
        run.publish(4_000)
        disk.fill(os.getpid(), ROOM)
        try:
            _record(run, str(out))
        except RecordingError as error:
            if "it resumes" not in str(error):
                raise run.failure([f"a full disk is told as: {error}"]) from error
        else:
            raise run.failure(["a recording without room was taken for whole"])
        finally:
            disk.free(os.getpid())
        began = time.monotonic()
        assert _record(run, str(out)).complete
        place.resumed_s.append(time.monotonic() - began)
        kept = recorded(Recording(str(out)), "transactions")
        found = {(number, row[0], row[2], row[3]) for number, rows in kept.items() for row in rows}
        wanted = {
            (m.partition(), m.offset(), m.key(), m.value())
            for m in contents(run.settings, "transactions")
        }
        if found != wanted:
            raise run.failure([f"the recording differs in {len(found ^ wanted)} messages"])
    return 1


def _record(run: Run, out: str) -> Manifest:
    request = Request({"transactions": run.settings.topic("transactions")})
    config = {"bootstrap.servers": run.settings.kafka.bootstrap}
    return Recorder(config, request, Recording(out)).run()
