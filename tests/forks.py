"""How tests start a child that must be ready at once: forked from a process that imported it all.

For tests only.
"""

from __future__ import annotations

import multiprocessing

FORKS = multiprocessing.get_context("forkserver")
FORKS.set_forkserver_preload(["tests.live.preloaded"])
