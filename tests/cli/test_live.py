"""What `worker` says while it starts."""

from __future__ import annotations

import json
import signal
import subprocess
import sys
import time
from collections.abc import Callable

import pytest

from streams.cli import build, live
from streams.live import app
from tests.cli.running import RUN


@pytest.mark.parametrize(("slow_s", "said"), [(0.01, True), (600.0, False)])
def test_a_slow_start_says_why_it_may_be(
    monkeypatch: pytest.MonkeyPatch, slow_s: float, said: bool
) -> None:
    """Its states stay as they are: others read them."""

    def run(settings: object, ready: Callable[[], None], asked: object) -> int:
        time.sleep(0.5)
        ready()
        return 0

    monkeypatch.setattr(live, "SLOW_S", slow_s)
    monkeypatch.setattr(app, "run", run)
    done = RUN.invoke(build(), ["worker", "--json"], catch_exceptions=False)
    lines = done.stderr.splitlines()
    assert [line for line in lines if " " not in line] == ["starting", "ready", "stopped"]
    assert any("compiles" in line for line in lines) is said
    assert done.stdout.count("\n") == 3


def test_a_collector_of_json_lines_can_read_why_a_worker_ended() -> None:
    """What matters most, the error at the end, and the states were no objects."""
    code = "from streams.cli import main; main()"
    flags = ["log.json_lines=true", "log.level=ERROR", "kafka.bootstrap=127.0.0.1:1"]
    command = [sys.executable, "-c", code, "worker"]
    command += [part for flag in flags for part in ("--set", flag)]
    done = subprocess.run(command, stderr=subprocess.PIPE, text=True, check=False)
    found = [json.loads(line) for line in done.stderr.splitlines()]
    assert done.returncode == 1
    assert (found[0]["level"], found[0]["message"]) == ("INFO", "starting")
    assert found[-1]["level"] == "ERROR" and found[-1]["message"].startswith("error: Kafka")


def test_a_worker_stopped_while_it_starts_has_stopped(monkeypatch: pytest.MonkeyPatch) -> None:
    """It said nothing and exited with 130: a failure, to who had told it to stop."""

    def run(settings: object, ready: Callable[[], None], asked: object) -> int:
        raise KeyboardInterrupt

    monkeypatch.setattr(app, "run", run)
    done = RUN.invoke(build(), ["worker"], catch_exceptions=False)
    assert done.exit_code == 0
    assert done.stderr.splitlines() == ["starting", "stopped"]


@pytest.mark.parametrize(
    ("imported", "codes"),
    [("streams.cli.options", {-signal.SIGTERM, 0}), ("faust", {0})],
    ids=["before the verb", "in the verb"],
)
def test_a_worker_stopped_while_it_imports_has_not_failed(imported: str, codes: set[int]) -> None:
    """It exited with 130, which a service manager takes for a failure of the program."""
    code = "from streams.cli import main; main()"
    # The interpreter tells of each module once it is there.
    command = [sys.executable, "-X", "importtime", "-c", code, "worker"]
    with subprocess.Popen(command, stderr=subprocess.PIPE, text=True) as started:
        assert started.stderr is not None
        for line in started.stderr:
            if line.split("|")[-1].strip() == imported:
                break
        started.terminate()
        said = [line for line in started.stderr if not line.startswith("import time:")]
    assert started.returncode in codes, said
    assert said == ([] if started.returncode else ["stopped\n"]), "and no traceback"
