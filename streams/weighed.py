"""What a feature group shows of one event, in words, where no check of `findings.py` speaks for it.

In: the event as the checks see it, and the name of a group. Out: words, the value and what is
usual, as far as there are any. Does not know what a model made of them (`reasons.py`).
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Final, NamedTuple

from streams.findings import (
    Case,
    countries_text,
    last_known,
    over_ground,
    place_words,
    plural,
    rate_text,
    span_text,
)

WEEKDAYS: Final = ("Monday", "Tuesday", "Wednesday", "Thursday", "Friday", "Saturday", "Sunday")
WINDOW: Final = "window_"
RECENT: Final = "24h"
"""What may be one attack: it does not count as usual."""
LATELY: Final = {"1h": "hour", "24h": "24 hours", "7d": "7 days", "30d": "30 days"}


class Shown(NamedTuple):
    """The words (empty when there are none to say), the value, what is usual."""

    text: str
    value: float | None = None
    baseline: float | None = None


def _amount(case: Case) -> Shown:
    exact = float(case.doc["amount"])
    if case.get("count_30d") < 1:
        return Shown(f"{case.money(exact)}, the first payment in 30 days", exact)
    usual = _usual_amount(case)
    return Shown(f"{case.money(exact)}; usual: {case.money(usual)}", exact, usual)


def _usual_amount(case: Case) -> float:
    """The mean of the payments before the last day; of all where there are none before."""
    payments, _ = case.before("count", RECENT)
    total, _ = case.before("sum", RECENT)
    return total / payments if payments >= 1 else case.get("mean_30d")


def _tempo(case: Case) -> Shown:
    gap_s = case.get("since_last_s")
    if gap_s < 0:
        return Shown("the account's first payment")
    past, days = case.before("count", RECENT)
    usual = f"; usual: {rate_text(past / days, days)}" if days >= 1 else ""
    return Shown(f"{span_text(gap_s)} after the one before{usual}", gap_s)


def _declines(case: Case) -> Shown:
    seen = max(case.get("declined_24h"), 0.0)
    return Shown(f"{plural(seen, 'declined payment')} in 24 h", seen)


def _novelty(case: Case) -> Shown:
    at, noun = place_words(case.doc)
    new = [
        words
        for name, words in (
            ("new_place", noun),
            ("new_country", "country"),
            ("new_device", "device"),
        )
        if case.get(name) == 1
    ]
    if new:
        return Shown(f"new {', '.join(new)}", float(len(new)))
    seen = case.get("seen_place")
    return Shown(f"{at} this {noun} {plural(seen, 'time')} before" if seen >= 0 else "")


def _place(case: Case) -> Shown:
    distance = case.get("distance_km")
    told = [countries_text(case.doc)]
    if distance >= 0:
        distance = over_ground(distance)
        told.append(f"{distance:,.0f} km from the last place")
    return Shown(", ".join(filter(None, told)), distance if distance >= 0 else None)


def _clock(case: Case) -> Shown:
    hour = case.get("hour")
    return Shown(f"{WEEKDAYS[int(case.get('weekday'))]}, {int(hour)} h UTC", hour)


def _kind(case: Case) -> Shown:
    told = [
        str(case.doc[name]).replace("_", " ")
        for name in ("event_type", "channel", "entry_mode")
        if case.doc.get(name) is not None
    ]
    if case.doc.get("mcc") is not None:
        told.append(f"category {case.doc['mcc']}")
    return Shown(", ".join(dict.fromkeys(told)))


def _risk(entity: str) -> Callable[[Case], Shown]:
    def shown(case: Case) -> Shown:
        seen = case.get(f"{entity}_30d_transactions")
        if seen <= 0:
            return Shown("nothing known")
        frauds = max(case.get(f"{entity}_30d_frauds"), 0.0)
        text = f"{frauds:,.0f} of {plural(seen, 'payment')} known as fraud (30 days, delayed)"
        return Shown(text + last_known(case, entity), frauds / seen)

    return shown


def _window(case: Case, window: str) -> Shown:
    seen = max(case.get(f"count_{window}"), 0.0)
    if not seen:
        return Shown("none", seen)
    total = case.money(max(case.get(f"sum_{window}"), 0.0))
    return Shown(f"{seen:,.0f}, {total} in all", seen)


def _history(case: Case) -> Shown:
    if case.get("lifetime_count") == 0:
        if case.get("since_last_s") < 0:
            return Shown("there are none")
        return Shown("none, only money that came in, refunds or status messages")
    for window, words in LATELY.items():
        seen = case.get(f"count_{window}")
        if seen >= 1:
            low, high = (case.money(case.get(f"{name}_{window}")) for name in ("min", "max"))
            each = low if seen == 1 else f"{low} each" if low == high else f"{low} to {high}"
            return Shown(f"{seen:,.0f} in the {words} before, {each}", seen)
    return Shown("none in the 30 days before", 0.0)


_GROUPS: Final[Mapping[str, Callable[[Case], Shown]]] = {
    "amount": _amount,
    "tempo": _tempo,
    "declines": _declines,
    "novelty": _novelty,
    "place": _place,
    "clock": _clock,
    "kind": _kind,
    "history": _history,
    "merchant_risk": _risk("merchant"),
    "terminal_risk": _risk("terminal"),
}


def shown(case: Case, group: str) -> Shown:
    """What the group shows; nothing for a group that is no single number, like the history."""
    if group.startswith(WINDOW):
        return _window(case, group.removeprefix(WINDOW))
    describe = _GROUPS.get(group)
    return Shown("") if describe is None else describe(case)
