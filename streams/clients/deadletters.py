"""Dead letters: listed, and sent to the service once more when the cause is gone.

In: `transactions.dlq`, the markers of erased accounts. Out: `DeadLetter` values; messages on their
original topic. Does not know why a message was refused beyond the reason it carries. A dead letter
whose bytes were blanked (a card number was found, or its account was erased) has nothing to send
again; one of an account that was erased since must not be sent: the account would come back by it.

An original is sent once. What was sent stands in the topic of transactions itself: each message
sent again names in its header `republished_from` the place where its original stood first. It
counts as that original only with the same key and bytes, so no other message can pass for it.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime
from typing import Any, Final

import redis
import xxhash
from confluent_kafka import Message

from streams.clients.ledger import content_of
from streams.clients.publisher import Publisher
from streams.clients.subscriber import Once, Subscriber, fixed
from streams.connect import check_redis, content_bytes, headers_of, redis_client
from streams.privacy import account_digest
from streams.schema import BLANKED, MAX_EVENT_TIME_MS, Reject
from streams.settings import Settings
from streams.store import generations

TOPIC = "transactions.dlq"
SHOWN_BYTES = 2_000
HEADER: Final = "republished_from"
CLOCKS_MS: Final = 3_600_000
"""More than brokers' clocks differ by: they stamp the letter and what is sent for it."""
Place = tuple[str, int, int]
"""Topic, partition and offset."""


@dataclass(frozen=True, slots=True)
class DeadLetter:
    """One dead letter: where it lies, where it came from, why it is there, its original bytes.

    written_ms: when the broker appended it
    earlier:    the place that its source was sent again from; None for a first one
    """

    at: tuple[int, int]
    reason: str
    detail: str
    source: Place
    time_ms: int
    key: bytes | None
    value: bytes | None
    written_ms: int = 0
    earlier: Place | None = None

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


def _said(message: Message) -> dict[str, bytes]:
    """Headers by name; of one name the last counts."""
    return {name: content or b"" for name, content in headers_of(message)}


def _number(said: Mapping[str, bytes], name: str, absent: int, digits: int = 18) -> int:
    """Whoever may write the topic may write anything."""
    told = said.get(name, b"")
    return int(told) if told.isdigit() and len(told) <= digits else absent


def origin(said: Mapping[str, bytes]) -> Place:
    """Topic, partition and offset that a letter's headers name; -1 for what is no number."""
    topic = said.get("topic", b"").decode("utf-8", "replace")
    return topic, _number(said, "partition", -1, 9), _number(said, "offset", -1)


def _earlier(said: Mapping[str, bytes], place: Place) -> Place | None:
    """What `republished_from` names, of a message that stands at `place`: another offset of the
    same partition, as messages go back to where they came from. None for anything else, which
    somebody else has written."""
    topic, _, rest = said.get(HEADER, b"").decode("utf-8", "replace").partition("/")
    partition, _, offset = rest.partition("/")
    if (topic, partition) != (place[0], str(place[1])):
        return None
    found = _number({"offset": offset.encode()}, "offset", -1)
    return None if found in (-1, place[2]) else (*place[:2], found)


def parse(message: Message) -> DeadLetter:
    """A Kafka message of the dead letter topic."""
    found = _said(message)

    def text(name: str) -> str:
        return found.get(name, b"").decode("utf-8", "replace")

    return DeadLetter(
        at=(int(message.partition() or 0), int(message.offset() or 0)),
        reason=text("reason"),
        detail=text("detail"),
        source=origin(found),
        written_ms=message.timestamp()[1],
        earlier=_earlier(found, origin(found)),
        time_ms=min(_number(found, "time", 0), MAX_EVENT_TIME_MS),
        key=content_bytes(message.key()),
        value=content_bytes(message.value()) or None,
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
            if letter.source[0] != home or min(letter.source[1:]) < 0:
                # Not of this service's making: nothing of it may be sent.
                letter = replace(letter, value=None)
            place = repr(letter.source if letter.source[1] >= 0 else letter.at).encode()
            if (not wanted or letter.reason in wanted) and once.first(place):
                yield letter


@dataclass(slots=True)
class Sent:
    """What became of originals. blanked: nothing in them to send. erased: their account was erased
    after they were written. before: sent already, by an earlier call."""

    sent: int = 0
    blanked: int = 0
    erased: int = 0
    before: int = 0


def _copy(first: Place, key: bytes | None, value: bytes | None) -> int:
    """An original: its first place and its content."""
    return xxhash.xxh3_64_intdigest(repr(first).encode(), content_of(key, value))


@dataclass(slots=True)
class _Known:
    """Which originals were sent again before.

    steps:  a message sent again -> the first place of its original
    copies: digests of such messages: of that place, the key and the bytes
    """

    steps: dict[Place, Place] = field(default_factory=dict)
    copies: set[int] = field(default_factory=set)

    def first(self, letter: DeadLetter) -> Place:
        """Where the letter's original stood first. What was sent again may have named the place
        that it was sent from itself, not the first one."""
        place = letter.earlier or letter.source
        return self.steps.get(place, place)


def _sent_before(settings: Settings, letters: Iterable[DeadLetter]) -> _Known:
    """Read what stands in the topic from the oldest of these letters on.

    Whatever was sent for a letter was sent after it was written.
    """
    known = _Known()
    home = settings.topic("transactions")
    oldest_ms = min((one.written_ms for one in letters if not one.blanked), default=None)
    if oldest_ms is None:
        return known
    start = datetime.fromtimestamp(max(0, oldest_ms - CLOCKS_MS) / 1_000, UTC).isoformat()
    with Subscriber("transactions", settings=settings, start=start, follow=False) as reader:
        reader.fix_ends()
        for message in reader.messages():
            said = _said(message)
            place = (home, int(message.partition() or 0), int(message.offset() or 0))
            earlier = _earlier(said, place)
            if earlier is not None:
                first = known.steps[place] = known.steps.get(earlier, earlier)
                key, value = content_bytes(message.key()), content_bytes(message.value())
                known.copies.add(_copy(first, key, value))
    return known


def republish(
    settings: Settings,
    start: str,
    reasons: Iterable[str],
    *,
    dry_run: bool = False,
    again: bool = False,
) -> Sent:
    """Send the original bytes to the original topic; a dry run only counts what it would send.

    They go to the partition they came from: the account's state is there, and its publisher may
    choose partitions by another rule than ours. A letter that names another topic than that of
    transactions is passed over as blanked: who may write dead letters must not come to write rules
    by it. The header `republished_from` names the first place, even if what was sent came back as
    another letter; `again` sends what was sent before, once more. Raises BrokerError as `Publisher`
    does, StoreError when Redis cannot be asked who was erased.
    """
    found = Sent()
    wanted = frozenset(reasons)
    start = fixed(start)
    once = Once()
    client = redis_client(settings)
    try:
        check_redis(settings, client)
        known = _sent_before(settings, read(settings, start, wanted))
        with Publisher(settings=settings) as out:
            for letter in read(settings, start, wanted):
                first = known.first(letter)
                copy = _copy(first, letter.key, letter.value)
                if letter.blanked:
                    found.blanked += 1
                elif not once.first(b"%d" % copy):
                    continue  # what was sent for another letter came back as this one
                elif _erased(client, settings.redis.namespace, letter.key, first):
                    found.erased += 1
                elif not again and (letter.earlier is not None or copy in known.copies):
                    found.before += 1
                else:
                    found.sent += 1
                    if not dry_run:
                        _send(out, letter, first)
    finally:
        client.close()
    return found


def _erased(client: redis.Redis, namespace: str, key: bytes | None, first: Place) -> bool:
    """Was the letter's account erased after the letter's message? Asked just before it is sent.

    A marker of another partition counts whatever its offset, as the two cannot be compared.
    """
    if key is None:
        return False  # Without its key the service refuses it again.
    account = account_digest(key.decode("utf-8", "replace"))
    _, partition, offset = first
    cuts = generations.cuts(client, namespace, account, partition)
    return any(number != partition or offset < cut for number, cut in cuts.items())


def _send(out: Publisher, letter: DeadLetter, first: Place) -> None:
    topic, partition, offset = first
    place = f"{topic}/{partition}/{offset}".encode()
    out.republish(topic, letter.key, letter.value, [(HEADER, place)], partition)


REASONS = tuple(reason.value for reason in Reject)
