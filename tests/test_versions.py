"""The code version covers exactly what the pipeline runs."""

from __future__ import annotations

import re
import subprocess
import sys
from pathlib import Path

import pytest

from streams import versions
from streams.versions import SPINE, code_version, spine_files

LOADED = (
    "import sys, streams.pipeline, streams.rulebook, streams.risk_feed\n"
    "print(*(m for m in sys.modules if m.startswith('streams.')))"
)
NOT_SPINE = {"errors", "kernels"}
"""An exception's text changes no score; the kernels are listed as files."""


def test_the_spine_is_what_the_pipeline_imports() -> None:
    loaded = subprocess.run([sys.executable, "-c", LOADED], capture_output=True, check=True)
    names = {name.removeprefix("streams.") for name in loaded.stdout.decode().split()}
    modules = {name for name in names if "." not in name} - NOT_SPINE
    assert modules == set(SPINE)
    kernels = {name.removeprefix("kernels.") for name in names if name.startswith("kernels.")}
    files = {path.stem for path in spine_files() if path.parent.name == "kernels"}
    assert kernels <= files


def test_the_version_names_the_package_and_a_digest() -> None:
    assert re.fullmatch(r"\d[\w.]*\+[0-9a-f]{8}", code_version())


def test_the_version_is_another_when_the_code_is(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    file = tmp_path / "rules.py"
    monkeypatch.setattr(versions, "spine_files", lambda: [file])

    def version_of(content: bytes) -> str:
        file.write_bytes(content)
        return code_version.__wrapped__()

    assert version_of(b"a = 1\n") == version_of(b"a = 1\r\n")
    assert version_of(b"a = 1\n") != version_of(b"a = 2\n")
