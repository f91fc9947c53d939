"""The exact verdict on one transaction message: accepted, or one reason and one detail.

In: value, key, headers and broker time of one message. Out: None, or (reason, detail).
Does not know batches or columns; `decode` clears plain messages by itself and asks here only about
the others. The order of the tests below is the order of precedence: a message
with several faults gets the first one's code. A detail names fields and limits, never a value.
"""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Mapping
from typing import Any, Final

import numpy as np
import orjson

from streams.batch import Headers
from streams.cards import MAX_PAN
from streams.codes import (
    AUTH_RESPONSE_CODES,
    CHANNEL_CODES,
    COUNTRIES,
    CURRENCIES,
    DIRECTION_CODES,
    EVENT_TYPE_CODES,
    MCC_CODES,
)
from streams.privacy import has_look_alikes, has_pan, has_pan_bytes, strings_in
from streams.scan import outline
from streams.schema import (
    BAD_CHARACTERS,
    MAX_AMOUNT_MINOR,
    MAX_EVENT_TIME_MS,
    MAX_EXT_FIELDS,
    MAX_HEADER_BYTES,
    MAX_HEADERS,
    MAX_ID_LENGTH,
    MAX_MESSAGE_BYTES,
    MAX_NESTING,
    MAX_TEXT_LENGTH,
    MIN_EVENT_TIME_MS,
    OPTIONAL_FIELDS,
    REQUIRED_FIELDS,
    SCHEMA_VERSION,
    UNREAD,
    Reject,
)

Verdict = tuple[Reject, str] | None
Check = Callable[[Any], Verdict]

PARTING: Final = "|"
"""Between strings that are searched as one text: part of no number, token or key."""

PAN_FOUND: Final = (Reject.PAN_FOUND, "digits that pass the check of a card number")
_PRINTABLE_NAME: Final = re.compile(r"[a-z][a-z_]{0,31}")


def text(limit: int) -> Check:
    """A string of 1 to `limit` characters, none of them bad."""

    def check(value: Any) -> Verdict:
        if type(value) is not str:
            return Reject.WRONG_TYPE, "not a string"
        if not value:
            return Reject.OUT_OF_RANGE, "an empty string"
        if len(value) > limit:
            return Reject.TOO_LONG, f"longer than {limit} characters"
        if BAD_CHARACTERS.search(value):
            return Reject.BAD_CHARACTER, "a control or bidirectional character"
        return None

    return check


def member(members: frozenset[str], reason: Reject, what: str) -> Check:
    """One of the members."""

    def check(value: Any) -> Verdict:
        if type(value) is not str:
            return Reject.WRONG_TYPE, "not a string"
        return None if value in members else (reason, what)

    return check


def integer(low: int, high: int, reason: Reject = Reject.OUT_OF_RANGE) -> Check:
    """A JSON integer (1.0 is none, true is none) from `low` to `high`, both included."""

    def check(value: Any) -> Verdict:
        if type(value) is not int:
            return Reject.WRONG_TYPE, "not an integer (no fraction, no exponent, at most 64 bits)"
        return None if low <= value <= high else (reason, f"not in {low}..{high}")

    return check


def degrees(limit: int) -> Check:
    """A number from -`limit` to `limit`."""

    def check(value: Any) -> Verdict:
        if type(value) is not int and type(value) is not float:
            return Reject.WRONG_TYPE, "not a number"
        inside = -limit <= value <= limit
        return None if inside else (Reject.BAD_POSITION, f"not in -{limit}..{limit}")

    return check


_ID: Final = text(MAX_ID_LENGTH)
_LONG: Final = text(MAX_TEXT_LENGTH)


def _ext(value: Any) -> Verdict:
    if type(value) is not dict:
        return Reject.WRONG_TYPE, "not an object"
    if len(value) > MAX_EXT_FIELDS:
        return Reject.TOO_LONG, f"more than {MAX_EXT_FIELDS} members"
    for name, content in value.items():
        fault = _ID(name)
        if fault is not None:
            return fault[0], f"a name: {fault[1]}"
        # An empty string is an answer here ("no note"), unlike in the fields of the schema.
        fault = None if content == "" else _LONG(content)
        if fault is not None:
            return fault[0], f"a value: {fault[1]}"
    return None


def _codes(table: Mapping[str | None, int]) -> frozenset[str]:
    return frozenset(name for name in table if name is not None)


_COUNTRY: Final = member(COUNTRIES, Reject.BAD_COUNTRY, "not a country of ISO 3166-1 (2 letters)")
_TIME: Final = integer(MIN_EVENT_TIME_MS, MAX_EVENT_TIME_MS, Reject.EVENT_TIME_RANGE)
_LISTED: Final = "not one of the values in the schema"

CHECKS: Final[Mapping[str, Check]] = {
    "schema_version": integer(SCHEMA_VERSION, SCHEMA_VERSION, Reject.SCHEMA_VERSION),
    "transaction_id": _ID,
    "account_id": _ID,
    "event_time": _TIME,
    "amount": integer(0, MAX_AMOUNT_MINOR),
    "currency": member(CURRENCIES, Reject.BAD_CURRENCY, "not a currency of ISO 4217"),
    "event_type": member(_codes(EVENT_TYPE_CODES), Reject.BAD_VALUE, _LISTED),
    "direction": member(_codes(DIRECTION_CODES), Reject.BAD_VALUE, _LISTED),
    "channel": member(_codes(CHANNEL_CODES), Reject.BAD_VALUE, _LISTED),
    "entry_mode": _ID,
    "card_id": _ID,
    "merchant_id": _ID,
    "terminal_id": _ID,
    "mcc": member(_codes(MCC_CODES), Reject.BAD_MCC, "not a string of 4 digits"),
    "counterparty_account_id": _ID,
    "merchant_country": _COUNTRY,
    "billing_country": _COUNTRY,
    "ip_country": _COUNTRY,
    "latitude": degrees(90),
    "longitude": degrees(180),
    "device_id": _LONG,
    "ip_hash": _LONG,
    "email_hash": _LONG,
    "auth_response": member(_codes(AUTH_RESPONSE_CODES), Reject.BAD_VALUE, _LISTED),
    "observed_time": integer(MIN_EVENT_TIME_MS, MAX_EVENT_TIME_MS),
    "original_transaction_id": _ID,
    "tenant_id": _ID,
    "ext": _ext,
}
"""Every field and what its value must be; null is the same as absent."""

assert tuple(CHECKS) == REQUIRED_FIELDS + OPTIONAL_FIELDS


def _unparsable(value: bytes, depth: int) -> tuple[Reject, str]:
    """Why the parser refused these bytes."""
    try:
        decoded = value.decode()
    except UnicodeDecodeError as error:
        return Reject.BAD_UTF8, f"byte {error.start} is not UTF-8"
    if depth > MAX_NESTING:
        return Reject.TOO_DEEP, f"more than {MAX_NESTING} levels"
    if decoded.startswith("\ufeff"):
        return Reject.BAD_JSON, "a byte order mark"
    try:
        lenient = json.loads(decoded, strict=False)
    except ValueError:
        return Reject.BAD_JSON, "not JSON"
    if any(BAD_CHARACTERS.search(each) for each in strings_in(lenient)):
        return Reject.BAD_CHARACTER, "a control character or lone surrogate in a string"
    return Reject.BAD_JSON, "not JSON (a constant or number that JSON does not have)"


def _holds_pan(value: bytes, document: Any) -> bool:
    if has_pan_bytes(value):
        return True
    # What the raw bytes hide: digits of other scripts, digits written as \\u escapes.
    outer = value.decode("utf-8", "replace")
    if has_look_alikes(outer) and has_pan(outer):
        return True
    return b"\\" in value and has_pan(PARTING.join(strings_in(document)))


def _unknown(document: dict[str, Any]) -> Verdict:
    for position, name in enumerate(document, 1):
        if name not in CHECKS:
            # A name that could be somebody's data is not repeated.
            telling = _PRINTABLE_NAME.fullmatch(name) and name not in document.values()
            return Reject.UNKNOWN_FIELD, name if telling else f"member {position} of the object"
    return None


def _fields(document: dict[str, Any]) -> Verdict:
    version = document.get("schema_version")
    if type(version) is int and version != SCHEMA_VERSION:
        return Reject.SCHEMA_VERSION, f"schema_version: not {SCHEMA_VERSION}"
    for name in REQUIRED_FIELDS:
        if document.get(name) is None:
            return Reject.MISSING_FIELD, name
    fault = _unknown(document)
    if fault is not None:
        return fault
    for name, check in CHECKS.items():
        value = document.get(name)
        if value is not None:
            fault = check(value)
            if fault is not None:
                return fault[0], f"{name}: {fault[1]}"
    if (document.get("latitude") is None) != (document.get("longitude") is None):
        return Reject.BAD_POSITION, "latitude and longitude: one without the other"
    return None


def check_headers(headers: Headers) -> Verdict:
    """Headers carry nothing for us; only their bulk is limited."""
    if len(headers) > MAX_HEADERS:
        return Reject.TOO_LARGE, f"more than {MAX_HEADERS} headers"
    if sum(len(name) + len(content or b"") for name, content in headers) > MAX_HEADER_BYTES:
        return Reject.TOO_LARGE, f"headers: more than {MAX_HEADER_BYTES} bytes"
    return None


def _content(value: bytes, key: bytes | None, latest_ms: int) -> Verdict:
    members, depth = outline(np.frombuffer(value, np.uint8))
    try:
        document = orjson.loads(value)
    except orjson.JSONDecodeError:
        return PAN_FOUND if _holds_pan(value, None) else _unparsable(value, depth)
    if _holds_pan(value, document):
        return PAN_FOUND
    if depth > MAX_NESTING:
        return Reject.TOO_DEEP, f"more than {MAX_NESTING} levels"
    if type(document) is not dict:
        return Reject.NOT_AN_OBJECT, "the message is JSON, but not an object"
    if members != _members(document):
        return Reject.DUPLICATE_FIELD, "an object names a member twice"
    fault = _fields(document)
    if fault is not None:
        return fault
    if document["event_time"] > latest_ms:
        return Reject.EVENT_TIME_FUTURE, "event_time: later than the broker's time allows"
    if key != document["account_id"].encode():
        return Reject.KEY_MISMATCH, "the message key is not account_id"
    return None


def _members(document: Any) -> int:
    """Members of all objects in a value of at most MAX_NESTING levels."""
    if type(document) is dict:
        return len(document) + sum(map(_members, document.values()))
    return sum(map(_members, document)) if type(document) is list else 0


def examine(
    value: bytes | None, key: bytes | None, headers: Headers, latest_ms: int
) -> tuple[Reject, str] | None:
    """None if the message is a valid transaction, else why not. Never raises.

    `latest_ms` is the last event_time allowed. A message refused for another reason that has a
    card number in its key or headers is refused for that instead: they go to the dead letters.
    """
    fault: Verdict
    if not value:
        fault = Reject.EMPTY, "no value"
    elif len(value) > MAX_MESSAGE_BYTES:
        # The dead letter carries the first bytes only; the last one may cut a number in two.
        pan = _holds_pan(value[: MAX_MESSAGE_BYTES + MAX_PAN], None)
        fault = Reject.TOO_LARGE, f"{len(value)} bytes, more than {MAX_MESSAGE_BYTES}"
        fault = PAN_FOUND if pan else fault
    elif value == UNREAD:
        fault = Reject.TOO_LARGE, "its record batch unpacks to more than 16 MiB"
    else:
        fault = _content(value, key, latest_ms)
        if fault != PAN_FOUND:
            fault = check_headers(headers) or fault
    if fault is not None and fault != PAN_FOUND and _pan_beside(key, headers):
        return Reject.PAN_FOUND, "in the key or a header"
    return fault


def retold(value: bytes | None) -> bytes | None:
    r"""The same JSON without escapes, to be looked at in the place of `value`; None if it may not.

    If the kernel clears what this returns, `examine` accepts `value`:
    1. What only the escaped text shows is looked at here: its size, members given twice, and a card
       number in the raw bytes, where an escape may lend digits (`\u4111 1111...`).
    2. All else `examine` asks of the parsed values, which are the same; the kernel asks it, too.
       What an escape hid, digits for one, stands in the open now; a string that still needs one
       (a quote, a control character) is not cleared.
    """
    if not value or b"\\" not in value or len(value) > MAX_MESSAGE_BYTES or has_pan_bytes(value):
        return None
    try:
        document = orjson.loads(value)
        told = orjson.dumps(document)
    except (orjson.JSONDecodeError, orjson.JSONEncodeError):
        return None  # no JSON, or too deep to write
    if type(document) is not dict:
        return None
    ext = document.get("ext")
    members = len(document) + (len(ext) if type(ext) is dict else 0)
    # There are at least as many colons as members, so equal numbers need no closer look.
    if value.count(b":") != members and outline(np.frombuffer(value, np.uint8))[0] != members:
        return None
    return told


def pan_in_message(value: bytes | None, key: bytes | None, headers: Headers) -> bool:
    """Is a card number anywhere in a message that `examine` has not refused, or has not seen?"""
    some = (value or b"")[: MAX_MESSAGE_BYTES + MAX_PAN]
    try:
        document = orjson.loads(some)
    except orjson.JSONDecodeError:
        document = None
    return _holds_pan(some, document) or _pan_beside(key, headers)


def _pan_beside(key: bytes | None, headers: Headers) -> bool:
    """Is a card number in the key or a header?"""
    beside = [key or b"", *(name.encode() + b" " + (data or b"") for name, data in headers)]
    return any(map(_hides_pan, beside))


def _hides_pan(content: bytes) -> bool:
    return has_pan(content[:MAX_MESSAGE_BYTES].decode("utf-8", "replace"))


def tombstone_account(key: bytes | None) -> str | None:
    """The account that a null value with this key asks to erase; None if the key names none."""
    try:
        account = (key or b"").decode()
    except UnicodeDecodeError:
        return None
    return None if _ID(account) is not None or has_pan(account) else account
