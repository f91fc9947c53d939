"""Several processes that train together: the same weights in each, and the same as one alone."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import numpy as np

from tests.model import two_processes

SCRIPT = "tests.model.two_processes"
ROOT = Path(__file__).parents[2]


def test_two_processes_end_where_one_does(tmp_path: Path) -> None:
    launch = ["-m", "torch.distributed.run", "--standalone", "--nproc-per-node", "2", "-m", SCRIPT]
    command = [sys.executable, *launch, str(tmp_path)]
    done = subprocess.run(command, capture_output=True, text=True, check=False, cwd=ROOT)
    assert done.returncode == 0, done.stderr[-3_000:]
    two_processes.main(tmp_path)
    alone = np.load(tmp_path / "1-0.npz")
    first, second = (np.load(tmp_path / f"2-{k}.npz") for k in (0, 1))
    moved = 0
    for name in alone.files:
        assert (first[name] == second[name]).all(), name
        if name != "knots":
            assert np.allclose(first[name], alone[name], atol=2e-4), name
            moved += 1
    assert moved > 10
