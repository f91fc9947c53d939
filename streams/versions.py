"""The `code` version that every score carries: which program made it.

In: the package's version and the source files of the spine, read once at start.
Out: text like "0.1.0+3f9a1c27". Does not know models, rules or features: they have their own
versions.

Only files that can change a score, a decision or an alert are in the digest, so that a change of
the clients or of the docs does not make old and new scores look different.
"""

from __future__ import annotations

import hashlib
from functools import cache
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Final

import model.inputs

PACKAGE: Final = "fraudstream"
SPINE: Final = (
    "alerts",
    "batch",
    "cards",
    "codes",
    "columns",
    "deadletter",
    "decide",
    "decode",
    "entry",
    "features",
    "findings",
    "labels",
    "lists",
    "money",
    "pipeline",
    "privacy",
    "reasons",
    "risk",
    "risk_build",
    "risk_feed",
    "risk_pace",
    "rulebook",
    "rules",
    "scan",
    "schema",
    "settle",
    "state",
    "validate",
    "weighed",
    "windows",
    "words",
    "writes",
)
"""Modules of `streams`, besides its kernels and `model.inputs`. A test holds this equal to what
the pipeline imports."""


def spine_files() -> list[Path]:
    """The source files that can change a score, a decision or an alert."""
    root = Path(__file__).parent
    return [
        *(root / f"{name}.py" for name in SPINE),
        *sorted((root / "kernels").glob("*.py")),
        Path(model.inputs.__file__),
    ]


@cache
def code_version() -> str:
    """Package version and eight hex digits over the spine's source files."""
    whole = hashlib.sha256()
    for path in spine_files():
        # Line ends are made one kind: a checkout on another system is the same program.
        content = path.read_bytes().replace(b"\r\n", b"\n")
        whole.update(b"%s %d\n" % (path.name.encode(), len(content)))
        whole.update(content)
    return f"{_package_version()}+{whole.hexdigest()[:8]}"


def _package_version() -> str:
    try:
        return version(PACKAGE)
    except PackageNotFoundError:
        # Run from a checkout that was never installed.
        return "0"
