"""Pages in a real browser. For tests only."""

from __future__ import annotations

import shutil
import subprocess
from pathlib import Path

FLAGS = (
    "--headless",
    "--no-sandbox",
    "--disable-gpu",
    "--disable-quic",
    "--no-first-run",
    "--disable-background-networking",
    "--disable-component-update",
    "--disable-sync",
    "--disable-dev-shm-usage",
)


def browser(tmp_path: Path, *words: str) -> str:
    """What Chromium prints."""
    program = shutil.which("chromium")
    assert program is not None, "install the Debian package chromium"
    profile = f"--user-data-dir={tmp_path / 'profile'}"
    done = subprocess.run(
        [program, *FLAGS, profile, *words], capture_output=True, text=True, check=True, timeout=300
    )
    return done.stdout
