"""The balance sheet against a slow count of the same messages, in memory and on real topics."""

from __future__ import annotations

import random
import statistics
import time
from collections import Counter
from collections.abc import Mapping, Sequence
from datetime import UTC, datetime
from typing import Any, NamedTuple

import orjson
import pytest
from hypothesis import given
from hypothesis import strategies as st

from streams.clients.audit import SHOWN, Balance, _recognise_elsewhere, audit, balance
from streams.clients.ledger import Ledger
from streams.labels import transaction_key
from streams.settings import Settings
from tests.clients import records
from tests.clients.records import everything, put, transaction
from tests.clients.test_subscriber import headers

DECISIONS = ("approve", "review", "block")
Place = tuple[int, int]


class Line(NamedTuple):
    """A message of `transactions`."""

    partition: int
    offset: int
    key: bytes | None
    value: bytes | None
    time: int

    @property
    def place(self) -> Place:
        return self.partition, self.offset


def repeats(line: Line, lines: Sequence[Line]) -> bool:
    """Do the same key and bytes stand before it, or were they appended earlier elsewhere?"""
    return any(
        (other.offset < line.offset)
        if other.partition == line.partition
        else (other.time < line.time)
        for other in lines
        if (other.key, other.value) == (line.key, line.value)
    )


def slow(
    lines: Sequence[Line], bases: Mapping[int, int], scored: set[Place], dead: set[Place]
) -> dict[str, list[Place]]:
    """The offsets under each heading; `lines` are also those before the books begin."""
    found: dict[str, list[Place]] = {
        name: [] for name in ("scored", "dead", "duplicate", "erasure", "missing", "waiting")
    }
    for partition, base in sorted(bases.items()):
        own = [line for line in lines if line.partition == partition and line.offset >= base]
        reached = max((each.offset for each in own if each.place in scored | dead), default=-1)
        untouched = False
        for line in own:
            if line.place in scored | dead:
                found["scored" if line.place in scored else "dead"].append(line.place)
                continue
            kind = "erasure" if line.value is None else "missing"
            if kind == "missing" and repeats(line, lines):
                kind = "duplicate"
            untouched |= kind == "missing" and line.offset > reached
            found["waiting" if untouched else kind].append(line.place)
    return found


def counts(headings: Mapping[str, Sequence[Place]]) -> dict[str, int]:
    return {name: len(places) for name, places in headings.items()}


class Fate(NamedTuple):
    """What stands at an offset, a gap if nothing does, and what came of it."""

    partition: int
    gap: bool
    key: bytes | None
    value: bytes | None
    later_ms: int
    decision: str | None
    reason: str | None
    alert: str | None
    late: bool


_rarely = st.sampled_from([True, *[False] * 5])
fates = st.lists(
    st.builds(
        Fate,
        partition=st.integers(0, 2),
        gap=_rarely,
        key=st.sampled_from([b"a1", b"a1", b"a2", b"", None]),
        value=st.sampled_from([b"1", b"2", b"3", b"4", b"", None]),
        later_ms=st.integers(0, 1),
        decision=st.sampled_from([None, None, *DECISIONS]),
        reason=st.sampled_from([*[None] * 6, "bad_json", "bad_value", "forgotten"]),
        alert=st.sampled_from([*[None] * 6, *DECISIONS[1:]]),
        late=_rarely,
    ),
    max_size=40,
)


def written(each: Fate, place: Place) -> dict[str, Any]:
    name = f"t{place[0]}-{place[1]}"
    source = {"topic": "transactions", "partition": place[0], "offset": place[1]}
    return {
        "transaction_id": name, "account_id": "a", "source": source, "late": each.late,
        "decision": each.decision, "produced_time": 5,
    }  # fmt: skip


@given(fates)
def test_books_equal_a_slow_count(history: list[Fate]) -> None:
    ends = dict.fromkeys(range(3), 100)
    at: dict[Place, Fate] = {}
    for each in history:
        at[each.partition, ends[each.partition]] = each
        ends[each.partition] += 1
    books = {number: Ledger(number, 100, end) for number, end in ends.items()}
    lines, now = [], 1_000
    for place, each in at.items():
        now += each.later_ms
        book, record = books[place[0]], written(each, place)
        if not each.gap:
            lines.append(Line(*place, each.key or b"", each.value, now))
            book.transaction(place[1], each.key, each.value, now)
        if each.decision is not None:
            book.add_score(record, orjson.dumps(record), now + place[1])
        if each.reason is not None:
            book.add_dead(place[1], each.reason, now)
        if each.alert is not None:
            told = record | {"decision": each.alert}
            book.add_alert(told, orjson.dumps(told), now)
    _recognise_elsewhere(books)
    bad = {transaction_key("a", f"t{p}-{o}"): "mule" for p, o in [*at, (9, 9)] if (p + o) % 3 == 0}
    found = balance(books, bad)
    present = {line.place for line in lines}
    scored = {place for place, each in at.items() if each.decision is not None}
    dead = {place for place, each in at.items() if each.reason is not None}
    expected = slow(lines, dict.fromkeys(ends, 100), scored & present, dead & present)
    assert found.headings == counts(expected)
    assert found.missing_at == expected["missing"][:SHOWN]
    assert found.published == len(lines)
    assert found.late == sum(at[place].late for place in scored)
    decided = Counter(at[place].decision for place in scored)
    assert found.decisions == {name: decided[name] for name in DECISIONS}
    alerted = Counter(each.alert for each in at.values())
    assert found.alerts == {name: alerted[name] for name in DECISIONS[1:]}
    assert found.dead_letters == Counter(at[place].reason for place in expected["dead"])
    assert found.faults == {text: n for text, n in contradictions(at, present).items() if n}
    assert found.balanced is not bool(found.faults or expected["missing"] or expected["waiting"])
    check_latency(found, [place[1] for place in scored & present])
    check_quality(found, {place: at[place].decision or "" for place in scored})


def contradictions(at: Mapping[Place, Fate], present: set[Place]) -> dict[str, int]:
    every = list(at.values())
    flagged = [each for each in every if each.decision in DECISIONS[1:]]
    return {
        "a result for an offset that holds no message": sum(
            each.decision is not None or each.reason is not None
            for place, each in at.items()
            if place not in present
        ),
        "an offset both scored and dead": sum(
            each.decision is not None and each.reason in ("bad_json", "bad_value") for each in every
        ),
        "no alert for a score to review or block": sum(each.alert is None for each in flagged),
        "an alert without such a score": sum(
            each.alert is not None and each not in flagged for each in every
        ),
        "an alert that decides otherwise than its score": sum(
            each.alert not in (None, each.decision) for each in flagged
        ),
    }


def check_latency(found: Balance, spent: Sequence[float]) -> None:
    if not spent:
        assert found.latency_ms is None
        return
    assert found.latency_ms is not None and found.latency_ms["max"] == max(spent)
    assert found.latency_ms["p50"] == pytest.approx(statistics.median(spent))
    if len(spent) > 1:
        cuts = statistics.quantiles(spent, n=1_000, method="inclusive")
        assert found.latency_ms["p99"] == pytest.approx(cuts[989])
        assert found.latency_ms["p99_9"] == pytest.approx(cuts[998])


def check_quality(found: Balance, decided: Mapping[Place, str]) -> None:
    """A third of the transactions are frauds, all of one kind."""
    bad = {place for place in decided if sum(place) % 3 == 0}
    alerted = {place for place, decision in decided.items() if decision != "approve"}
    blocked = {place for place, decision in decided.items() if decision == "block"}

    def share(part: set[Place], whole: set[Place]) -> float | None:
        return len(part) / len(whole) if whole else None

    caught = share(bad & alerted, bad)
    assert found.quality == {
        "frauds": len(bad),
        "precision": share(bad & alerted, alerted),
        "recall": caught,
        "block_precision": share(bad & blocked, blocked),
        "block_recall": share(bad & blocked, bad),
        "by_type": {"mule": {"frauds": len(bad), "recall": caught}} if bad else {},
    }


def moment() -> str:
    """Now, with nothing appended in the same millisecond."""
    time.sleep(0.1)
    now = datetime.now(UTC).isoformat()
    time.sleep(0.1)
    return now


def append(place: Settings, rng: random.Random, rounds: int, partitions: Sequence[int]) -> None:
    values = [orjson.dumps(transaction(number)) for number in range(90)]
    for _ in range(rounds):
        some = rng.choices([*values, *values, None], k=8)
        key = rng.choice([b"a1", b"a1", b"a2"])
        put(
            place.kafka.bootstrap,
            place.topic("transactions"),
            some,
            rng.choice(partitions),
            key=key,
        )


def publish_results(
    place: Settings, rng: random.Random, lines: Sequence[Line]
) -> tuple[dict[Place, str], set[Place]]:
    """Scores and dead letters of some, all with their alerts; the decisions, and what is dead.

    Between them what no reader may count: null, records of another topic, and what is none."""
    name, server = place.topic("transactions"), place.kafka.bootstrap
    scored: dict[Place, str] = {}
    dead: set[Place] = set()
    scores: list[dict[str, Any] | bytes | None] = [None, b"{", b"[]"]
    alerts: list[dict[str, Any] | bytes | None] = [b"{}", None]
    for number, line in enumerate(lines):
        fate = rng.choice(["score", "dead", "", ""])
        if line.value is None or fate == "":
            continue
        where = {"topic": name, "partition": line.partition, "offset": line.offset}
        if fate == "dead":
            dead.add(line.place)
            told = headers("bad_json", line.offset, name)
            told[3] = ("partition", b"%d" % line.partition)
            put(server, place.topic("transactions.dlq"), [b"x"], headers=told)
            continue
        scored[line.place] = decision = rng.choice(DECISIONS)
        late = number % 3 == 0
        scores.append(records.score(number, decision, source=where, late=late))
        if decision != "approve":
            alerts.append(records.alert(number, decision, source=where))
    # At an offset of the window that has no result of its own, and where there are no books.
    free = max(line.offset for line in lines if line.partition == 1) + 1
    for topic, partition in (("other", 1), (name, 7)):
        where = {"topic": topic, "partition": partition, "offset": free}
        scores.append(records.score(0, "block", source=where))
        alerts.append(records.alert(0, source=where))
        told = headers("bad_value", free, topic)
        told[3] = ("partition", b"%d" % partition)
        put(server, place.topic("transactions.dlq"), [b"x"], headers=told)
    put(server, place.topic("scores"), scores)
    put(server, place.topic("alerts"), alerts)
    return scored, dead


def test_a_window_of_real_topics_equals_a_slow_count(kafka: str, topic_prefix: str) -> None:
    """One partition has nothing in the window: an account's first copies may stand there, as where
    partitions were added since."""
    place, rng = records.settings(kafka, topic_prefix, 3), random.Random(7)
    append(place, rng, 6, (0, 2))
    between = moment()
    append(place, rng, 15, (0, 1))
    messages = everything(kafka, place.topic("transactions"), 3)
    lines = [
        Line(m.partition() or 0, m.offset() or 0, m.key(), m.value(), m.timestamp()[1])
        for m in messages
    ]
    began = datetime.fromisoformat(between).timestamp() * 1_000
    inside = [line for line in lines if line.time >= began]
    bases = {0: 10**9, 1: 10**9}
    for line in inside:
        bases[line.partition] = min(bases[line.partition], line.offset)
    ends = Counter(line.partition for line in lines)
    assert bases[0] > 0 == bases[1] and len(lines) > len(inside) > 2 * SHOWN
    settled = [line for line in lines if line.place < (1, ends[1] - 6) or line.partition == 2]
    scored, dead = publish_results(place, rng, settled)
    heard: Counter[str] = Counter()
    found = audit(place, start=between, told=lambda topic, count: heard.update({topic: count}))
    older = "transactions before them, for duplicates"
    assert (heard["transactions"], heard[older]) == (len(inside), len(lines) - len(inside))
    expected = slow(lines, bases, set(scored), dead)
    assert len(expected["missing"]) > SHOWN and len(expected["waiting"]) > 1, "a case worth trying"
    before = [line for line in lines if line not in inside]
    assert any(repeats(line, before) for line in inside if line.place in expected["duplicate"]), (
        "duplicates of older ones"
    )
    assert found.headings == counts(expected)
    assert found.missing_at == expected["missing"][:SHOWN]
    decided = Counter(scored[where] for where in expected["scored"])
    assert found.decisions == dict(decided)
    assert found.alerts == {name: decided[name] for name in DECISIONS[1:]}
    assert found.dead_letters == {"bad_json": len(expected["dead"])}
    assert found.faults == {
        "scores: a message that the service does not write": 2,
        "alerts: a message that the service does not write": 1,
    }
    assert not found.balanced and found.published == len(inside)
