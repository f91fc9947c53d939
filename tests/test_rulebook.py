"""Rules from a file and from the topic; every fault names rule and field."""

from __future__ import annotations

import json
from typing import Any

import numpy as np
import orjson
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from streams.errors import ConfigError
from streams.rulebook import RULE_FIELDS, RuleBook, parse_toml
from streams.rules import Condition, Op, RuleInput, RuleSet
from streams.schema import Decision

FEATURES = ("count_1h", "new_device")
FILE = """
[[rule]]
rule_id = "night"
version = 2
outcome = "block"
description = "large payment from a new device"
all = [ { field = "amount", op = "ge", value = 50000 },
        { field = "feature.new_device", op = "eq", value = 1 } ]
any = [ { field = "merchant_id", op = "in", list = "watched" },
        { field = "ext.shop", op = "in", value = ["a", "b"] },
        { field = "device_id", op = "exists", value = false } ]

[[rule]]
rule_id = "friends"
version = 1
outcome = "approve"
lowers = true
all = [ { field = "account_id", op = "eq", value = "acct-1" } ]

[[list]]
list_id = "watched"
values = ["m-1", "m-2"]
"""


def test_a_file() -> None:
    rules = parse_toml(FILE, FEATURES).rules()
    assert [rule.rule_id for rule in rules.rules] == ["friends", "night"]
    friends, night = rules.rules
    assert friends.lowers and friends.outcome is Decision.APPROVE
    assert night.version == 2 and night.all[1] == Condition("feature.new_device", Op.EQ, 1)
    assert night.any == (
        Condition("merchant_id", Op.IN, None, "watched"),
        Condition("ext.shop", Op.IN, frozenset("ab")),
        Condition("device_id", Op.EXISTS, False),
    )
    assert rules.lists["watched"].values == {"m-1", "m-2"}
    assert parse_toml("", FEATURES).rules() == RuleSet()


def test_exists_without_a_value_asks_whether_it_is_given() -> None:
    rules = sent(message(all=[{"field": "mcc", "op": "exists"}])).rules()
    assert rules.rules[0].all == (Condition("mcc", Op.EXISTS, True),)


def condition(**parts: Any) -> dict[str, Any]:
    return {"field": "amount", "op": "ge", "value": 1, **parts}


def message(**changes: Any) -> dict[str, Any]:
    document = {
        "rule_id": "r",
        "version": 1,
        "outcome": "review",
        "all": [condition()],
        **changes,
    }
    return {name: value for name, value in document.items() if value is not ...}


def sent(document: Any, key: bytes = b"r") -> RuleBook:
    return RuleBook(frozenset(FEATURES)).with_message(key, orjson.dumps(document))


@pytest.mark.parametrize(
    ("document", "said"),
    [
        ([], "rule r: the message is not a JSON object"),
        (message(rule_id=...), "rule: rule_id must be"),
        (message(rule_id="x" * 65), "rule: rule_id must be"),
        (message(rule_id=""), "rule: rule_id must be"),
        (message(rule_id="other"), "rule r: the message's key is not 'other'"),
        (message(colour=1), "rule r: unknown field 'colour'"),
        (message(version=0), "rule r: version"),
        (message(version=True), "rule r: version"),
        (message(version="1"), "rule r: version"),
        (message(version=2**31), "rule r: version"),
        (message(outcome="maybe"), "rule r: outcome must be one of approve, review, block"),
        (message(outcome=["review"]), "rule r: outcome"),
        (message(description="x" * 129), "rule r: description"),
        (message(description=5), "rule r: description"),
        (message(rule_id="list:r"), "rule list:r: rule_id must not start with 'list:'"),
        (message(description="card 4111 1111 1111 1111"), "rule r: a text holds digits that pass"),
        (message(description="line\nline"), "rule r: a text holds a control"),
        (message(rule_id="r\u202e"), "a text holds a control or bidirectional character"),
        (
            message(all=[condition(field="card_id", op="in", value=["4111111111111111"])]),
            "rule r: a text holds digits that pass the check of a card number",
        ),
        (message(lowers=True), "rule r: lowers"),
        (message(outcome="approve", lowers=1), "rule r: lowers"),
        (message(all=[]), "rule r: all, any: a rule needs a condition"),
        (message(all={}), "rule r: all must be a list"),
        (message(all=[condition()] * 33), "rule r: all must be a list of at most 32"),
        (message(all=["amount"]), "rule r: all: a condition is a table"),
        (message(all=[condition(field=["amount"])]), "rule r: all: a condition is a table"),
        (message(any=[condition(field="colour")]), "rule r: any: colour: no such field"),
        (message(all=[condition(field="feature.colour")]), "feature.colour: no such window"),
        (
            message(all=[{"field": "merchant_country", "op": "eq", "value": "germany"}]),
            "merchant_country: no transaction has the value 'germany'",
        ),
        (
            message(any=[{"field": "channel", "op": "not_in", "value": ["atm", "web"]}]),
            "channel: no transaction has the value 'web': ",
        ),
        (
            message(all=[{"field": "account_id", "op": "eq", "value": "a" * 65}]),
            "account_id: no transaction has such a value: longer than 64 characters",
        ),
        (message(all=[condition(op="like")]), "rule r: all: amount: op must be one of"),
        (message(all=[condition(extra=1)]), "rule r: all: amount: unknown part 'extra'"),
        (message(all=[condition(value="1")]), "rule r: all: amount: value must be a number"),
        (message(all=[condition(value=True)]), "amount: value must be a number"),
        (message(all=[condition(value=None)]), "amount: value must be a number"),
        (message(all=[{"field": "amount", "op": "ge"}]), "amount: value is missing"),
        (message(all=[condition(field="currency")]), "currency: ge needs a number"),
        (message(all=[condition(field="currency", op="eq")]), "currency: value must be text"),
        (message(all=[condition(op="in")]), "amount: in takes a list of 1 to 1000"),
        (message(all=[condition(op="in", value=[])]), "amount: in takes a list"),
        (message(all=[condition(op="in", value=[1] * 1_001)]), "amount: in takes a list"),
        (message(all=[condition(op="in", value=["a"])]), "amount: value must be a number"),
        (message(all=[condition(op="exists")]), "amount: exists takes true or false"),
        (message(all=[condition(op="in", list="w")]), "amount: list goes with in or not_in"),
        (
            message(all=[condition(field="mcc", op="in", list="w")]),
            "mcc: give value or list, not both",
        ),
        (message(all=[{"field": "mcc", "op": "eq", "list": "w"}]), "mcc: list goes with in or"),
        (message(all=[{"field": "mcc", "op": "in", "list": ["w"]}]), "mcc: list goes with in or"),
        (
            message(all=[condition(field="ext.a", op="eq", value="x" * 129)]),
            "ext.a: value must be text of at most 128 characters",
        ),
    ],
)
def test_faults_are_named(document: Any, said: str) -> None:
    with pytest.raises(ConfigError) as fault:
        sent(document)
    assert said in str(fault.value)


@pytest.mark.parametrize(
    ("key", "changes"),
    [
        (b"r", {"version": 2**31 - 1, "description": "x" * 128}),
        (b"x" * 64, {"rule_id": "x" * 64}),
        (b"r", {"all": [condition()] * 32, "any": [condition()] * 32}),
        (b"r", {"all": [condition(op="in", value=list(range(1_000)))]}),
        (b"r", {"all": [condition(field="ext.a", op="eq", value="x" * 128)]}),
        (b"r", {"outcome": "approve", "lowers": True}),
        (b"r", {"all": [], "any": [condition()]}),
        (b"r", {"all": [{"field": "mcc", "op": "in", "list": "not-there-yet"}]}),
    ],
)
def test_the_last_that_is_allowed_is_taken(key: bytes, changes: dict[str, Any]) -> None:
    assert len(sent(message(**changes), key).rules().rules) == 1


anything = st.recursive(
    st.none() | st.booleans() | st.integers(-(2**64), 2**64) | st.floats() | st.text(max_size=3),
    lambda inner: st.lists(inner, max_size=2) | st.dictionaries(st.text(max_size=2), inner),
    max_leaves=3,
)
PARTS = ("field", "op", "value", "list")
known_words = st.sampled_from(["amount", "mcc", "ext.a", "eq", "in", "exists", "list:r", "r", 1, 0])


@settings(max_examples=200)
@given(
    where=st.sampled_from([*sorted(RULE_FIELDS), "list_id", "values", *PARTS]),
    what=anything | known_words,
    base=st.sampled_from([condition(), condition(field="mcc", op="eq", value="5411")]),
    key=st.sampled_from([b"r", b"list:r"]),
)
def test_no_message_ends_who_reads_it(
    where: str, what: Any, base: dict[str, Any], key: bytes
) -> None:
    """It is refused by its name, or is a rule that can be tried: every worker reads it, and another
    error would end them all."""
    document: dict[str, Any] = message(all=[base])
    if key == b"list:r":
        document = {"list_id": "r", "values": ["a"]}
    if where in PARTS:
        document["all"] = [base | {where: what}]
    else:
        document[where] = what
    book = RuleBook(frozenset(FEATURES))
    try:
        rules = book.with_message(key, json.dumps(document).encode()).rules()
    except ConfigError:
        return
    assert len(rules.rules) + len(rules.lists) == 1
    rules.match(
        RuleInput(
            docs=[{"mcc": "5411"}], amount=np.array([5]), event_time=np.array([5]),
            features=np.zeros((1, 2), np.float32), names={"count_1h": 0, "new_device": 1},
            scores=np.array([np.nan]),
        )
    )  # fmt: skip


@pytest.mark.parametrize(
    ("member", "twice"),
    [(b'"outcome":"review"', b'"outcome":"approve"'), (b'"value":', b'"value":0,"value":')],
)
def test_a_member_given_twice_is_refused(member: bytes, twice: bytes) -> None:
    """The last one counted here; who wrote the rule may have read the first."""
    value = orjson.dumps(message())
    assert member in value
    book = RuleBook(frozenset(FEATURES))
    told = twice if b'"value"' in twice else member + b"," + twice
    with pytest.raises(ConfigError, match=r"rule r: names the member '(outcome|value)' twice"):
        book.with_message(b"r", value.replace(member, told))


@pytest.mark.parametrize("value", [b"{", b"[" * 1_010 + b"]" * 1_010, b"9" * 5_000])
def test_what_is_no_json_is_refused(value: bytes) -> None:
    with pytest.raises(ConfigError, match="rule"):
        RuleBook(frozenset(FEATURES)).with_message(b"r", value)


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("[[rule]", "not TOML"),
        ("[[rules]]", "unknown table 'rules'"),
        ("rule = 1", r"write [[rule]]"),
        ("rule = [1]", r"write [[rule]]"),
        (FILE + FILE.split("[[list]]")[0], "appears twice"),
        (FILE.split("[[list]]")[0], "rule night: merchant_id: no list 'watched'"),
        ('[[list]]\nlist_id = "l"\nvalues = [1]', "list l: values must be strings"),
        ('[[list]]\nlist_id = "l"\nvalues = "x"', "list l: values must be a list"),
        ('[[list]]\nlist_id = "l"\nx = 1', "list l: unknown field 'x'"),
        ("[[list]]\nvalues = []", "list_id must be a string"),
        ('[[list]]\nlist_id = "l"\nvalues = ["5555555555554444"]', "list l: a text holds digits"),
    ],
)
def test_faults_of_a_file_are_named(text: str, said: str) -> None:
    with pytest.raises(ConfigError) as fault:
        parse_toml(text, FEATURES)
    assert said in str(fault.value)


def test_messages_lie_over_the_file() -> None:
    book = parse_toml(FILE, FEATURES)
    file = book.rules()
    changed = book.with_message(b"night", orjson.dumps(message(rule_id="night", version=3)))
    assert {r.rule_id: r.version for r in changed.rules().rules} == {"friends": 1, "night": 3}
    assert changed.rules().digest != file.digest
    # Null takes the message away, not the file's rule: so a compacted topic gives the same.
    again = changed.with_message(b"night", None)
    assert again.rules().digest == file.digest
    assert book.with_message(b"nobody", None).rules().digest == file.digest
    listed = book.with_message(
        b"list:watched", orjson.dumps({"list_id": "watched", "values": ["m-9"]})
    )
    assert listed.rules().lists["watched"].values == {"m-9"}
    assert book.rules().digest == file.digest


def test_a_bad_message_changes_nothing() -> None:
    book = parse_toml(FILE, FEATURES)
    for key, value in ((b"x", b"{"), (b"\xff", b"{}"), (None, b"[]"), (b"list:a", b"{}")):
        with pytest.raises(ConfigError):
            book.with_message(key, value)


def test_there_is_a_limit_to_a_file() -> None:
    a_rule = FILE.split("[[rule]]")[2].split("[[list]]")[0]
    rules = ["[[rule]]" + a_rule.replace("friends", f"r{n}") for n in range(501)]
    lists = [f'[[list]]\nlist_id = "l{n}"\nvalues = []' for n in range(101)]
    full = parse_toml("\n".join(rules[:500] + lists[:100]), FEATURES).rules()
    assert (len(full.rules), len(full.lists)) == (500, 100)
    for many in (rules, lists):
        with pytest.raises(ConfigError, match="more than 500 rules or 100 lists"):
            parse_toml("\n".join(many), FEATURES)


def test_there_is_a_limit() -> None:
    book = RuleBook(frozenset(FEATURES))
    full = RuleBook(
        book.features,
        {f"r{i}": sent(message(rule_id=f"r{i}"), b"r%d" % i).topic[f"r{i}"] for i in range(500)},
    )
    assert len(full.rules().rules) == 500
    with pytest.raises(ConfigError, match="more than 500 rules"):
        full.with_message(b"one-more", orjson.dumps(message(rule_id="one-more")))


@pytest.mark.parametrize("number", ["1" + "0" * 400, "-1" + "0" * 400, "inf", "nan", "1e301"])
def test_a_number_that_float64_cannot_hold(number: str) -> None:
    text = f"""
        [[rule]]
        rule_id = "r"
        version = 1
        outcome = "review"
        all = [ {{ field = "amount", op = "ge", value = {number} }} ]
    """
    with pytest.raises(ConfigError, match="rule r: all: amount: value must be a number"):
        parse_toml(text, ())


@pytest.mark.parametrize("number", [2**63, -(2**63) - 1, 2**64, 10**20, -(10**20), 10**300])
def test_a_whole_number_beyond_64_bits_is_compared_as_a_float(number: int) -> None:
    text = f"""
        [[rule]]
        rule_id = "r"
        version = 1
        outcome = "review"
        all = [ {{ field = "amount", op = "le", value = {number} }},
                {{ field = "amount", op = "not_in", value = [{number}, 7] }} ]
    """
    rules = parse_toml(text, ()).rules()
    first, second = rules.rules[0].all
    assert first.value == float(number) and second.value == {float(number), 7}
    assert type(first.value) is float
    there = RuleInput(
        docs=[{}], amount=np.array([2**62]), event_time=np.zeros(1, np.int64),
        features=np.zeros((1, 0), np.float32), names={}, scores=np.zeros(1),
    )  # fmt: skip
    assert len(rules.match(there)) == (number > 0)


def test_a_file_that_nests_without_end() -> None:
    with pytest.raises(ConfigError, match="not TOML"):
        parse_toml("x = " + "[" * 5_000, ())
