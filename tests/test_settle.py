"""From a batch to its outbox entry and its messages, through the real pipeline."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from typing import Any

import numpy as np
import orjson
import pytest
from hypothesis import given
from hypothesis import strategies as st
from jsonschema import Draft202012Validator
from numpy.typing import NDArray

from model.inputs import ScoringBatch
from streams import features
from streams.alerts import alert_id, message_digest, render, run_digest, scrub
from streams.batch import Batch
from streams.decide import Thresholds
from streams.entry import pack, unpack
from streams.pipeline import advance, read
from streams.rulebook import parse_toml
from streams.rules import RuleSet
from streams.schema import DAY_MS, Mode
from streams.settle import Policy, settle
from streams.state import Arena
from streams.windows import Work
from tests.test_schemas import published

TIME = 1_700_000_000_000
POLICY = Policy(
    thresholds=Thresholds(0.3, 0.8),
    versions={"model": "stub@1", "features": features.DIGEST, "code": "0+1"},
)


def payment(number: int, account: str = "acct-1", **changes: Any) -> dict[str, Any]:
    return {
        "schema_version": 1,
        "transaction_id": f"tx-{number}",
        "account_id": account,
        "event_time": TIME + 1_000 * number,
        "amount": 1_000 + number,
        "currency": "EUR",
        **changes,
    }


def batch_of(documents: Sequence[Any], first: int = 50, shift: int = 0) -> Batch:
    n = len(documents)
    return Batch(
        topic="transactions",
        partition=2,
        offsets=np.arange(first, first + n, dtype=np.int64) + shift,
        timestamps=np.full(n, TIME + DAY_MS, np.int64),
        keys=[d["account_id"].encode() if isinstance(d, dict) else b"acct-1" for d in documents],
        values=[orjson.dumps(d) if isinstance(d, dict) else d for d in documents],
        headers=None,
        next_offset=first + n + shift,
    )


def work_of(documents: Sequence[Any], forgotten: Mapping[bytes, int] | None = None) -> Work:
    columns = read(batch_of(documents), forgotten or {}, DAY_MS)
    arena = Arena(2, 2**20)
    arena.fill([(account, None) for account in arena.missing(columns.account_id)])
    return advance(columns, arena, None)


def scores(*values: float) -> NDArray[np.float64]:
    return np.array(values, np.float64)


def messages(entry: bytes | None, topic: str) -> list[dict[str, Any]]:
    assert entry is not None
    return [
        orjson.loads(message.value)
        for message in render(entry, 123)
        if message.topic == topic and message.value is not None
    ]


MIXED: list[Any] = [
    payment(0),
    payment(1, "acct-2"),
    b"{nothing",
    payment(0),  # the same again
    payment(1, "acct-2", amount=7),  # the same id, another content
    None,  # an erasure
    payment(2, event_time=TIME - 5_000),  # late
]


def test_everything_is_accounted_for() -> None:
    work = work_of([payment(9, "acct-3"), *MIXED])
    n = len(work.columns)
    outcome = settle(work, np.full(n, 0.5), POLICY)
    assert outcome.counts == {
        "in": 8,
        "scored": 3,
        "duplicate": 0,
        "dead": 4,
        "erased": 1,
        "late": 0,
        "edge": 0,
        "approve": 0,
        "review": 3,
        "block": 0,
        "dead_bad_json": 1,
        "dead_forgotten": 2,
        "dead_id_conflict": 1,
    }
    rendered = render(outcome.entry or b"", 123)
    assert [message.topic for message in rendered] == (
        ["scores"] * 3 + ["alerts"] * 3 + ["transactions.dlq"] * 4
    )
    dead = [dict(message.headers) for message in rendered[6:]]
    assert [(each["reason"], each["offset"], each["time"]) for each in dead] == [
        (b"forgotten", b"51", b"123"),
        (b"bad_json", b"53", b"123"),
        (b"forgotten", b"54", b"123"),
        (b"id_conflict", b"55", b"123"),
    ]
    assert [message.value for message in rendered[6:8]] == [b"", b"{nothing"]
    assert rendered[6].key is None and rendered[7].key == b"acct-1"
    assert json.loads(rendered[9].value or b"")["amount"] == 7


def test_duplicates_and_late_events() -> None:
    work = work_of([each for each in MIXED if each is not None])
    outcome = settle(work, np.full(len(work.columns), 0.1), POLICY)
    counts = outcome.counts
    assert (counts["duplicate"], counts["late"], counts["scored"]) == (1, 1, 3)
    found = messages(outcome.entry, "scores")
    assert [(each["transaction_id"], each["late"]) for each in found] == [
        ("tx-0", False),
        ("tx-1", False),
        ("tx-2", True),
    ]
    assert [each["source"]["offset"] for each in found] == [50, 51, 55]
    assert [each["feature_digest"] for each in found] == [
        f"{digest:016x}"
        for digest, status in zip(work.digest, work.status, strict=True)
        if not status
    ]


FRESH, AGAIN, OTHERWISE, JUNK, ERASURE = range(5)


@given(st.lists(st.tuples(st.integers(FRESH, ERASURE), st.integers(0, 2)), max_size=12))
def test_every_message_goes_one_way_by_its_definition(kinds: list[tuple[int, int]]) -> None:
    """`acct-1` is the account that erasures are of; what is said of each is in its order."""
    documents: list[Any] = []
    for kind, which in kinds:
        own = [each for each in documents if isinstance(each, dict) and each["amount"] >= 1_000]
        fresh = payment(len(documents), f"acct-{which}")
        known = own[which % len(own)] if own else fresh
        others = [known, {**known, "amount": 7}, b"{nothing", None]
        documents.append(fresh if kind == FRESH else others[kind - AGAIN])
    erased = max((n for n, each in enumerate(documents) if each is None), default=-1)
    ways: dict[str, list[tuple[int, str]]] = {"scores": [], "transactions.dlq": [], "": []}
    first: dict[str, tuple[int, Any]] = {}
    for n, each in enumerate(documents):
        way, word = "transactions.dlq", "bad_json"
        if each is None:
            way, word = "", "erased"
        elif isinstance(each, dict) and each["account_id"] == "acct-1" and n < erased:
            word = "forgotten"
        elif isinstance(each, dict):
            at, same = first.setdefault(each["transaction_id"], (n, each))
            if at == n:
                way, word = "scores", "scored"
            elif same == each:
                way, word = "", "duplicate"
            else:
                word = "id_conflict"
        ways[way].append((50 + n, word))
    work = work_of(documents)
    outcome = settle(work, np.full(len(work.columns), 0.9), POLICY)
    assert (outcome.entry is None) == (len(ways[""]) == len(documents))
    found: dict[str, list[tuple[int, str]]] = {"scores": [], "alerts": [], "transactions.dlq": []}
    for message in render(outcome.entry, 1) if outcome.entry is not None else []:
        told = dict(message.headers)
        if told:
            found[message.topic].append((int(told["offset"]), told["reason"].decode()))
        else:
            offset = orjson.loads(message.value or b"")["source"]["offset"]
            found[message.topic].append((offset, "scored"))
    assert found == {
        "scores": ways["scores"],
        "alerts": ways["scores"],
        "transactions.dlq": ways["transactions.dlq"],
    }
    said = Counter(word for way in ways.values() for _, word in way)
    counts = outcome.counts
    assert (counts["in"], counts["dead"]) == (len(documents), len(ways["transactions.dlq"]))
    assert [counts[name] for name in ("scored", "duplicate", "erased")] == [
        said[name] for name in ("scored", "duplicate", "erased")
    ]
    dead = Counter(word for _, word in ways["transactions.dlq"])
    assert {f"dead_{word}": n for word, n in dead.items()} == {
        name: n for name, n in counts.items() if name.startswith("dead_")
    }


def test_money_that_came_in_is_no_payment_of_the_reasons() -> None:
    for direction, told in (("debit", True), ("credit", False)):
        work = work_of([payment(0), payment(1), payment(2, direction=direction)])
        *_, last = messages(settle(work, np.full(3, 0.9), POLICY).entry, "alerts")
        assert any("3 payments" in each["text"] for each in last["reasons"]) is told


def test_only_duplicates_publish_nothing() -> None:
    columns = read(batch_of([payment(0)]), {}, DAY_MS)
    arena = Arena(2, 2**20)
    arena.fill([("acct-1", None)] if arena.missing(columns.account_id) else [])
    advance(columns, arena, None)
    again = advance(read(batch_of([payment(0)], 80), {}, DAY_MS), arena, None)
    outcome = settle(again, scores(0.9), POLICY)
    assert outcome.entry is None and outcome.counts["duplicate"] == 1


def test_scores_and_alerts_fit_their_schemas() -> None:
    work = work_of(
        [
            payment(0),
            payment(1, 'acct-\u00e9"\\', transaction_id='quote" and \\ and é'),
            payment(2, currency="JPY"),
        ]
    )
    outcome = settle(work, scores(0.1, 0.5, 0.95), POLICY)
    found = messages(outcome.entry, "scores")
    for each in found:
        Draft202012Validator(published("score")).validate(each)
    assert [each["decision"] for each in found] == ["approve", "review", "block"]
    assert [each["score"] for each in found] == [0.1, 0.5, 0.95]
    assert found[1]["transaction_id"] == 'quote" and \\ and é'
    alerts = messages(outcome.entry, "alerts")
    for each in alerts:
        Draft202012Validator(published("alert")).validate(each)
    assert [(a["risk_level"], a["threshold"]) for a in alerts] == [
        ("medium", 0.3),
        ("critical", 0.8),
    ]
    assert list(alerts[0])[: len(found[1])] == list(found[1])
    keys = [message.key for message in render(outcome.entry or b"", 1)]
    assert keys[1] == keys[3] == 'acct-é"\\'.encode()
    rendered = render(outcome.entry or b"", 9)
    assert rendered == render(outcome.entry or b"", 9)


def test_no_score_is_null_and_rules_decide() -> None:
    rules = parse_toml(
        '[[rule]]\nrule_id = "big"\nversion = 3\noutcome = "block"\n'
        'all = [{ field = "amount", op = "gt", value = 1000 }]',
        features.NAMES,
    ).rules()
    policy = replace(POLICY, rules=rules, mode=Mode.RULES_ONLY)
    outcome = settle(work_of([payment(0), payment(1)]), scores(np.nan, np.nan), policy)
    found = messages(outcome.entry, "scores")
    assert [each["score"] for each in found] == [None, None]
    assert [each["decision"] for each in found] == ["approve", "block"]
    assert {each["mode"] for each in found} == {"rules_only"}
    (alert,) = messages(outcome.entry, "alerts")
    Draft202012Validator(published("alert")).validate(alert)
    assert alert["rules"] == [{"rule_id": "big", "version": 3, "outcome": "block"}]
    assert alert["reasons"][0]["text"] == "rule big" and alert["risk_level"] == "high"
    assert alert["versions"]["rules"] == rules.digest != RuleSet().digest


def test_the_model_is_asked_about_alerts_only() -> None:
    asked: list[ScoringBatch] = []

    def explain(batch: ScoringBatch) -> list[dict[str, float]]:
        asked.append(batch)
        return [{"tempo": float(i + 1)} for i in range(len(batch))]

    work = work_of([payment(i, f"acct-{i}") for i in range(4)])
    outcome = settle(work, scores(0.1, 0.9, 0.2, 0.4), replace(POLICY, explain=explain))
    (batch,) = asked
    assert np.array_equal(batch.features, work.features[[1, 3]])
    found = [a["reasons"][0] for a in messages(outcome.entry, "alerts")]
    assert [(r["code"], r["contribution"]) for r in found] == [
        ("NEW_ACCOUNT", 1.0),
        ("NEW_ACCOUNT", 2.0),
    ]


def test_risk_versions_are_said_row_by_row() -> None:
    """Also behind a duplicate, which has no score; and an alert's id is of its own versions."""
    numbers = [0, 1, 0, 2, 3]
    work = work_of([payment(i, f"acct-{i}") for i in numbers])
    mixed = replace(work, risk_versions=["none", "aa", "zz", "none", "bb"])
    outcome = settle(mixed, np.full(len(numbers), 0.9), POLICY)
    said = [
        (each["transaction_id"], each["versions"]["risk"])
        for each in messages(outcome.entry, "scores")
    ]
    assert said == [("tx-0", "none"), ("tx-1", "aa"), ("tx-2", "none"), ("tx-3", "bb")]
    alerts = messages(outcome.entry, "alerts")
    assert [(each["transaction_id"], each["versions"]["risk"]) for each in alerts] == said
    assert [each["alert_id"] for each in alerts] == [
        alert_id(None, each["transaction_id"], each["versions"]) for each in alerts
    ]


def test_an_alert_id_is_of_transaction_tenant_and_versions() -> None:
    versions = {"model": "a", "risk": "b"}
    known = alert_id(None, "t", versions)
    assert known == alert_id(None, "t", dict(reversed(versions.items())))
    others = {
        alert_id("bank", "t", versions),
        alert_id(None, "u", versions),
        alert_id(None, "t", {**versions, "risk": "c"}),
    }
    assert len(others | {known}) == 4 and len(known) == 32


def test_digests_of_runs_leave_out_where_and_when() -> None:
    documents = [payment(i, f"acct-{i}") for i in range(3)]
    work = work_of(documents)
    moved = replace(work, columns=replace(work.columns, batch=batch_of(documents, shift=700)))
    values: Callable[[bytes | None, int], list[bytes]] = lambda entry, time: [  # noqa: E731
        message.value or b"" for message in render(entry or b"", time)
    ]
    one = values(settle(work, np.full(3, 0.5), POLICY).entry, 1)
    other = values(settle(moved, np.full(3, 0.5), POLICY).entry, 2)
    assert one != other and run_digest(one) == run_digest(reversed(other))
    changed = values(settle(work, np.full(3, 0.51), POLICY).entry, 1)
    assert run_digest(changed) != run_digest(one) != run_digest([*one, one[0]])
    assert message_digest(one[0]) != message_digest(one[1])


def test_scrub_takes_an_account_out() -> None:
    work = work_of([*MIXED[:5], payment(5, "acct-2")])
    outcome = settle(work, np.full(len(work.columns), 0.5), POLICY)
    assert outcome.entry is not None
    before = unpack(outcome.entry)
    traced = [replace(each, headers=(("by", b"branch 7"), *each.headers)) for each in before.dead]
    entry = pack(replace(before, dead=tuple(traced)))
    assert scrub(entry, "acct-9") == entry
    cleaned = scrub(entry, "acct-2")
    assert cleaned is not None and b"acct-2" not in cleaned and b"tx-5" not in cleaned
    after = unpack(cleaned)
    assert len(before) == 3 and len(after) == 1 and len(after.alerts) == 1
    rendered = render(cleaned, 5)
    # As many messages account for the batch as before, without the alerts that went.
    assert len(rendered) - len(after.alerts) == len(render(outcome.entry, 5)) - len(before.alerts)
    dead = [message for message in rendered if message.topic == "transactions.dlq"]
    told = {dict(m.headers)["offset"]: (dict(m.headers)["reason"], m.key, m.value) for m in dead}
    assert told == {
        b"51": (b"forgotten", None, b""),
        b"52": (b"bad_json", b"acct-1", b"{nothing"),
        b"54": (b"forgotten", None, b""),
        b"55": (b"forgotten", None, b""),
    }
    by = {dict(m.headers)["offset"] for m in dead if "by" in dict(m.headers)}
    assert by == {b"52"}, "what its senders wrote goes, too"
    assert scrub(cleaned, "acct-2") == cleaned


@pytest.mark.parametrize("n", [0, 1])
def test_small_batches(n: int) -> None:
    work = work_of([payment(i) for i in range(n)])
    outcome = settle(work, np.full(n, 0.1), POLICY)
    assert (outcome.entry is None) == (n == 0) and outcome.counts["in"] == n
