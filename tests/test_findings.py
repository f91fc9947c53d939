"""What is unusual is found where docs/reasons.md says, and nowhere else."""

from __future__ import annotations

import re
from fractions import Fraction
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from streams.features import NAMES
from streams.findings import Case, Finding, findings, span_text
from tests.test_reasons import QUIET, told

HOURS = {"1m": Fraction(1, 60), "5m": Fraction(1, 12), "1h": 1, "24h": 24, "7d": 168}
RISKS = [f"{who}_{days}d_{what}" for who in ("merchant", "terminal") for days in (1, 7, 30)
         for what in ("transactions", "frauds")]  # fmt: skip
Values = dict[str, float]


def found(values: Values, counts: bool = True) -> dict[str, Finding]:
    """The findings of an event, by code."""
    whole = dict.fromkeys(NAMES, -1.0) | QUIET | values
    for name in RISKS:
        entity = name.removesuffix("_frauds")
        if name != entity and whole[f"{entity}_transactions"] > 0:
            share = whole[name] / whole[f"{entity}_transactions"]
            whole[f"{entity}_fraud_share"] = share
    row = [float(np.float32(whole[name])) for name in NAMES]
    doc = {"amount": int(whole["amount"]), "currency": "EUR", "merchant_country": "BR"}
    return {each.code: each for each in findings(Case(row, doc, counts))}


def at_least(seen: float, times: int, of: float, whole: float, part: float) -> bool:
    """Whether so much is so many times what `part` of a time has, of which `whole` has `of`."""
    return Fraction(seen) * Fraction(whole) >= times * Fraction(of) * Fraction(part)


def documented(f: Values, counts: bool) -> set[str]:
    """The codes that docs/reasons.md gives, by its column "when"."""
    known_days = min(30.0, f["age_days"])
    young = f["lifetime_count"] < 5
    # An account as quiet as can be is taken to have had one payment in 30 days.
    rate = max(f["count_30d"], known_days / 30)
    bursts = [
        f[f"count_{window}"] + counts >= 3
        and at_least(f[f"count_{window}"] + counts, 3, rate, known_days * 24, hours)
        for window, hours in HOURS.items()
    ]
    smallest = max(f["max_1h"], 1)
    risks = {
        who: any(
            f[f"{who}_{days}d_frauds"] >= 2
            and 50 * f[f"{who}_{days}d_frauds"] >= f[f"{who}_{days}d_transactions"]
            for days in (1, 7, 30)
        )
        for who in ("merchant", "terminal")
    }
    spent = f["sum_24h"] + f["amount"]
    return {
        code
        for code, holds in {
            "VELOCITY": any(bursts),
            "AMOUNT_HIGH": f["amount_ratio_30d"] >= 3
            and f["amount"] > f["max_30d"]
            and f["count_30d"] >= 3,
            "SPEND_HIGH": counts
            and f["count_24h"] >= 1
            and f["sum_30d"] > 0
            and f["age_days"] >= 2
            and at_least(spent, 5, f["sum_30d"], known_days, 1),
            "SMALL_THEN_LARGE": f["count_1h"] >= 3
            and f["max_1h"] >= 0
            and f["amount"] >= 10 * smallest,
            "MANY_MERCHANTS": any(
                f[name] >= least and 10 * f[name] >= 4 * f["places_30d"]
                for name, least in (("places_1h", 4), ("places_24h", 8))
            ),
            "MANY_COUNTRIES": f["countries_24h"] >= 3,
            "NEW_COUNTRY": f["new_country"] == 1 and not young,
            "NEW_DEVICE": f["new_device"] == 1 and not young,
            "NEW_MERCHANT": f["new_place"] == 1 and not young,
            "REPEATED_AMOUNT": f["same_amount"] >= max(3, f["lifetime_count"] / 4),
            "NEW_ACCOUNT": young,
            "DORMANT": f["since_last_s"] >= 14 * 86_400 and not young,
            "TRAVEL": f["speed_kmh"] >= 900 and f["distance_km"] >= 50,
            "COUNTRY_MISMATCH": 1 in (
                f["merchant_not_billing"], f["merchant_not_ip"], f["billing_not_ip"],
            ),
            "DECLINES": f["declined_1h"] >= 2 or f["declined_24h"] >= 4,
            "MERCHANT_RISK": risks["merchant"],
            "TERMINAL_RISK": risks["terminal"],
        }.items()
        if holds
    }  # fmt: skip


def near(*numbers: float) -> st.SearchStrategy[float]:
    return st.sampled_from([float(number) for number in numbers])


few = near(0, 1, 2, 3, 4, 5, 7, 8, 9)
flag = near(-1, 0, 1)
EVENTS = st.fixed_dictionaries(
    {
        "age_days": near(1, 1.5, 2, 3, 10, 29, 30, 400),
        "lifetime_count": near(0, 4, 5, 12, 13, 16, 200),
        "since_last_s": near(-1, 60, 14 * 86_400 - 1, 14 * 86_400, 40 * 86_400),
        "amount": near(0, 9, 10, 11, 99, 100, 101, 990, 1_000, 9_000, 9_001),
        **{f"count_{window}": few for window in HOURS},
        "count_30d": near(0, 2, 3, 9, 10, 15, 30, 60, 90, 400),
        "sum_24h": near(0, 100, 899, 900, 1_000),
        "sum_30d": near(0, 1, 3_000, 6_000, 6_001, 60_000),
        "mean_30d": near(-1, 100, 3_520),
        "max_30d": near(-1, 99, 100, 9_000),
        "max_1h": near(-1, 0, 1, 10, 100),
        "amount_ratio_30d": near(-1, 2.99, 3, 3.01),
        "places_1h": few,
        "places_24h": few,
        "places_30d": near(0, 4, 10, 11, 12, 20, 21, 30),
        "countries_24h": few,
        "same_amount": few,
        "speed_kmh": near(-1, 899, 900, 901),
        "distance_km": near(-1, 49, 50, 51),
        "declined_1h": few,
        "declined_24h": few,
        **dict.fromkeys(("new_country", "new_device", "new_place"), flag),
        **dict.fromkeys(("merchant_not_billing", "merchant_not_ip", "billing_not_ip"), flag),
        **{name: near(1, 2, 3) if name.endswith("frauds") else near(3, 50, 100, 101, 149, 151)
           for name in RISKS},
    }
)  # fmt: skip


@given(EVENTS, st.booleans())
def test_a_reason_stands_where_the_documentation_says(f: Values, counts: bool) -> None:
    assert set(found(f, counts)) == documented(f, counts)


@pytest.mark.parametrize(
    ("code", "edge", "beyond"),
    [
        ("VELOCITY", {"count_24h": 2, "count_30d": 30}, {"count_30d": 31}),
        ("VELOCITY", {"count_1h": 2, "count_30d": 15}, {"count_1h": 1}),
        ("AMOUNT_HIGH", {"amount_ratio_30d": 3, "amount": 9_001, "count_30d": 3},
         {"amount_ratio_30d": 2.99, "amount": 9_000, "count_30d": 2}),
        ("SPEND_HIGH", {"sum_24h": 5_800, "count_24h": 1, "age_days": 2, "sum_30d": 3_520},
         {"sum_24h": 5_799, "count_24h": 0, "age_days": 1.99}),
        ("SMALL_THEN_LARGE", {"count_1h": 3, "max_1h": 300}, {"count_1h": 2, "amount": 2_999}),
        ("SMALL_THEN_LARGE", {"count_1h": 3, "max_1h": 0, "amount": 10}, {"amount": 9}),
        ("MANY_MERCHANTS", {"places_1h": 4, "places_30d": 10}, {"places_1h": 3, "places_30d": 11}),
        ("MANY_MERCHANTS", {"places_24h": 8, "places_30d": 20},
         {"places_24h": 7, "places_30d": 21}),
        ("MANY_COUNTRIES", {"countries_24h": 3}, {"countries_24h": 2}),
        ("NEW_COUNTRY", {"new_country": 1, "lifetime_count": 5}, {"lifetime_count": 4}),
        ("NEW_DEVICE", {"new_device": 1, "lifetime_count": 5}, {"lifetime_count": 4}),
        ("NEW_MERCHANT", {"new_place": 1, "lifetime_count": 5}, {"lifetime_count": 4}),
        ("REPEATED_AMOUNT", {"same_amount": 3, "lifetime_count": 12}, {"lifetime_count": 13}),
        ("REPEATED_AMOUNT", {"same_amount": 3, "lifetime_count": 5}, {"same_amount": 2}),
        ("NEW_ACCOUNT", {"lifetime_count": 4}, {"lifetime_count": 5}),
        ("DORMANT", {"since_last_s": 14 * 86_400}, {"since_last_s": 14 * 86_400 - 1}),
        ("TRAVEL", {"speed_kmh": 900, "distance_km": 50}, {"speed_kmh": 899, "distance_km": 49}),
        ("DECLINES", {"declined_1h": 2}, {"declined_1h": 1}),
        ("DECLINES", {"declined_24h": 4}, {"declined_24h": 3}),
    ],
)  # fmt: skip
def test_a_reason_begins_where_the_documentation_says(
    code: str, edge: Values, beyond: Values
) -> None:
    assert code in found(edge)
    for name, value in beyond.items():
        assert code not in found(edge | {name: value}), name


def test_two_frauds_of_a_hundred_payments_are_two_per_cent() -> None:
    """As a float32 the share is a little less."""
    risky = {"merchant_30d_transactions": 100.0, "merchant_30d_frauds": 2.0}
    assert found(risky)["MERCHANT_RISK"].value == pytest.approx(0.02)
    assert not found(risky | {"merchant_30d_transactions": 101.0})


@pytest.mark.parametrize(
    ("code", "event", "name", "rarer"),
    [
        ("VELOCITY", {"count_1h": 4.0}, "count_1h", 8.0),
        ("VELOCITY", {"count_1h": 4.0, "count_30d": 30.0}, "count_30d", 20.0),
        ("AMOUNT_HIGH", {"amount": 9_900.0, "amount_ratio_30d": 3.0}, "amount_ratio_30d", 9.0),
        ("SPEND_HIGH", {"sum_24h": 9_000.0, "count_24h": 1.0}, "sum_24h", 20_000.0),
        ("SPEND_HIGH", {"sum_24h": 9_000.0, "count_24h": 1.0}, "sum_30d", 30_000.0),
        ("SMALL_THEN_LARGE", {"count_1h": 3.0, "max_1h": 100.0}, "amount", 9_000.0),
        ("SMALL_THEN_LARGE", {"count_1h": 3.0, "max_1h": 100.0}, "max_1h", 50.0),
        ("MANY_MERCHANTS", {"places_1h": 5.0}, "places_1h", 9.0),
        ("MANY_COUNTRIES", {"countries_24h": 3.0}, "countries_24h", 5.0),
        ("DORMANT", {"since_last_s": 20 * 86_400.0}, "since_last_s", 90 * 86_400.0),
        ("TRAVEL", {"speed_kmh": 900.0, "distance_km": 60.0}, "speed_kmh", 2_000.0),
        ("DECLINES", {"declined_1h": 2.0}, "declined_1h", 5.0),
        ("COUNTRY_MISMATCH", {"merchant_not_ip": 1.0}, "billing_not_ip", 1.0),
        ("REPEATED_AMOUNT", {"same_amount": 3.0, "lifetime_count": 9.0}, "same_amount", 8.0),
        ("MERCHANT_RISK", {"merchant_7d_transactions": 90.0, "merchant_7d_frauds": 2.0},
         "merchant_7d_frauds", 3.0),
        ("MERCHANT_RISK", {"merchant_7d_transactions": 90.0, "merchant_7d_frauds": 2.0},
         "merchant_7d_transactions", 30.0),
    ],
)  # fmt: skip
def test_the_rarer_is_the_stronger(code: str, event: Values, name: str, rarer: float) -> None:
    assert found(event | {name: rarer})[code].strength > found(event)[code].strength


@given(st.integers(0, 100 * 86_400))
def test_a_span_is_told_in_the_largest_unit_of_which_it_has_two(seconds: int) -> None:
    sizes = {"day": 86_400, "hour": 3_600, "minute": 60, "second": 1}
    number, _, noun = span_text(seconds).partition(" ")
    size = sizes[noun.removesuffix("s")]
    assert size == next((each for each in sizes.values() if seconds >= 2 * each), 1)
    assert abs(int(number) * size - seconds) <= size / 2
    assert noun.endswith("s") == (number != "1")


def said(code: str, **changes: Any) -> str:
    return next(each["text"] for each in told(**changes) if each["code"] == code)


@pytest.mark.parametrize("age_days", [1.0, 1.1, 1.9, 3.0, 30.0])
def test_where_less_than_a_day_is_left_earlier_payments_are_counted(age_days: float) -> None:
    """ "Usual" needs a day of past beside the window."""
    burst = {"count_1h": 9.0, "count_24h": 9.0, "count_7d": 11.0, "count_30d": 11.0}
    text = said("VELOCITY", **burst, age_days=age_days)
    if age_days - 1 / 24 < 1:
        assert text == "10 payments in 1 h; 2 before"
    else:
        assert re.fullmatch(r"10 payments in 1 h; usual: [^ ]+ (a day|in \d+ days)", text)


def test_what_was_usual_before_a_silence_leaves_the_silence_out() -> None:
    silent = {"since_last_s": 40 * 86_400.0, "age_days": 60.0, "lifetime_count": 200.0}
    silent |= {"count_7d": 0.0, "count_30d": 0.0}
    assert said("DORMANT", **silent) == "first payment for 40 days; usual before: 10 a day"
