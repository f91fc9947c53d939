"""Which messages were put aside because they killed every worker, as the dead letters tell.

In: a client configuration and settings, or a recording that holds dead letters. Out: a question to
ask about each message of the log. Does not know who asks. A letter counts only for the message that
it holds: a topic that was made again has other messages at the same offsets.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from streams.clients.deadletters import TOPIC, origin
from streams.offline.merged import MergedLog
from streams.offline.recording import Manifest, Recording
from streams.schema import MAX_MESSAGE_BYTES, Reject
from streams.settings import Settings

Place = tuple[int, int]
"""Partition and offset of a message."""


class Aside:
    """The messages put aside, by their place; `has` compares their bytes too."""

    def __init__(self, letters: Mapping[Place, bytes]) -> None:
        self._letters = letters

    def has(self, partition: int, offset: int, value: bytes | None) -> bool:
        """Was this message put aside? A letter blanked for a card number fits any bytes."""
        letter = self._letters.get((partition, offset))
        if letter is None:
            return False
        return letter in (b"", (value or b"")[:MAX_MESSAGE_BYTES])


def read(config: Mapping[str, Any], settings: Settings, partitions: int) -> Aside:
    """All letters with the reason `quarantined` that name this service's topic.

    Raises BrokerError.
    """
    log = MergedLog(config, settings.topic(TOPIC))
    topic = settings.topic("transactions")
    letters: dict[Place, bytes] = {}
    try:
        for group in log.read({number: log.limits(number) for number in range(partitions)}):
            for message in group:
                said = dict(message.headers)
                if origin(said)[0] == topic:
                    _note(letters, said, message.value)
    finally:
        log.close()
    return Aside(letters)


def recorded(recording: Recording, manifest: Manifest) -> Aside:
    """The letters that a recording with `--scores` holds. Raises RecordingError."""
    letters: dict[Place, bytes] = {}
    for number in manifest.partitions(TOPIC):
        for table in recording.tables(manifest, TOPIC, number, []):
            for row in table.select(["headers", "value"]).to_pylist():
                said = {pair["name"]: pair["value"] or b"" for pair in row["headers"] or ()}
                _note(letters, said, row["value"])
    return Aside(letters)


def _note(letters: dict[Place, bytes], said: Mapping[str, bytes], value: bytes | None) -> None:
    """Keep the letter if it is one of a message put aside."""
    if said.get("reason") == Reject.QUARANTINED.encode():
        letters[origin(said)[1:]] = value or b""
