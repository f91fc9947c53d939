"""The examples, run as a user runs them, on the real broker."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import orjson
import pytest

from tests.clients.records import alert, everything, put, settings

EXAMPLES = Path(__file__).parents[1] / "examples"
MAX_LINES = 15


@pytest.mark.parametrize("name", ["publisher", "subscriber"])
def test_they_are_short(name: str) -> None:
    assert len((EXAMPLES / f"{name}.py").read_text().splitlines()) <= MAX_LINES


def environment(prefix: str) -> dict[str, str]:
    return os.environ | {"FRAUDSTREAM_KAFKA__TOPIC_PREFIX": prefix}


def test_publisher(kafka: str, topic_prefix: str) -> None:
    settings(kafka, topic_prefix)
    done = subprocess.run(
        [sys.executable, EXAMPLES / "publisher.py", kafka],
        env=environment(topic_prefix), capture_output=True, text=True, timeout=300, check=False,
    )  # fmt: skip
    assert (done.returncode, done.stdout, done.stderr) == (0, "3 payments published\n", "")
    found = everything(kafka, f"{topic_prefix}transactions")
    assert [orjson.loads(m.value() or b"")["amount"] for m in found] == [1_250, 990, 250_000]


def test_subscriber(kafka: str, topic_prefix: str) -> None:
    settings(kafka, topic_prefix)
    by_rules = alert(901, "review", score=None, mode="rules_only")
    put(kafka, f"{topic_prefix}alerts", [alert(700), alert(700), alert(900, "review"), by_rules])
    with subprocess.Popen(
        [sys.executable, EXAMPLES / "subscriber.py", kafka, "earliest"],
        env=environment(topic_prefix), stdout=subprocess.PIPE, text=True,
    ) as child:  # fmt: skip
        assert child.stdout is not None
        lines = [child.stdout.readline() for _ in range(3)]
        child.terminate()
    assert lines == [
        "block a0 0.700 4 payments in 60 s; usual: 1 in 2 days\n",
        "review a4 0.900 4 payments in 60 s; usual: 1 in 2 days\n",
        "review a5 - 4 payments in 60 s; usual: 1 in 2 days\n",
    ]


def test_the_walk_in_the_readme_is_what_it_prints() -> None:
    done = subprocess.run(
        [sys.executable, EXAMPLES / "walk.py"],
        capture_output=True, text=True, timeout=300, check=True, cwd=EXAMPLES.parent,
    )  # fmt: skip
    assert f"```\n{done.stdout}```" in (EXAMPLES.parent / "streams/README.md").read_text("utf-8")
