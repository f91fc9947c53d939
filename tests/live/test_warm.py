"""A warm worker compiles nothing: with nothing kept on disk that stops its rounds for seconds."""

from __future__ import annotations

import gc
import json
import subprocess
import sys
from collections import defaultdict
from pathlib import Path

import numpy as np
from numba.core.registry import CPUDispatcher

from streams import assembly
from streams.alerts import rendered
from streams.batch import Batch
from streams.features import DTYPE, RISK_COUNT
from streams.live.agents import warm
from streams.live.records import packed
from streams.pipeline import advance, read_all, score, settle
from streams.settings import load
from streams.state import Arena
from tests.messages import BROKER_TIME, batch_of, message

ROOT = Path(__file__).parents[2]


class Snapshots:
    """Stands for risk snapshots: two versions, as after the end of a period."""

    def lookup(self, columns: object) -> object:
        n = len(columns)  # type: ignore[arg-type]
        return np.zeros((n, RISK_COUNT), DTYPE), [f"day-{row % 2}" for row in range(n)]


def compiled() -> dict[str, list[str]]:
    """The types that each function was called with from Python or from another."""
    return {
        f"{each.py_func.__module__}.{each.py_func.__name__}": sorted(map(str, each.signatures))
        for each in gc.get_objects()
        if isinstance(each, CPUDispatcher)
    }


def rounds() -> list[list[Batch]]:
    """Rounds of one and several partitions and messages, good and bad, erased and late."""

    def some(*rows: dict[str, object] | None) -> Batch:
        values = [None if row is None else message(account_id="acct-1", **row) for row in rows]
        return batch_of(values, [b"acct-1"] * len(values))

    bad, escaped = {"amount": -1}, {"merchant_id": "caf\\u00e9"}
    late = {"event_time": BROKER_TIME - 90_000_000}
    plain = [{"transaction_id": f"t{i}"} for i in range(9)]
    return [
        [some(plain[0])],
        [some(plain[1]), some(plain[2], plain[3])],
        [some(bad), some(None), some(*plain)],
        [some(escaped, late), some(late)],
        [some(), some(plain[5])],
        [some(*({"transaction_id": f"more{i}"} for i in range(300)))],
    ]


def run() -> None:
    """In a process of its own, where only `warm` has called anything."""
    judge = assembly.judge(load())
    warm(judge.scorer, judge.policy)
    before = compiled()
    arenas = [Arena(number, 1) for number in range(3)]
    for risk in (None, Snapshots()):
        for batches in rounds():
            columns = read_all(batches, [{} for _ in batches], 86_400_000)
            works = []
            for column, arena in zip(columns, arenas, strict=False):
                arena.fill([(name, None) for name in arena.missing(column.account_id)])
                works.append(advance(column, arena, risk))  # type: ignore[arg-type]
            for work, scores in zip(works, score(judge.scorer, works), strict=True):
                entry = settle(work, scores, judge.policy).entry
                if entry is not None:
                    packed([rendered(entry, 0)], defaultdict(lambda: 3), 0)
            for arena in arenas:
                arena.writes()
                arena.settled()
    after = compiled()
    new = {
        name: [each for each in types if each not in before.get(name, [])]
        for name, types in after.items()
    }
    sys.stdout.write(json.dumps({name: types for name, types in new.items() if types}))


def test_a_warm_worker_has_compiled_all_that_its_rounds_call() -> None:
    code = "from tests.live import test_warm; test_warm.run()"
    done = subprocess.run(
        [sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr
    assert json.loads(done.stdout) == {}
