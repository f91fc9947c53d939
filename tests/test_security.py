"""Lines of docs/security.md that no other test holds."""

from __future__ import annotations

import ast
import re

import pytest

from streams.settings import load
from tests.test_house import ROOT, files, imports

PICKLES = {"pickle", "cPickle", "dill", "cloudpickle", "joblib", "shelve", "marshal"}


def test_nothing_reads_a_pickle() -> None:
    """A pickle runs code when it is read."""
    for path in files("streams", "model"):
        found = {name.partition(".")[0] for name in imports(path)} & PICKLES
        assert not found, f"{path}: {found}"
        for node in ast.walk(ast.parse(path.read_text("utf-8"))):
            if isinstance(node, ast.Call):
                name = ast.unparse(node.func)
                given = {keyword.arg: ast.unparse(keyword.value) for keyword in node.keywords}
                assert name not in ("eval", "exec"), path
                assert name != "torch.load" or given.get("weights_only") == "True", path
                assert given.get("allow_pickle", "False") == "False", path


@pytest.mark.parametrize("name", ["requirements.txt", "requirements-dev.txt"])
def test_every_dependency_is_pinned_with_hashes(name: str) -> None:
    text = (ROOT / name).read_text("utf-8").replace("\\\n", " ")
    lines = [line for line in text.splitlines() if line and not line.lstrip().startswith("#")]
    assert len(lines) > 20
    for line in lines:
        assert re.match(r"[a-zA-Z0-9._-]+(\[[a-z0-9,]+\])?==", line), line
        assert "--hash=sha256:" in line, line


def test_metrics_listen_on_loopback_unless_told() -> None:
    assert load().metrics.host == "127.0.0.1"
