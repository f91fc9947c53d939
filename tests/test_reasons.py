"""Each reason says what it should, and keeps quiet where nothing is unusual."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from streams.features import GROUPS, INDEX, NAMES
from streams.findings import rate_text
from streams.reasons import GROUP_WORDS, reasons
from streams.rules import Rule
from streams.schema import MAX_REASONS, Decision

QUIET: dict[str, float] = {
    # A settled account: 15 payments in 30 days, 35.20 a time, the last one a day ago.
    "age_days": 400,
    "lifetime_count": 200,
    "since_last_s": 86_400,
    "amount": 3_000,
    **{f"count_{window}": 0 for window in ("1m", "5m", "1h")},
    "count_24h": 0,
    "count_7d": 3,
    "count_30d": 15,
    "sum_24h": 0,
    "sum_30d": 52_800,
    "mean_30d": 3_520,
    "max_30d": 9_000,
    "max_1h": -1,
    "places_1h": 0,
    "places_24h": 0,
    "places_30d": 12,
    "countries_24h": 0,
    "countries_30d": 1,
    "amount_ratio_30d": 0.85,
    "declined_1h": 0,
    "declined_24h": 0,
    "new_place": 0,
    "new_country": 0,
    "new_device": 0,
    "same_amount": 0,
    "speed_kmh": 10,
    "distance_km": 10,
    "merchant_not_billing": 0,
    "merchant_not_ip": 0,
    "billing_not_ip": 0,
}


def told(
    doc: dict[str, Any] | None = None,
    *,
    rules: list[Rule] | None = None,
    contributions: dict[str, float] | None = None,
    counts: bool = True,
    **changes: float,
) -> list[dict[str, Any]]:
    values = dict.fromkeys(NAMES, -1.0) | QUIET | changes
    row = np.zeros(len(NAMES), np.float32)
    for name, value in values.items():
        row[INDEX[name]] = value
    document = {"amount": int(values["amount"]), "currency": "EUR", **(doc or {})}
    return reasons(
        row,
        document,
        counts,
        score=0.91234,
        threshold=0.8,
        rules=rules or [],
        contributions=contributions,
    )


def only(**changes: Any) -> dict[str, Any]:
    (reason,) = told(**changes)
    return reason


def test_nothing_unusual_leaves_the_score_itself() -> None:
    assert only() == {
        "code": "SCORE",
        "text": "score 0.912, threshold 0.800",
        "contribution": None,
        "value": 0.91234,
        "baseline": 0.8,
    }


@pytest.mark.parametrize(
    ("code", "text", "changes"),
    [
        (
            "VELOCITY",
            "4 payments in 60 s; usual: 1 in 2 days",
            {"count_1m": 3, "count_5m": 3, "count_1h": 3, "count_24h": 3},
        ),
        (
            "AMOUNT_HIGH",
            "EUR 480.00; usual: EUR 35.20 (largest in 30 days: EUR 90.00)",
            {"amount": 48_000, "amount_ratio_30d": 13.6},
        ),
        (
            "SPEND_HIGH",
            "EUR 120.00 in 24 h; usual: EUR 15.10 a day",
            {"amount": 3_000, "sum_24h": 9_000, "count_24h": 1},
        ),
        (
            "SMALL_THEN_LARGE",
            "EUR 80.00 after 3 payments of at most EUR 1.00 in 1 h",
            {"amount": 8_000, "count_1h": 3, "max_1h": 100, "count_30d": 9_000, "sum_30d": 10**6},
        ),
        (
            "MANY_MERCHANTS",
            "5 different merchants in 1 h; 12 in 30 days, these among them",
            {"places_1h": 5},
        ),
        (
            "MANY_COUNTRIES",
            "3 countries in 24 h; 1 in 30 days, these among them",
            {"countries_24h": 3},
        ),
        (
            "NEW_COUNTRY",
            "first payment in BR; 1 country in the 30 days before",
            {"new_country": 1, "doc": {"merchant_country": "BR"}},
        ),
        ("NEW_DEVICE", "first payment from this device", {"new_device": 1}),
        (
            "NEW_MERCHANT",
            "first payment at this merchant; 12 merchants in the 30 days before",
            {"new_place": 1},
        ),
        ("NEW_ACCOUNT", "new account: 1 payment before this one", {"lifetime_count": 1}),
        (
            "DORMANT",
            "first payment for 45 days; usual before: 1 in 2 days",
            {"since_last_s": 45 * 86_400, "count_30d": 0, "count_7d": 0},
        ),
        (
            "TRAVEL",
            "1,252 km from the last place after 10 minutes: 7,512 km/h",
            {"speed_kmh": 7_500, "distance_km": 1_250, "since_last_s": 600},
        ),
        (
            "COUNTRY_MISMATCH",
            "merchant in BR, billed in DE",
            {
                "merchant_not_billing": 1,
                "doc": {"merchant_country": "BR", "billing_country": "DE"},
            },
        ),
        ("DECLINES", "2 declined payments in 1 h", {"declined_1h": 2, "declined_24h": 2}),
        ("DECLINES", "4 declined payments in 24 h", {"declined_1h": 1, "declined_24h": 4}),
        (
            "REPEATED_AMOUNT",
            "EUR 30.00, as 3 times before",
            {"same_amount": 3, "lifetime_count": 12},
        ),
        (
            "MERCHANT_RISK",
            "12 of 40 payments at this merchant known as fraud (30 days, delayed),"
            " the last 9 days ago",
            {
                "merchant_7d_transactions": 9,
                "merchant_7d_frauds": 1,
                "merchant_7d_fraud_share": 0.11,
                "merchant_30d_transactions": 40,
                "merchant_30d_frauds": 12,
                "merchant_30d_fraud_share": 0.3,
                "merchant_days_since_last_fraud": 9,
            },
        ),
        (
            "TERMINAL_RISK",
            "2 of 4 payments at this terminal known as fraud (7 days, delayed)",
            {
                "terminal_7d_transactions": 4,
                "terminal_7d_frauds": 2,
                "terminal_7d_fraud_share": 0.5,
            },
        ),
    ],
)
def test_one_unusual_thing_is_one_reason(code: str, text: str, changes: dict[str, Any]) -> None:
    reason = only(**changes)
    assert (reason["code"], reason["text"]) == (code, text)
    assert set(reason) == {"code", "text", "contribution", "value", "baseline"}


def test_value_and_baseline_are_numbers_of_the_same_kind() -> None:
    velocity = only(count_1m=3, count_5m=3, count_1h=3, count_24h=3)
    assert velocity["value"] == 4
    assert velocity["baseline"] == pytest.approx(12 / 30 / 1440, rel=1e-3)  # without those three
    amount = only(amount=48_000, amount_ratio_30d=13.6)
    assert (amount["value"], amount["baseline"]) == (48_000, 3_520)


def test_a_payment_that_does_not_count_is_not_counted() -> None:
    three = {"count_1m": 3.0, "count_5m": 3.0, "count_1h": 3.0, "count_24h": 3.0}
    assert told(counts=False, **three)[0]["text"].startswith("3 payments in 60 s")


def test_a_young_account_is_measured_by_its_own_age() -> None:
    # 6 payments in 2 days is 3 a day: 4 in 24 hours are nothing.
    young = {"age_days": 2.0, "count_30d": 6.0, "count_7d": 6.0, "lifetime_count": 6.0}
    assert only(count_24h=3, sum_24h=100, **young)["code"] == "SCORE"


def test_what_is_unusual_now_is_not_its_own_baseline() -> None:
    """An account of half an hour: its burst is all there is, and no rate a day."""
    burst = {"count_1h": 8.0, "count_24h": 8.0, "count_7d": 9.0, "count_30d": 9.0}
    young = {"age_days": 0.02, "lifetime_count": 9.0, "sum_24h": 9_000.0, "sum_30d": 9_000.0}
    found = told(**burst, **young, places_1h=6, places_30d=6, countries_24h=3, countries_30d=3)
    assert [reason["text"] for reason in found] == [
        "9 payments in 1 h; 1 before",
        "3 countries in 24 h; no other in 30 days",
        "6 different merchants in 1 h; no other in 30 days",
    ]
    settled = only(count_1h=8, count_24h=8, count_7d=8, count_30d=8, sum_30d=0, age_days=20)
    assert settled["text"] == "9 payments in 1 h; usual: none in 20 days"


def test_a_speed_is_told_with_the_time_that_it_was_made_of() -> None:
    """The last place may be older than the last event, and a number may be beyond sense."""
    slow = only(speed_kmh=7_500, distance_km=1_250, since_last_s=1)
    assert slow["text"] == "1,252 km from the last place after 10 minutes: 7,512 km/h"
    wild = only(speed_kmh=157_600, distance_km=7_880, since_last_s=180)
    assert wild["text"] == "8,496 km from the last place after 3 minutes: over 20,000 km/h"


GROUPS_SHOWN = {
    "amount": "the amount: EUR 30.00; usual: EUR 35.20",
    "tempo": "the time since the last payment: 24 hours after the one before; usual: 1 in 2 days",
    "declines": "declined payments before: 0 declined payments in 24 h",
    "novelty": "what is new for the account: at this merchant 3 times before",
    "place": "the place: merchant in DE, 10 km from the last place",
    "clock": "the hour: Tuesday, 3 h UTC",
    "kind": "the kind of payment: ecommerce, credential on file, category 5732",
    "merchant_risk": "this merchant's past: 1 of 40 payments known as fraud (30 days, delayed)",
    "terminal_risk": "this terminal's past: nothing known",
    "window_1h": "the payments of the last 1 h: none",
    "window_30d": "the payments of the last 30 days: 15, EUR 528.00 in all",
    "history": "the order of the account's last payments: 3 in the 7 days before,"
    " EUR 5.00 to EUR 90.00",
}


VALUES_SHOWN: dict[str, tuple[float | None, float | None]] = {
    "amount": (3_000, 3_520),
    "tempo": (86_400, None),
    "declines": (0, None),
    "novelty": (None, None),
    "place": (10, None),
    "clock": (3, None),
    "kind": (None, None),
    "merchant_risk": (1 / 40, None),
    "terminal_risk": (None, None),
    "window_1h": (0, None),
    "window_30d": (15, None),
    "history": (3, None),
}


@pytest.mark.parametrize("group", GROUPS)
def test_a_group_that_only_the_model_speaks_for_shows_its_numbers(group: str) -> None:
    document = {
        "merchant_country": "DE", "channel": "ecommerce", "entry_mode": "credential_on_file",
        "mcc": "5732",
    }  # fmt: skip
    (reason,) = told(
        document, contributions={group: 1.0}, hour=3, weekday=1, seen_place=3,
        merchant_30d_transactions=40, merchant_30d_frauds=1, min_7d=500, max_7d=9_000,
    )  # fmt: skip
    assert reason["code"] == "MODEL"
    assert reason["text"].startswith("the model weighs ")
    if group in GROUPS_SHOWN:
        assert reason["text"] == f"the model weighs {GROUPS_SHOWN[group]}"
        assert (reason["value"], reason["baseline"]) == VALUES_SHOWN[group]


def test_a_group_shows_what_there_is_to_show() -> None:
    def shown(group: str, **changes: float) -> str:
        return str(told(contributions={group: 1.0}, **changes)[0]["text"]).partition(": ")[2]

    assert shown("amount", count_30d=0, mean_30d=-1) == "EUR 30.00, the first payment in 30 days"
    assert shown("tempo", since_last_s=-1) == "the account's first payment"
    assert shown("place", distance_km=-1) == ""
    assert told(contributions={"place": 1.0}, distance_km=-1)[0]["value"] is None
    assert shown("place", distance_km=0) == "0 km from the last place"
    # One is enough to be told of.
    one = {"count_7d": 1.0, "count_30d": 1.0, "sum_30d": 250.0, "mean_30d": 250.0}
    assert shown("amount", **one) == "EUR 30.00; usual: EUR 2.50"
    silent = {"terminal_30d_transactions": 3.0, "terminal_30d_frauds": 0.0}
    assert shown("terminal_risk", terminal_days_since_good=22.125, **silent) == (
        "0 of 3 payments known as fraud (30 days, delayed), the last 22 days ago"
    )
    assert shown("novelty", seen_place=0) == "at this merchant 0 times before"
    nothing = {f"count_{window}": 0.0 for window in ("7d", "30d")}
    assert shown("history", **nothing) == "none in the 30 days before"
    assert shown("history", lifetime_count=0, since_last_s=-1) == "there are none"
    # What came in, or a status message, is history that the model looks at, and no payment.
    only_in = shown("history", lifetime_count=0)
    assert only_in == "none, only money that came in, refunds or status messages"
    hour = {"count_1h": 1.0, "min_1h": 250.0, "max_1h": 250.0}
    assert shown("history", **hour) == "1 in the hour before, EUR 2.50"
    assert shown("history", **hour | {"count_1h": 4.0}) == "4 in the hour before, EUR 2.50 each"
    # Ten of EUR 900.00 in the last day are the attack, not what is usual.
    attack = {"count_24h": 10.0, "sum_24h": 900_000.0, "count_30d": 25.0, "sum_30d": 952_800.0}
    attack |= {"mean_30d": 38_112.0, "since_last_s": 60.0, "age_days": 29.0}
    assert shown("amount", **attack) == "EUR 30.00; usual: EUR 35.20"
    assert shown("tempo", **attack) == "60 seconds after the one before; usual: 1 in 2 days"
    first_day = attack | {"count_30d": 10.0, "sum_30d": 900_000.0, "mean_30d": 90_000.0}
    assert shown("amount", **first_day) == "EUR 30.00; usual: EUR 900.00"
    assert shown("tempo", **first_day | {"age_days": 0.5}) == "60 seconds after the one before"


def test_currencies_have_their_decimals() -> None:
    reason = only(amount=48_000, amount_ratio_30d=13.6, doc={"currency": "JPY"})
    assert reason["text"].startswith("JPY 48,000; usual: JPY 3,520")


def test_without_a_model_the_strongest_comes_first() -> None:
    found = told(
        new_place=1,
        new_device=1,
        count_1m=9,
        count_5m=9,
        count_1h=9,
        count_24h=9,
    )
    assert [reason["code"] for reason in found] == ["VELOCITY", "NEW_DEVICE", "NEW_MERCHANT"]
    assert all(reason["contribution"] is None for reason in found)


def test_with_a_model_its_contributions_decide() -> None:
    changes = {"new_device": 1.0, "count_1m": 9.0, "count_24h": 9.0, "declined_1h": 3.0}
    changes |= {"min_24h": 100.0, "max_24h": 100.0}
    found = told(
        contributions={"novelty": 2.0, "window_1m": 0.5, "declines": -1.0, "history": 1.23456},
        **changes,
    )
    assert [(r["code"], r["contribution"]) for r in found] == [
        ("NEW_DEVICE", 2.0),
        ("MODEL", 1.2346),
        ("VELOCITY", 0.5),
        ("DECLINES", -1.0),
    ]
    assert found[1]["text"].endswith("last payments: 9 in the 24 hours before, EUR 1.00 each")
    # From 0.25 on a group is named by itself; one finding of any window speaks for them all.
    for weight, named in ((0.25, True), (0.24, False)):
        codes = [reason["code"] for reason in told(contributions={"history": weight}, **changes)]
        assert ("MODEL" in codes) is named
    windows = told(contributions={"window_1m": 0.5, "window_7d": 3.0}, **changes)
    assert all(reason["code"] != "MODEL" for reason in windows)
    light = told(contributions={"history": 0.1}, **changes)
    assert all(reason["code"] != "MODEL" for reason in light)


def test_rules_come_first_and_there_are_at_most_five() -> None:
    rules = [
        Rule("a", 1, Decision.BLOCK, (), (), "card on the list"),
        Rule("b", 2, Decision.REVIEW, (), ()),
        Rule("c", 1, Decision.APPROVE, (), (), "never a reason"),
    ]
    found = told(
        rules=rules,
        new_device=1,
        new_place=1,
        declined_1h=3,
        speed_kmh=5_000,
        distance_km=3_000,
    )
    assert len(found) == MAX_REASONS
    assert [(r["code"], r["text"]) for r in found[:2]] == [
        ("RULE", "card on the list"),
        ("RULE", "rule b"),
    ]
    assert "never a reason" not in str(found)


def test_every_feature_group_has_words() -> None:
    assert {group for group in GROUPS if not group.startswith("window_")} < set(GROUP_WORDS)


@pytest.mark.parametrize(
    ("per_day", "text"),
    [
        (0, "none in 30 days"),
        (1 / 30, "1 in 30 days"),
        (0.5, "1 in 2 days"),
        (0.9, "1 a day"),
        (1, "1 a day"),
        (3.4, "3 a day"),
        (47, "47 a day"),
        (72, "3 an hour"),
    ],
)
def test_rates_as_people_say_them(per_day: float, text: str) -> None:
    assert rate_text(per_day) == text
