"""Imported once, by the process from which the tests fork workers, recorders and replays.

Everything is ready then: a child that is killed in the middle of its imports tests nothing else.

No thread is started here, so that forking is safe. For tests only.
"""

from __future__ import annotations

import os

for _name in ("NUMBA_NUM_THREADS", "OMP_NUM_THREADS", "MKL_NUM_THREADS", "OPENBLAS_NUM_THREADS"):
    os.environ.setdefault(_name, "1")

import pytest  # noqa: E402, F401

from streams.assembly import judge  # noqa: E402
from streams.live import app  # noqa: E402
from streams.offline import record, run  # noqa: E402, F401
from streams.settings import load  # noqa: E402
from tests.offline import world  # noqa: E402, F401

_judge = judge(load(flags=["model.bundle=stub"]))
app.warm(_judge.scorer, _judge.policy)
