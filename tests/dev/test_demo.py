"""The demo as a user runs it: it ends by itself or by Ctrl-C, and its books balance either way."""

from __future__ import annotations

import fcntl
import io
import os
import re
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Sequence
from pathlib import Path

import pytest
from rich.console import Console

from streams import topics
from streams.dev import kafka, process, services, stage
from streams.dev.demo_screen import Screen
from tests.clients.records import alert

CODE = "from streams.cli import main; main()"
LIMIT_S = 400


def start(
    place: Path, *flags: str, path: str | None = None, bundle: str = "stub"
) -> subprocess.Popen[str]:
    environment = {k: v for k, v in os.environ.items() if not k.startswith("FRAUDSTREAM_")}
    if path is not None:
        environment["PATH"] = path
        environment.pop("JAVA_HOME", None)
    command = [sys.executable, "-c", CODE, "demo", "--dir", str(place), *flags]
    return subprocess.Popen(
        [*command, "--set", f"model.bundle={bundle}"],
        stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, env=environment,
        start_new_session=True,
    )  # fmt: skip


def end(child: subprocess.Popen[str]) -> tuple[int, str, str]:
    try:
        out, err = child.communicate(timeout=LIMIT_S)
    except subprocess.TimeoutExpired:
        child.kill()
        out, err = child.communicate()
    return child.returncode, out, err


def test_it_ends_by_itself(tmp_path: Path) -> None:
    code, out, err = end(start(tmp_path / "demo", "--events", "4000", "--rate", "2000"))
    assert code == 0, err
    lines = out.splitlines()
    assert lines[0].startswith("time (UTC)")
    assert "published            4,000" in lines
    assert "+ duplicates             4" in lines
    assert any(line.startswith("latency         p50") for line in lines)
    assert any(line.startswith("alerts          precision") for line in lines)
    assert lines[-1] == "The books balance."
    assert "first alert after" in err
    # Nothing is left running.
    assert not services.status(tmp_path / "demo").ready


def test_ctrl_c_ends_it_with_a_summary(tmp_path: Path) -> None:
    child = start(tmp_path / "demo", "--rate", "500")
    assert child.stderr is not None
    deadline = time.monotonic() + LIMIT_S
    for line in child.stderr:
        if line.startswith("first alert"):
            break
        assert time.monotonic() < deadline
    os.kill(child.pid, signal.SIGINT)
    code, out, err = end(child)
    assert code == 0, err
    assert out.splitlines()[-1] == "The books balance."
    published = next(line for line in out.splitlines() if line.startswith("published"))
    assert 0 < int(published.split()[1].replace(",", "")) < 100_000


def test_without_java_it_says_so_and_goes_on(tmp_path: Path) -> None:
    tools = tmp_path / "tools"
    tools.mkdir()
    (tools / "python").symlink_to(sys.executable)
    child = start(
        tmp_path / "demo", "--events", "1000", "--rate", "1000", "--workers", "1", path=str(tools)
    )
    code, out, err = end(child)
    assert "no real Kafka" in err
    assert "embedded broker, for the demo only" in err
    assert code == 0, err
    assert out.splitlines()[-1] == "The books balance."


def test_a_kafka_that_fails_is_no_reason_for_another_broker(tmp_path: Path) -> None:
    kafka.jars()  # Maven is not in the PATH below.
    tools = tmp_path / "tools"
    tools.mkdir()
    (tools / "python").symlink_to(sys.executable)
    java = tools / "java"
    java.write_text(f"#!/bin/sh\n[ $1 = -version ] && exec {shutil.which('java')} -version; exit 1")
    java.chmod(0o755)
    code, out, err = end(start(tmp_path / "demo", path=str(tools)))
    assert (code, out) == (1, ""), err
    assert "embedded" not in err
    assert "error: Kafka cannot format" in err
    assert not services.status(tmp_path / "demo").ready


def test_a_worker_that_dies_is_told(tmp_path: Path) -> None:
    child = start(tmp_path / "demo", "--events", "1000", bundle=str(tmp_path / "nowhere"))
    code, _, err = end(child)
    assert code == 1
    assert re.search(r"error: worker [12] has ended:(\n.*)*nowhere", err), err


def test_ctrl_c_while_a_worker_is_being_started_is_heard_and_leaves_none(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It raised where Python lets no exception out, around a fork, and the demo went on."""
    place, made = tmp_path / "demo", []

    def start_one(flags: Sequence[str], log: Path) -> process.Child:
        made.append(process.start(["sleep", "600"], log))
        signal.raise_signal(signal.SIGINT)
        return made[-1]

    here = services.Report(
        services.KafkaReport("127.0.0.1:1", "kafka", 0),
        services.RedisReport("redis://127.0.0.1:1/0", 0),
        ready=True,
    )
    monkeypatch.setattr(stage, "_servers", lambda directory, say: here)
    monkeypatch.setattr(stage, "_worker", start_one)
    monkeypatch.setattr(topics, "create", lambda settings: {})
    with pytest.raises(KeyboardInterrupt), stage.stage(place, [], 2, lambda text: None):
        pytest.fail("Ctrl-C was not heard")
    assert [process.alive(child) for child in made] == [False]


def test_it_empties_no_directory_but_its_own(tmp_path: Path) -> None:
    (tmp_path / "precious").write_text("mine")
    code, _, err = end(start(tmp_path))
    assert code == 1
    assert "not by a demo" in err
    assert [path.name for path in tmp_path.iterdir()] == ["precious"]


def test_a_demo_that_runs_is_left_alone(tmp_path: Path) -> None:
    """A second one stopped its servers and deleted its data."""
    (tmp_path / "events").write_text("its own")
    with (tmp_path / "demo.txt").open("w") as held:
        fcntl.flock(held, fcntl.LOCK_EX)
        code, _, err = end(start(tmp_path))
    assert (code, err.partition(";")[0][:21]) == (1, "error: a demo runs in"), err
    assert (tmp_path / "events").read_text() == "its own"


@pytest.mark.parametrize("number", [signal.SIGHUP, signal.SIGKILL])
def test_a_closed_terminal_leaves_no_server_behind(tmp_path: Path, number: int) -> None:
    tools, place = tmp_path / "tools", tmp_path / "demo"
    tools.mkdir()
    (tools / "python").symlink_to(sys.executable)
    child = start(place, path=str(tools))
    assert child.stderr is not None
    assert any(line.startswith("Kafka at") for line in child.stderr)
    assert services.status(place).ready
    os.kill(child.pid, number)
    end(child)
    deadline = time.monotonic() + 20
    try:
        while services.status(place) != services.Report(None, None, False):
            assert time.monotonic() < deadline
            time.sleep(0.05)
    finally:
        services.down(place)


def test_the_screen_of_a_terminal() -> None:
    out = io.StringIO()
    console = Console(file=out, force_terminal=True, width=120, height=30, color_system=None)
    with Screen(1_000, console) as screen:
        screen.published(400)
        for number in range(20):
            screen.alert(alert(number, "review" if number % 2 else "block"), 1.0)
    last = out.getvalue().rpartition("published 400")[2]
    assert "of 1,000   alerts: block 10, review 10" in last
    assert last.count("EUR 1,234.56") == 16
    assert "4 payments in 60 s; usual: 1 in 2 days | rule big" in last
    assert "first alert after 1.0 s" in out.getvalue()
