"""Dead letters: listed, and sent to the service once more when the cause is gone.

In: `transactions.dlq`, the markers of erased accounts. Out: `DeadLetter` values; messages on their
original topic. Does not know why a message was refused beyond the reason it carries. A dead letter
whose bytes were blanked (a card number was found, or its account was erased) has nothing to send
again; one of an account that was erased since must not be sent: the account would come back by it.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, replace
from typing import Any

import redis
from confluent_kafka import Message

from streams.clients.publisher import Publisher
from streams.clients.subscriber import Once, Subscriber
from streams.connect import check_redis, headers_of, redis_client
from streams.privacy import account_digest
from streams.schema import BLANKED, MAX_EVENT_TIME_MS, Reject
from streams.settings import Settings
from streams.store import generations

TOPIC = "transactions.dlq"
SHOWN_BYTES = 2_000


@dataclass(frozen=True, slots=True)
class DeadLetter:
    """One dead letter: where it lies, where it came from, why it is there, its original bytes."""

    at: tuple[int, int]
    reason: str
    detail: str
    source: tuple[str, int, int]
    time_ms: int
    key: bytes | None
    value: bytes | None

    @property
    def blanked(self) -> bool:
        return self.reason in BLANKED or self.value is None

    def as_json(self) -> dict[str, Any]:
        """For `--json`: what it says, and its text as far as it is text."""
        text = None if self.value is None else self.value[:SHOWN_BYTES].decode("utf-8", "replace")
        return {
            "partition": self.at[0],
            "offset": self.at[1],
            "reason": self.reason,
            "detail": self.detail,
            "source": dict(zip(("topic", "partition", "offset"), self.source, strict=True)),
            "time": self.time_ms,
            "key": None if self.key is None else self.key.decode("utf-8", "replace"),
            "value": text,
        }


def _number(said: Mapping[str, bytes], name: str, absent: int, digits: int = 18) -> int:
    """Whoever may write the topic may write anything."""
    told = said.get(name, b"")
    return int(told) if told.isdigit() and len(told) <= digits else absent


def origin(said: Mapping[str, bytes]) -> tuple[str, int, int]:
    """Topic, partition and offset that a letter's headers name; -1 for what is no number."""
    topic = said.get("topic", b"").decode("utf-8", "replace")
    return topic, _number(said, "partition", -1, 9), _number(said, "offset", -1)


def parse(message: Message) -> DeadLetter:
    """A Kafka message of the dead letter topic."""
    found = {name: content or b"" for name, content in headers_of(message)}

    def text(name: str) -> str:
        return found.get(name, b"").decode("utf-8", "replace")

    key, value = message.key(), message.value()
    return DeadLetter(
        at=(int(message.partition() or 0), int(message.offset() or 0)),
        reason=text("reason"),
        detail=text("detail"),
        source=origin(found),
        time_ms=min(_number(found, "time", 0), MAX_EVENT_TIME_MS),
        key=key.encode() if isinstance(key, str) else key,
        value=(value.encode() if isinstance(value, str) else value) or None,
    )


def read(settings: Settings, start: str, reasons: Iterable[str]) -> Iterator[DeadLetter]:
    """The dead letters there are, of these reasons (all when none is named), each source once.

    A crash may publish one twice; the source's place is its identity.
    """
    wanted = frozenset(reasons)
    once = Once()
    home = settings.topic("transactions")
    with Subscriber(TOPIC, settings=settings, start=start, follow=False) as reader:
        # Who sends letters again may get them back while the last ones are still to be read.
        reader.fix_ends()
        for message in reader.messages():
            letter = parse(message)
            if letter.source[0] != home:
                # Not of this service's making: nothing of it may be sent.
                letter = replace(letter, value=None)
            place = repr(letter.source if letter.source[1] >= 0 else letter.at).encode()
            if (not wanted or letter.reason in wanted) and once.first(place):
                yield letter


@dataclass(slots=True)
class Sent:
    """What became of letters. blanked: nothing in them to send. erased: their account was erased
    after they were written."""

    sent: int = 0
    blanked: int = 0
    erased: int = 0


def republish(settings: Settings, letters: Iterable[DeadLetter], *, dry_run: bool = False) -> Sent:
    """Send the original bytes to the original topic; a dry run only counts what it would send.

    They go to the partition they came from: the account's state is there, and its publisher may
    choose partitions by another rule than ours. A letter that names another topic than that of
    transactions is passed over as blanked: who may write dead letters must not come to write rules
    by it. The header `republished_from` names the first place. Raises BrokerError as `Publisher`
    does, StoreError when Redis cannot be asked who was erased.
    """
    found = Sent()
    home = settings.topic("transactions")
    client = redis_client(settings)
    try:
        check_redis(settings, client)
        with Publisher(settings=settings) as out:
            for letter in letters:
                if letter.blanked or letter.source[0] != home:
                    found.blanked += 1
                elif _erased(client, settings.redis.namespace, letter):
                    found.erased += 1
                else:
                    found.sent += 1
                    if not dry_run:
                        _send(out, letter)
    finally:
        client.close()
    return found


def _erased(client: redis.Redis, namespace: str, letter: DeadLetter) -> bool:
    """Was the letter's account erased after the letter's message? Asked just before it is sent.

    A marker of another partition counts whatever its offset, as the two cannot be compared.
    """
    if letter.key is None:
        return False  # Without its key the service refuses it again.
    account = account_digest(letter.key.decode("utf-8", "replace"))
    _, partition, offset = letter.source
    cuts = generations.cuts(client, namespace, account, partition)
    return any(number != partition or offset < cut for number, cut in cuts.items())


def _send(out: Publisher, letter: DeadLetter) -> None:
    topic, partition, offset = letter.source
    place = f"{topic}/{partition}/{offset}".encode()
    out.republish(topic, letter.key, letter.value, [("republished_from", place)], partition)


REASONS = tuple(reason.value for reason in Reject)
