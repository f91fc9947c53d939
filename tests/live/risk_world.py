"""A small world of payments and labels for the tests of live risk snapshots.

For tests only.
"""

from __future__ import annotations

import random
import zlib
from collections.abc import Iterator

import numpy as np
import orjson
from confluent_kafka import Producer

from streams.batch import Batch
from streams.columns import Columns
from streams.connect import confluent_config
from streams.decode import decode
from streams.labels import decode_labels
from streams.risk import digest_of
from streams.risk_feed import RiskFeed
from streams.risk_pace import Pace
from streams.schema import DAY_MS
from streams.settings import Settings

FIRST, DAYS, PARTITIONS, DELAY = 19_000, 60, 3, 3
"""Day of the first transaction, how many days there are."""
A_MOMENT = 20
"""Transactions; the world has forty of them a day."""

Message = tuple[str, int, bytes, bytes]
"""Topic, partition, key, value."""


def world(days: int = DAYS, a_day: int = 40, seed: int = 1) -> list[Message]:
    """Transactions in order of time, some late and some twice, and labels for some of them."""
    chance = random.Random(seed)
    messages: list[tuple[int, Message]] = []
    for day in range(FIRST, FIRST + days):
        for number in range(a_day):
            account = f"acct-{chance.randrange(30)}"
            time_ms = day * DAY_MS + chance.randrange(DAY_MS)
            payment = {
                "schema_version": 1,
                "transaction_id": f"{day}-{number}",
                "account_id": account,
                "event_time": time_ms,
                "amount": chance.randrange(100_000),
                "currency": "EUR",
                "merchant_id": f"shop-{chance.randrange(12)}",
            }
            if chance.random() < 0.5:
                payment["terminal_id"] = f"pos-{chance.randrange(20)}"
            arrival = time_ms + (chance.randrange(2 * DAY_MS) if chance.random() < 0.1 else 0)
            partition = zlib.crc32(account.encode()) % PARTITIONS
            message = ("transactions", partition, account.encode(), orjson.dumps(payment))
            messages.append((arrival, message))
            if chance.random() < 0.05:
                messages.append((arrival + 5, message))
            for _ in range(chance.choice((0, 0, 1, 1, 2))):
                known = time_ms + chance.randrange(20 * DAY_MS)
                label = {
                    "label_id": f"{day}-{number}-{known}",
                    "transaction_id": payment["transaction_id"],
                    "account_id": account,
                    "label": chance.choice(("fraud", "legitimate", "disputed")),
                    "label_time": known,
                }
                messages.append(
                    (known, ("labels", partition, account.encode(), orjson.dumps(label)))
                )
    messages.sort(key=lambda pair: pair[0])
    return [message for _, message in messages]


def send(settings: Settings, messages: list[Message]) -> None:
    producer = Producer(confluent_config(settings, {"linger.ms": 20}))
    for topic, partition, key, value in messages:
        producer.produce(settings.topic(topic), value, key, partition=partition)
        producer.poll(0)
    assert producer.flush(30) == 0


def send_as_it_happens(settings: Settings, messages: list[Message]) -> None:
    """To a builder that already reads: no partition gets ahead of another by more than a day.

    In one `send` a partition's transactions may be on the broker, and be read, long before
    another's, or before the labels: to the builder what comes then is later than it waits for.
    """
    send(settings, [m for m in messages if m[0] == "labels"])
    transactions = [m for m in messages if m[0] != "labels"]
    for start in range(0, len(transactions), A_MOMENT):
        send(settings, transactions[start : start + A_MOMENT])


def batches(messages: list[Message], size: int = 500) -> Iterator[Columns]:
    """The transactions, decoded, by partition."""
    for partition in range(PARTITIONS):
        mine = [m for m in messages if m[:2] == ("transactions", partition)]
        for start in range(0, len(mine), size):
            part = mine[start : start + size]
            yield decode(
                Batch(
                    topic="transactions",
                    partition=partition,
                    offsets=np.arange(start, start + len(part), dtype=np.int64),
                    timestamps=np.full(len(part), -1, np.int64),
                    keys=[m[2] for m in part],
                    values=[m[3] for m in part],
                    headers=None,
                    next_offset=start + len(part),
                ),
                0,
            )


def expected(messages: list[Message], hours: int = 24) -> dict[int, str]:
    """The digest of every period's snapshot, from one feed in memory."""
    feed = RiskFeed(Pace(DELAY, hours), dict.fromkeys(range(PARTITIONS), 0), {0: 0})
    feed.add_labels(0, decode_labels([m[3] for m in messages if m[0] == "labels"]), 0, 1)
    for columns in batches(messages):
        feed.add(columns)
    return {s.period: digest_of(s.to_bytes()) for s in feed.snapshots(feed.newest)}
