"""Workers broken on purpose: each lacks one part of the promise, and must be caught.

In: the name of a mutant, in a worker's process before it starts. Out: a broken worker.
For tests only; never imported by the service. tests/faults/test_interleavings.py holds the mutants
of the scripts alone; these are of whole workers, under the faults of `deaths.py`.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace
from typing import Any, ClassVar, Final

import streams.live.agents as agents
import streams.live.app as app
import streams.live.outbox as outbox
from streams.columns import select
from streams.errors import PartitionError
from streams.schema import Reject
from streams.store import Claim, Commit, Writes
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

    def load(self, claim: Claim, accounts: Sequence[str], at: int | None) -> list[bytes | None]:
        start = self._keys(claim).record
        return [self._client.get(start + name) for name in accounts]  # type: ignore[misc]


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


def _late_dropped(read: Callable[..., Any]) -> Callable[..., Any]:
    """Refuses what is older than the account's newest event of the same round."""

    def reading(*args: Any) -> Any:
        columns = read(*args)
        newest: dict[str, int] = {}
        keep = []
        for account, time in zip(columns.account_id, columns.event_time.tolist(), strict=True):
            keep.append(time >= newest.get(account, 0))
            newest[account] = max(time, newest.get(account, 0))
        import numpy as np

        return select(columns, np.array(keep, np.bool_), Reject.OUT_OF_RANGE, "late")

    return reading


def _talkative(read: Callable[..., Any]) -> Callable[..., Any]:
    """Logs whose messages it reads."""

    def reading(*args: Any) -> Any:
        columns = read(*args)
        for account in columns.account_id[:1]:
            app._logger.warning("reading %s", account)
        return columns

    return reading


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


def _store(kind: type[RedisStore]) -> Callable[[], None]:
    return lambda: setattr(app, "RedisStore", kind)


MUTANTS: Final[dict[str, Callable[[], None]]] = {
    "no_guards": _store(NoGuards),
    "no_outbox": _store(NoOutbox),
    "set_first": _set_first,
    "late_dropped": lambda: setattr(agents, "read", _late_dropped(agents.read)),
    "talkative": lambda: setattr(agents, "read", _talkative(agents.read)),
    "restless": lambda: setattr(app, "Outbox", Restless),
}


def install(name: str) -> None:
    """Break this process."""
    MUTANTS[name]()
