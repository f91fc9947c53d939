"""Messages that kill the process that handles them: found by halving, then put aside.

In: claims and releases of partitions. Out: how many messages of a partition may go into one round,
and the one offset that is not to be handled at all.
Does not know what a message is, nor why a worker died.

A worker leaves a note when it claims a partition, and takes it away when it lets go in order. A
claim that finds a note follows a death. It does not say which message was at fault, so the rounds
that follow are made smaller, over the stretch where the worker died, at each death that follows:
with 4,096 messages in a round and three deaths allowed, 64 and then 1. A worker that handles one
message at a time writes its offset down first; the claim after its death finds the offset, and that
message goes to the dead letters unread. Past the stretch everything is as before.

A note belongs to the claim that left it: a worker that was frozen while others claimed the
partition finds another's note, or none, and changes nothing. It belongs to the run of Redis that it
was left in, too: a worker that ends while Redis is away cannot take its note off, and no message is
to blame. While Redis is full no death counts: workers wait there, and each that joins the group has
one that waits lose its partitions, alive.

An ordinary crash costs one stretch of smaller rounds, about a second.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Final, Protocol, cast

import redis

from streams.store import scripts

NOBODY: Final = -1
RUN_DIGITS: Final = 15
"""Of the 40 of a run's name, so many as a number of 64 bits holds."""


class Notes(Protocol):
    """Where notes are kept: small mappings of numbers by partition, as durable as the offsets."""

    def read(self, partition: int) -> dict[str, int]: ...
    def write(self, partition: int, note: Mapping[str, int], mine: int | None = None) -> None: ...
    def erase(self, partition: int, mine: int) -> None: ...
    def full(self) -> bool: ...


@dataclass(slots=True)
class Care:
    """How a partition is to be handled. Offsets from `until` on need no care.

    limit:     messages in one round
    condemned: the offset that is not to be handled; NOBODY for none
    """

    limit: int
    until: int
    condemned: int = NOBODY


class Suspects:
    """The notes, read and written."""

    def __init__(self, notes: Notes, deaths: int, round_events: int) -> None:
        assert deaths >= 2
        self._notes = notes
        steps = (round_events ** (1 - level / (deaths - 1)) for level in range(deaths - 1))
        self._limits = [*(max(round(step), 2) for step in steps), 1]

    def claimed(self, partition: int, start: int, token: int) -> Care | None:
        """A partition was claimed, to go on at `start`. None: no care is needed."""
        note = self._notes.read(partition)
        level, until, condemned = 0, start, NOBODY
        if note.get("token") == token:
            # This claim left it, and the answer was lost: asked again, it is no second death.
            level, until = note["level"], note["until"]
            condemned = start if until == start + 1 else NOBODY
        elif note and self._notes.full():
            level = note["level"] if start < note["until"] else 0
            until = note["until"] if level else start
        elif note:
            before = note["level"] if start < note["until"] else 0
            level = min(before + 1, len(self._limits) - 1)
            until = start + 2 * self._limits[level - 1]
            if note.get("trying") == start and note.get("trier") == note["token"]:
                condemned, until = start, start + 1
        self._notes.write(partition, {"level": level, "until": until, "token": token})
        return Care(self._limits[level], until, condemned) if level else None

    def trying(self, partition: int, offset: int, token: int) -> None:
        """The worker of this claim is about to handle this message, alone."""
        self._notes.write(partition, {"trying": offset, "trier": token}, token)

    def passed(self, partition: int, token: int) -> None:
        """The stretch that needed care is behind."""
        self._notes.write(partition, {"level": 0, "until": 0, "trying": NOBODY}, token)

    def released(self, partition: int, token: int) -> None:
        """The partition was let go in order."""
        self._notes.erase(partition, token)


class RedisNotes:
    """Notes beside the partition's other keys."""

    note_script = scripts.Script.named("note")

    def __init__(self, client: redis.Redis, namespace: str) -> None:
        self._client = client
        self._namespace = namespace

    def _name(self, partition: int) -> str:
        return f"{self._namespace}:{{{partition}}}:deaths"

    def read(self, partition: int) -> dict[str, int]:
        """The note; empty when there is none, or Redis ended since. Raises StoreLost."""
        with scripts.named_failures(partition):
            answer = self._client.hgetall(self._name(partition))
        found = {k.decode(): int(v) for k, v in cast(dict[bytes, bytes], answer).items()}
        run = found.pop("run", None)
        return found if run is None or run == self._run_of_redis(partition) else {}

    def write(self, partition: int, note: Mapping[str, int], mine: int | None = None) -> None:
        """Put these numbers into the note, also where memory is full; with `mine`, a claim's token,
        only into the note of that claim. Raises StoreLost."""
        if mine is None:
            note = {**note, "run": self._run_of_redis(partition)}
        pairs = [part for pair in note.items() for part in pair]
        self._call(partition, "" if mine is None else mine, *pairs)

    def erase(self, partition: int, mine: int) -> None:
        """Take the note of this claim away. Raises StoreLost."""
        self._call(partition, mine)

    def full(self) -> bool:
        """Whether Redis takes nothing that needs room. Raises StoreLost."""
        return bool(scripts.full_at(self._info("memory", -1)))

    def _run_of_redis(self, partition: int) -> int:
        """Another number after each start of a server, and after a failover."""
        return int(str(self._info("server", partition).get("run_id", "0"))[:RUN_DIGITS], 16)

    def _info(self, section: str, partition: int) -> Mapping[str, Any]:
        with scripts.named_failures(partition):
            return cast(Mapping[str, Any], self._client.info(section))

    def _call(self, partition: int, *given: str | int) -> None:
        name = self._name(partition)
        scripts.run(self._client, self.note_script, [name], given, partition=partition)


class NotesInMemory:
    """Notes that end with the process: for a store that does, too."""

    def __init__(self) -> None:
        self.notes: dict[int, dict[str, int]] = {}

    def read(self, partition: int) -> dict[str, int]:
        """The note; empty when there is none."""
        return dict(self.notes.get(partition, {}))

    def write(self, partition: int, note: Mapping[str, int], mine: int | None = None) -> None:
        """Put these numbers into the note; with `mine`, only into the note of that claim."""
        if mine is None or self._token(partition) == mine:
            self.notes.setdefault(partition, {}).update(note)

    def erase(self, partition: int, mine: int) -> None:
        """Take the note of this claim away."""
        if self._token(partition) == mine:
            del self.notes[partition]

    def full(self) -> bool:
        """Never."""
        return False

    def _token(self, partition: int) -> int | None:
        return self.notes.get(partition, {}).get("token")
