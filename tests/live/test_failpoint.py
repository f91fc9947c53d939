"""Failpoints really end or freeze a process, at the passage asked for."""

from __future__ import annotations

import signal
import subprocess
import sys

import pytest

from streams.errors import ConfigError
from streams.live.failpoint import KILLED, STEPS, Failpoint

PASS = (
    "from streams.live.failpoint import Failpoint\n"
    "point = Failpoint({text!r})\n"
    "for _ in range(3):\n"
    "    point.passed('decoded')\n"
    "    point.passed('committed')\n"
    "    print('round', flush=True)\n"
)


def run(text: str | None) -> subprocess.Popen[str]:
    return subprocess.Popen(
        [sys.executable, "-c", PASS.format(text=text)], stdout=subprocess.PIPE, text=True
    )


@pytest.mark.parametrize(
    ("text", "rounds", "code"),
    [(None, 3, 0), ("committed:2", 1, KILLED), ("decoded:1", 0, KILLED), ("acked:1", 3, 0)],
)
def test_the_process_ends_at_the_nth_passage(text: str | None, rounds: int, code: int) -> None:
    process = run(text)
    out, _ = process.communicate(timeout=180)
    assert (out.count("round"), process.returncode) == (rounds, code)


def test_the_process_freezes_and_goes_on_when_thawed() -> None:
    process = run("committed:2:stop")
    assert process.stdout is not None
    assert process.stdout.readline() == "round\n"
    try:
        # Seen by waitpid only when asked for stopped children.
        import os

        _, status = os.waitpid(process.pid, os.WUNTRACED)
        assert os.WIFSTOPPED(status)
        process.send_signal(signal.SIGCONT)
        out, _ = process.communicate(timeout=180)
        assert out.count("round") == 2 and process.returncode == 0
    finally:
        process.kill()


@pytest.mark.parametrize("text", ["", "committed", "committed:0", "commited:1", "acked:1:sleep"])
def test_a_text_that_cannot_be_read_names_the_steps(text: str) -> None:
    with pytest.raises(ConfigError, match=STEPS[0]):
        Failpoint(text)
