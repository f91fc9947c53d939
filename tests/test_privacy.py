"""The card number guard, masking in logs, tokens for accounts."""

from __future__ import annotations

import random
import sys
import unicodedata
import uuid
from typing import Any

import orjson
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from streams.privacy import (
    MASK,
    has_look_alikes,
    has_pan,
    has_pan_bytes,
    redact,
    strings_in,
)
from streams.schema import Reject
from tests.messages import FULL, decode_one, message

CARDS = [
    "4111111111111111",
    "5555555555554444",
    "378282246310005",
    "30569309025904",
    "6011000990139424",
    "3530111333300000",
    "2223003122003222",
    "6304000000000000",
    "4000000000000000006",
]
"""Test numbers of the schemes: Visa (16 and 19), Mastercard (5 and 2), American Express, Diners,
Discover, JCB, Maestro."""


def luhn(digits: str) -> bool:
    """The check by its definition, apart from the one in `cards.py`."""
    total = 0
    for place, digit in enumerate(reversed(digits)):
        value = int(digit) * (2 if place % 2 else 1)
        total += value - 9 if value > 9 else value
    return total % 10 == 0


@settings(deadline=None)
@given(st.text("0123456789", min_size=1, max_size=24))
def test_digits_alone_are_a_card_number_by_length_and_luhn(digits: str) -> None:
    assert has_pan(digits) == (13 <= len(digits) <= 19 and luhn(digits))


@pytest.mark.parametrize("card", CARDS)
def test_forms_of_a_card_number(card: str) -> None:
    groups = [card[i : i + 4] for i in range(0, len(card), 4)]
    for text in (
        card,
        " ".join(groups),
        "-".join(groups),
        " - ".join(groups),
        " ".join(card),
        f"pan={card}",
        f"card{card}",
        f"tx-{card}",
        f"{card}abc",
        f"a1-{card}-07",
        f"paid with {card}, thanks",
        f"2024-01-01 {card}",
        f"{card} 2024",
        f"{card}=25121010000",
        f"https://shop/pay/{card}?x=1",
        card.translate({48 + i: 0x0660 + i for i in range(10)}),
        card.translate({48 + i: 0xFF10 + i for i in range(10)}),
        "\u2011".join(groups),
        "\u00a0".join(groups),
        "\u200b".join(card),
    ):
        assert has_pan(text), text


@pytest.mark.parametrize(
    "text",
    [
        "",
        "4111111111111112",
        "41111111111111111111",  # 20 digits are no card number, and no part of them is looked at
        "411111111111",
        "4111.1111.1111.1111",
        "4111    1111    1111    1111",
        "tx-0000000001234566",
        "s4111111-000000000",
        "2024-01-01T12:30:45.123456",
    ],
)
def test_what_is_no_card_number(text: str) -> None:
    assert not has_pan(text)


def test_hashes_and_uuids_are_none_even_where_their_digits_pass() -> None:
    rng = random.Random(7)
    for _ in range(20_000):
        assert not has_pan(str(uuid.UUID(int=rng.getrandbits(128), version=4)))
        assert not has_pan(f"{rng.getrandbits(256) | 10 << 252:064x}")
    assert not has_pan("a" * 16 + "4111111111111111")
    assert not has_pan("4111111111111111".zfill(31) + "a")
    assert has_pan("a" * 15 + "4111111111111111")  # 31 long: no hash
    assert has_pan("g" * 16 + "4111111111111111")  # not hexadecimal


def test_short_hexadecimal_ids_seldom_pass() -> None:
    rng = random.Random(7)
    ids = [f"tx-{rng.getrandbits(64):016x}" for _ in range(200_000)]
    assert sum(map(has_pan, ids)) <= 20


@pytest.mark.parametrize("name", sorted(FULL))
@pytest.mark.parametrize("card", ["4111111111111111", "9999999999999995"])
def test_a_card_number_in_any_field_is_found(name: str, card: str) -> None:
    forms: list[Any] = [card, f" {card}", int(card), [card], {"a": card}, {card: "a"}]
    if name == "ext":
        forms += [{"a": int(card)}, {"a": {"b": card}}]
    for form in forms:
        columns = decode_one(message(**{name: form}))
        assert [each.reason for each in columns.rejects] == [Reject.PAN_FOUND], (name, form)
        assert card not in columns.rejects[0].detail


def test_a_card_number_is_found_whatever_else_is_wrong() -> None:
    card = b"4111111111111111"
    for value in (
        b'{"card":"' + card,
        b"\xff " + card,
        card,
        b'"' + card + b'"',
        message(novelty=card.decode()),
        message()[:-1] + b',"amount":' + card + b"}",
        message()[:-1] + b',"card_id":"%b"}' % card,
        message(card_id="@").replace(b"@", b"\\u0034" + card[1:]),
        message(card_id="@").replace(b"@", b"4111\\u00201111\\u20111111 1111"),
        b'{"a":' * 100 + card,
        card + b" " * 70_000,
        message(ext={"nested": '{"amount":378282246310005}'}),
    ):
        columns = decode_one(value)
        assert [each.reason for each in columns.rejects] == [Reject.PAN_FOUND], value[:80]


def test_a_card_number_as_key_or_in_a_header_of_a_refused_message() -> None:
    columns = decode_one(message(), b"4111111111111111")
    assert columns.rejects[0].reason == Reject.PAN_FOUND


def exempt_times() -> list[int]:
    return [t for t in range(1_699_999_990_000, 1_700_000_000_000, 7) if luhn(str(t))]


def test_times_amounts_and_positions_may_pass_by_chance() -> None:
    times = exempt_times()
    assert len(times) > 100
    for time in times[:100]:
        assert decode_one(message(event_time=time, observed_time=time)).rejects == []
    for time in times[:3]:
        pretty = orjson.dumps({**FULL, "event_time": time}, option=orjson.OPT_INDENT_2)
        assert decode_one(pretty).rejects == []
        spaced = message(event_time=time).replace(b'"event_time":', b'"event_time" :\t ')
        assert decode_one(spaced).rejects == []
    assert decode_one(message(amount=378_282_246_310_005)).rejects == []
    degrees = [f"48.{n:016d}" for n in range(10**15, 10**15 + 2_000) if luhn(f"{n:016d}")]
    assert degrees
    for text in degrees[:20]:
        value = message().replace(b"48.85837", text.encode())
        assert decode_one(value).rejects == []
    assert decode_one(message(longitude=-2.4453935385486684e-304)).rejects == []


def test_the_exemption_is_for_the_field_only() -> None:
    time = str(exempt_times()[0])
    for value in (
        message(event_time=time),
        message(card_id=time),
        message(ext={"event_time": time}),
        message(event_time=float(time)),
        message(ext={"a": f'"event_time":{time}'}),
        message(amount=4_111_111_111_111_111),
        message(my_event_time=int(time)),
    ):
        assert decode_one(value).rejects[0].reason == Reject.PAN_FOUND, value


def test_raw_bytes_know_exempt_keys() -> None:
    time = exempt_times()[0]
    assert not has_pan_bytes(b'{"label_time":%d}' % time)
    assert has_pan_bytes(b'{"label":%d}' % time)
    assert has_pan_bytes(b"%d" % time)


@settings(deadline=None)
@given(st.text(max_size=30), st.sampled_from(CARDS), st.text(max_size=30))
def test_masking_leaves_nothing(before: str, card: str, after: str) -> None:
    masked = redact(f"{before} {card}, {after}")
    assert not has_pan(masked)
    assert MASK in masked


@settings(deadline=None)
@given(st.text(max_size=60))
def test_masking_leaves_other_text_alone(text: str) -> None:
    if not has_pan(text):
        assert redact(text) == text


def test_masking_keeps_places_in_wide_text() -> None:
    assert redact("é ٤111111111111111 é 4111-1111-1111-1111!") == f"é {MASK} é {MASK}!"


def test_no_digit_of_any_script_is_left_out() -> None:
    for point in range(128, sys.maxunicode + 1):
        kind = unicodedata.category(chr(point))
        if kind in ("Nd", "Zs", "Pd", "Cf"):
            assert has_look_alikes(chr(point)), hex(point)


def test_strings_of_a_document() -> None:
    document = {"a": ["b", {"c": 1, "d": None}], "e": {"f": "g"}}
    assert sorted(strings_in(document)) == ["a", "b", "c", "d", "e", "f", "g"]
