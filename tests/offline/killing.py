"""A verb that runs in a child and is killed at random times, until it was killed often enough.

For tests only.
"""

from __future__ import annotations

import random
import time
from collections.abc import Callable
from typing import Any

from tests.forks import FORKS

STEP_S = 120.0
"""A first step takes no longer."""


def killed(
    target: Callable[..., None],
    arguments: Callable[[int], tuple[Any, ...]],
    ended: Callable[[int], None],
    *,
    times: int,
    seed: int,
    within_s: float,
) -> int:
    """`target(*arguments(place), moved)` again and again, until it was killed so many times.

    Three of four are killed within `within_s` of the first step that they set `moved` for, the
    others within it of their start. One that comes to its end first must have succeeded; then
    `ended(place)` looks at what it left, and the next begins at a new place. Returns the last one.
    """
    chance, kills, place = random.Random(seed), 0, 0
    for _ in range(10 * times):
        moved = FORKS.Event()
        child = FORKS.Process(target=target, args=(*arguments(place), moved))
        child.start()
        # One that finds little left to do may end before its first step.
        deadline = time.monotonic() + STEP_S
        while kills % 4 and child.is_alive() and not moved.wait(0.02):
            if time.monotonic() > deadline:
                child.kill()
                raise AssertionError("nothing moves")
        child.join(chance.uniform(0, within_s))
        if child.exitcode is None:
            child.kill()
            child.join()
            kills += 1
        else:
            assert child.exitcode == 0
            ended(place)
            place += 1
        if kills == times:
            return place
    raise AssertionError(f"only {kills} of {times} killed")
