"""A seeded log of transactions as a bank sends it on a bad day.

In: a seed. Out: messages with their partition, without end. For tests only.
Does not know what becomes of them.

Some are repeats, some come late, some reuse an id with other content, some are damaged in ways that
only a dead letter answers, some erase an account. A few accounts have most of the traffic, so that
their rings overflow into panes. Names and amounts are such that they cannot stand in a log line
by chance.
"""

from __future__ import annotations

import random
from collections import deque
from dataclasses import dataclass
from typing import Any, Final

import orjson

START_MS: Final = 1_735_689_600_000
PAN: Final = "4111111111111111"
RECENT: Final = 8
"""A repeat is of one of so many events of its account, well inside the ring."""


@dataclass(frozen=True, slots=True)
class Sent:
    """One message of `transactions`."""

    partition: int
    key: bytes | None
    value: bytes | None


class Source:
    """The log of one seed."""

    def __init__(self, seed: int, partitions: int, accounts: int = 24) -> None:
        self._chance = random.Random(f"source {seed}")
        self._partitions = partitions
        self.accounts = [f"zqacct-{seed}-{number}" for number in range(accounts)]
        self._clock = dict.fromkeys(self.accounts, START_MS)
        self._recent: dict[str, deque[dict[str, Any]]] = {
            name: deque(maxlen=RECENT) for name in self.accounts
        }
        self._number = 0
        self._seed = seed
        self.amounts: set[int] = set()

    def take(self, count: int) -> list[Sent]:
        """The next messages."""
        return [self._next() for _ in range(count)]

    def _next(self) -> Sent:
        chance = self._chance
        # Squared: the first accounts have most of the traffic.
        number = int(len(self.accounts) * chance.random() ** 2)
        account = self.accounts[number]
        partition = number % self._partitions
        key = account.encode()
        recent = self._recent[account]
        draw = chance.random()
        if draw < 0.03 and recent:
            return Sent(partition, key, orjson.dumps(chance.choice(recent)))
        if draw < 0.04 and recent:
            other = {**chance.choice(recent), "amount": self._amount()}
            return Sent(partition, key, orjson.dumps(other))
        if draw < 0.043:
            recent.clear()
            return Sent(partition, key, None)
        document = self._document(account)
        if draw < 0.07:
            return Sent(partition, *self._damaged(key, document))
        recent.append(document)
        return Sent(partition, key, orjson.dumps(document))

    def _amount(self) -> int:
        amount = self._chance.randrange(2_000_000_000, 9_000_000_000)
        self.amounts.add(amount)
        return amount

    def _document(self, account: str) -> dict[str, Any]:
        chance = self._chance
        self._number += 1
        time = self._clock[account] = self._clock[account] + int(chance.expovariate(1 / 900_000))
        if chance.random() < 0.06:
            time = max(START_MS, time - chance.randrange(1, 3 * 86_400_000))
        document: dict[str, Any] = {
            "schema_version": 1,
            "transaction_id": f"zqtx-{self._seed}-{self._number}",
            "account_id": account,
            "event_time": time,
            "amount": self._amount(),
            "currency": "EUR",
        }
        if chance.random() < 0.7:
            document["merchant_id"] = f"m-{chance.randrange(40)}"
            document["merchant_country"] = chance.choice(("FR", "DE", "GB", "US"))
            document["channel"] = chance.choice(("card_present", "ecommerce", "atm"))
        if chance.random() < 0.3:
            document["latitude"] = round(chance.uniform(-60, 60), 5)
            document["longitude"] = round(chance.uniform(-170, 170), 5)
        return document

    def _damaged(self, key: bytes, document: dict[str, Any]) -> tuple[bytes | None, bytes]:
        value = orjson.dumps(document)
        kind = self._chance.randrange(6)
        if kind == 0:
            return key, value[: self._chance.randrange(len(value))]
        if kind == 1:
            del document["currency"]
            return key, orjson.dumps(document)
        if kind == 2:
            return key, orjson.dumps({**document, "device_id": PAN})
        if kind == 3:
            return b"somebody else", value
        if kind == 4:
            return key, orjson.dumps({**document, "event_time": 4_000_000_000_000})
        return None, b"\xff\xfe"
