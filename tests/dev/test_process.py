"""Processes that outlive their parent: found again, never mistaken, ended for certain."""

from __future__ import annotations

import os
import signal
import socket
import subprocess
import sys
import time
from pathlib import Path

import pytest

from streams.dev import process
from streams.errors import ServiceError


def test_started_found_again_and_stopped(tmp_path: Path) -> None:
    child = process.start(
        [sys.executable, "-c", "print('hello'); import time; time.sleep(600)"],
        tmp_path / "log",
        environment={"PYTHONUNBUFFERED": "1"},
    )
    process.remember(child, tmp_path, {"port": 7})
    record = process.recall(tmp_path)
    assert record is not None
    assert record["port"] == 7
    assert process.child_of(record) == child
    deadline = time.monotonic() + 120
    while "hello" not in process.tail(tmp_path / "log"):
        assert time.monotonic() < deadline
        time.sleep(0.02)
    process.stop(child, 5)
    assert process.child_of(record) is None
    process.stop(child, 5)


def test_what_ignores_sigterm_is_killed(tmp_path: Path) -> None:
    code = "import signal, time; signal.signal(15, signal.SIG_IGN); print('on'); time.sleep(600)"
    child = process.start([sys.executable, "-u", "-c", code], tmp_path / "log")
    while "on" not in process.tail(tmp_path / "log"):
        time.sleep(0.02)
    process.stop(child, 0.2)
    assert not process.alive(child)


def test_a_pid_that_somebody_else_has_now(tmp_path: Path) -> None:
    """A stale record never points at a stranger, and stopping it leaves the stranger alone."""
    with subprocess.Popen(["sleep", "600"]) as stranger:
        stale = process.Child(stranger.pid, "another boot:1")
        process.remember(stale, tmp_path, {})
        assert process.child_of(process.recall(tmp_path) or {}) is None
        process.stop(stale, 0)
        assert stranger.poll() is None
        stranger.kill()


@pytest.mark.parametrize("text", ["", "{", "[]", '{"pid": "x"}', "\x00"])
def test_a_damaged_record_is_no_record(tmp_path: Path, text: str) -> None:
    (tmp_path / process.RECORD).write_text(text)
    assert process.recall(tmp_path) is None


def test_a_child_may_die_with_its_parent(tmp_path: Path) -> None:
    code = (
        "import sys, time; from pathlib import Path; from streams.dev import process;"
        f"log = Path({str(tmp_path / 'log')!r});"
        "c = process.start(['sleep', '600'], log, die_with_parent=True);"
        "print(c.pid, c.identity, flush=True); time.sleep(600)"
    )
    parent = subprocess.Popen([sys.executable, "-c", code], stdout=subprocess.PIPE, text=True)
    with parent:
        assert parent.stdout is not None
        pid, identity = parent.stdout.readline().split()
        child = process.Child(int(pid), identity)
        assert process.alive(child)
        parent.kill()
    deadline = time.monotonic() + 120
    while process.alive(child):
        assert time.monotonic() < deadline
        time.sleep(0.02)


def test_ports() -> None:
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        port = taken.getsockname()[1]
        with pytest.raises(ServiceError, match=rf"port {port} for Kafka.*another port"):
            process.claim_port(port, None, "Kafka")
        assert process.claim_port(None, port, "Kafka") != port
    assert process.claim_port(None, port, "Kafka") == port
    assert process.claim_port(port, None, "Kafka") == port


def test_a_full_disk_says_so(tmp_path: Path) -> None:
    def write() -> None:
        with process.explained("writing"), open("/dev/full", "w") as full:
            full.write("x")

    with pytest.raises(ServiceError, match="Free some space, or choose another place with --dir"):
        write()
    with pytest.raises(ServiceError, match=r"MiB free.*--dir"):
        process.need_space(tmp_path, 1 << 62)


def test_a_command_that_is_not_there(tmp_path: Path) -> None:
    with pytest.raises(ServiceError, match="check PATH"):
        process.start([str(tmp_path / "nothing")], tmp_path / "log")


def test_the_tail_shows_the_cause_and_not_the_stack(tmp_path: Path) -> None:
    log = tmp_path / "log"
    lines = [
        "INFO fine",
        "ERROR it broke",
        "java.io.IOException: why",
        *["\tat x.y"] * 50,
        "INFO bye",
    ]
    log.write_text("\n".join(lines))
    assert process.tail(log, tmp_path / "none") == "  ERROR it broke\n  java.io.IOException: why"
    log.write_text("one\ntwo")
    assert process.tail(log) == "  one\n  two"


def test_signals_of_the_terminal_do_not_reach_it(tmp_path: Path) -> None:
    child = process.start(["sleep", "600"], tmp_path / "log")
    assert os.getsid(child.pid) == child.pid
    os.kill(child.pid, signal.SIGKILL)
    process.stop(child, 1)


def test_one_that_ends_between_two_looks_is_reaped(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Else it stays a zombie, and Python complains of it when it ends itself."""
    child = process.start(["sleep", "600"], tmp_path / "log")
    ours = process._OURS[child.pid]

    def poll() -> None:
        os.kill(child.pid, signal.SIGKILL)
        while process.identity(child.pid) is not None:
            time.sleep(0.01)

    with monkeypatch.context() as patched:
        patched.setattr(ours, "poll", poll)
        assert not process.alive(child)
    assert ours.returncode == -signal.SIGKILL and child.pid not in process._OURS


def test_what_cannot_be_noted_does_not_go_on_running(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    stopped: list[process.Child] = []
    stop = process.stop

    def watched(child: process.Child, patience_s: float) -> None:
        stop(child, patience_s)
        stopped.append(child)

    monkeypatch.setattr(process, "stop", watched)
    with pytest.raises(ServiceError, match="writing"):
        process.serve(["sleep", "600"], tmp_path / "log", tmp_path / "nowhere", {"port": 7})
    (child,) = stopped
    assert not process.alive(child)
