"""The pass over bytes against the exact verdict: it clears nothing bad; its values are right."""

from __future__ import annotations

import json
from typing import Any

import numpy as np
import orjson
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from numba import njit
from xxhash import xxh3_64_intdigest

from streams import words
from streams.kernels.fields import (
    CODED,
    ENUMERATIONS,
    LETTERS,
    SPANNED,
    TABLES,
    WORDS_BYTES,
    Taken,
    no_follows,
    taken,
)
from streams.kernels.message import clear
from streams.kernels.xxh3 import LONGEST, xxh3
from streams.privacy import has_look_alikes
from streams.schema import BAD_CHARACTERS, MAX_EVENT_TIME_MS
from streams.validate import examine, retold
from tests.messages import FULL, SMALL, message, odd_documents, valid_documents

KEY = b"acct-1"


def cleared(
    value: bytes, key: bytes = KEY, latest: int = MAX_EVENT_TIME_MS, behind: bytes = b'"1}'
) -> Taken:
    """One message through the kernel, with bytes around it that must not matter."""
    out = taken(1)
    data = np.frombuffer(b'"1' + value + behind.ljust(WORDS_BYTES, b'"'), np.uint8)
    bounds, keys = np.array([2, 2 + len(value)]), np.frombuffer(key, np.uint8)
    ends = np.array([0, len(key)])
    clear(data, bounds, keys, ends, np.array([latest]), TABLES, no_follows(), out)
    return out


def check(value: bytes, key: bytes = KEY, latest: int = MAX_EVENT_TIME_MS) -> bool:
    """Whether the message is cleared; if so it must be valid, and its values those of its JSON."""
    found = cleared(value, key, latest)
    if not found.cleared[0]:
        return False
    assert examine(value, key, (), latest) is None
    document = orjson.loads(value)
    wanted = taken(1)
    words.take(document, 0, wanted)
    for name in ("numbers", "codes", "hashes", "position"):
        np.testing.assert_array_equal(getattr(found, name), getattr(wanted, name), err_msg=name)
    padded = b'"1' + value
    texts = [padded[begin:end].decode() for begin, end in found.spans[0].tolist()]
    assert texts == [document.get(name) or "" for name in SPANNED]
    return True


def check_told(value: bytes, key: bytes = KEY, latest: int = MAX_EVENT_TIME_MS) -> bool:
    """Whether the message is cleared without its escapes; then it must be valid, and the same."""
    told = retold(value)
    if told is None or not check(told, key, latest):
        return False
    assert examine(value, key, (), latest) is None
    assert orjson.loads(told) == orjson.loads(value)
    return True


ESCAPED = json.dumps(FULL | {"merchant_id": "Café 東京", "ext": {"città": "Köln/é"}}).encode()
ESCAPED = ESCAPED.replace(b"/", b"\\/")


def test_escapes_that_need_not_be_are_no_obstacle() -> None:
    assert ESCAPED.count(b"\\u") > 5 and b"\\/" in ESCAPED
    assert check_told(ESCAPED)
    assert not check(ESCAPED)
    assert check_told(message(merchant_id="a:b{c}").replace(b"tx-1", b"tx\\u002d1"))
    assert check_told(message().replace(b'"amount"', b'"am\\u006funt"')), "of a name"


@pytest.mark.parametrize(
    "value",
    [
        message(),
        b'{"a":"\\u0041"',
        b'["\\u0041"]',
        b'"\\u0041"',
        b'{"merchant_id":"\\u0041","x":' + b"[" * 600 + b"]" * 600 + b"}",
        ESCAPED[:-1] + b',"amount":1250}',
        ESCAPED[:-1] + b',"am\\u006funt":1250}',
        message(ext=...)[:-1] + b',"ext":{"a":"1","\\u0061":"1"}}',
        message(merchant_id="x").replace(b'"x"', b'"\\u4111 1111 1111 1111"'),
        message(merchant_id="x").replace(b'"x"', b'"\\u0034111 1111 1111 1111"'),
        message(merchant_id="x").replace(b'"x"', b'"\\u0664111 1111 1111 1111"'),
        message(merchant_id="x").replace(b'"x"', b'"\\ud800"'),
        message(merchant_id="x").replace(b'"x"', b'"a\\u0000"'),
        message(merchant_id="x").replace(b'"x"', b'"a\\"b"'),
        message(merchant_id="x").replace(b'"x"', b'"a\\\\b"'),
        message(merchant_id="x").replace(b'"x"', b'"\\u202e"'),
        message(merchant_id="x" * 8_000).replace(b"x", b"\\u0078"),
        message(amount=1250.0).replace(b"tx-1", b"tx\\u002d1"),
    ],
)
def test_escapes_hide_nothing(value: bytes) -> None:
    assert not check_told(value)


def test_plain_messages_are_cleared() -> None:
    assert check(message())
    assert check(orjson.dumps(SMALL))
    assert check(json.dumps(FULL).encode()), "white space between the tokens"
    assert check(json.dumps(FULL, indent=2).encode())
    assert check(message(merchant_id="Łódź", ext={"city": "東京 Köln Афины"}))
    assert check(message(**dict.fromkeys(list(FULL)[len(SMALL) :]))), "nulls"


NOT_CLEARED = [
    message()[:-1],
    message() + b"x",
    message() + b"}",
    message()[:-1] + b",}",
    message()[:-1] + b',"amount":1250}',
    message()[:-1] + b',"novelty":1}',
    message(novelty=None),
    message(amount=None),
    message(amount="1250"),
    message(amount=1250.0),
    message(amount=-1),
    message(amount=10**15),
    message(amount=True),
    message().replace(b"1250", b"01250"),
    message().replace(b"1250", b"1e3"),
    message().replace(b"1250", b"1250."),
    message().replace(b"1250", b"+1250"),
    message().replace(b"1250", b"-"),
    message().replace(b"1250", b""),
    message().replace(b"1250", b"1" * 400),
    message().replace(b"1250", b"nule"),
    message().replace(b"1250", b"1250\x00"),
    message().replace(b"48.85837", b"48.8.5837"),
    message().replace(b"48.85837", b"90.00000000001"),
    message().replace(b"48.85837", b"-90.00000000001"),
    message().replace(b'"tx-1"', b'"t\\u0078-1"'),
    message().replace(b'"tx-1"', b'"tx\x1f1"'),
    message().replace(b'"tx-1"', b'"tx\x7f1"'),
    message().replace(b'"tx-1"', b'"\xc3"'),
    message().replace(b'"tx-1"', b'"\xe0\x83\x80"'),
    message().replace(b'"tx-1"', b'"\xe4\xb8"'),
    message().replace(b'"tx-1"', b'"tx-1'),
    message().replace(b'"tx-1"', b"tx-1"),
    message(transaction_id="\u0660"),
    message(transaction_id=""),
    message(transaction_id="x" * 65),
    message(device_id="x" * 129),
    message(card_id="4111111111111111"),
    message(currency="XYZ"),
    message(currency="eur"),
    message(currency="EURO"),
    message(merchant_country="ZZ"),
    message(mcc="54a1"),
    message(mcc="541"),
    message(channel="fax"),
    message(latitude=None),
    message(longitude=...),
    message(ext=[]),
    message(ext={"a": 1}),
    message(ext={"": "x"}),
    message(ext={f"k{i}": "x" for i in range(33)}),
    message(ext=...)[:-1] + b',"ext":{"a":"1","b":"2","a":"3"}}',
    message(ext=...)[:-1] + b',"ext":{"a":"1",}}',
    message(ext=...)[:-1] + b',"ext":{"a":"1"',
    message(ext=...)[:-1] + b',"ext":{"a"',
    b"",
    b"{}",
    b"[]",
    b"{",
    b" ",
]


@pytest.mark.parametrize("value", NOT_CLEARED)
def test_anything_else_is_not(value: bytes) -> None:
    assert not check(value)


def test_the_key_and_the_time_count() -> None:
    for key in (b"", b"acct-", b"acct-11", b"acct-2"):
        assert not check(message(), key)
    assert check(message(), KEY, FULL["event_time"])
    assert not check(message(), KEY, FULL["event_time"] - 1)


@settings(max_examples=300)
@given(odd_documents(), st.sampled_from([None, 1, 2]))
def test_odd_documents(document: dict[str, Any], indent: int | None) -> None:
    account = document.get("account_id")
    key = account.encode(errors="replace") if isinstance(account, str) else KEY
    check_told(json.dumps(document, indent=indent).encode(), key)
    check(json.dumps(document, ensure_ascii=False, indent=indent).encode(errors="replace"), key)


@settings(max_examples=100)
@given(valid_documents())
def test_valid_documents(document: dict[str, Any]) -> None:
    check(orjson.dumps(document), document["account_id"].encode())


@settings(max_examples=500)
@given(st.data(), st.sampled_from([message(), ESCAPED]))
def test_bytes_changed_anywhere(data: st.DataObject, base: bytes) -> None:
    value = bytearray(base)
    for _ in range(data.draw(st.integers(1, 3))):
        at = data.draw(st.integers(0, len(value) - 1))
        value[at] = data.draw(
            st.one_of(st.sampled_from(b'{}[]",:.-0189eE \\'), st.integers(0, 255))
        )
    changed = bytes(value[: data.draw(st.integers(len(value) - 2, len(value)))])
    check(changed)
    check_told(changed)


@settings(max_examples=300)
@given(st.decimals(-181, 181, places=None, allow_nan=False, allow_infinity=False))
def test_positions_are_rounded_as_the_parsers_numbers(degrees: Any) -> None:
    text = format(degrees, "f").encode()[:19].rstrip(b".")
    check(message().replace(b"2.294481", text))


def test_the_letters_hide_nothing() -> None:
    for first, last in LETTERS:
        text = "".join(map(chr, range(first, last + 1)))
        assert not BAD_CHARACTERS.search(text) and not has_look_alikes(text)
        ends = message(merchant_id=chr(first) + chr(last))
        assert check(ends)


def test_what_lies_behind_a_message_does_not_complete_it() -> None:
    whole = message()
    for cut in range(len(whole)):
        assert not cleared(whole[:cut], behind=whole[cut:] + whole).cleared[0], whole[:cut]


PANS = ("4111111111111111", "4222222222222", "6304000000000000000")
"""Test numbers; the shortest and the longest there are among them."""
LISTED = {*CODED} - {"entry_mode"}
FREE = [name for name, given in FULL.items() if isinstance(given, str) and name not in LISTED]


@pytest.mark.parametrize("pan", PANS)
@pytest.mark.parametrize(
    "changes",
    [
        *({name: f"{before}PAN"} for name in FREE for before in ("", "x ")),
        {"ext": {"a": "PAN"}},
        {"ext": {"PAN": "a"}},
        {"ext": {"a": "b", "amount": "PAN", "c": "d"}},
        {"ext": {"a": "b", "PAN": "c"}},
    ],
    ids=str,
)
def test_a_card_number_in_any_text_is_seen(changes: dict[str, Any], pan: str) -> None:
    value = message(**changes).replace(b"PAN", pan.encode())
    account = orjson.loads(value)["account_id"].encode()
    assert not check(value, account)
    other = value.replace(pan[:4].encode(), pan[:3].encode() + b"9")
    assert check(other, account.replace(pan[:4].encode(), pan[:3].encode() + b"9")), "fails Luhn"


@pytest.mark.parametrize("indent", [None, 1])
def test_numbers_that_could_be_card_numbers_are_none(indent: int | None) -> None:
    luhn = {"event_time": 1_700_000_000_001, "amount": 411_111_111_111_116, "latitude": 0.0}
    for k in range(10):
        document = FULL | luhn | {"event_time": luhn["event_time"] + k}
        value = json.dumps(document, indent=indent).encode()
        assert check(value.replace(b" 0.0", b" 4.11111111111116")), value


def together(values: list[bytes], keys: list[bytes]) -> tuple[Taken, Any]:
    """Messages through the kernel one after another; and where each begins, with one end."""
    out = taken(len(values))
    bounds, key_bounds = (np.cumsum([0, *map(len, each)]) for each in (values, keys))
    clear(
        np.frombuffer(b"".join([*values, bytes(WORDS_BYTES)]), np.uint8),
        bounds,
        np.frombuffer(b"".join(keys), np.uint8),
        key_bounds,
        np.full(len(values), MAX_EVENT_TIME_MS),
        TABLES,
        no_follows(),
        out,
    )
    return out, bounds


@settings(max_examples=100)
@given(st.lists(valid_documents(), min_size=2, max_size=6), st.randoms(use_true_random=False))
def test_neighbours_in_another_order_change_nothing(
    documents: list[dict[str, Any]], rng: Any
) -> None:
    values = []
    for document in documents:
        names = list(document)
        rng.shuffle(names)
        values.append(orjson.dumps({name: document[name] for name in names}))
    keys = [document["account_id"].encode() for document in documents]
    out, bounds = together(values, keys)
    for i, (value, key) in enumerate(zip(values, keys, strict=True)):
        alone = cleared(value, key)
        assert out.cleared[i] == alone.cleared[0]
        if alone.cleared[0]:
            for name in ("numbers", "codes", "hashes", "position"):
                np.testing.assert_array_equal(getattr(out, name)[i], getattr(alone, name)[0])
            given = alone.spans[0, :, 1] > 0
            np.testing.assert_array_equal(out.spans[i, :, 1] > 0, given)
            mine, others = out.spans[i, given] - bounds[i], alone.spans[0, given] - 2
            np.testing.assert_array_equal(mine, others)


def test_a_member_that_was_foreseen_is_looked_at_as_closely() -> None:
    whole = message(ext=...)
    changed = [
        whole[:at] + bytes([byte]) + whole[at + 1 :]
        for at in range(len(whole))
        for byte in {*b'":,} \\a1', whole[at] ^ 1} - {whole[at]}
    ]
    changed += [whole[:at] for at in range(len(whole))]
    values = [each for pair in zip(changed, [whole] * len(changed), strict=True) for each in pair]
    out, _ = together([whole, *values], [KEY] * (1 + len(values)))
    assert out.cleared[::2].all()
    for value, found in zip(changed, out.cleared[1::2].tolist(), strict=True):
        assert found == check(value), value


def test_names_and_listed_values_that_are_nearly_right() -> None:
    for field, table in ENUMERATIONS.items():
        for value in filter(None, table):
            assert check(message(**{field: value}))
            for other in (value[:-1], value + "s", value + "s" * WORDS_BYTES, value[:-1] + "\x7e"):
                assert check(message(**{field: other})) == (field == "entry_mode"), other
    for name in (field.encode() for field in FULL):
        near = {name[:k] + bytes([name[k] ^ 1]) + name[k + 1 :] for k in range(len(name))}
        for raw in {*near, name[:-1], name + b"s", name + b"s" * WORDS_BYTES}:
            assert not check(message().replace(b'"%s"' % name, b'"%s"' % raw)), raw


@njit
def _xxh3(data: Any, begin: int, end: int) -> Any:
    return xxh3(data, begin, end)


def test_xxh3_is_that_of_the_library() -> None:
    rng = np.random.default_rng(1)
    for length in range(1, LONGEST + 1):
        for _ in range(8):
            data = rng.integers(0, 256, length + 3, np.uint8)
            assert _xxh3(data, 2, 2 + length) == xxh3_64_intdigest(data[2 : 2 + length].tobytes())
