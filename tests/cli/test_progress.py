"""What a person watching is told, and what Ctrl-C does to a loop that asks."""

from __future__ import annotations

import os
import signal

import pytest

from streams.cli import progress
from streams.cli.interrupt import interrupted


def test_lines_where_there_is_no_terminal(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    now = 100.0
    monkeypatch.setattr(progress.time, "monotonic", lambda: now)
    with progress.Shown() as shown:
        shown(0, 4_000)
        now += 4
        shown(500, 4_000)
        assert capsys.readouterr().err == "", "a line now and then, not one a call"
        now += 1
        shown(1_000, 4_000)
        assert capsys.readouterr().err == "1,000 of 4,000, 200/s, 15 s left\n"
        now += 600
        shown(2_000, 4_000)
        assert capsys.readouterr().err == "2,000 of 4,000, 3/s, 10 min left\n"
    with progress.Shown() as shown:
        shown(0, 0)
        now += 6
        shown(600, 0)
    assert capsys.readouterr().err == "600, 100/s\n"


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM, signal.SIGHUP])
def test_the_first_signal_asks_and_the_second_ends(number: signal.Signals) -> None:
    before = signal.getsignal(number)
    with interrupted() as stop:
        assert not stop()
        os.kill(os.getpid(), number)
        assert stop()
        with pytest.raises(KeyboardInterrupt):
            os.kill(os.getpid(), number)
    assert signal.getsignal(number) is before
