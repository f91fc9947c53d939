"""Which messages were put aside because they killed every worker, as the dead letters tell.

In: a client configuration, settings. Out: a question to ask about each message of the log.
Does not know who asks. A letter counts only for the message that it holds: a topic that was made
again has other messages at the same offsets.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from streams.clients.deadletters import origin
from streams.offline.merged import LogMessage, MergedLog
from streams.schema import MAX_MESSAGE_BYTES, Reject
from streams.settings import Settings


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
    topic, reason = settings.topic("transactions"), Reject.QUARANTINED.encode()
    letters: dict[tuple[int, int], bytes] = {}
    try:
        for group in log.read({number: log.limits(number) for number in range(partitions)}):
            for message in group:
                said = dict(message.headers)
                named, partition, offset = origin(said)
                if said.get("reason") == reason and named == topic:
                    letters[partition, offset] = message.value or b""
    finally:
        log.close()
    return Aside(letters)
