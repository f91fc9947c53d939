"""Erase an account: a tombstone in the log, then its state, its outbox rows and a marker in Redis.

In: Settings, an account id. Out: where the tombstone stands.
Does not know what a record or an outbox entry looks like (`alerts.scrub` does).

The tombstone comes first: from then on the log itself says that the account is erased, to every
worker, replay and rebuild, whatever happens to the rest. What comes after it belongs to a new
account. The messages before it stay in Kafka until the topics' retention ends.
"""

from __future__ import annotations

from dataclasses import asdict, dataclass
from functools import partial
from typing import Any, Final

import redis
from confluent_kafka import KafkaError, KafkaException, Message, Producer

from streams import alerts, topics
from streams.connect import check_kafka, check_redis, confluent_config, redis_client
from streams.errors import BrokerError, ConfigError, StoreError
from streams.privacy import has_pan
from streams.schema import MAX_ID_LENGTH
from streams.settings import Settings
from streams.store import generations, keys, scripts
from streams.store.redis import RedisStore
from streams.validate import CHECKS

DELIVERY_S: Final = 30.0


@dataclass(frozen=True, slots=True)
class Erased:
    """Where one tombstone of the account stands, and whether there was a record there."""

    partition: int
    offset: int
    had_state: bool

    def document(self) -> dict[str, Any]:
        """As JSON."""
        return asdict(self)


def forget(settings: Settings, account: str) -> list[Erased]:
    """Erase the account in every partition that knows it. Raises BrokerError, StoreError; before
    anything is sent ConfigError, for an id that no account can have.

    May be repeated; a repetition erases what came in between as well.
    """
    _check_id(account)
    check_kafka(settings)
    _, count = topics.describe(settings, "transactions")
    client = redis_client(settings)
    try:
        check_redis(settings, client)
        store = RedisStore(client, settings.redis.namespace)
        holders = _holders(client, settings.redis.namespace, account, count)
        # Publishers may follow another rule than ours: the tombstone goes where the state is. Where
        # there is none, messages may still wait; then the rule is all there is.
        places = _send(settings, account, holders or [None])
        try:
            for partition, offset in places:
                scrub = partial(alerts.scrub, account=account, until=offset)
                store.forget(partition, account, offset, scrub)
            _clear_before(client, settings.redis.namespace, account)
        except StoreError as error:
            raise StoreError(
                "the tombstone is in the log, and workers erase the account where they come to it;"
                f" not all that Redis holds of it is erased yet: {error}",
                remedy="Then run this again",
            ) from None
    finally:
        client.close()
    return [Erased(number, offset, number in holders) for number, offset in places]


def _check_id(account: str) -> None:
    """Workers refuse a tombstone whose key breaks the schema: it would erase nothing, and a card
    number would stay in the log as its key. The id is not repeated. Raises ConfigError."""
    fault = CHECKS["account_id"](account)
    if fault is not None:
        told = f"an account id has 1 to {MAX_ID_LENGTH} characters, no control characters"
        raise ConfigError(f"{told}; this one: {fault[1]}")
    if has_pan(account):
        raise ConfigError(
            "this is no account id: it holds digits that pass the check of a card number",
            remedy="Such messages are refused, so there is nothing of it to erase; give the id that"
            " the transactions name",
        )


def _holders(client: redis.Redis, namespace: str, account: str, partitions: int) -> list[int]:
    """The partitions with a record of the account; more than one only after a repartitioning."""
    now = generations.read(client, namespace)
    found = []
    for number in range(max(partitions, now.partitions or 0)):
        with scripts.named_failures(number):
            if client.exists(keys.of(namespace, now.current, number).record + account):
                found.append(number)
    return found


def _clear_before(client: redis.Redis, namespace: str, account: str) -> None:
    """Delete the record in the key generation before: a rebuild that died before its sweep left
    it, in whatever partition the account then belonged to. Nobody moves that generation on."""
    now = generations.read(client, namespace)
    if now.before is None:
        return
    for number in range(now.partitions or 0):
        with scripts.named_failures(number):
            client.delete(keys.of(namespace, now.before, number).record + account)


def _send(
    settings: Settings, account: str, partitions: list[int] | list[None]
) -> list[tuple[int, int]]:
    """One tombstone a partition (None: the one that publishers use). Partition and offset each."""
    failures: list[KafkaError] = []
    places: list[tuple[int, int]] = []

    def delivered(error: KafkaError | None, message: Message) -> None:
        number, offset = message.partition(), message.offset()
        if error is not None:
            failures.append(error)
        else:
            assert number is not None and offset is not None
            places.append((number, offset))

    config = {
        "enable.idempotence": True,
        "partitioner": "murmur2_random",
        "delivery.timeout.ms": int(DELIVERY_S * 1_000),
        "on_delivery": delivered,
        # What fails is told by `delivered`; a retry is no news.
        "log_level": 2,
    }
    producer = Producer(confluent_config(settings, config))
    topic = settings.topic("transactions")
    try:
        for number in partitions:
            # -1 leaves the choice to the rule.
            where = -1 if number is None else number
            producer.produce(topic, key=account.encode(), value=None, partition=where)
        left = producer.flush(DELIVERY_S + 1)
    except KafkaException as error:
        failures.append(error.args[0])
        left = 0
    if failures or left:
        said = failures[0].str() if failures else f"no answer in {DELIVERY_S:.0f} s"
        raise BrokerError(f"the tombstone was not delivered: {said}", topic=topic)
    return places
