"""F11: messages made to harm, and the whole pure way that they are sent through.

In: a seed and a number of messages. Out: nothing, or the error that a message led to.
Does not know Kafka or Redis. Every message must be scored or become a dead letter, once; no
reject's detail holds a value of the message, and no card number leaves.
"""

from __future__ import annotations

import random
from typing import Any, Final

import orjson
from hypothesis import HealthCheck, given, settings
from hypothesis import seed as seeded
from hypothesis import strategies as st

from streams.alerts import render
from streams.assembly import judge
from streams.batch import Headers
from streams.pipeline import advance, read, score, settle
from streams.schema import MAX_MESSAGE_BYTES
from streams.settings import load
from streams.state import Arena
from tests.messages import FULL, batch_of, valid_documents

BATCH: Final = 16
PANS: Final = ("4111111111111111", "5500005555555559", "378282246310005", "6011000990139424")
SECRET: Final = "s3cretvalue"
"""Stands in damaged messages, and must not stand in what is said about them."""

JUDGE: Final = judge(load(flags=["model.bundle=stub"]))

NUMBERS: Final = (
    "NaN", "Infinity", "-Infinity", "-0.0", "1e308", "1e309", "-1", "0.1", "1e2",
    "9223372036854775807", "9223372036854775808", "-9223372036854775809", "1" * 400,
    "253402300799000", "0", "null", "true", '""', "[]", "{}",
)  # fmt: skip
TEXTS: Final = (
    "\0", "a\0b", "\u202e" + SECRET, "e\u0301" * 40, "\u2066x\u2069", "\ufeffa", "\U000e0041",
    "\r\nSET x y", "${jndi:ldap://x}", "../../etc/passwd", "'; DROP TABLE x; --", "{1}:part",
    "a{b}c", "x" * 65, "x" * 10_000, "\u0661\u0662", "\ud7ff", " ", "",
)  # fmt: skip
ENCODED: Final = (rb'"\ud800"', rb'"\udc00\ud800"', b'"\xff"', b'"\xc0\xaf"', b'"\xed\xa0\x80"')


def run(values: list[bytes | None], keys: list[bytes | None], headers: list[Headers] | None) -> int:
    """The batch through the pipeline; every message comes out once. Returns the dead letters."""
    batch = batch_of(values, keys, headers=headers)
    columns = read(batch, {}, 86_400_000)
    arena = Arena(batch.partition, 1 << 16)
    arena.fill([(account, None) for account in arena.missing(columns.account_id)])
    work = advance(columns, arena, None, history=JUDGE.scorer.needs_history)
    outcome = settle(work, score(JUDGE.scorer, [work])[0], JUDGE.policy)
    assert outcome.counts["in"] == len(values)
    for rejected in columns.rejects:
        assert SECRET not in rejected.detail and not any(pan in rejected.detail for pan in PANS)
    messages = [] if outcome.entry is None else render(outcome.entry, 0)
    scores = [m for m in messages if m.topic == "scores"]
    dead = [m for m in messages if m.topic == "transactions.dlq"]
    assert len(scores) == outcome.counts["scored"] and len(dead) == outcome.counts["dead"]
    for each in messages:
        if each.topic != "transactions.dlq":
            assert each.value is not None
            orjson.loads(each.value)
        for _, content in each.headers:
            assert len(content) <= 8_192
    return len(dead)


def hostile(valid: dict[str, Any], chance: random.Random) -> bytes | None:
    """One message that somebody made of a valid one to see what happens."""
    document = dict(valid)
    value = orjson.dumps(document)
    name = chance.choice([*FULL, "constructor", SECRET, "ext"])
    quoted = orjson.dumps(name)
    kind = chance.randrange(13)
    if kind == 0:
        return value[: chance.randrange(len(value))]
    if kind == 1:
        return value[:-1] + b"," + quoted + b":" + chance.choice(NUMBERS).encode() + b"}"
    if kind == 2:
        document[name] = chance.choice(TEXTS)
        return orjson.dumps(document)
    if kind == 3:
        opening, closing = chance.choice(((b"[", b"]"), (b'{"a":', b"}")))
        depth = chance.choice((3, 4, 200, 5_000, 20_000))
        inside = opening * depth + b"1" + closing * depth
        return value[:-1] + b',"ext":' + inside + b"}"
    if kind == 4:
        at = chance.randrange(len(value))
        return value[:at] + bytes([value[at] ^ (1 << chance.randrange(8))]) + value[at + 1 :]
    if kind == 5:
        return value[:-1] + b"," + quoted + b":" + chance.choice(ENCODED) + b"}"
    if kind == 6:
        return (
            value[:-1] + b"," + b",".join([quoted + b':"1"'] * chance.choice((1, 2, 2_000))) + b"}"
        )
    if kind == 7:
        return bytes(chance.randrange(256) for _ in range(chance.randrange(200)))
    if kind == 8:
        size = chance.choice(
            (MAX_MESSAGE_BYTES - 1, MAX_MESSAGE_BYTES, MAX_MESSAGE_BYTES + 1, 10**6)
        )
        return value + b" " * max(0, size - len(value))
    if kind == 9:
        document["ext"] = {str(n): SECRET for n in range(chance.choice((1, 32, 33, 900)))}
        return orjson.dumps(document)
    if kind == 10:
        return chance.choice((None, b"", b"null", b"[]", b"1", b'""', b"\xef\xbb\xbf" + value))
    if kind == 11:
        return value + value
    return value


def of_key(value: bytes | None, draw: int) -> bytes | None:
    """Most keys fit the message; some do not."""
    try:
        right = orjson.loads(value or b"")["account_id"].encode()
    except (ValueError, TypeError, KeyError, AttributeError):
        right = b"acct-1"
    return (right, right, right, right, None, b"", b"\xff", b"x" * 70_000)[draw]


def send(valid: dict[str, Any], seed: int) -> None:
    """One batch of messages made of a valid one."""
    chance = random.Random(seed)
    values = [hostile(valid, chance) for _ in range(BATCH)]
    keys = [of_key(value, chance.randrange(8)) for value in values]
    run(values, keys, None)


def attack(messages: int, seed: int | None = None) -> int:
    """So many messages; without a seed always the same. Returns how many it were."""
    batches = -(-messages // BATCH)
    attacking = settings(
        max_examples=batches,
        deadline=None,
        suppress_health_check=list(HealthCheck),
        derandomize=seed is None,
        database=None,
    )(given(valid_documents(), st.integers(0, 2**64))(send))
    if seed is not None:
        attacking = seeded(seed)(attacking)
    attacking()
    return batches * BATCH
