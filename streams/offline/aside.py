"""Which messages were put aside because they killed every worker, as the dead letters tell.

In: a client configuration, settings. Out: a question to ask about each message of the log.
Does not know who asks. A letter counts only for the message that it holds: a topic that was made
again has other messages at the same offsets.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Final

from streams.offline.merged import LogMessage, MergedLog
from streams.schema import MAX_MESSAGE_BYTES, Reject
from streams.settings import Settings

DIGITS: Final = 18
"""Whoever may write the topic may write anything."""


class Aside:
    """The messages put aside, by their place; `has` compares their bytes too."""

    def __init__(self, letters: Mapping[tuple[int, int], bytes]) -> None:
        self._letters = letters

    def has(self, message: LogMessage) -> bool:
        """Was this message put aside? A letter blanked for a card number fits any bytes."""
        letter = self._letters.get((message.partition, message.offset))
        if letter is None:
            return False
        return letter in (b"", (message.value or b"")[:MAX_MESSAGE_BYTES])


def read(config: Mapping[str, Any], settings: Settings, partitions: int) -> Aside:
    """All letters with the reason `quarantined` that name this service's topic.

    Raises BrokerError.
    """
    log = MergedLog(config, settings.topic("transactions.dlq"))
    topic = settings.topic("transactions").encode()
    letters: dict[tuple[int, int], bytes] = {}
    try:
        for group in log.read({number: log.limits(number) for number in range(partitions)}):
            for message in group:
                said = dict(message.headers)
                place = said.get("partition", b""), said.get("offset", b"")
                if (
                    said.get("reason") == Reject.QUARANTINED.encode()
                    and said.get("topic") == topic
                    and all(each.isdigit() and len(each) <= DIGITS for each in place)
                ):
                    letters[int(place[0]), int(place[1])] = message.value or b""
    finally:
        log.close()
    return Aside(letters)
