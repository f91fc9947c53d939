"""Decoding: verdicts on single messages."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import orjson
import pytest
from hypothesis import given, settings

from streams.batch import Headers
from streams.columns import Columns
from streams.decode import decode
from streams.schema import MAX_EVENT_TIME_MS, MAX_MESSAGE_BYTES, MIN_EVENT_TIME_MS, UNREAD, Reject
from tests.messages import (
    BROKER_TIME,
    FULL,
    MAX_FUTURE_MS,
    SMALL,
    batch_of,
    decode_all,
    decode_one,
    message,
    odd_documents,
)

REFUSED = Path(__file__).parent.parent / "examples" / "messages" / "refused.jsonl"
CASES = [json.loads(line) for line in REFUSED.read_text("utf-8").splitlines()]
LATER = {Reject.ID_CONFLICT, Reject.FORGOTTEN, Reject.QUARANTINED}
"""Codes that only later steps give."""


def reason_of(columns: Columns) -> str | None:
    assert len(columns) + len(columns.rejects) + len(columns.tombstones) == 1
    return columns.rejects[0].reason.value if columns.rejects else None


# Verdicts


@pytest.mark.parametrize("case", CASES, ids=lambda case: case["reason"])
def test_each_code_has_an_example(case: dict[str, Any]) -> None:
    value = None if case["value"] is None else case["value"].encode()
    if "value_hex" in case:
        value = bytes.fromhex(case["value_hex"])
    if "repeat" in case:
        value = case["value"].replace("PADDING", "PADDING" * case["repeat"]).encode()
    key = None if case["key"] is None else case["key"].encode()
    columns = decode_one(value, key, time=case.get("broker_time", -1))
    assert [(each.reason, each.detail) for each in columns.rejects] == [
        (case["reason"], case["detail"])
    ]


def test_no_code_lacks_an_example() -> None:
    assert {case["reason"] for case in CASES} == set(Reject) - LATER


def test_full_and_small_messages_are_accepted() -> None:
    for document in (FULL, SMALL):
        columns = decode_one(orjson.dumps(document))
        assert columns.rejects == []
        assert list(columns.docs) == [document]


VERDICTS = [
    (b"", "empty"),
    (b"null", "not_an_object"),
    (b"7", "not_an_object"),
    (b"{}", "missing_field"),
    (b"\xef\xbb\xbf" + message(), "bad_json"),
    (message() + b"x", "bad_json"),
    (b" \n" + message() + b"\t", None),
    (message(amount=...)[:-1] + b',"amount":NaN}', "bad_json"),
    (message(amount=...)[:-1] + b',"amount":Infinity}', "bad_json"),
    (message(amount=...)[:-1] + b',"amount":1e999}', "bad_json"),
    (message(amount=...)[:-1] + b',"amount":1e308}', "wrong_type"),
    (message(amount=...)[:-1] + b',"amount":-0.0}', "wrong_type"),
    (message(amount=...)[:-1] + b',"amount":-0}', None),
    (message(amount=...)[:-1] + b',"amount":1.0}', "wrong_type"),
    (message(amount=...)[:-1] + b',"amount":1e2}', "wrong_type"),
    (message(amount=...)[:-1] + b',"amount":9223372036854775808}', "out_of_range"),
    (message(amount=...)[:-1] + b',"amount":92233720368547758080}', "wrong_type"),
    (message(amount=10**15), "out_of_range"),
    (message(amount=10**15 - 1), None),
    (message(amount=True), "wrong_type"),
    (message(amount=None), "missing_field"),
    (message(schema_version=True), "wrong_type"),
    (message(schema_version=1.0), "wrong_type"),
    (message(schema_version="1"), "wrong_type"),
    (message(schema_version=2, novelty=1), "schema_version"),
    (message(event_time=0), "event_time_range"),
    (message(event_time=-1), "event_time_range"),
    (message(event_time=253_402_300_799_000), "event_time_range"),
    (message(event_time=1.7e12), "wrong_type"),
    (message(event_time=MIN_EVENT_TIME_MS), None),
    (message(event_time=MIN_EVENT_TIME_MS - 1), "event_time_range"),
    (message(observed_time=MIN_EVENT_TIME_MS - 1), "out_of_range"),
    (message(observed_time=MAX_EVENT_TIME_MS), None),
    (message(transaction_id=""), "out_of_range"),
    (message(transaction_id="x" * 64), None),
    (message(transaction_id="é" * 64), None),
    (message(transaction_id="é" * 65), "too_long"),
    (message(device_id="x" * 128), None),
    (message(device_id="x" * 129), "too_long"),
    (message(transaction_id="a\x00b"), "bad_character"),
    (message(transaction_id="a\x7fb"), "bad_character"),
    (message(transaction_id="a\u2067b"), "bad_character"),
    (message(transaction_id="a\nb"), "bad_character"),
    (message(transaction_id="A\u030a"), None),  # combining marks are data, kept as they are
    (message().replace(b'"tx-1"', b'"a\\ud800"'), "bad_character"),
    (message().replace(b'"tx-1"', b'"a\x00b"'), "bad_character"),
    (message().replace(b'"tx-1"', b'"\xed\xa0\x80"'), "bad_utf8"),
    (message().replace(b'"tx-1"', b'"\xc0\xaf"'), "bad_utf8"),
    (message().replace(b'"tx-1"', b'"\\u0074x-1"'), None),
    (message().replace(b'"tx-1"', b'"a\\"b\\\\"'), None),
    (message().replace(b'"amount":', b'"\\u0061mount":'), None),
    (message().replace(b'"amount":', b'"amount" : '), None),
    (message()[:-1] + b',"\\u0061mount":1}', "duplicate_field"),
    (message()[:-1] + b',"amount" :1250}', "duplicate_field"),
    (message(ext=...)[:-1] + b',"ext":{"a":"1","a":"1"}}', "duplicate_field"),
    (message(ext={"a:b": '"c":{}[]'}), None),
    (message(ext={"a": ":", ":": ":x"}), None),
    (message(merchant_id=":m")[:-1] + b',"amount" :1250}', "duplicate_field"),
    (message(merchant_id="zażółć 東京 😀"), None),
    (message(merchant_id="a\u200db"), None),
    (message(merchant_id="a\u200eb"), "bad_character"),
    (message(merchant_id="a/b").replace(b"a/b", b"a\\/b"), None),
    (message(merchant_id="é" * 64), None),
    (message(ext={}), None),
    (message(ext=None), None),
    (message(ext=[]), "wrong_type"),
    (message(ext={"a": 1}), "wrong_type"),
    (message(ext={"a": None}), "wrong_type"),
    (message(ext={"a": {}}), "wrong_type"),
    (message(ext={"": "x"}), "out_of_range"),
    (message(ext={"x" * 65: "x"}), "too_long"),
    (message(ext={"x": "x" * 129}), "too_long"),
    (message(ext={"x": "\u202e"}), "bad_character"),
    (message(ext={f"k{i}": "x" for i in range(32)}), None),
    (message(ext={f"k{i}": "x" for i in range(33)}), "too_long"),
    (message(merchant_id=None), None),
    (message(merchant_id=5), "wrong_type"),
    (message(mcc=5411), "wrong_type"),
    (message(mcc="54١١"), "bad_mcc"),
    (message(mcc="0000"), None),
    (message(merchant_country="ZZ"), "bad_country"),
    (message(merchant_country="fr"), "bad_country"),
    (message(currency="XYZ"), "bad_currency"),
    (message(currency=978), "wrong_type"),
    (message(currency=["EUR"]), "wrong_type"),
    (message(event_type="chargeback"), "bad_value"),
    (message(direction="in"), "bad_value"),
    (message(auth_response="ok"), "bad_value"),
    (message(entry_mode="fax"), None),
    (message(latitude=90, longitude=-180), None),
    (message(latitude=90.000001, longitude=0), "bad_position"),
    (message(latitude=0, longitude=180.5), "bad_position"),
    (message(latitude=None, longitude=None), None),
    (message(latitude=None), "bad_position"),
    (message(longitude=...), "bad_position"),
    (message(latitude="48.8"), "wrong_type"),
    (message(latitude=False), "wrong_type"),
    (message(latitude=1e308), "bad_position"),
    (b"[" * 60_000, "too_deep"),
    (b'{"a":' * 2_000, "too_deep"),
    (b"x" * (MAX_MESSAGE_BYTES + 1), "too_large"),
    (b"x" * (10 * 2**20), "too_large"),
    ("\u0664".encode() + "\u0661".encode() * 15 + b"x" * MAX_MESSAGE_BYTES, "pan_found"),
    (UNREAD, "too_large"),
]


@pytest.mark.parametrize(("value", "reason"), VERDICTS)
def test_verdict(value: bytes, reason: str | None) -> None:
    assert reason_of(decode_one(value)) == reason


def test_verdicts_hold_in_one_batch_in_any_order() -> None:
    for cases in (VERDICTS, VERDICTS[::-1]):
        columns = decode_all([value for value, _ in cases], [b"acct-1"] * len(cases))
        found = dict.fromkeys(range(len(cases)))
        found.update({each.row: each.reason.value for each in columns.rejects})
        assert list(found.values()) == [reason for _, reason in cases]
        assert columns.row.tolist() == [i for i, (_, reason) in enumerate(cases) if reason is None]


def test_the_key_must_be_the_account() -> None:
    account = "acct-é"
    value = message(account_id=account)
    assert reason_of(decode_one(value, account.encode())) is None
    for key in (None, b"", b"acct-1", account.encode("latin-1")):
        assert reason_of(decode_one(value, key)) == "key_mismatch"


def test_future_is_measured_from_the_brokers_time() -> None:
    value = message(event_time=BROKER_TIME + MAX_FUTURE_MS)
    assert reason_of(decode_one(value, time=BROKER_TIME)) is None
    assert reason_of(decode_one(value, time=BROKER_TIME - 1)) == "event_time_future"
    assert reason_of(decode_one(message(event_time=MAX_EVENT_TIME_MS), time=-1)) is None


def test_a_null_value_with_a_key_is_a_tombstone() -> None:
    keys = [b"acct-1", None, b"", b"\xff", b"a\0", b"x" * 65, b"4111111111111111"]
    columns = decode_all([None] * len(keys), keys)
    assert columns.tombstones == [(0, "acct-1")]
    assert [each.reason.value for each in columns.rejects] == ["empty"] * 5 + ["pan_found"]


def test_headers_are_only_limited() -> None:
    few: Headers = [("trace", b"4111111111111111"), ("none", None)]  # type: ignore[list-item]
    many: Headers = [(f"h{i}", b"") for i in range(33)]
    long: Headers = [("h", b"x" * 9_000)]
    batch = batch_of([message()] * 3, [b"acct-1"] * 3, headers=[few, many, long])
    columns = decode(batch, MAX_FUTURE_MS)
    assert columns.row.tolist() == [0]
    assert [each.reason for each in columns.rejects] == [Reject.TOO_LARGE] * 2


def test_an_unknown_name_is_told_only_when_it_can_be_nobodys_data() -> None:
    assert decode_one(message(amout=1)).rejects[0].detail == "amout"
    for name in ("acct-1", "Jane", "x" * 40, "a1"):
        assert decode_one(message(**{name: 1})).rejects[0].detail == "member 29 of the object"
    value = message(merchant_id="jane", jane=1)
    assert decode_one(value).rejects[0].detail == "member 29 of the object"


@settings(max_examples=100, deadline=None)
@given(odd_documents())
def test_details_hold_no_value(document: dict[str, Any]) -> None:
    document["transaction_id"] = "zq7-secret-tx"
    document["merchant_id"] = ["zq7-secret-merchant"]
    document.setdefault("account_id", "zq7-secret-account")
    document["zq7-secret-name"] = "zq7"
    columns = decode_one(json.dumps(document).encode(), b"zq7-key")
    assert all("zq7" not in each.detail for each in columns.rejects)
    assert columns.rejects
