"""Rules on a batch, against the same said one row at a time."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from streams.lists import NamedList
from streams.rules import (
    NUMBER_FIELDS,
    TEXT_FIELDS,
    Condition,
    Op,
    Rule,
    RuleInput,
    RuleSet,
    is_number,
)
from streams.schema import Decision

NAMES = {"count_1h": 0, "new_device": 1}
LISTS = {"watched": NamedList("watched", frozenset({"m1", "m2"}))}


def batch(
    docs: list[dict[str, Any]], features: list[list[float]], scores: list[float]
) -> RuleInput:
    return RuleInput(
        docs=docs,
        amount=np.array([doc["amount"] for doc in docs], np.int64),
        event_time=np.array([doc["event_time"] for doc in docs], np.int64),
        features=np.array(features, np.float32).reshape(len(docs), 2),
        names=NAMES,
        scores=np.array(scores, np.float64),
    )


def holds(c: Condition, doc: dict[str, Any], features: list[float], score: float) -> bool:
    """One condition on one row, as docs/reasons.md says it."""
    value: Any
    if c.field == "score":
        value = None if np.isnan(score) else score
    elif c.field.startswith("feature."):
        value = np.float32(features[NAMES[c.field.removeprefix("feature.")]])
        value = None if value == -1 else value
    elif c.field.startswith("ext."):
        value = (doc.get("ext") or {}).get(c.field.removeprefix("ext."))
    else:
        value = doc.get(c.field)
    if c.op is Op.EXISTS:
        return (value is not None) is c.value
    if value is None:
        return False
    wanted: Any = c.value
    if c.list_id is not None:
        if c.list_id not in LISTS:
            return False
        wanted = LISTS[c.list_id].values
    if c.field.startswith("feature."):
        wanted = (
            {np.float32(each) for each in wanted}
            if isinstance(wanted, frozenset)
            else np.float32(wanted)
        )
    return bool(
        {
            Op.EQ: lambda: value == wanted,
            Op.NE: lambda: value != wanted,
            Op.LT: lambda: value < wanted,
            Op.LE: lambda: value <= wanted,
            Op.GT: lambda: value > wanted,
            Op.GE: lambda: value >= wanted,
            Op.IN: lambda: value in wanted,
            Op.NOT_IN: lambda: value not in wanted,
        }[c.op]()
    )


numbers = st.sampled_from([-1.0, 0.0, 0.1, 1.0, 2.0, 3.0])
texts = st.sampled_from(["m1", "m2", "m3"])
number_fields = st.sampled_from(
    ["amount", "latitude", "score", "feature.count_1h", "feature.new_device"]
)
text_fields = st.sampled_from(["merchant_id", "currency", "ext.shop"])
number_conditions = st.one_of(
    st.builds(
        Condition,
        number_fields,
        st.sampled_from([Op.EQ, Op.NE, Op.LT, Op.LE, Op.GT, Op.GE]),
        numbers,
    ),
    st.builds(
        Condition, number_fields, st.sampled_from([Op.IN, Op.NOT_IN]), st.frozensets(numbers)
    ),
)
text_conditions = st.one_of(
    st.builds(Condition, text_fields, st.sampled_from([Op.EQ, Op.NE]), texts),
    st.builds(Condition, text_fields, st.sampled_from([Op.IN, Op.NOT_IN]), st.frozensets(texts)),
    st.builds(
        Condition,
        text_fields,
        st.sampled_from([Op.IN, Op.NOT_IN]),
        st.none(),
        st.sampled_from(["watched", "nowhere"]),
    ),
)
conditions = st.one_of(
    number_conditions,
    text_conditions,
    st.builds(Condition, number_fields | text_fields, st.just(Op.EXISTS), st.booleans()),
)
rows = st.lists(
    st.tuples(
        st.fixed_dictionaries(
            {"amount": st.integers(0, 3), "event_time": st.just(0), "currency": texts},
            optional={
                "merchant_id": texts | st.none(),
                "latitude": numbers,
                "ext": st.none() | st.dictionaries(st.just("shop"), texts),
            },
        ),
        st.tuples(numbers, numbers).map(list),
        st.sampled_from([0.0, 1.0, 2.0, float("nan")]),
    ),
    min_size=1,
    max_size=8,
)


@settings(max_examples=200, deadline=None)
@example(
    [({"amount": 0, "event_time": 0, "currency": "m1"}, [0.0, 0.0], 0.0)],
    [([Condition("amount", Op.IN, frozenset((0.1,)))], [])],
)
@given(
    rows,
    st.lists(
        st.tuples(st.lists(conditions, max_size=3), st.lists(conditions, max_size=3)).filter(any),
        min_size=1,
        max_size=3,
    ),
)
def test_a_batch_is_its_rows(
    given_rows: list[tuple[dict[str, Any], list[float], float]],
    wanted: list[tuple[list[Condition], list[Condition]]],
) -> None:
    rules = RuleSet(
        tuple(
            Rule(f"r{i}", 1, Decision.REVIEW, tuple(all_), tuple(any_))
            for i, (all_, any_) in enumerate(wanted)
        ),
        LISTS,
    )
    docs, features, scores = (list(column) for column in zip(*given_rows, strict=True))
    found = {m.rule.rule_id: m.rows.tolist() for m in rules.match(batch(docs, features, scores))}
    assert all(found.values()), "a rule that matches no row is no match"
    for rule in rules.rules:
        expected = [
            i
            for i, row in enumerate(given_rows)
            if all(holds(c, *row) for c in rule.all)
            and (not rule.any or any(holds(c, *row) for c in rule.any))
        ]
        assert found.get(rule.rule_id, []) == expected


@pytest.mark.parametrize(
    "name",
    [*NUMBER_FIELDS, *TEXT_FIELDS, "score", "feature.count_1h", "feature.new_device", "ext.a"],
)
def test_each_field_is_read_as_itself(name: str) -> None:
    """Where the two first rows give every field, each its own value, and the third what it must."""
    names = [*NUMBER_FIELDS, *TEXT_FIELDS]
    docs: list[dict[str, Any]] = [
        {
            each: row * 100 + place if is_number(each) else f"{each} {row}"
            for place, each in enumerate(names)
        }
        | {"ext": {"a": f"a {row}", "b": f"b {row}"}}
        for row in (1, 2)
    ]
    docs.append({"amount": 1, "event_time": 2})
    features = [[11.0, 12.0], [21.0, 22.0], [-1.0, -1.0]]
    scores = [0.25, 0.5, float("nan")]
    value: Any = docs[0].get(name)
    if name.startswith("ext."):
        value = "a 1"
    elif name not in names:
        value = {"score": 0.25, "feature.count_1h": 11, "feature.new_device": 12}[name]
    rest = [1, 2] if name in docs[2] else [1]
    for op, wanted, expected in (
        (Op.EQ, value, [0]),
        (Op.NE, value, rest),
        (Op.IN, frozenset((value,)), [0]),
        (Op.NOT_IN, frozenset((value,)), rest),
        (Op.EXISTS, True, [0, *rest]),
        (Op.EXISTS, False, [row for row in range(3) if row not in (0, *rest)]),
    ):
        rules = RuleSet((rule(all=(Condition(name, op, wanted),)),))
        found = [row for each in rules.match(batch(docs, features, scores)) for row in each.rows]
        assert found == expected, op


def rule(**changes: Any) -> Rule:
    given_fields: dict[str, Any] = {
        "rule_id": "r",
        "version": 1,
        "outcome": Decision.REVIEW,
        "all": (Condition("currency", Op.IN, frozenset(("EUR", "USD"))),),
        "any": (),
        **changes,
    }
    return Rule(**given_fields)


@pytest.mark.parametrize(
    "changes",
    [
        {"version": 2},
        {"outcome": Decision.BLOCK},
        {"all": (Condition("currency", Op.IN, frozenset(("EUR",))),)},
        {"all": (), "any": (Condition("currency", Op.IN, frozenset(("EUR", "USD"))),)},
        {"all": (Condition("currency", Op.NOT_IN, frozenset(("EUR", "USD"))),)},
        {"all": (Condition("mcc", Op.IN, frozenset(("EUR", "USD"))),)},
        {"all": (Condition("currency", Op.IN, None, "watched"),)},
        {"rule_id": "other"},
        {"description": "other words"},
        {"lowers": True},
    ],
)
def test_the_digest_changes_with_any_part(changes: dict[str, Any]) -> None:
    assert RuleSet((rule(),)).digest != RuleSet((rule(**changes),)).digest


def test_the_digest_covers_the_lists() -> None:
    assert RuleSet((), LISTS).digest != RuleSet().digest
    assert RuleSet((), dict(LISTS)).digest == RuleSet((), LISTS).digest


def test_the_digest_does_not_tell_how_the_rules_came() -> None:
    """Each worker reads the topic in an order of its own, and sets of equal values may differ in
    theirs: all must name the same version."""
    one, other = frozenset((0, 8)), frozenset((8, 0))
    assert one == other and list(one) != list(other)
    conditions = [(Condition("amount", Op.IN, values),) for values in (one, other)]
    assert len({RuleSet((rule(all=each),)).digest for each in conditions}) == 1
    shops = [f"m-{n}" for n in range(300)]
    here, there = frozenset(shops), frozenset(reversed(shops))
    assert list(here) != list(there)
    lists = {name: NamedList(name, here) for name in ("a", "b")}
    turned = {name: NamedList(name, there) for name in ("b", "a")}
    assert RuleSet((), lists).digest == RuleSet((), turned).digest


def test_kinds_of_fields() -> None:
    assert is_number("amount") and is_number("feature.x") and is_number("score")
    assert not is_number("mcc") and not is_number("ext.amount")


EXTREMES = (2**63, 2**64 - 1, -(2**63), 2**63 - 1, 1e300, -1e300, 1e19, 1.5, 0, -0.0, 5e-324, 2**53)


@pytest.mark.filterwarnings("error")
@pytest.mark.parametrize("op", [Op.EQ, Op.NE, Op.LT, Op.LE, Op.GT, Op.GE, Op.IN, Op.NOT_IN])
@pytest.mark.parametrize("name", ["amount", "observed_time", "score", "feature.count_1h"])
def test_no_number_that_a_rule_may_hold_stops_a_round(name: str, op: Op) -> None:
    """A rule is tried by every worker on every message: one that raised would end them all."""
    docs = [{"amount": 10**15 - 1, "event_time": 5}, {"amount": 0, "event_time": 5}]
    some = batch(docs, [[3.0, -1.0], [1e30, 1.0]], [0.5, np.nan])
    for value in EXTREMES:
        wanted = frozenset({value, 7}) if op in (Op.IN, Op.NOT_IN) else value
        rule = Rule("r", 1, Decision.BLOCK, (Condition(name, op, wanted),), ())
        mask = {row for match in RuleSet((rule,)).match(some) for row in match.rows.tolist()}
        if name == "amount" and op is Op.IN:
            assert mask == ({1} if value == 0 else set())
        if name == "amount" and op is Op.LT:
            assert mask == {row for row, doc in enumerate(docs) if doc["amount"] < value}
