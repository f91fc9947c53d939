"""Real worker processes for tests: started, watched, killed; and what their topics must hold.

For tests only.
"""

from __future__ import annotations

import contextlib
import os
import signal
import sys
import time
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path

import orjson

from streams.alerts import message_digest
from streams.settings import Settings
from tests.forks import FORKS
from tests.live.reading import contents, ends
from tests.messages import message

START_S = 180.0
"""Importing and compiling on a machine that does other things, too."""


def _worker(flags: Sequence[str], log: str) -> None:
    """In the forked process: the command line's worker, its output in `log`."""
    with open(log, "ab") as out:
        os.dup2(out.fileno(), 1)
        os.dup2(out.fileno(), 2)
    pairs = [part for flag in flags for part in ("--set", flag)]
    sys.argv = ["fraudstream", "worker", *pairs]
    from streams.cli import main

    main()


class Worker:
    """One `fraudstream worker`, forked from a process that has imported and compiled everything.

    A worker of its own takes seconds of CPU for that, and these tests start dozens.
    """

    def __init__(self, flags: Sequence[str], log: Path) -> None:
        self.log = log
        log.touch()
        self.process = FORKS.Process(target=_worker, args=(flags, str(log)), daemon=True)
        self.process.start()

    def said(self) -> str:
        return self.log.read_text("utf-8", "replace")

    def until(self, done: Callable[[], bool], patience_s: float = START_S) -> None:
        deadline = time.monotonic() + patience_s
        while not done():
            assert time.monotonic() < deadline, f"nothing happens; the worker said:\n{self.said()}"
            time.sleep(0.05)

    def ready(self) -> Worker:
        self.until(lambda: "ready" in self.said() or not self.process.is_alive())
        assert self.process.is_alive(), self.said()
        return self

    def ended(self, patience_s: float = START_S) -> int:
        self.until(lambda: not self.process.is_alive(), patience_s)
        assert self.process.exitcode is not None
        return self.process.exitcode

    def signal(self, number: signal.Signals) -> None:
        os.kill(self.process.pid or 0, number)

    def stop(self) -> tuple[int, float]:
        """Exit code after SIGTERM, and the seconds it took."""
        began = time.monotonic()
        self.process.terminate()
        return self.ended(), time.monotonic() - began

    def frozen(self) -> bool:
        state = Path(f"/proc/{self.process.pid}/stat").read_text().rpartition(")")[2].split()[0]
        return state == "T"


class Team:
    """The workers of one test; all are gone at its end."""

    def __init__(self, settings: Settings, redis_url: str, directory: Path) -> None:
        kafka = settings.kafka
        self.directory = directory
        self.flags = [
            f"kafka.bootstrap={kafka.bootstrap}",
            f"kafka.topic_prefix={kafka.topic_prefix}",
            f"kafka.group={kafka.group}",
            f"kafka.session_timeout_ms={kafka.session_timeout_ms}",
            f"redis.url={redis_url}",
            "model.bundle=stub",
            "risk.enabled=false",
            "worker.arena_mb=64",
        ]
        self.workers: list[Worker] = []

    def start(self, *flags: str) -> Worker:
        worker = Worker([*self.flags, *flags], self.directory / f"worker{len(self.workers)}.log")
        self.workers.append(worker)
        return worker


@contextlib.contextmanager
def team(settings: Settings, redis_url: str, directory: Path) -> Iterator[Team]:
    made = Team(settings, redis_url, directory)
    try:
        yield made
    finally:
        for worker in made.workers:
            worker.process.kill()
            worker.process.join()
            worker.process.close()


def payments(
    count: int, partitions: int, accounts: int = 20, begin: int = 0
) -> list[tuple[int, bytes, bytes]]:
    """Valid transactions `t<n>`, each account on one partition."""
    made = []
    for number in range(begin, begin + count):
        account = number % accounts
        name = f"acct-{account}"
        value = message(transaction_id=f"t{number}", account_id=name, amount=number)
        made.append((account % partitions, name.encode(), value))
    return made


def check_scores(settings: Settings, count: int) -> Counter[str]:
    """Each of `t0..t<count>` has a score, and all copies of a score are equal; how many of each."""
    digests: dict[str, set[int]] = {}
    copies: Counter[str] = Counter()
    for sent in contents(settings, "scores"):
        value = sent.value()
        assert value is not None
        name = orjson.loads(value)["transaction_id"]
        digests.setdefault(name, set()).add(message_digest(value))
        copies[name] += 1
    assert digests.keys() == {f"t{number}" for number in range(count)}
    assert all(len(each) == 1 for each in digests.values())
    return copies


def scored(settings: Settings) -> int:
    """How many scores are on Kafka, copies included."""

    return sum(ends(settings, "scores").values())


def names_scored(settings: Settings) -> set[str]:
    """The transactions that have a score."""
    return {
        orjson.loads(sent.value() or b"")["transaction_id"] for sent in contents(settings, "scores")
    }
