"""The demo's stage: its own Kafka and Redis, the topics, and workers as child processes.

In: a directory of its own, settings flags. Out: settings that reach the servers; running workers.
Does not know what is published or shown. Leaving the stage stops all of it; on Linux so does the
end of this process, however it comes: a closed terminal, a second Ctrl-C, `kill -9`.
"""

from __future__ import annotations

import contextlib
import fcntl
import shutil
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from streams import topics
from streams.dev import process, services
from streams.errors import ServiceError, ToolMissing
from streams.settings import Settings, load

WORKER_READY_S: Final = 300.0
"""The first start on a machine compiles the kernels."""
WORKER_STOP_S: Final = 8.0
LOOK_EVERY_S: Final = 0.1
EMBEDDED_SESSION_MS: Final = 6_000
"""The embedded broker lets a group join wait for half the session."""

MARK: Final = "demo.txt"

Say = Callable[[str], None]


@dataclass(frozen=True, slots=True)
class Stage:
    """What runs: settings to reach it, the engine of the broker, the workers and their logs."""

    settings: Settings
    engine: str
    workers: tuple[process.Child, ...]
    logs: tuple[Path, ...]

    def check(self) -> None:
        """Raises ServiceError, with the end of its log, when a worker has ended."""
        for number, worker in enumerate(self.workers):
            if not process.alive(worker):
                raise ServiceError(
                    f"worker {number + 1} has ended:\n{process.tail(self.logs[number])}"
                )


@contextlib.contextmanager
def stage(directory: Path, flags: Sequence[str], workers: int, say: Say) -> Iterator[Stage]:
    """Start everything; stop it again on the way out. Raises ServiceError with a remedy."""
    with contextlib.ExitStack() as undo:
        undo.enter_context(_cleared(directory))
        undo.callback(services.down, directory)
        report = _servers(directory, say)
        assert report.kafka is not None
        assert report.redis is not None
        own = [
            *flags,
            f"worker.data_dir={directory}",
            f"kafka.bootstrap={report.kafka.bootstrap}",
            f"redis.url={report.redis.url}",
        ]
        if report.kafka.engine == "embedded":
            own.append(f"kafka.session_timeout_ms={EMBEDDED_SESSION_MS}")
        settings = load(flags=own)
        topics.create(settings)
        say(f"topics made, {settings.topics.partitions} partitions; starting {workers} workers")
        logs = tuple(directory / f"worker-{n + 1}.log" for n in range(workers))
        started = []
        for log in logs:
            with process.unbroken():
                child = _worker(own, log)
                undo.callback(process.stop, child, WORKER_STOP_S)
            started.append(child)
        found = Stage(settings, report.kafka.engine, tuple(started), logs)
        yield found


@contextlib.contextmanager
def _cleared(directory: Path) -> Iterator[None]:
    """The directory of an earlier demo, emptied, for this one alone: one that was killed may have
    left its servers running, and its data would count as this one's. Nobody else's directory is
    touched, nor that of a demo that runs."""
    mark = directory / MARK
    if directory.exists() and any(directory.iterdir()) and not mark.exists():
        raise ServiceError(
            f"{directory} is in use, and not by a demo", remedy="Give --dir a directory of its own"
        )
    with process.explained(f"preparing {directory}"):
        directory.mkdir(parents=True, exist_ok=True)
        held = mark.open("a")
    with held:
        try:
            fcntl.flock(held, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            raise ServiceError(
                f"a demo runs in {directory}", remedy="End it, or give --dir another directory"
            ) from None
        services.down(directory)
        with process.explained(f"preparing {directory}"):
            for each in directory.iterdir():
                if each.is_dir() and not each.is_symlink():
                    shutil.rmtree(each)
                elif each != mark:
                    each.unlink()
            mark.write_text("Made by `fraudstream demo`, and emptied when it starts again.\n")
        yield


def _servers(directory: Path, say: Say) -> services.Report:
    """Kafka and Redis; without Java or Maven the embedded broker, and it is said.

    Raises ServiceError when they are there and the broker does not start all the same.
    """
    began = time.monotonic()
    try:
        report = services.up(directory, "kafka", die_with_parent=True)
    except ToolMissing as error:
        say(f"no real Kafka: {error}")
        from streams.dev.embedded import LABEL

        report = services.up(directory, "embedded", die_with_parent=True)
        say(f"going on with the {LABEL}")
    assert report.kafka is not None
    assert report.redis is not None
    say(
        f"Kafka at {report.kafka.bootstrap}, Redis at {report.redis.url}"
        f" after {time.monotonic() - began:.1f} s"
    )
    return report


def _worker(flags: Sequence[str], log: Path) -> process.Child:
    command = [sys.executable, "-c", "from streams.cli import main; main()", "worker"]
    # `await_ready` reads what it says, whatever the environment makes of logs.
    for flag in (*flags, "log.json_lines=false"):
        command += ["--set", flag]
    return process.start(command, log, die_with_parent=True)


def await_ready(found: Stage) -> None:
    """Return when every worker has said that it is ready. Raises ServiceError."""
    deadline = time.monotonic() + WORKER_READY_S
    while not all("ready" in log.read_text("utf-8", "replace").splitlines() for log in found.logs):
        found.check()
        if time.monotonic() > deadline:
            raise ServiceError(
                f"the workers were not ready in {WORKER_READY_S:.0f} s:\n"
                + "\n".join(process.tail(log) for log in found.logs)
            )
        time.sleep(LOOK_EVERY_S)
