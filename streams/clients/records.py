"""Is a message a record of its topic? Others may write there, so it is asked before it is used.

In: the name of a topic, the bytes of a message. Out: the record; None for what is none.
Does not know Kafka, nor who wrote the message. Of scores and alerts every field is looked at that a
reader here relies on; of other topics only that it is a JSON object which can be written again.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any, Final

import orjson

from streams.schema import MAX_EVENT_TIME_MS, MIN_EVENT_TIME_MS, Decision

VERSIONS: Final = ("model", "features", "rules", "risk", "code")
BRACKETS: Final = 200
"""So many may stand in one another whatever they say: orjson reads 1,024 levels and writes 254."""

Check = Callable[[Any], bool]


def _is(*kinds: type) -> Check:
    """Of one of these types; true and false are no numbers."""
    return lambda value: type(value) in kinds


def _all(part: str) -> Check:
    """A list of objects, each with a text of that name."""
    return lambda value: (
        type(value) is list
        and all(type(each) is dict and type(each.get(part)) is str for each in value)
    )


def _versions(value: Any) -> bool:
    return type(value) is dict and all(type(value.get(name)) is str for name in VERSIONS)


def _source(value: Any) -> bool:
    return (
        type(value) is dict
        and type(value.get("topic")) is str
        and type(value.get("partition")) is int
        and type(value.get("offset")) is int
    )


SCORE: Final[Mapping[str, Check]] = {
    "transaction_id": _is(str),
    "account_id": _is(str),
    "event_time": lambda value: (
        type(value) is int and MIN_EVENT_TIME_MS <= value <= MAX_EVENT_TIME_MS
    ),
    "score": _is(int, float, type(None)),
    "decision": lambda value: type(value) is str and value in tuple(Decision),
    "mode": _is(str),
    "late": _is(bool),
    "feature_digest": _is(str),
    "versions": _versions,
    "source": _source,
}
ALERT: Final[Mapping[str, Check]] = {
    **SCORE,
    "alert_id": _is(str),
    "amount": _is(int),
    "currency": _is(str),
    "reasons": _all("text"),
    "rules": _all("rule_id"),
}
CHECKS: Final[Mapping[str, Mapping[str, Check]]] = {"scores": SCORE, "alerts": ALERT}


def record_of(topic: str, value: bytes | None) -> dict[str, Any] | None:
    """The record in a message of a topic, known by its name without a prefix; None for none."""
    if value is None:
        return None
    try:
        record = orjson.loads(value)
        if value.count(b"[") + value.count(b"{") > BRACKETS:
            orjson.dumps(record)
    except (orjson.JSONDecodeError, orjson.JSONEncodeError):
        return None
    if type(record) is not dict:
        return None
    checks = CHECKS.get(topic, {})
    right = all(name in record and check(record[name]) for name, check in checks.items())
    return record if right else None
