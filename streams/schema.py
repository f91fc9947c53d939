"""Schema v1: fields, limits and reject codes. Ground for everything; does no parsing and no I/O.

The JSON Schemas in `streams/schemas/` are the published form; a test holds the two equal.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from enum import StrEnum
from typing import Final

SCHEMA_VERSION: Final = 1

# Limits of what travels: messages, batches, their strings and lists. Those of one room stand there.
MAX_MESSAGE_BYTES: Final = 65_536
MAX_UNPACKED_BYTES: Final = 16 * 2**20
"""Of one record batch of Kafka's, when it was compressed: sixteen times what a broker takes."""
UNREAD: Final = b"not read: its record batch unpacks to more than 16 MiB"
"""Stands for the value of each message of a batch that unpacks to more."""
MAX_HEADERS: Final = 32
MAX_HEADER_BYTES: Final = 8_192
MAX_ID_LENGTH: Final = 64
MAX_TEXT_LENGTH: Final = 128
MAX_EXT_FIELDS: Final = 32
MAX_NESTING: Final = 3
MCC_DIGITS: Final = 4
MAX_AMOUNT_MINOR: Final = 10**15 - 1
"""Fits the 50 bits of an event word; a quadrillion minor units is no payment."""
MIN_EVENT_TIME_MS: Final = 946_684_800_000
"""2000-01-01: an earlier time is a unit error (seconds instead of milliseconds), not a payment."""
MAX_EVENT_TIME_MS: Final = 4_102_444_800_000
"""2100-01-01: fits the 44 bits of an event word."""
MAX_BATCH_EVENTS: Final = 8_192
MAX_REASONS: Final = 5
MAX_RULES: Final = 500

DAY_MS: Final = 86_400_000

BAD_CHARACTERS: Final = re.compile(
    "[\x00-\x1f\x7f-\x9f\u061c\u200e\u200f\u2028-\u202e\u2066-\u2069\ufeff\ud800-\udfff]"
)
"""Controls, line separators, bidirectional controls, the byte order mark, lone surrogates."""


def printable(text: str) -> str:
    """The text without them, for a terminal or a log: whoever may write a topic wrote it."""
    return BAD_CHARACTERS.sub("\ufffd", text)


class Reject(StrEnum):
    """Why a message went to `transactions.dlq` (header `reason`). One code per fault."""

    EMPTY = "empty"  # zero-length value, or a null one whose key names no account
    TOO_LARGE = "too_large"
    BAD_UTF8 = "bad_utf8"
    BAD_JSON = "bad_json"
    NOT_AN_OBJECT = "not_an_object"
    TOO_DEEP = "too_deep"
    DUPLICATE_FIELD = "duplicate_field"
    UNKNOWN_FIELD = "unknown_field"
    SCHEMA_VERSION = "schema_version"
    MISSING_FIELD = "missing_field"
    WRONG_TYPE = "wrong_type"
    OUT_OF_RANGE = "out_of_range"
    TOO_LONG = "too_long"
    BAD_CHARACTER = "bad_character"  # NUL, other control, bidi control, lone surrogate
    BAD_CURRENCY = "bad_currency"
    BAD_COUNTRY = "bad_country"
    BAD_MCC = "bad_mcc"
    BAD_VALUE = "bad_value"  # not a member of a closed enumeration
    BAD_POSITION = "bad_position"
    EVENT_TIME_RANGE = "event_time_range"
    EVENT_TIME_FUTURE = "event_time_future"
    KEY_MISMATCH = "key_mismatch"  # Kafka key is not account_id
    PAN_FOUND = "pan_found"  # 13-19 digits passing Luhn; value blanked
    ID_CONFLICT = "id_conflict"  # known transaction_id, other bytes
    FORGOTTEN = "forgotten"  # the account was erased; value blanked
    QUARANTINED = "quarantined"  # this offset killed the process repeatedly


BLANKED: Final = frozenset({Reject.PAN_FOUND, Reject.FORGOTTEN})
"""Reasons whose dead letter carries an empty value and no key."""


class Decision(StrEnum):
    """What to do with a payment, mildest first."""

    APPROVE = "approve"
    REVIEW = "review"
    BLOCK = "block"


class Mode(StrEnum):
    """How a score was made."""

    FULL = "full"
    CPU_FALLBACK = "cpu_fallback"
    RULES_ONLY = "rules_only"


REQUIRED_FIELDS: Final = (
    "schema_version",
    "transaction_id",
    "account_id",
    "event_time",
    "amount",
    "currency",
)
OPTIONAL_FIELDS: Final = (
    "event_type",
    "direction",
    "channel",
    "entry_mode",
    "card_id",
    "merchant_id",
    "terminal_id",
    "mcc",
    "counterparty_account_id",
    "merchant_country",
    "billing_country",
    "ip_country",
    "latitude",
    "longitude",
    "device_id",
    "ip_hash",
    "email_hash",
    "auth_response",
    "observed_time",
    "original_transaction_id",
    "tenant_id",
    "ext",
)
LABEL_REQUIRED: Final = ("label_id", "transaction_id", "account_id", "label", "label_time")
LABEL_VALUES: Final = ("fraud", "legitimate", "disputed")


@dataclass(frozen=True, slots=True)
class TopicSpec:
    """One topic: retention in ms (-1 keeps all), clean-up policy, key."""

    name: str
    retention_ms: int
    cleanup: str
    key: str


TOPICS: Final = (
    TopicSpec("transactions", 90 * DAY_MS, "delete", "account_id"),
    TopicSpec("scores", 30 * DAY_MS, "delete", "account_id"),
    TopicSpec("alerts", 365 * DAY_MS, "delete", "account_id"),
    TopicSpec("labels", -1, "delete", "account_id"),
    TopicSpec("transactions.dlq", 90 * DAY_MS, "delete", "account_id"),
    TopicSpec("rules", -1, "compact", "rule_id"),
)
