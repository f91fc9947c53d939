"""F17: a message that kills every worker that reads it, until it is put aside.

In: a place and a seed. Out: how many messages were put aside, or `Broken`.
"""

from __future__ import annotations

import random
import time

from streams.live.failpoint import KILLED
from tests.faults.driver import Place, Run

DEATHS = 3
BUG = 2
"""The death that is an exception, where the worker lets go of its partitions."""
MESSAGES = 300
ALARM = "quarantined: every worker that handled this message died"


def put_aside(place: Place, seed: int, mutant: str | None = None) -> int:
    """Three workers die of one message, wherever it stands, one of them of a bug and in order; the
    fourth puts it aside unread, says so, and goes on. Every other message has its outcome as if
    that one were not there. Nor does a rebuild read it."""
    offset = random.Random(f"poison {seed}").randrange(MESSAGES)
    with Run(place, seed, partitions=1) as run:
        run.aside.add((0, offset))
        run.publish(MESSAGES)
        poisoned = f"worker.failpoint=offset:{offset}", f"worker.quarantine_after={DEATHS}"
        for number in range(DEATHS):
            bug = number == BUG
            point = poisoned[0] + ":bug" * bug, poisoned[1]
            worker = run.start(*point, run.another_group(), mutant=mutant)
            run.until(lambda: not worker.alive or ALARM in worker.said())  # noqa: B023
            if worker.alive or worker.ended() != (1 if bug else KILLED):
                raise run.failure([f"death {number + 1} at offset {offset}", worker.said()])
        # In the run's own group: a rebuild reads as far as that has committed.
        died = time.monotonic()
        survivor = run.start(*poisoned).ready()
        run.publish(MESSAGES)
        run.drain()
        place.resumed_s.append(run.watch.resumed_s(died, {0}))
        if not survivor.alive or survivor.said().count(ALARM) != 1:
            raise run.failure([f"offset {offset} was not put aside", survivor.said()])
        run.judge()
        run.rebuild()
        run.publish(MESSAGES)
        run.start(*poisoned, run.another_group()).ready()
        run.judge()
    return 1
