"""The local Kafka and Redis of one directory, started, found again and stopped together.

In: a directory and an engine. Out: a `Report`, the same that `services status --json` prints, and
`services.json` in the directory while both run, from which other commands learn the addresses.
Does not know how each server is started, nor what it is used for.
"""

from __future__ import annotations

import contextlib
import fcntl
import json
from collections.abc import Iterator
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Final, Literal

from streams.dev import embedded, kafka, process, redis
from streams.errors import ServiceError
from streams.settings import SERVICES_FILE

Engine = Literal["kafka", "embedded"]

_MODULES: Final = {"kafka": kafka, "embedded": embedded}
_PATIENCE_S: Final = {"kafka": kafka.STOP_PATIENCE_S, "embedded": embedded.STOP_PATIENCE_S}


@dataclass(frozen=True, slots=True)
class KafkaReport:
    """Where the broker listens."""

    bootstrap: str
    engine: Engine
    pid: int


@dataclass(frozen=True, slots=True)
class RedisReport:
    """Where Redis listens."""

    url: str
    pid: int


@dataclass(frozen=True, slots=True)
class Report:
    """What runs in a directory. `ready` when both are there and answer."""

    kafka: KafkaReport | None
    redis: RedisReport | None
    ready: bool

    def to_json(self) -> str:
        """The published form."""
        return json.dumps(asdict(self), indent=2)


@contextlib.contextmanager
def _alone(directory: Path) -> Iterator[None]:
    """One command at a time in a directory: two `up` at once would start two brokers."""
    with process.explained(f"using {directory}"):
        directory.mkdir(parents=True, exist_ok=True)
        lock = (directory / "lock").open("w")
    with lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        yield


def _broker(directory: Path) -> tuple[Engine, kafka.Broker] | None:
    """The broker that runs in the directory, and which it is."""
    if found := kafka.running(directory / "kafka"):
        return "kafka", found
    if found := embedded.running(directory / "embedded"):
        return "embedded", found
    return None


def status(directory: Path) -> Report:
    """What runs now. Never raises for a directory that is not there or is stale."""
    broker = _broker(directory)
    server = redis.running(directory / "redis")
    return Report(
        KafkaReport(broker[1].bootstrap, broker[0], broker[1].child.pid) if broker else None,
        RedisReport(server.url, server.child.pid) if server else None,
        broker is not None
        and server is not None
        and kafka.answers(broker[1].bootstrap)
        and redis.answers(server.url),
    )


def up(
    directory: Path,
    engine: Engine = "kafka",
    *,
    kafka_port: int | None = None,
    redis_port: int | None = None,
    die_with_parent: bool = False,
) -> Report:
    """Start what does not run yet. On failure stop again what this call started.

    Raises ServiceError.
    """
    with _alone(directory), contextlib.ExitStack() as undo:
        _refuse_what_differs(directory, engine, kafka_port, redis_port)
        server = redis.running(directory / "redis")
        if server is None or not redis.answers(server.url):
            if server is not None:
                process.stop(server.child, redis.STOP_PATIENCE_S)
            undo.callback(_stop, directory / "redis", redis.STOP_PATIENCE_S)
            server = redis.start(
                directory / "redis", port=redis_port, die_with_parent=die_with_parent
            )
        found = _broker(directory)
        broker = found[1] if found else None
        if broker is None or not kafka.answers(broker.bootstrap):
            if broker is not None:
                process.stop(broker.child, _PATIENCE_S[engine])
            undo.callback(_stop, directory / engine, 0)
            broker = _MODULES[engine].start(
                directory / engine, port=kafka_port, die_with_parent=die_with_parent
            )
        report = Report(
            KafkaReport(broker.bootstrap, engine, broker.child.pid),
            RedisReport(server.url, server.child.pid),
            ready=True,
        )
        process.write_whole(directory / SERVICES_FILE, report.to_json() + "\n")
        undo.pop_all()
    return report


def _stop(directory: Path, patience_s: float) -> None:
    """End what the directory's record names: a start that was broken off returned no child."""
    found = process.running(directory)
    if found is not None:
        process.stop(found[0], patience_s)


def _refuse_what_differs(
    directory: Path, engine: Engine, kafka_port: int | None, redis_port: int | None
) -> None:
    """What runs already and is not what is asked for is an error, not silently something else."""
    found, server = _broker(directory), redis.running(directory / "redis")
    differs = []
    if found is not None and found[0] != engine:
        differs.append(f"the broker is of the engine {found[0]}")
    if found is not None and kafka_port and not found[1].bootstrap.endswith(f":{kafka_port}"):
        differs.append(f"the broker is at {found[1].bootstrap}")
    if server is not None and redis_port and server.port != redis_port:
        differs.append(f"Redis is at port {server.port}")
    if differs:
        raise ServiceError(
            f"services run already in {directory}, and {' and '.join(differs)}",
            remedy="Stop them first with `fraudstream services down`, or use another --dir",
        )


def down(directory: Path) -> bool:
    """Stop what runs and wait until it is gone; data and logs stay. False when nothing ran."""
    if not directory.is_dir():
        return False
    with _alone(directory):
        (directory / SERVICES_FILE).unlink(missing_ok=True)
        broker = _broker(directory)
        server = redis.running(directory / "redis")
        if broker is not None:
            process.stop(broker[1].child, _PATIENCE_S[broker[0]])
        if server is not None:
            process.stop(server.child, redis.STOP_PATIENCE_S)
    return broker is not None or server is not None


def logs(directory: Path) -> list[Path]:
    """The log files that exist, newest last."""
    named = [
        directory / name
        for name in ("kafka/kafka.log", "kafka/kafka.out", "embedded/broker.log", "redis/redis.log")
    ]
    return sorted((log for log in named if log.exists()), key=lambda log: log.stat().st_mtime)
