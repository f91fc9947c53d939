"""What Faust and aiokafka say in a worker's log, cut down to what matters to whoever runs one.

In: Settings. Out: levels and filters of loggers. Does not know the worker; an error that ends it is
told to the user by the verb.
"""

from __future__ import annotations

import logging
from typing import Final

from streams.errors import FraudstreamError
from streams.live.rights import REFUSALS
from streams.logs import Seldom
from streams.settings import Settings

OURS: Final = ("streams.", "model.")
"""Whose records of a deliberate error are told, unless Faust's mixins log a traceback by them."""
REPEAT_S: Final = 10.0
"""Of what a broker that is away makes aiokafka say, each line is said so often."""
CHATTY: Final = ("faust", "mode", "aiokafka", "streams.live.microbatch", "streams.live.fetch")
"""Loggers that tell of every start and stop of a part; below DEBUG only their warnings count.
They never go below INFO: Faust's own debug lines hold keys and values."""
NO_FAILURE: Final = (
    ("aiokafka.consumer.group_coordinator", " because it is rebalancing"),
    ("streams.live.microbatch", "wait_empty: Waiting for tasks "),
    ("streams.live.microbatch", "Warning: Task timed out!"),
    ("streams.live.microbatch", "Please make sure it's hanging before restart."),
)
"""Warnings, by logger and words, of what goes on as it should: a group that is joined or left, and
a rebalance that waits for a round. Why a round takes long is told by `patience`, and by the
watchdog where it does not end."""


class _Told(logging.Filter):
    """Keeps Faust from logging, with a traceback, a deliberate error that is told to the user, and
    asyncio a refusal by Kafka that nobody waits for any more, since another one ends the worker."""

    def filter(self, record: logging.LogRecord) -> bool:
        """Whether the record is to be logged."""
        given = record.args if isinstance(record.args, tuple) else ()
        error = record.exc_info[1] if record.exc_info else None
        if record.name == "asyncio":
            return not isinstance(error, (FraudstreamError, *REFUSALS))
        return not any(isinstance(each, FraudstreamError) for each in given) or (
            record.name.startswith(OURS) and error is None
        )


def said_by_aiokafka(record: logging.LogRecord) -> tuple[str, int] | None:
    """The line of code that speaks: of a broker that is away it does so sixty times a second."""
    return (record.pathname, record.lineno) if record.name.startswith("aiokafka") else None


def is_failure(record: logging.LogRecord) -> bool:
    """Whether a warning of Faust or aiokafka is one."""
    words = [each for name, each in NO_FAILURE if name == record.name]
    return record.levelno > logging.WARNING or not any(
        each in record.getMessage() for each in words
    )


def quiet(settings: Settings) -> None:
    """Let Faust and aiokafka say what matters to somebody who runs a worker."""
    level = logging.INFO if settings.log.level == "DEBUG" else logging.WARNING
    for name in CHATTY:
        logging.getLogger(name).setLevel(level)
    for handler in logging.getLogger().handlers:
        handler.addFilter(_Told())
        if level > logging.INFO:
            handler.addFilter(is_failure)
            handler.addFilter(Seldom(said_by_aiokafka, again_s=REPEAT_S, over_s=REPEAT_S))


def hush() -> None:
    """Let them say nothing more."""
    for name in CHATTY:
        logging.getLogger(name).setLevel(logging.CRITICAL + 1)
