"""Workers broken on purpose: each lacks one part of the promise, and must be caught. And one that
reads in another order, which must change nothing.

In: the name of a mutant, in a worker's process before it starts. Out: a broken worker.
For tests only; never imported by the service. tests/faults/test_interleavings.py holds the mutants
of the scripts alone; these are of whole workers, under the faults of `deaths.py`.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from dataclasses import replace
from typing import Any, ClassVar, Final

import numpy as np

import streams.live.agents as agents
import streams.live.app as app
import streams.live.outbox as outbox
from streams import features
from streams.columns import Columns, select
from streams.errors import PartitionError
from streams.live.intake import Intake
from streams.live.suspects import Suspects
from streams.schema import Reject
from streams.store import Ask, Claim, Commit, Writes
from streams.store.redis import RedisStore
from streams.store.scripts import Script


def _without(name: str, *lines: str) -> Script:
    """A script of the store with some lines taken out."""
    text = Script.named(name).text
    for line in lines:
        assert text.count(line) == 1, f"{name}.lua no longer has: {line}"
        text = text.replace(line, "")
    return Script.of(text)


class NoGuards(RedisStore):
    """Commits and trims for whoever asks, wherever the partition stands."""

    commit_script = _without(
        "commit",
        "if not token or tonumber(token) < tonumber(ARGV[1]) then"
        " return {'LOST', token or ''} end\n",
        "if token ~= ARGV[1] or owner ~= ARGV[2] then return {'FENCED', token} end\n",
        "if offset ~= ARGV[3] then return {'OFFSET', offset} end\n",
    )
    trim_script = _without(
        "trim",
        "if not token or tonumber(token) < tonumber(ARGV[1]) then"
        " return {'LOST', token or ''} end\n",
        "if token ~= ARGV[1] or owner ~= ARGV[2] then return {'FENCED', token} end\n",
    )

    def load_all(self, asked: Sequence[Ask]) -> list[list[bytes | None] | PartitionError]:
        return [
            [self._client.get(self._keys(claim).record + each) for each in accounts]
            for claim, accounts, _ in asked
        ]


class NoOutbox(RedisStore):
    """Publishes after the commit what it keeps nowhere."""

    def commit_all(self, steps: Sequence[tuple[Claim, Commit]]) -> list[PartitionError | None]:
        return super().commit_all([(claim, replace(step, entry=None)) for claim, step in steps])


class SetFirst(RedisStore):
    """The naive order: records first; the offset follows when the round's messages are out."""

    ours: ClassVar[list[SetFirst]] = []

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self._owed: list[tuple[Claim, Commit]] = []
        self.ours.append(self)

    def commit_all(self, steps: Sequence[tuple[Claim, Commit]]) -> list[PartitionError | None]:
        for claim, step in steps:
            start = self._keys(claim).record
            for account, pieces in step.writes:
                for at, content in pieces:
                    if at == 0xFFFFFFFF:
                        self._client.set(start + account, content)
                    else:
                        self._client.setrange(start + account, at, content)
            self._owed.append((claim, replace(step, writes=Writes.of([]), entry=None)))
        return [None] * len(steps)

    def pay(self) -> None:
        """Set the offsets."""
        owed, self._owed = self._owed, []
        if owed:
            super().commit_all(owed)


class PaysAfterwards(outbox.Outbox):
    """The other half of `SetFirst`."""

    def deliver(self, entries: Any) -> int:
        sent = super().deliver(entries)
        for store in SetFirst.ours:
            store.pay()
        return sent


def _set_first() -> None:
    app.RedisStore = SetFirst
    app.Outbox = PaysAfterwards


def _reading(change: Callable[[Columns], Columns]) -> None:
    """Changes what a worker reads of each batch."""
    read_all = agents.read_all
    agents.read_all = lambda *args: [change(columns) for columns in read_all(*args)]


def _late_dropped(columns: Columns) -> Columns:
    """Refuses what is older than the account's newest event of the same round."""
    newest: dict[str, int] = {}
    keep = []
    for account, when in zip(columns.account_id, columns.event_time.tolist(), strict=True):
        keep.append(when >= newest.get(account, 0))
        newest[account] = max(when, newest.get(account, 0))
    return select(columns, np.array(keep, np.bool_), Reject.OUT_OF_RANGE, "late")


def _talkative(columns: Columns) -> Columns:
    """Logs whose messages it reads."""
    for account in columns.account_id[:1]:
        app._logger.warning("reading %s", account)
    return columns


def _by_round_size(columns: Columns) -> Columns:
    """Refuses the last message of every round that has as many as the round may hold."""
    keep = np.ones(len(columns), np.bool_)
    if len(columns.batch) == 7 and len(columns):
        keep[-1] = False
    return select(columns, keep, Reject.OUT_OF_RANGE, "the last")


STARTED: Final = time.time()


def _by_the_clock(columns: Columns) -> Columns:
    """Refuses all when the time of day is far from what it was at the start."""
    keep = np.full(len(columns), abs(time.time() - STARTED) < 3_600)
    return select(columns, keep, Reject.OUT_OF_RANGE, "too late")


def _hasty() -> None:
    """Puts a message aside one death too early."""
    app.Suspects = lambda notes, deaths, events: Suspects(notes, deaths - 1, events)


def _trusting() -> None:
    """Takes a bundle whatever features it was trained on."""
    # Here, because it brings PyTorch: seconds of CPU for every other mutant, and there are dozens.
    from model.score import Scorer

    Scorer.feature_digest = property(lambda _: features.DIGEST)


class Restless(outbox.Outbox):
    """Sends the outbox again with another score when it is asked a second time."""

    def deliver(self, entries: Any) -> int:
        entries = list(entries)
        again = [_cents(entry) for entry in entries[:1]]
        return super().deliver([*entries, *again])


def _cents(packed: bytes) -> bytes:
    from streams.entry import pack, unpack

    entry = unpack(packed)
    return pack(replace(entry, scores=entry.scores * 0.5))


def _backwards() -> None:
    """Reads what is ready of the last partition first, and of each partition in a round of its own.

    The same promises hold for it: nothing may depend on the order between partitions.
    """
    work = Intake._round

    async def backwards(self: Intake, events: Sequence[Any]) -> None:
        for partition in sorted({event.message.tp.partition for event in events}, reverse=True):
            await work(self, [each for each in events if each.message.tp.partition == partition])

    Intake._round = backwards  # type: ignore[method-assign]


def _store(kind: type[RedisStore]) -> Callable[[], None]:
    return lambda: setattr(app, "RedisStore", kind)


MUTANTS: Final[dict[str, Callable[[], None]]] = {
    "no_guards": _store(NoGuards),
    "no_outbox": _store(NoOutbox),
    "set_first": _set_first,
    "late_dropped": lambda: _reading(_late_dropped),
    "talkative": lambda: _reading(_talkative),
    "by_round_size": lambda: _reading(_by_round_size),
    "by_the_clock": lambda: _reading(_by_the_clock),
    "hasty": _hasty,
    "trusting": _trusting,
    "restless": lambda: setattr(app, "Outbox", Restless),
}

UNHARMED: Final[dict[str, Callable[[], None]]] = {"backwards": _backwards}


def install(name: str) -> None:
    """Change this process."""
    (MUTANTS | UNHARMED)[name]()
