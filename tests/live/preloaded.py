"""Imported once, by the process from which the tests' workers are forked: everything is ready then.

No thread is started here, so that forking is safe. For tests only.
"""

from __future__ import annotations

import os

for _name in ("NUMBA_NUM_THREADS", "OMP_NUM_THREADS", "MKL_NUM_THREADS", "OPENBLAS_NUM_THREADS"):
    os.environ.setdefault(_name, "1")

from streams.assembly import judge  # noqa: E402
from streams.live import app  # noqa: E402
from streams.settings import load  # noqa: E402

_judge = judge(load(flags=["model.bundle=stub"]))
app.warm(_judge.scorer, _judge.policy)
