"""A score's bytes are those that orjson gives for the same object, whatever is in the columns; what
an erasure leaves of an entry."""

from __future__ import annotations

import random
from collections.abc import Sequence
from dataclasses import replace

import numpy as np
import orjson
import pytest
from hypothesis import given
from hypothesis import strategies as st

from streams.alerts import OutMessage, render, scrub
from streams.entry import LATE, DeadRow, Entry, pack

DECISIONS = ("approve", "review", "block")
PLAIN, ESCAPED = "abz-:9é日𝄞", 'a"\\\n\x00é日'


def entry_of(rng: random.Random, n: int, ids: str, accounts: str) -> Entry:
    def texts(letters: str) -> list[str]:
        return ["".join(rng.choices(letters, k=rng.randrange(1, 30))) for _ in range(n)]

    scores = [rng.choice([0.0, 1.0, 1e-7, 5e-324, rng.random(), float("nan")]) for _ in range(n)]
    versions = tuple({"model": f"m{i}", "risk": 'n"one'} for i in range(3))
    return Entry(
        topic='t"x',
        partition=rng.randrange(100),
        mode="full",
        versions=versions,
        offsets=np.array([rng.choice([0, 9, 10, 2**40, 2**63 - 1]) for _ in range(n)], np.int64),
        event_time=np.array([rng.randrange(10**15) for _ in range(n)], np.int64),
        scores=np.array(scores),
        digests=np.array([rng.getrandbits(64) >> rng.randrange(64) for _ in range(n)], np.uint64),
        codes=np.array([rng.choice([0, 1, 2, 4, 5, 6]) for _ in range(n)], np.uint8),
        version=np.array([rng.randrange(3) for _ in range(n)], np.uint16),
        transaction_ids=orjson.dumps(texts(ids)),
        account_ids=orjson.dumps(texts(accounts)),
        alerts=tuple((row, b'{"alert_id":"a"}') for row in range(0, n, 4)),
        dead=(),
    )


def plainly(entry: Entry, produced_time: int) -> Sequence[bytes]:
    """The scores, one object at a time."""
    ids, accounts = orjson.loads(entry.transaction_ids), orjson.loads(entry.account_ids)
    return [
        orjson.dumps(
            {
                "schema_version": 1,
                "transaction_id": ids[i],
                "account_id": accounts[i],
                "event_time": int(entry.event_time[i]),
                "score": float(entry.scores[i]),
                "decision": DECISIONS[int(entry.codes[i]) % LATE],
                "mode": entry.mode,
                "late": bool(entry.codes[i] >= LATE),
                "feature_digest": f"{int(entry.digests[i]):016x}",
                "versions": entry.versions[int(entry.version[i])],
                "source": {
                    "topic": entry.topic,
                    "partition": entry.partition,
                    "offset": int(entry.offsets[i]),
                },
                "produced_time": produced_time,
            }
        )
        for i in range(len(entry))
    ]


@pytest.mark.parametrize("ids", [PLAIN, ESCAPED])
@pytest.mark.parametrize("accounts", [PLAIN, ESCAPED])
@pytest.mark.parametrize("n", [0, 1, 300])
def test_scores_are_the_bytes_of_their_objects(n: int, ids: str, accounts: str) -> None:
    entry = entry_of(random.Random(n), n, ids, accounts)
    found = render(pack(entry), 1_700_000_000_000)
    expected = plainly(entry, 1_700_000_000_000)
    names = [name.encode() for name in orjson.loads(entry.account_ids)]
    scores = [message for message in found if message.topic == "scores"]
    assert [(each.key, each.value) for each in scores] == list(zip(names, expected, strict=True))
    alerts = [(each.key, each.value) for each in found if each.topic == "alerts"]
    assert alerts == [
        (names[row], expected[row][:-1] + b',"alert_id":"a"}') for row in range(0, n, 4)
    ]


NAMES = ("a", "ab", 'q"\\é')


def dead_row(rng: random.Random, offset: int) -> DeadRow:
    """Somebody's, or nobody's, with an account in its text or none."""
    key = rng.choice([None, *(name.encode() for name in NAMES)])
    mentions = [orjson.dumps({"account_id": name, "amount": "x"}) for name in NAMES]
    value = rng.choice([None, b"", b"{nothing", b"a", *mentions])
    headers = (("reason", b"bad_json"), ("offset", b"%d" % offset), ("by", b"branch 7"))
    return DeadRow(offset, key, value, headers)


def at_offset(messages: Sequence[OutMessage]) -> dict[tuple[str, int], OutMessage]:
    found = {}
    for each in messages:
        told = dict(each.headers)
        source = {} if told else orjson.loads(each.value or b"")["source"]
        found[each.topic, int(told["offset"] if told else source["offset"])] = each
    assert len(found) == len(messages)
    return found


@given(
    seed=st.integers(0, 2**32),
    wanted=st.sampled_from([*NAMES, "somebody else"]),
    until=st.none() | st.integers(0, 9),
)
def test_an_erased_account_leaves_only_that_it_was_there(
    seed: int, wanted: str, until: int | None
) -> None:
    """Of what came before the erasure; all else stays to the byte."""
    rng = random.Random(seed)
    scored = [n for n in range(9) if rng.random() < 0.6]
    accounts = rng.choices(NAMES, k=len(scored))
    dead = [dead_row(rng, n) for n in range(9) if n not in scored]
    entry = replace(
        entry_of(rng, len(scored), PLAIN, PLAIN),
        offsets=np.array(scored, np.int64),
        account_ids=orjson.dumps(accounts),
        dead=tuple(dead),
    )
    gone = {n for n, account in zip(scored, accounts, strict=True) if account == wanted}
    gone |= {
        each.offset
        for each in dead
        if each.key == wanted.encode() or orjson.dumps(wanted) in (each.value or b"")
    }
    gone = {n for n in gone if until is None or n < until}
    before = pack(entry)
    after = scrub(before, wanted, until)
    assert (after == before) == (not gone)
    stood, left = at_offset(render(before, 5)), at_offset(render(after, 5))
    stays = {place: each for place, each in stood.items() if place[1] not in gone}
    erased = {("transactions.dlq", n) for n in gone}
    assert {place: each for place, each in left.items() if place not in erased} == stays
    for place in erased:
        told = dict(left[place].headers)
        assert (left[place].key, left[place].value, told["reason"]) == (None, b"", b"forgotten")
        assert "by" not in told, "nor what its senders wrote"
