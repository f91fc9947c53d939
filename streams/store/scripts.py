"""Runs the Lua scripts on a Redis, and gives its failures this package's names.

In: a script's name, keys, arguments. Out: the script's answer, or a StoreError.
Does not know what the scripts mean.

Nothing is repeated here except a script that the server has not seen (after its restart): the
server says so before it does anything.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, cast

import redis
from redis import exceptions

from streams.errors import StoreError, StoreFull, StoreLoading, StoreLost, StoreUnready

Argument = str | bytes | int
Answer = list[bytes]

WAITING = (
    exceptions.ReadOnlyError,
    exceptions.MasterDownError,
    exceptions.ClusterDownError,
    exceptions.TryAgainError,
)
"""Answers of a server that did nothing and may be well again soon."""
WAITING_WORDS = ("BUSY", "NOREPLICAS")
"""More of them: redis-py has no class for these, and of the others it drops the word."""
FORBIDDEN = ("ACL failure in script", "The user executing the script")
"""In an answer: a script came to a command that its user may not run; Redis 7.0 has other words."""
PRIMARY = "Promote it, or set redis.url to the primary"
RIGHTS = "Give the user the commands and keys of infra/redis/users.acl"


@dataclass(frozen=True, slots=True)
class Script:
    """A script's text and the name Redis knows it by."""

    text: str
    sha: str

    @classmethod
    def of(cls, text: str) -> Script:
        """From the text of a .lua file."""
        return cls(text, hashlib.sha1(text.encode(), usedforsecurity=False).hexdigest())

    @classmethod
    def named(cls, name: str) -> Script:
        """A script of this package."""
        return cls.of((Path(__file__).parent / f"{name}.lua").read_text("utf-8"))


def run(
    client: redis.Redis,
    script: Script,
    keys: Sequence[str],
    arguments: Sequence[Argument],
    *,
    partition: int = -1,
) -> Answer:
    """One call of one script. Raises StoreLost, StoreFull, StoreUnready, StoreError."""
    call = (len(keys), *keys, *arguments)
    with named_failures(partition):
        try:
            answer = send(client, "EVALSHA", script.sha, *call)
        except exceptions.NoScriptError:
            answer = send(client, "EVAL", script.text, *call)
    return cast(Answer, answer)


def send(client: redis.Redis, *command: Argument) -> Any:
    """One command as it is; redis-py's method of this kind has no types."""
    return cast(Any, client).execute_command(*command)


def run_all(
    client: redis.Redis,
    script: Script,
    calls: Sequence[tuple[int, Sequence[str], Sequence[Argument]]],
) -> list[Answer | StoreError]:
    """One script over several partitions in one round trip: (partition, keys, arguments) each.

    A call's own refusal is returned in its place. Raises StoreLost when answers are missing.
    """
    replies = _together(
        client,
        [("EVALSHA", script.sha, len(keys), *keys, *arguments) for _, keys, arguments in calls],
    )
    answers: list[Answer | StoreError] = []
    for (partition, keys, arguments), reply in zip(calls, replies, strict=True):
        if isinstance(reply, exceptions.NoScriptError):
            reply = run(client, script, keys, arguments, partition=partition)
        if isinstance(reply, exceptions.RedisError):
            answers.append(named(reply, partition))
        else:
            answers.append(cast(Answer, reply))
    return answers


def ask_all(client: redis.Redis, calls: Sequence[tuple[int, Sequence[Argument]]]) -> list[Any]:
    """Commands that only read, in one round trip: (partition, command) each; their answers.

    Raises the StoreError of the first that was refused.
    """
    replies = _together(client, [command for _, command in calls])
    for (partition, _), reply in zip(calls, replies, strict=True):
        if isinstance(reply, Exception):
            raise named(reply, partition)
    return replies


def _together(client: redis.Redis, commands: Sequence[Sequence[Argument]]) -> list[Any]:
    """Commands in one round trip; their answers, errors among them. Raises StoreLost."""
    with named_failures(-1), client.pipeline(transaction=False) as pipe:
        for command in commands:
            send(pipe, *command)
        # An error raised by redis-py would quote the command, account ids and all.
        return pipe.execute(raise_on_error=False)


@contextmanager
def named_failures(partition: int) -> Iterator[None]:
    """Turn redis-py's exceptions into ours."""
    try:
        yield
    except (exceptions.RedisError, OSError) as error:
        raise named(error, partition) from None


def named(error: Exception, partition: int) -> StoreError:
    """The StoreError that says what an exception of redis-py means."""
    said = str(error)
    if isinstance(error, exceptions.AuthenticationError):
        return StoreUnready(
            f"Redis refuses: {said}", remedy="Check the user, the password and its ACL"
        )
    if isinstance(error, exceptions.NoPermissionError) or any(part in said for part in FORBIDDEN):
        return StoreUnready(f"Redis refuses: {said}", remedy=RIGHTS)
    if isinstance(error, exceptions.OutOfMemoryError):
        return StoreFull(
            "Redis is at maxmemory; nothing was written",
            partition=partition,
            remedy="Raise maxmemory; the worker goes on by itself",
        )
    if unwritable(error):
        return StoreFull(
            f"Redis cannot write its file: {said}",
            partition=partition,
            remedy=to_write_again(said),
        )
    if isinstance(error, exceptions.BusyLoadingError):
        return StoreLoading("Redis still loads its data")
    if isinstance(error, exceptions.ConnectionError | exceptions.TimeoutError | OSError):
        return StoreLost(f"no answer from Redis: {said}")
    if isinstance(error, WAITING) or said.startswith(WAITING_WORDS):
        remedy = PRIMARY if isinstance(error, exceptions.ReadOnlyError) else None
        return StoreLost(f"Redis cannot answer now: {said}", remedy=remedy)
    return StoreError(f"Redis answers with an error: {said}")


def unwritable(error: Exception) -> bool:
    """Whether this is a Redis that cannot write its file: it answers reads alone."""
    return "MISCONF" in str(error)


def to_write_again(said: str) -> str:
    """What to do about a Redis that cannot write its file, by its own words. One whose snapshot
    failed takes no write before the next one, and makes that when its `save` rule says: in an hour
    by default, however soon the cause is gone."""
    if "snapshot" not in said:
        return "Make room on its disk; it goes on by itself"
    return (
        "Its log says why; mostly its disk is full. Then run `redis-cli BGSAVE`: it takes no write"
        " before a snapshot came out well"
    )


def full_at(info: Mapping[str, Any]) -> int:
    """The `maxmemory` that Redis is at, by what INFO says; 0 where it has room."""
    limit = int(info.get("maxmemory", 0))
    # The buffers of replicas and of the append-only file do not count, as in Redis itself.
    counted = int(info.get("used_memory", 0)) - int(info.get("mem_not_counted_for_evict", 0))
    return limit if counted > limit else 0


def text(reply: Any) -> str:
    """Bytes of an answer as text."""
    return reply.decode() if isinstance(reply, bytes) else str(reply)
