"""The verbs as a user runs them, in a directory of their own, on the real Kafka and Redis."""

from __future__ import annotations

import contextlib
import json
import os
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from streams.dev import services
from streams.schema import TOPICS

ROOT = Path(__file__).parents[2]


def fraudstream(place: Path, *arguments: str) -> subprocess.CompletedProcess[str]:
    environment = {k: v for k, v in os.environ.items() if not k.startswith("FRAUDSTREAM_")}
    return subprocess.run(
        [sys.executable, "-c", "from streams.cli import main; main()", *arguments],
        cwd=place,
        env=environment | {"PYTHONPATH": str(ROOT)},
        capture_output=True,
        text=True,
        timeout=300,
        check=False,
    )


@pytest.fixture
def place(tmp_path: Path) -> Iterator[Path]:
    yield tmp_path
    services.down(tmp_path / ".fraudstream")


def said(done: subprocess.CompletedProcess[str]) -> Any:
    assert done.returncode == 0, done.stderr
    return json.loads(done.stdout)


def command_lines() -> Iterator[bytes]:
    """Of all that runs now; a process may end between its name and its line."""
    for path in Path("/proc").glob("[0-9]*/cmdline"):
        with contextlib.suppress(FileNotFoundError, ProcessLookupError):
            yield path.read_bytes()


def test_a_start_that_is_stopped_leaves_nothing_behind(place: Path) -> None:
    child = subprocess.Popen(
        [sys.executable, "-c", "from streams.cli import main; main()", "services", "up"],
        cwd=place, stdout=subprocess.PIPE, stderr=subprocess.PIPE,
        env=os.environ | {"PYTHONPATH": str(ROOT)},
    )  # fmt: skip
    deadline = time.monotonic() + 300
    # Redis is there, and Kafka on its way: both must go.
    while not (place / ".fraudstream" / "kafka" / "kafka.out").exists():
        assert time.monotonic() < deadline and child.poll() is None
        time.sleep(0.02)
    child.terminate()
    out, err = child.communicate(timeout=180)
    assert (child.returncode, out, b"Traceback" in err) == (130, b"", False), err
    assert said(fraudstream(place, "services", "status", "--json"))["redis"] is None
    assert not [each for each in command_lines() if str(place).encode() in each]


def test_three_verbs_and_the_others_find_the_services(place: Path) -> None:
    up = said(fraudstream(place, "services", "up", "--json"))
    assert set(up) == {"kafka", "redis", "ready"}
    assert set(up["kafka"]) == {"bootstrap", "engine", "pid"}
    assert set(up["redis"]) == {"url", "pid"}
    assert (up["ready"], up["kafka"]["engine"]) == (True, "kafka")
    assert said(fraudstream(place, "services", "status", "--json")) == up
    assert said(fraudstream(place, "services", "up", "--json")) == up

    made = said(fraudstream(place, "topics", "create", "--partitions", "2", "--json"))
    assert made == {spec.name: "created" for spec in TOPICS}
    shown = fraudstream(place, "topics", "create")
    assert shown.stdout.count("exists") == len(TOPICS)

    assert fraudstream(place, "services", "down").stdout == "stopped\n"
    after = said(fraudstream(place, "services", "status", "--json"))
    assert after == {"kafka": None, "redis": None, "ready": False}
    assert (place / ".fraudstream" / "kafka" / "kafka.log").stat().st_size > 0

    again = said(fraudstream(place, "services", "up", "--json"))
    assert again["kafka"]["bootstrap"] == up["kafka"]["bootstrap"]
    kept = said(fraudstream(place, "topics", "create", "--partitions", "2", "--json"))
    assert set(kept.values()) == {"exists"}


def test_the_embedded_broker_is_labelled(place: Path) -> None:
    done = fraudstream(place, "services", "up", "--engine", "embedded")
    assert done.returncode == 0, done.stderr
    assert "demo only" in done.stdout
    made = fraudstream(place, "topics", "create")
    assert made.returncode == 0, made.stderr


def test_exit_codes_and_one_line_of_error(place: Path) -> None:
    unreachable = fraudstream(place, "topics", "create", "--set", "kafka.bootstrap=127.0.0.1:1")
    assert unreachable.returncode == 1
    assert unreachable.stderr.startswith("error: Kafka at 127.0.0.1:1 does not answer")
    assert "Traceback" not in unreachable.stderr
    assert unreachable.stdout == ""
    for wrong in (
        ("nonsense",),
        ("services", "up", "--engine", "rabbit"),
        ("topics", "create", "--partitions", "0"),
        ("topics", "create", "--set", "kafka.nonsense=1"),
        ("topics", "create", "--config", "none.toml"),
    ):
        assert fraudstream(place, *wrong).returncode == 2, wrong


def test_a_missing_java_says_what_to_do(place: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PATH", str(place))
    monkeypatch.delenv("JAVA_HOME", raising=False)
    done = fraudstream(place, "services", "up")
    assert done.returncode == 1
    assert "no java in PATH" in done.stderr
    assert "openjdk-17" in done.stderr
    status = said(fraudstream(place, "services", "status", "--json"))
    assert status == {"kafka": None, "redis": None, "ready": False}
