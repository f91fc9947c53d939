"""Verbs run in this process, for tests only."""

from __future__ import annotations

from pathlib import Path

from typer.testing import CliRunner

from streams.cli import build

RUN = CliRunner()


def verb(*words: str | Path) -> str:
    """Run it; its stdout."""
    done = RUN.invoke(build(), [str(word) for word in words], catch_exceptions=False)
    assert done.exit_code == 0, done.output
    return done.stdout
