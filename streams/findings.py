"""What is unusual about one event, against the account's own past, in words.

In: one event's features and fields. Out: findings: a code, the words, the value, what is usual, and
a strength that makes findings comparable: about the natural log of how much rarer the event is than
usual. Does not know scores, models or rules, nor which finding is shown (`reasons.py`).

Each check below looks at the event and says nothing or makes one finding. docs/reasons.md lists the
codes.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Final

from streams.columns import EARTH_KM
from streams.features import INDEX
from streams.money import amount_text

WINDOW_WORDS: Final = {
    "1m": "60 s",
    "5m": "5 min",
    "1h": "1 h",
    "24h": "24 h",
    "7d": "7 days",
}
WINDOW_DAYS: Final = {"1m": 1 / 1440, "5m": 1 / 288, "1h": 1 / 24, "24h": 1.0, "7d": 7.0}
BASELINE_DAYS: Final = 30.0
DORMANT_S: Final = 14 * 86_400
KNOWN_ACCOUNT: Final = 5
"""Payments before novelty means anything."""
FAST_KMH: Final = 900.0
"""An airliner."""
FASTEST_KMH: Final = 20_000.0
"""Beyond it the number tells nothing more."""


@dataclass(frozen=True, slots=True)
class Finding:
    """One thing worth saying. `group` is the feature group it speaks for."""

    code: str
    group: str
    strength: float
    text: str
    value: float | None
    baseline: float | None


@dataclass(frozen=True, slots=True)
class Case:
    """One event as the checks see it; `counts`: it enters the account's windows."""

    features: Sequence[float]
    doc: Mapping[str, Any]
    counts: bool

    def get(self, name: str) -> float:
        """A feature by name; UNKNOWN when it is not known."""
        return self.features[INDEX[name]]

    def money(self, minor: float) -> str:
        """An amount of this account, in the payment's currency."""
        return amount_text(round(minor), self.doc["currency"])

    def days(self) -> float:
        """How many days of the last 30 the account exists, at least one."""
        return min(BASELINE_DAYS, max(self.get("age_days"), 1.0))

    def daily(self, name: str) -> float:
        """The usual count or sum a day, over the account's last 30 days."""
        return max(self.get(f"{name}_30d"), 0.0) / self.days()

    def before(self, name: str, window: str) -> tuple[float, float]:
        """Count or sum of the last 30 days without those of a window, and over how many days: what
        is unusual now must not count as usual. Less than a day is too short to tell."""
        past = max(self.get(f"{name}_30d"), 0.0) - max(self.get(f"{name}_{window}"), 0.0)
        days = min(BASELINE_DAYS, max(self.get("age_days"), 0.0)) - WINDOW_DAYS[window]
        return max(past, 0.0), days


def rate_text(per_day: float, known_days: float = BASELINE_DAYS) -> str:
    """A rate as people say it: "3 a day", "1 in 2 days", "none in 30 days"."""
    if per_day * BASELINE_DAYS < 0.5:
        return f"none in {plural(known_days, 'day')}"
    if per_day >= 48:
        return f"{per_day / 24:,.0f} an hour"
    if per_day >= 1:
        return f"{per_day:,.0f} a day"
    days = round(1 / per_day)
    return f"1 in {days} days" if days > 1 else "1 a day"


def plural(n: float, noun: str) -> str:
    """ "1 day", "2 days"."""
    return f"{n:,.0f} {noun}" if round(n) == 1 else f"{n:,.0f} {noun}s"


def span_text(seconds: float) -> str:
    """A span in the largest unit of which it has two."""
    for size, noun in ((86_400, "day"), (3_600, "hour"), (60, "minute")):
        if seconds >= 2 * size:
            return plural(seconds / size, noun)
    return plural(seconds, "second")


def _surprise(seen: float, expected: float) -> float:
    """Minus the log of how likely so many are by chance (Poisson), roughly."""
    return seen * math.log(seen / expected) - (seen - expected)


_COUNTS: Final = tuple((window, f"count_{window}") for window in WINDOW_WORDS)


def _velocity(case: Case) -> Finding | None:
    best: Finding | None = None
    usual = case.daily("count")
    for window, name in _COUNTS:
        seen = case.get(name) + case.counts
        if seen < 3:
            continue
        # One in 30 days is the least that is assumed, or a quiet account is always surprising.
        expected = max(usual, 1 / BASELINE_DAYS) * WINDOW_DAYS[window]
        if seen < 3 * expected:
            continue
        strength = _surprise(seen, expected)
        if best is None or strength > best.strength:
            past, days = case.before("count", window)
            told = f"usual: {rate_text(past / days, days)}" if days >= 1 else f"{past:,.0f} before"
            text = f"{plural(seen, 'payment')} in {WINDOW_WORDS[window]}; {told}"
            if days >= 1:
                expected = past / days * WINDOW_DAYS[window]
            best = Finding("VELOCITY", f"window_{window}", strength, text, seen, expected)
    return best


def _amount(case: Case) -> Finding | None:
    ratio, largest = case.get("amount_ratio_30d"), case.get("max_30d")
    amount, usual = case.get("amount"), case.get("mean_30d")
    if ratio < 3 or case.get("count_30d") < 3 or amount <= largest:
        return None
    exact = float(case.doc["amount"])
    text = (
        f"{case.money(exact)}; usual: {case.money(usual)}"
        f" (largest in 30 days: {case.money(largest)})"
    )
    return Finding("AMOUNT_HIGH", "amount", 2 * math.log(ratio), text, exact, usual)


def _spend(case: Case) -> Finding | None:
    if case.get("count_24h") < 1 or not case.counts:
        return None
    seen, usual = case.get("sum_24h") + case.get("amount"), case.daily("sum")
    past, days = case.before("sum", "24h")
    if days < 1 or usual <= 0 or seen < 5 * usual:
        return None
    strength = math.log(seen / usual)
    usual = past / days
    told = f"usual: {case.money(usual)} a day"
    if past == 0:
        told = f"nothing in the {plural(days, 'day')} before"
    text = f"{case.money(seen)} in 24 h; {told}"
    return Finding("SPEND_HIGH", "window_24h", strength, text, seen, usual)


def _small_then_large(case: Case) -> Finding | None:
    tries, largest, amount = case.get("count_1h"), case.get("max_1h"), case.get("amount")
    if tries < 3 or largest < 0 or amount < 10 * max(largest, 1.0):
        return None
    text = (
        f"{case.money(float(case.doc['amount']))} after {plural(tries, 'payment')}"
        f" of at most {case.money(largest)} in 1 h"
    )
    strength = 2 + math.log(amount / max(largest, 1.0))
    return Finding("SMALL_THEN_LARGE", "window_1h", strength, text, amount, largest)


def place_words(doc: Mapping[str, Any]) -> tuple[str, str]:
    """What the payment's place is, and the word before it: "at" a "merchant", "to" a "payee"."""
    if doc.get("merchant_id") is not None:
        return "at", "merchant"
    if doc.get("terminal_id") is not None:
        return "at", "terminal"
    # A training set keeps no names of places, but the kind of payment.
    if doc.get("counterparty_account_id") is not None or doc.get("event_type") == "transfer":
        return "to", "payee"
    return "at", "merchant"


def _places(n: float, doc: Mapping[str, Any], merchant: str = "merchant") -> str:
    """ "5 merchants"; where the payment names none, the account's places are not merchants only."""
    _, noun = place_words(doc)
    return plural(n, merchant) + ("" if noun == "merchant" else f" or {noun}s")


def _of_a_month(seen: float, month: float) -> str:
    """How many different ones there are in 30 days, in which those just seen are counted too."""
    if month == seen:
        return "no other in 30 days"
    return f"{month:,.0f} in 30 days, these among them"


def _merchants(case: Case) -> Finding | None:
    usual = max(case.get("places_30d"), 0.0)
    for window, least in (("1h", 4), ("24h", 8)):
        seen = case.get(f"places_{window}")
        if seen >= least and seen >= 0.4 * usual:
            text = (
                f"{_places(seen, case.doc, 'different merchant')} in {WINDOW_WORDS[window]};"
                f" {_of_a_month(seen, usual)}"
            )
            return Finding("MANY_MERCHANTS", f"window_{window}", math.log(seen), text, seen, usual)
    return None


def _countries(case: Case) -> Finding | None:
    seen, usual = case.get("countries_24h"), max(case.get("countries_30d"), 0.0)
    if seen < 3:
        return None
    text = f"{seen:,.0f} countries in 24 h; {_of_a_month(seen, usual)}"
    return Finding("MANY_COUNTRIES", "window_24h", 1 + math.log(seen), text, seen, usual)


def _new_country(case: Case) -> Finding | None:
    country = case.doc.get("merchant_country")
    if case.get("new_country") != 1 or country is None or _young(case):
        return None
    usual = max(case.get("countries_30d"), 0.0)
    known = "1 country" if usual == 1 else f"{usual:,.0f} countries"
    text = f"first payment in {country}; {known} in the 30 days before"
    return Finding("NEW_COUNTRY", "novelty", 2.5, text, 1.0, 0.0)


def _new_device(case: Case) -> Finding | None:
    if case.get("new_device") != 1 or _young(case):
        return None
    return Finding("NEW_DEVICE", "novelty", 2.0, "first payment from this device", 1.0, 0.0)


def _new_merchant(case: Case) -> Finding | None:
    if case.get("new_place") != 1 or _young(case):
        return None
    usual = max(case.get("places_30d"), 0.0)
    at, noun = place_words(case.doc)
    text = f"first payment {at} this {noun}; {_places(usual, case.doc)} in the 30 days before"
    return Finding("NEW_MERCHANT", "novelty", 0.7, text, 1.0, 0.0)


def _young(case: Case) -> bool:
    return case.get("lifetime_count") < KNOWN_ACCOUNT


def _new_account(case: Case) -> Finding | None:
    if not _young(case):
        return None
    seen = max(case.get("lifetime_count"), 0.0)
    told = f"{plural(seen, 'payment')} before this one" if seen else "its first payment"
    text = f"new account: {told}"
    return Finding("NEW_ACCOUNT", "tempo", 0.5, text, seen, None)


def _dormant(case: Case) -> Finding | None:
    gap_s = case.get("since_last_s")
    if _young(case) or gap_s < DORMANT_S:
        return None
    active_days = max(case.get("age_days") - gap_s / 86_400, 1.0)
    usual = case.get("lifetime_count") / active_days
    text = f"first payment for {span_text(gap_s)}; usual before: {rate_text(usual)}"
    return Finding("DORMANT", "tempo", math.log(gap_s / 86_400) / 2, text, gap_s, None)


def over_ground(chord_km: float) -> float:
    """The way over the ground, as a map has it, of a straight line through the Earth."""
    return 2 * EARTH_KM * math.asin(min(chord_km / (2 * EARTH_KM), 1.0))


def _travel(case: Case) -> Finding | None:
    speed, distance = case.get("speed_kmh"), case.get("distance_km")
    if speed < FAST_KMH or distance < 50:
        return None
    # The last event may have had no position: the time is that of the last one that had.
    span = span_text(3_600 * distance / speed)
    strength = 2 + math.log(speed / FAST_KMH)
    way = over_ground(distance)
    speed *= way / distance
    rate = f"{speed:,.0f}" if speed <= FASTEST_KMH else f"over {FASTEST_KMH:,.0f}"
    text = f"{way:,.0f} km from the last place after {span}: {rate} km/h"
    return Finding("TRAVEL", "place", strength, text, speed, FAST_KMH)


def countries_text(doc: Mapping[str, Any]) -> str:
    """The countries that the payment names; empty when it names none."""
    return ", ".join(
        f"{words} {doc[name]}"
        for name, words in (
            ("merchant_country", "merchant in"),
            ("billing_country", "billed in"),
            ("ip_country", "IP address in"),
        )
        if doc.get(name) is not None
    )


def _mismatch(case: Case) -> Finding | None:
    apart = sum(
        case.get(name) == 1
        for name in ("merchant_not_billing", "merchant_not_ip", "billing_not_ip")
    )
    if not apart:
        return None
    text = countries_text(case.doc)
    return Finding("COUNTRY_MISMATCH", "place", 0.6 * apart, text, float(apart), 0.0)


def _declines(case: Case) -> Finding | None:
    for window, least in (("1h", 2), ("24h", 4)):
        seen = case.get(f"declined_{window}")
        if seen >= least:
            text = f"{plural(seen, 'declined payment')} in {WINDOW_WORDS[window]}"
            return Finding("DECLINES", "declines", 0.5 + math.log(seen), text, seen, 0.0)
    return None


def _repeated_amount(case: Case) -> Finding | None:
    seen = case.get("same_amount")
    if seen < 3 or seen < 0.25 * case.get("lifetime_count"):
        return None
    text = f"{case.money(float(case.doc['amount']))}, as {seen:,.0f} times before"
    return Finding("REPEATED_AMOUNT", "novelty", math.log(seen), text, seen + 1, None)


def last_known(case: Case, entity: str) -> str:
    """How long ago the last known fraud at the merchant or terminal was, or, where none is known,
    the last payment: as the end of a text."""
    what = "last_fraud" if case.get(f"{entity}_30d_frauds") > 0 else "good"
    days = case.get(f"{entity}_days_since_{what}")
    return f", the last {plural(days, 'day')} ago" if days > 0 else ""


def _entity_risk(entity: str) -> Callable[[Case], Finding | None]:
    spans = [(days, f"{entity}_{days}d_frauds") for days in (7, 30, 1)]

    def check(case: Case) -> Finding | None:
        for days, name in spans:
            frauds = case.get(name)
            if frauds < 2:
                continue
            seen = case.get(f"{entity}_{days}d_transactions")
            # Not the feature: 2 of 100 as a float32 is less than 0.02.
            share = frauds / max(seen, frauds)
            if share < 0.02:
                continue
            span = plural(days, "day")
            text = (
                f"{frauds:,.0f} of {plural(seen, 'payment')} at this {entity} known as fraud"
                f" ({span}, delayed){last_known(case, entity)}"
            )
            strength = 1 + math.log(share / 0.02) + math.log(frauds) / 2
            return Finding(f"{entity.upper()}_RISK", f"{entity}_risk", strength, text, share, None)
        return None

    return check


CHECKS: Final[tuple[Callable[[Case], Finding | None], ...]] = (
    _velocity,
    _amount,
    _spend,
    _small_then_large,
    _merchants,
    _countries,
    _new_country,
    _new_device,
    _new_merchant,
    _new_account,
    _dormant,
    _travel,
    _mismatch,
    _declines,
    _repeated_amount,
    _entity_risk("merchant"),
    _entity_risk("terminal"),
)


def findings(case: Case) -> list[Finding]:
    """Everything unusual about the event."""
    return [finding for check in CHECKS if (finding := check(case)) is not None]
