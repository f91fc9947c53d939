"""The demo: a simulated stream through the real service, its alerts as they come, the balance.

In: a `Show` (events, pace, seed). Out: the balance sheet. Does not know how servers and workers are
started (`stage.py`), how streams are made (`simulate`), nor how the books are closed (`audit`).
"""

from __future__ import annotations

import contextlib
import itertools
import threading
import time
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from streams.clients.audit import Balance, audit
from streams.clients.publish import Chunk, Pace, chunks, publish
from streams.clients.publisher import Publisher
from streams.clients.subscriber import Subscriber
from streams.clients.writer import write_table
from streams.dev.demo_screen import Screen
from streams.dev.simulate import Plan, simulate
from streams.dev.stage import Stage, await_ready, stage
from streams.errors import ServiceError

STALLED_S: Final = 40.0
"""No progress of the books for so long: they are closed as they are."""
LAG_CHECK_S: Final = 1.0
FIRST: Final = 50
"""Transactions sent ahead; fewer than one in a thousand, so the percentiles hardly see them."""
FIRST_SCORE_S: Final = 120.0
LOOK_EVERY_S: Final = 0.2


@dataclass(frozen=True, slots=True)
class Show:
    """What is shown. The stream holds some late, repeated and broken transactions on purpose."""

    events: int = 100_000
    accounts: int = 2_000
    days: int = 30
    seed: int = 20_250
    rate: float = 2_000.0
    workers: int = 2

    def plan(self) -> Plan:
        """The stream; its seed is none that the shipped model was trained on."""
        return Plan(
            events=self.events, accounts=self.accounts, days=self.days, seed=self.seed,
            late=0.005, duplicates=0.001, faults=0.0005,
        )  # fmt: skip


def demo(show: Show, directory: Path, flags: list[str], screen: Screen) -> Balance:
    """Run it all. Ctrl-C ends the publishing; the summary comes all the same.

    Raises ServiceError, BrokerError.
    """
    began = time.monotonic()
    with stage(directory, flags, show.workers, screen.say) as found:
        stream = simulate(show.plan())
        paths = [directory / f"{name}.parquet" for name in ("stream", "labels")]
        for path, table in zip(paths, (stream.transactions, stream.labels), strict=True):
            write_table(path, table)
        screen.say(f"simulated {show.events:,} transactions of {show.accounts:,} accounts")
        await_ready(found)
        screen.say(f"workers ready after {time.monotonic() - began:.1f} s")
        with _alerts(found, screen, began):
            with contextlib.suppress(KeyboardInterrupt):
                _send(found, paths, show.rate, screen)
            # What was published until then counts, and all of it.
            result = _settled(found, paths[1], screen)
    return result


def _send(found: Stage, paths: list[Path], rate: float, screen: Screen) -> None:
    """Labels first: what the service may know of them at an event's time, it decides itself.

    Then a few transactions, and the rest at its pace once the first score is there: workers that
    have said they are ready still join their group and build the first risk snapshot.
    """
    with Publisher(settings=found.settings) as out:
        publish(out, chunks(paths[1], None), Pace())
        out.flush()
        try:
            pieces = chunks(paths[0], None)
            whole = next(pieces)
            publish(out, iter([_part(whole, 0, FIRST)]), Pace(), progress=screen.published)
            out.flush()
            _await_score(found)
            rest = itertools.chain([_part(whole, FIRST, len(whole.keys))], pieces)
            publish(out, rest, Pace(rate=rate), progress=screen.published)
        finally:
            out.flush()


def _part(whole: Chunk, first: int, end: int) -> Chunk:
    """Some of the messages of a chunk."""
    some = slice(first, end)
    return Chunk(whole.topic, whole.keys[some], whole.values[some], whole.times[some])


def _await_score(found: Stage) -> None:
    """Return when the service has scored something. Raises ServiceError when it does not."""
    deadline = time.monotonic() + FIRST_SCORE_S
    while True:
        with Subscriber("scores", settings=found.settings, start="earliest", follow=False) as some:
            if next(some.messages(), None) is not None:
                return
        found.check()
        if time.monotonic() > deadline:
            raise ServiceError(
                f"no score after {FIRST_SCORE_S:.0f} s",
                remedy=f"Look into {found.logs[0].parent}/worker-*.log",
            )
        time.sleep(LOOK_EVERY_S)


@contextlib.contextmanager
def _alerts(found: Stage, screen: Screen, began: float) -> Iterator[None]:
    """Show alerts from a thread of its own while the block runs, and until they run dry."""
    reader = Subscriber("alerts", settings=found.settings, start="earliest")
    ending = threading.Event()

    def read() -> None:
        for record in reader.until(ending):
            screen.alert(record, time.monotonic() - began)

    thread = threading.Thread(target=read, name="alerts", daemon=True)
    with screen:
        thread.start()
        try:
            yield
        finally:
            ending.set()
            thread.join()
            reader.close()


def _settled(found: Stage, labels: Path, screen: Screen) -> Balance:
    """Close the books when the workers are done with all of it, or stand still."""
    screen.say("published; waiting for the workers to finish")
    result = audit(found.settings, labels)
    done, since = Counter(result.headings), time.monotonic()
    while not result.balanced and time.monotonic() - since < STALLED_S:
        found.check()
        time.sleep(LAG_CHECK_S)
        result = audit(found.settings, labels)
        if Counter(result.headings) != done:
            done, since = Counter(result.headings), time.monotonic()
    return result
