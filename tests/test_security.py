"""Lines of docs/security.md that no other test holds."""

from __future__ import annotations

import ast
import re
from pathlib import Path

import pytest

from streams import connect
from streams.dev import redis as redis_server
from streams.errors import StoreUnready
from streams.settings import load
from tests import certificates, tls_relay
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


@pytest.mark.parametrize(
    ("host", "days", "right"),
    [("127.0.0.1", 1, True), ("127.0.0.2", 1, False), ("127.0.0.1", -1, False)],
    ids=["right", "of another host", "expired"],
)
def test_a_certificate_must_be_of_this_host_and_of_today(
    redis_process: redis_server.Server, tmp_path: Path, host: str, days: int, right: bool
) -> None:
    made = certificates.make(tmp_path, host=host, days=days)
    with tls_relay.tls_in_front(redis_process.port, made) as port:
        settings = load(flags=[f"redis.url=rediss://127.0.0.1:{port}/0", f"redis.ssl_ca={made.ca}"])
        if right:
            connect.check_redis(settings)
        else:
            with pytest.raises(StoreUnready, match=r"(?i)certificate|tls"):
                connect.check_redis(settings)
