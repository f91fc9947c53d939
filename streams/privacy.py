"""What may not leave the service: card numbers, and account ids in logs.

In: texts, raw bytes, account ids. Out: is a card number inside; the text with card numbers
masked; a digest that stands for an account.
Does not know messages or topics. What a card number is, `cards.py` defines.
"""

from __future__ import annotations

import hashlib
import re
import unicodedata
from collections.abc import Iterable
from functools import cache
from typing import Any, Final

import numpy as np

from streams.cards import holds_pan, next_pan

MASK: Final = "[card number]"
_BEYOND: Final = re.compile("[^\x00-\x7e]+")


@cache
def _look_alikes() -> dict[int, str]:
    """Digits, spaces and dashes of all scripts to the ASCII ones that people read them as.

    The planes left out hold none; a test looks.
    """
    table: dict[int, str] = {}
    for point in (*range(128, 0x20000), *range(0xE0000, 0xE0080)):
        character = chr(point)
        kind = unicodedata.category(character)
        if kind == "Nd":
            table[point] = str(unicodedata.decimal(character))
        elif kind in ("Zs", "Pd"):
            table[point] = " "
        elif kind == "Cf":
            table[point] = "-"  # an invisible character parts digits no more than a dash does
    return table


@cache
def _look_alike() -> frozenset[str]:
    return frozenset(map(chr, _look_alikes()))


def has_look_alikes(text: str) -> bool:
    """Is a digit, space or dash of another script in this text, or an invisible character?"""
    return not text.isascii() and not _look_alike().isdisjoint("".join(_BEYOND.findall(text)))


def _searchable(text: str) -> bytes:
    """One byte a character, so that places in the bytes are places in the text."""
    if has_look_alikes(text):
        text = text.translate(_look_alikes())
    return text.encode("ascii", "replace")


def has_pan_bytes(data: bytes) -> bool:
    """Is a card number in these raw bytes? Exempt number fields are known by their JSON key."""
    return bool(holds_pan(np.frombuffer(data, np.uint8), 0, len(data)))


def has_pan(text: str) -> bool:
    """Is a card number in this text? Digits of every script count."""
    return has_pan_bytes(_searchable(text))


def redact(text: str) -> str:
    """The text with each card number replaced, for logs and error messages."""
    data = np.frombuffer(_searchable(text), np.uint8)
    parts: list[str] = []
    at = 0
    while True:
        start, stop = next_pan(data, 0, at, len(data), len(data))
        if start < 0:
            return "".join([*parts, text[at:]]) if parts else text
        parts += [text[at:start], MASK]
        at = stop


def strings_in(document: Any) -> Iterable[str]:
    """Every key and string of a parsed JSON value, at any depth."""
    waiting = [document]
    while waiting:
        value = waiting.pop()
        if type(value) is str:
            yield value
        elif type(value) is dict:
            yield from value
            waiting.extend(value.values())
        elif type(value) is list:
            waiting.extend(value)


def account_digest(account: str) -> bytes:
    """16 bytes that stand for an account where its id must not be kept, as in an erasure's marker.

    Not keyed: the same everywhere and for good. Who can list all account ids can find it out.
    """
    return hashlib.blake2b(account.encode(), digest_size=16).digest()
