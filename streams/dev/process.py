"""Child processes that may outlive the command that started them.

In: a command line and a log file. Out: a `Child` (pid and identity) that can be stored in a file,
found again by another process, and stopped.
Does not know what the processes do.

A pid alone says nothing: the system gives it to somebody else after the process ended. The identity
holds the boot and the start time beside it, so a stale file never makes us stop a stranger.
"""

from __future__ import annotations

import contextlib
import ctypes
import errno
import json
import os
import random
import shutil
import signal
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from types import FrameType
from typing import Any

from streams.errors import NO_ROOM, ServiceError
from streams.signals import endings

TAIL_BYTES = 65_536
TAIL_LINES = 12
STACK = ("\tat ", "    at ", "\t... ")
"""A Java stack trace hides the two lines that say the cause."""
FAULTS = ("ERROR", "FATAL", "Exception", "Error:", "Failed", "No space left")
LINE_LENGTH = 300
MIN_FREE_BYTES = 256 * 1024 * 1024
"""Less free disk than this and Kafka dies in the middle of something."""

RECORD = "process.json"
"""In the directory of each server: which process it is, and where it listens."""

PORTS = (12_000, 32_000)
"""Below the range from which systems take the ports of outgoing connections."""

_GIVEN: set[int] = set()
_PR_SET_PDEATHSIG = 1
_OURS: dict[int, subprocess.Popen[bytes]] = {}
"""Children of this very process: they must be reaped, or they stay as zombies."""


@dataclass(frozen=True, slots=True)
class Child:
    """A process that was started here or by an earlier command."""

    pid: int
    identity: str


def identity(pid: int) -> str | None:
    """What tells this process from every other that ever has the same pid; None when it is gone."""
    stat = Path(f"/proc/{pid}/stat")
    if Path("/proc/self/stat").exists():
        try:
            # The command in parentheses may itself hold spaces and parentheses.
            fields = stat.read_text("utf-8", "replace").rpartition(")")[2].split()
        except (FileNotFoundError, ProcessLookupError):
            return None
        state, threads, start_ticks = fields[0], int(fields[17]), fields[19]
        boot = Path("/proc/sys/kernel/random/boot_id").read_text("ascii").strip()
        # While other threads of a killed process end, they still hold its ports and files.
        return None if state in "ZX" and threads <= 1 else f"{boot}:{start_ticks}"
    shown = subprocess.run(
        ["ps", "-o", "lstart=", "-p", str(pid)], capture_output=True, text=True, check=False
    )
    return shown.stdout.strip() or None


def alive(child: Child) -> bool:
    """Whether this very process still runs."""
    ours = _OURS.get(child.pid)
    if ours is not None and ours.poll() is not None:
        del _OURS[child.pid]
    found = identity(child.pid)
    if found is None and child.pid in _OURS:
        # It ended after the poll: nobody may ever ask again, so it is reaped here.
        _OURS.pop(child.pid).wait()
    return found == child.identity


def _die_with_parent() -> Callable[[], None] | None:
    """The kernel ends the child when the process that started it ends, however."""
    if sys.platform != "linux":
        return None
    prctl = ctypes.CDLL(None).prctl
    return lambda: prctl(_PR_SET_PDEATHSIG, signal.SIGKILL)


def start(
    command: Sequence[str],
    log: Path,
    *,
    environment: Mapping[str, str] | None = None,
    die_with_parent: bool = False,
) -> Child:
    """Start a process with its output added to `log`, in a session of its own.

    The session keeps Ctrl-C in the terminal from reaching it. Raises ServiceError.
    """
    with explained(f"starting {Path(command[0]).name}"), log.open("ab") as output:
        process = subprocess.Popen(
            list(command),
            stdin=subprocess.DEVNULL,
            stdout=output,
            stderr=subprocess.STDOUT,
            start_new_session=True,
            env={**os.environ, **(environment or {})},
            preexec_fn=_die_with_parent() if die_with_parent else None,
        )
    _OURS[process.pid] = process
    return Child(process.pid, identity(process.pid) or "ended")


@contextlib.contextmanager
def unbroken() -> Iterator[None]:
    """A signal to end that comes inside takes effect at the end.

    Python runs a handler between any two steps of the main thread, and one that raises would part
    a process that runs from the note by which it is found and stopped. Or it raises in what Python
    does around a fork, where no exception is heard, and Ctrl-C has no effect.
    """
    if threading.current_thread() is not threading.main_thread():
        yield  # No handler runs in other threads.
        return
    came: list[int] = []

    def note(number: int, _frame: FrameType | None) -> None:
        came.append(number)

    before = {number: signal.signal(number, note) for number in endings()}
    try:
        yield
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
        if came:
            signal.raise_signal(came[0])


def serve(
    command: Sequence[str],
    log: Path,
    directory: Path,
    facts: Mapping[str, str | int | None],
    *,
    environment: Mapping[str, str] | None = None,
    die_with_parent: bool = False,
) -> Child:
    """`start` and `remember` in one: what runs is noted, also when Ctrl-C comes in between.

    Raises ServiceError; nothing runs then.
    """
    with unbroken():
        child = start(command, log, environment=environment, die_with_parent=die_with_parent)
        try:
            remember(child, directory, facts)
        except ServiceError:
            stop(child, 0)
            raise
    return child


def write_whole(path: Path, text: str) -> None:
    """Write a file so that a reader sees the old text or the new one, never a part."""
    with explained(f"writing {path}"):
        partial = path.with_name(f".{path.name}.{os.getpid()}")
        partial.write_text(text, "utf-8")
        partial.replace(path)


def remember(child: Child, directory: Path, facts: Mapping[str, str | int | None]) -> None:
    """Note the process and where it listens, so that a later command finds it again."""
    record = {"pid": child.pid, "identity": child.identity, **facts}
    write_whole(directory / RECORD, json.dumps(record, indent=2) + "\n")


def recall(directory: Path) -> dict[str, Any] | None:
    """What `remember` noted, whether or not the process still runs; None when nothing readable."""
    try:
        record = json.loads((directory / RECORD).read_text("utf-8"))
    except (OSError, ValueError):
        return None
    if not isinstance(record, dict) or not isinstance(record.get("pid"), int):
        return None
    return record


def child_of(record: Mapping[str, Any]) -> Child | None:
    """The process of a record if that very process still runs."""
    child = Child(record["pid"], str(record.get("identity")))
    return child if alive(child) else None


def running(directory: Path) -> tuple[Child, dict[str, Any]] | None:
    """The server that a call of `serve` started in `directory`, if it runs still, and its note."""
    record = recall(directory)
    child = child_of(record) if record else None
    return None if record is None or child is None else (child, record)


def stop(child: Child, patience_s: float) -> None:
    """End the process: politely, then by force, and wait until it is gone."""
    for send, wait_s in ((signal.SIGTERM, patience_s), (signal.SIGKILL, 60.0)):
        if not alive(child):
            return
        with contextlib.suppress(ProcessLookupError):
            os.kill(child.pid, send)
        deadline = time.monotonic() + wait_s
        while alive(child):
            if time.monotonic() > deadline:
                break
            time.sleep(0.02)
    if alive(child):
        raise ServiceError(f"process {child.pid} does not end", remedy="Look for a hung disk.")


def free_port() -> int:
    """A port that nobody listens on now, and that this process was not given before.

    Not the system's choice: the system gives the same ports to outgoing connections, so what is
    free now may be taken when the server starts, or when it starts again tomorrow.
    """
    for _ in range(1_000):
        port = random.randrange(*PORTS)
        if port in _GIVEN:
            continue
        with socket.socket() as probe, contextlib.suppress(OSError):
            probe.bind(("127.0.0.1", port))
            _GIVEN.add(port)
            return port
    raise ServiceError(f"no free port between {PORTS[0]} and {PORTS[1]}")


def claim_port(wanted: int | None, earlier: int | None, what: str) -> int:
    """The wanted port, else the one of an earlier run if it is free, else any free one.

    Raises ServiceError when the wanted one is taken.
    """
    for port in (wanted, earlier):
        if port is None:
            continue
        with socket.socket() as probe:
            probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            try:
                probe.bind(("127.0.0.1", port))
            except OSError as error:
                if port == wanted:
                    raise ServiceError(
                        f"port {wanted} for {what} cannot be used: {error.strerror}",
                        remedy="Stop what listens there, or name another port, or name none",
                    ) from None
            else:
                return port
    return free_port()


def tail(*logs: Path) -> str:
    """The last lines of the logs that name a fault, else the last lines."""
    shown: list[str] = []
    for log in logs:
        with contextlib.suppress(OSError), log.open("rb") as lines:
            lines.seek(max(0, log.stat().st_size - TAIL_BYTES))
            text = lines.read().decode("utf-8", "replace").splitlines()
            text = [line for line in text if line and not line.startswith(STACK)]
            faults = [line for line in text if any(word in line for word in FAULTS)]
            shown += (faults or text)[-TAIL_LINES:]
    return "\n".join(f"  {line[:LINE_LENGTH]}" for line in shown)


def need_space(place: Path, needed: int = MIN_FREE_BYTES, remedy: str | None = None) -> None:
    """Raise ServiceError when the disk that holds `place` is nearly full."""
    free = shutil.disk_usage(place).free
    if free < needed:
        raise ServiceError(
            f"{place} has {free >> 20} MiB free; {needed >> 20} MiB are needed",
            remedy=remedy or "Free some space, or choose another place with --dir",
        )


@contextlib.contextmanager
def explained(doing: str, remedy: str | None = None) -> Iterator[None]:
    """Turn an OSError into a ServiceError that says what to do about it.

    `remedy`: where the place is not the one that --dir names.
    """
    try:
        yield
    except OSError as error:
        remedies = {
            **{one: f"{todo}, or choose another place with --dir" for one, todo in NO_ROOM.items()},
            errno.EACCES: "Not permitted: choose a directory of your own with --dir",
            errno.EROFS: "The disk is read-only: choose another place with --dir",
            errno.ENOENT: "It is not there: install it, or check PATH; a folder is chosen by --dir",
        }
        where = f" ({error.filename})" if error.filename else ""
        raise ServiceError(
            f"{doing} failed: {error.strerror or error}{where}",
            remedy=remedy or remedies.get(error.errno or 0),
        ) from error
