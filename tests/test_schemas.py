"""The published JSON Schemas: equal to the code, valid, and of one mind with the decoder."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import orjson
import pytest
from hypothesis import given, settings
from jsonschema import Draft202012Validator
from jsonschema.validators import extend

from model import inputs
from streams import pipeline
from streams.alerts import render
from streams.codes import COUNTRIES, CURRENCIES
from streams.decide import Thresholds
from streams.errors import ConfigError
from streams.labels import LABEL_CHECKS, decode_labels
from streams.privacy import has_pan, strings_in
from streams.rulebook import RuleBook
from streams.schema import (
    LABEL_REQUIRED,
    LABEL_VALUES,
    MAX_AMOUNT_MINOR,
    MAX_EVENT_TIME_MS,
    MAX_EXT_FIELDS,
    MAX_ID_LENGTH,
    MAX_TEXT_LENGTH,
    MIN_EVENT_TIME_MS,
    OPTIONAL_FIELDS,
    REQUIRED_FIELDS,
    Decision,
    Mode,
    Reject,
)
from streams.state import Arena
from tests.messages import (
    BROKER_TIME,
    FULL,
    MAX_FUTURE_MS,
    batch_of,
    decode_one,
    message,
    odd_documents,
)

ROOT = Path(__file__).parent.parent
KINDS = ("transaction", "score", "alert", "label", "dead_letter_headers", "rule")


def published(kind: str) -> dict[str, Any]:
    schema: dict[str, Any] = json.loads(
        (ROOT / "streams" / "schemas" / f"{kind}.json").read_text("utf-8")
    )
    return schema


def example(kind: str) -> Any:
    return json.loads((ROOT / "examples" / "messages" / f"{kind}.json").read_text("utf-8"))


# In JSON Schema 1.0 is an integer; in schema v1 an integer has no fraction.
Strict = extend(
    Draft202012Validator,
    type_checker=Draft202012Validator.TYPE_CHECKER.redefine(
        "integer", lambda _, value: type(value) is int
    ),
)


@pytest.mark.parametrize("kind", KINDS)
def test_each_schema_is_a_schema(kind: str) -> None:
    Draft202012Validator.check_schema(published(kind))


@pytest.mark.parametrize("kind", [*KINDS, "transfer", "list"])
def test_each_example_is_valid(kind: str) -> None:
    Strict(published({"transfer": "transaction", "list": "rule"}.get(kind, kind))).validate(
        example(kind)
    )


def test_examples_are_what_the_code_accepts() -> None:
    for kind in ("transaction", "transfer"):
        document = example(kind)
        columns = decode_one(orjson.dumps(document), document["account_id"].encode())
        assert columns.rejects == []
    assert decode_labels([orjson.dumps(example("label"))]).bad == 0
    book = RuleBook(frozenset({"new_device"}))
    book = book.with_message(b"list:watched", orjson.dumps(example("list")))
    book = book.with_message(b"new-device-large", orjson.dumps(example("rule")))
    assert [rule.rule_id for rule in book.rules().rules] == ["new-device-large"]
    codes = (ROOT / "docs/reasons.md").read_text("utf-8")
    assert all(f"| `{reason['code']}` |" in codes for reason in example("alert")["reasons"])


# Equal to the code


def test_fields_and_limits_of_a_transaction() -> None:
    schema = published("transaction")
    fields = schema["properties"]
    assert tuple(schema["required"]) == REQUIRED_FIELDS
    assert tuple(fields) == REQUIRED_FIELDS + OPTIONAL_FIELDS
    nullable = {name for name, rule in fields.items() if Strict(rule).is_valid(None)}
    assert nullable == set(OPTIONAL_FIELDS)
    for name in ("event_time", "observed_time"):
        assert (fields[name]["minimum"], fields[name]["maximum"]) == (
            MIN_EVENT_TIME_MS,
            MAX_EVENT_TIME_MS,
        )
    assert (fields["amount"]["minimum"], fields["amount"]["maximum"]) == (0, MAX_AMOUNT_MINOR)
    long = {"device_id", "ip_hash", "email_hash"}
    for name, rule in fields.items():
        if "maxLength" in rule and name != "mcc":
            assert rule["maxLength"] == (MAX_TEXT_LENGTH if name in long else MAX_ID_LENGTH)
    ext = fields["ext"]
    assert ext["maxProperties"] == MAX_EXT_FIELDS
    assert ext["propertyNames"]["maxLength"] == MAX_ID_LENGTH
    assert ext["additionalProperties"]["maxLength"] == MAX_TEXT_LENGTH


def test_enumerations_of_a_transaction() -> None:
    fields = published("transaction")["properties"]
    assert fields["currency"]["enum"] == sorted(CURRENCIES)
    for name in ("merchant_country", "billing_country", "ip_country"):
        assert fields[name]["enum"] == [*sorted(COUNTRIES), None]
    for name, values in {
        "event_type": inputs.EVENT_TYPES,
        "direction": inputs.DIRECTIONS,
        "channel": inputs.CHANNELS,
        "auth_response": inputs.AUTH_RESPONSES,
    }.items():
        assert fields[name]["enum"] == [*values, None]


def test_enumerations_of_the_others() -> None:
    score, alert = published("score")["properties"], published("alert")["properties"]
    assert score["decision"]["enum"] == list(Decision)
    assert score["mode"]["enum"] == list(Mode)
    assert alert["decision"]["enum"] == [Decision.REVIEW, Decision.BLOCK]
    assert published("dead_letter_headers")["properties"]["reason"]["enum"] == list(Reject)
    label = published("label")
    assert label["properties"]["label"]["enum"] == list(LABEL_VALUES)
    assert list(label["properties"]) == list(LABEL_CHECKS)
    assert set(label["required"]) == set(LABEL_REQUIRED)


def test_the_list_of_codes_is_of_this_size() -> None:
    assert len(COUNTRIES) == 250
    assert len(CURRENCIES) == 178 + 13


# Of one mind with the code


def unspeakable(document: dict[str, Any]) -> bool:
    """Is there a fault that a JSON Schema cannot say?"""
    time = document.get("event_time")
    return type(time) is int and time > BROKER_TIME + MAX_FUTURE_MS


@settings(max_examples=200, deadline=None)
@given(odd_documents())
def test_decoder_and_schema_agree(document: dict[str, Any]) -> None:
    value = json.dumps(document).encode()
    account = document.get("account_id")
    key = account.encode("utf-8", "replace") if isinstance(account, str) else None
    columns = decode_one(value, key)
    if columns.rejects and columns.rejects[0].reason in (Reject.PAN_FOUND, Reject.TOO_DEEP):
        return  # has_pan is tried in test_privacy; deep values are of a wrong type anyway
    if unspeakable(document):
        return
    valid = Strict(published("transaction")).is_valid(json.loads(value))
    assert valid == (not columns.rejects), columns.rejects


LABEL = example("label")


@pytest.mark.parametrize(
    "change",
    [
        {},
        {"source": None, "fraud_type": None, "schema_version": None},
        {"label": "disputed"},
        {"label": "maybe"},
        {"label": None},
        {"label_time": 5},
        {"label_time": 1.5},
        {"label_time": True},
        {"label_id": ""},
        {"label_id": 7},
        {"account_id": "x" * 65},
        {"transaction_id": "a\0"},
        {"fraud_type": "\u202e"},
        {"source": "x" * 129},
        {"schema_version": 2},
        {"colour": "red"},
    ],
)
def test_labels_and_schema_agree(change: dict[str, Any]) -> None:
    document = {**LABEL, **change}
    valid = Strict(published("label")).is_valid(document)
    assert decode_labels([orjson.dumps(document)]).bad == (not valid)


RULE, LIST = example("rule"), example("list")


@pytest.mark.parametrize(
    "document",
    [
        RULE,
        LIST,
        {**RULE, "any": []},
        {**RULE, "all": [], "any": []},
        {**RULE, "outcome": "approve", "lowers": True},
        {**RULE, "lowers": True},
        {**RULE, "version": 0},
        {**RULE, "outcome": "ignore"},
        {**RULE, "rule_id": "list:x"},
        {**RULE, "rule_id": ""},
        {**RULE, "rule_id": "bell\x07"},
        {**RULE, "description": "two\nlines"},
        {**RULE, "all": [{"field": "mcc", "op": "eq", "value": "\u202e1145"}]},
        {**LIST, "values": ["\ufeffm-1"]},
        {**RULE, "colour": "red"},
        {**RULE, "all": [{"field": "colour", "op": "eq", "value": 1}]},
        {**RULE, "all": [{"field": "amount", "op": "near", "value": 1}]},
        {**RULE, "all": [{"field": "mcc", "op": "in", "value": []}]},
        {**RULE, "all": [{"field": "mcc", "op": "in", "value": ["1"], "list": "watched"}]},
        {**RULE, "all": [{"field": "ext.shop", "op": "exists"}]},
        {**LIST, "values": [""]},
        {**LIST, "values": "m-1"},
        {"list_id": "watched"},
    ],
)
def test_rules_and_schema_agree(document: dict[str, Any]) -> None:
    key = document.get("rule_id", f"list:{document.get('list_id')}").encode()
    book = RuleBook(frozenset({"new_device"})).with_message(b"list:watched", orjson.dumps(LIST))
    try:
        book.with_message(key, orjson.dumps(document))
        accepted = True
    except ConfigError:
        accepted = False
    assert Strict(published("rule")).is_valid(document) == accepted


def test_refused_examples_are_refused_by_the_schema_where_it_can_say() -> None:
    silent = {"duplicate_field", "event_time_future", "key_mismatch", "pan_found"}
    silent |= {"empty", "bad_utf8", "bad_json"}  # not JSON at all
    lines = (ROOT / "examples/messages/refused.jsonl").read_text("utf-8").splitlines()
    for case in map(json.loads, lines):
        if case["reason"] in silent:
            continue
        text = case["value"].replace("PADDING", "PADDING" * case.get("repeat", 1))
        assert not Strict(published("transaction")).is_valid(json.loads(text)), case["reason"]


def test_what_the_service_writes_is_as_published() -> None:
    values = [message(transaction_id=f't{i}"é', amount=10**i) for i in range(12)]
    batch = batch_of([*values, b"{", None, message()], [b"acct-1"] * 13 + [b"acct-2", b"acct-1"])
    arena = Arena(batch.partition, 2**24)
    columns = pipeline.read(batch, {}, MAX_FUTURE_MS)
    arena.fill([(account, None) for account in arena.missing(columns.account_id)])
    work = pipeline.advance(columns, arena, None)
    versions = {"model": "stub", "features": "f", "code": "0"}
    policy = pipeline.Policy(Thresholds(0.3, 0.8), versions)
    scores = np.linspace(0.0, 1.0, len(columns))
    entry = pipeline.settle(work, scores, policy).entry
    assert entry is not None
    seen = set()
    for out in render(entry, BROKER_TIME):
        if out.topic == "transactions.dlq":
            headers = {name: content.decode() for name, content in out.headers}
            Strict(published("dead_letter_headers")).validate(headers)
        else:
            kind = {"scores": "score", "alerts": "alert"}[out.topic]
            assert out.value is not None
            Strict(published(kind)).validate(orjson.loads(out.value))
            assert out.key == FULL["account_id"].encode()
        seen.add(out.topic)
    assert seen == {"scores", "alerts", "transactions.dlq"}


def test_examples_hold_no_card_number() -> None:
    for kind in (*KINDS, "transfer", "list"):
        assert not any(map(has_pan, strings_in(example(kind))))
