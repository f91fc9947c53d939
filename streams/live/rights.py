"""What is told where Kafka refuses the worker's user something.

In: aiokafka's errors. Out: BrokerError that says what to do. Does not know who asked for what.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Iterator
from contextlib import contextmanager
from functools import wraps
from typing import Any, Final

from aiokafka.errors import GroupAuthorizationFailedError, TopicAuthorizationFailedError

from streams.errors import BrokerError

REFUSALS: Final = (GroupAuthorizationFailedError, TopicAuthorizationFailedError)
"""Kafka refuses this user something."""


@contextmanager
def rights_told() -> Iterator[None]:
    """Raises BrokerError, which says what is missing, where Kafka refuses this user something."""
    try:
        yield
    except REFUSALS as error:
        raise BrokerError(
            f"Kafka refuses the worker's user: {error!r}",
            remedy="Let the worker's user read the topic and the group; docs/security.md has the"
            " rights. Nothing is lost: a worker that starts then goes on",
        ) from None


def telling(commit: Callable[..., Awaitable[None]]) -> Callable[..., Awaitable[None]]:
    """See `rights_told`. Faust logs any other error of a commit with a traceback."""

    @wraps(commit)
    async def told(*given: Any) -> None:
        with rights_told():
            await commit(*given)

    return told
