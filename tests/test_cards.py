"""The search for card numbers against its rules, read slowly with regular expressions."""

from __future__ import annotations

import re
from typing import Final

import numpy as np
from hypothesis import given, settings
from hypothesis import strategies as st

from streams.cards import MAX_AMOUNT_DIGITS, holds_pan, next_pan
from streams.schema import MAX_EVENT_TIME_MS, MIN_EVENT_TIME_MS
from tests.test_privacy import CARDS, luhn

GAP: Final = r"[ \t\r\n]*"
TIMES: Final = re.compile(rf'"(event|observed|label)_time"{GAP}:{GAP}$')
AMOUNT: Final = re.compile(rf'"amount"{GAP}:{GAP}$')
FRACTION: Final = re.compile(rf'"(latitude|longitude)"{GAP}:{GAP}-?\d{{0,4}}\.$')
UUID: Final = re.compile(r"[0-9a-f]{8}(-[0-9a-f]{4}){3}-[0-9a-f]{12}", re.I)
HASH: Final = re.compile(r"[0-9a-f]{32,}", re.I)
SCHEME: Final = re.compile(r"3[0689]\d{12}|3[47]\d{13}|[2-6]\d{15,18}")


def around(text: str, start: int, stop: int, kind: str) -> str:
    """The span with all characters of a kind on both its sides."""
    before = re.search(rf"[{kind}]*$", text[:start])
    after = re.match(rf"[{kind}]*", text[stop:])
    assert before and after
    return before[0] + text[start:stop] + after[0]


def exempt(text: str, start: int, stop: int) -> bool:
    """Rule 3a: the number of a field that holds such numbers by nature."""
    before, number = text[:start], text[start:stop]
    if FRACTION.search(before):
        return True
    if re.match(r"[.0-9A-Za-z]", text[stop:]) or len(number) > MAX_AMOUNT_DIGITS:
        return False
    timely = MIN_EVENT_TIME_MS <= int(number) <= MAX_EVENT_TIME_MS
    return bool(AMOUNT.search(before)) or (timely and bool(TIMES.search(before)))


def of_a_hash(text: str, start: int, stop: int) -> bool:
    """Rule 3b."""
    wide, narrow = (around(text, start, stop, kind) for kind in ("0-9A-Za-z-", "0-9A-Za-z"))
    return any(
        form.fullmatch(word) and re.search("[a-fA-F]", word)
        for form, word in ((UUID, wide), (HASH, narrow))
    )


def counts(text: str, groups: list[tuple[int, int]]) -> bool:
    """Are these neighbouring groups of digits a card number?"""
    start, stop = groups[0][0], groups[-1][1]
    digits = "".join(text[a:b] for a, b in groups)
    if not 13 <= len(digits) <= 19 or not luhn(digits):
        return False
    if len(groups) == 1 and exempt(text, start, stop):
        return False
    alone = not re.search(r"[0-9A-Za-z._-]$", text[:start])
    alone = alone and not re.match(r"[0-9A-Za-z_-]", text[stop:])
    printed = len(groups) == 1 or max(b - a for a, b in groups) <= 6
    if not alone and not (printed and SCHEME.fullmatch(digits)):
        return False
    return not of_a_hash(text, start, stop)


def slowly(text: str) -> tuple[int, int]:
    """Where the first card number stands, (-1, -1) for none."""
    for sequence in re.finditer(r"\d(?:[ -]{0,3}\d)*", text):
        groups = [
            (sequence.start() + one.start(), sequence.start() + one.end())
            for one in re.finditer(r"\d+", sequence[0])
        ]
        for first in range(len(groups)):
            for last in range(first, len(groups)):
                if counts(text, groups[first : last + 1]):
                    return groups[first][0], groups[last][1]
    return -1, -1


@st.composite
def numbers(draw: st.DrawFn) -> str:
    """Digits that pass the check at the end, mostly, in one group or in several."""
    known = draw(st.sampled_from([*CARDS, "", "", "", ""]))
    head = known[:-1] or draw(st.text("0123456789", min_size=11, max_size=19))
    last = [each for each in "0123456789" if luhn(head + each)]
    whole = head + (last[0] if draw(st.integers(0, 4)) else draw(st.sampled_from("0123456789")))
    size = draw(st.sampled_from([4, 4, 5, 6, 7, 8, 99, 99, 99, 99]))
    gap = draw(st.sampled_from([" ", "-", " - ", "   ", "    ", "."]))
    return gap.join(whole[i : i + size] for i in range(0, len(whole), size))


BESIDE: Final = st.one_of(
    st.sampled_from(
        [
            "", "", " ", "tx-", "txn-", "_", ".", "-", '"', "x", "g", "é", "7 ", "12-", ",",
            '"amount":', '"amount" : ', '"my_amount":', '"event_time":', '"label_time":\n',
            '"observed_time": ', '"latitude":48.', '"longitude": -112.', '"latitude":-12345.',
            "e5", ".5", "x" * 12, "x" * 26, "a" * 15, "a" * 16, "f" * 17, "A" * 20,
            "3f2a51c6-0a1b-4c2d-8e3f-", "0123456b-",
        ]
    ),
    st.text("abcdefg0123456789 -._x", max_size=20),
)  # fmt: skip


@settings(deadline=None, max_examples=1_500)
@given(st.lists(st.one_of(BESIDE, numbers()), max_size=6), st.integers(0, 3), st.integers(0, 3))
def test_the_search_finds_what_its_rules_say(parts: list[str], before: int, after: int) -> None:
    """In a part of a longer text, whose neighbours are not looked at."""
    text = "".join(parts).replace("é", "?")
    data = np.frombuffer(("4" * before + text + "4" * after).encode(), np.uint8)
    low, high = before, before + len(text)
    start, stop = slowly(text)
    place = (start + low, stop + low) if start >= 0 else (-1, -1)
    assert next_pan(data, low, low, high, high) == place
    assert holds_pan(data, low, high) == (start >= 0)


def test_strides_pass_over_no_place() -> None:
    """The shortest number, wherever it stands, and whatever other digits stand before it."""
    card = "4222222222222"
    assert luhn(card)
    for pad in range(60):
        for text in (
            f"{'x' * pad} {card}",
            f"{'x' * pad} {card}.",
            f"{'1' * 14}{'x' * pad},{card},",
            f"{'x' * 12}{'1 ' * (pad // 4)}{'x' * (pad % 14)}/{card}",
        ):
            assert holds_pan(np.frombuffer(text.encode(), np.uint8), 0, len(text)), text


def test_an_id_of_three_letters_and_a_hash_is_as_free_as_one_of_two() -> None:
    """With its dash it is as long as a UUID, and was taken for a broken one."""
    digest = "abcdefabcdefabcd4111111111111111"
    for prefix in ("", "tx-", "txn-", "card-", "a-b-"):
        data = np.frombuffer(f"{prefix}{digest}".encode(), np.uint8)
        assert not holds_pan(data, 0, len(data)), prefix
