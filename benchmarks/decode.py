"""What does it cost to decode and validate a message, beside parsing alone?

In: `--json`, `--events`, `--batch`, `--rounds`. Out: a table, CPU microseconds an event.
Goal: at most 5 us for valid messages of 12 to 18 fields, on one core. Each batch counts with its
best round, since other work on the machine can only add.
"""

from __future__ import annotations

import argparse
import json
import random
import time
import uuid
from collections.abc import Callable, Iterator
from typing import Any

import numpy as np
import orjson

from streams.batch import Batch
from streams.decode import decode

MAX_FUTURE_MS = 86_400_000
GOAL_US = 5.0
START = 1_700_000_000_000


def payment(rng: random.Random, i: int) -> dict[str, Any]:
    """A card payment with 16 fields."""
    return {
        "schema_version": 1,
        "transaction_id": f"tx-{rng.getrandbits(48):012x}",
        "account_id": f"acct-{rng.randrange(100_000):08}",
        "event_time": START + 250 * i,
        "amount": rng.randrange(100, 100_000),
        "currency": rng.choice(["EUR", "USD", "GBP"]),
        "event_type": "authorization",
        "channel": rng.choice(["card_present", "ecommerce"]),
        "merchant_id": f"m-{rng.randrange(5_000):06}",
        "terminal_id": f"t-{rng.randrange(9_000):06}",
        "mcc": rng.choice(["5411", "5812", "5541"]),
        "merchant_country": rng.choice(["DE", "FR", "US"]),
        "billing_country": "DE",
        "latitude": round(rng.uniform(40, 60), 5),
        "longitude": round(rng.uniform(0, 20), 5),
        "device_id": f"d-{rng.getrandbits(40):010x}",
    }


def of_12(rng: random.Random, i: int) -> dict[str, Any]:
    given = payment(rng, i)
    for name in ("terminal_id", "latitude", "longitude", "device_id"):
        del given[name]
    return given


def of_18(rng: random.Random, i: int) -> dict[str, Any]:
    return {**payment(rng, i), "entry_mode": "chip", "auth_response": "approved"}


def mixed(rng: random.Random, i: int) -> dict[str, Any]:
    """Each optional field of 18 left out by chance."""
    optional = list(of_18(rng, i).items())[6:]
    given = dict(list(payment(rng, i).items())[:6])
    given.update(item for item in optional if rng.random() < 0.7)
    return given if "latitude" in given and "longitude" in given else of_12(rng, i)


def with_ext(rng: random.Random, i: int) -> dict[str, Any]:
    return {**payment(rng, i), "ext": {"shop": f"{rng.randrange(99)}", "basket": "3"}}


def with_uuids(rng: random.Random, i: int) -> dict[str, Any]:
    made = {"transaction_id": str(uuid.UUID(int=rng.getrandbits(128), version=4))}
    return {**payment(rng, i), **made, "email_hash": f"{rng.getrandbits(256):064x}"}


def wide_text(rng: random.Random, i: int) -> dict[str, Any]:
    """Every message leaves the quick path: a letter outside ASCII."""
    return {**payment(rng, i), "ext": {"city": "Kraków"}}


def one_bad_in_100(rng: random.Random, i: int) -> dict[str, Any]:
    given = payment(rng, i)
    return {**given, "amount": "12.50"} if rng.random() < 0.01 else given


CASES: dict[str, Callable[[random.Random, int], dict[str, Any]]] = {
    "12 fields": of_12,
    "16 fields": payment,
    "18 fields": of_18,
    "18 fields, 30 % of the optional ones absent": mixed,
    "17 fields, one of them ext": with_ext,
    "17 fields, UUID and SHA-256": with_uuids,
    "16 fields, 1 % of the messages bad": one_bad_in_100,
    "17 fields, every message has a wide letter": wide_text,
    "the same with the letter as an escape": wide_text,
}
ESCAPED = tuple(CASES)[-1]
WITHIN_GOAL = tuple(CASES)[:6]


def batches(case: str, events: int, size: int) -> Iterator[Batch]:
    rng = random.Random(case)
    make = CASES[case]
    for start in range(0, events, size):
        documents = [make(rng, i) for i in range(start, min(start + size, events))]
        n = len(documents)
        yield Batch(
            topic="transactions",
            partition=0,
            offsets=np.arange(start, start + n, dtype=np.int64),
            timestamps=np.full(n, START + 250 * events, np.int64),
            keys=[document["account_id"].encode() for document in documents],
            values=[
                # Python's json writes `\\u00f3` for what orjson writes as UTF-8.
                json.dumps(document, separators=(",", ":")).encode()
                if case == ESCAPED
                else orjson.dumps(document)
                for document in documents
            ],
            headers=None,
            next_offset=start + n,
        )


def best_us(work: Callable[[Batch], object], given: list[Batch], rounds: int) -> float:
    """CPU microseconds an event: the best round of each batch, over all batches."""
    best = [float("inf")] * len(given)
    for _ in range(rounds):
        for i, batch in enumerate(given):
            start = time.process_time()
            work(batch)
            best[i] = min(best[i], time.process_time() - start)
    return sum(best) / sum(map(len, given)) * 1e6


def parse_only(batch: Batch) -> object:
    return [orjson.loads(value) for value in batch.values if value is not None]


def measure(case: str, events: int, size: int, rounds: int) -> dict[str, Any]:
    given = list(batches(case, events, size))
    for batch in given:
        rejects = decode(batch, MAX_FUTURE_MS).rejects
        assert not rejects or "bad" in case, rejects[0]
    sizes = sum(len(value or b"") for batch in given for value in batch.values)
    return {
        "case": case,
        "bytes": round(sizes / events),
        "orjson_us": round(best_us(parse_only, given, rounds), 2),
        "decode_us": round(best_us(lambda b: decode(b, MAX_FUTURE_MS), given, rounds), 2),
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--events", type=int, default=8_192)
    parser.add_argument("--batch", type=int, default=1_024)
    parser.add_argument("--rounds", type=int, default=60)
    parser.add_argument("--json", action="store_true")
    asked = parser.parse_args()
    rows = [measure(case, asked.events, asked.batch, asked.rounds) for case in CASES]
    met = all(row["decode_us"] <= GOAL_US for row in rows if row["case"] in WITHIN_GOAL)
    if asked.json:
        print(json.dumps({"goal_us": GOAL_US, "met": met, "rows": rows}))
        return
    print(f"{'messages':48} {'bytes':>6} {'orjson us':>10} {'decode us':>10}")
    for row in rows:
        case, size, parsed, decoded = row.values()
        print(f"{case:48} {size:>6} {parsed:>10.2f} {decoded:>10.2f}")
    print(f"goal: decode at most {GOAL_US} us in the first {len(WITHIN_GOAL)} rows: {met}")


if __name__ == "__main__":
    main()
