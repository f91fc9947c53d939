"""Reasons that say a thing as it is: a way as on a map, a payee as a payee, nothing as nothing."""

from __future__ import annotations

from tests.test_reasons import only, told


def test_a_distance_is_that_of_a_map() -> None:
    """The feature is the line through the Earth: 12,735 km of it from Spain to New Zealand."""
    far = only(distance_km=12_735, speed_kmh=12_735 / 20, since_last_s=72_000)
    assert far["code"] == "SCORE"
    far = only(distance_km=12_735, speed_kmh=1_273.5, since_last_s=36_000)
    assert far["text"] == "19,592 km from the last place after 10 hours: 1,959 km/h"
    assert round(far["value"]) == 1_959
    (beyond,) = told(contributions={"place": 1.0}, distance_km=12_743)
    assert beyond["text"] == "the model weighs the place: 20,015 km from the last place"


def test_what_is_paid_is_named_as_what_it_is() -> None:
    transfer = {"event_type": "transfer", "counterparty_account_id": "c"}
    for document, new, many in (
        ({"merchant_id": "m"}, "at this merchant; 12 merchants", "5 different merchants in 1 h"),
        (transfer, "to this payee; 12 merchants or payees", "5 different merchants or payees in"),
        (
            transfer | {"merchant_id": "m"},
            "at this merchant; 12 merchants",
            "5 different merchants",
        ),
        ({"event_type": "transfer"}, "to this payee; 12", "5 different merchants or payees in 1 h"),
        ({"terminal_id": "t"}, "at this terminal; 12 merchants or terminals in", "5 different mer"),
    ):
        assert only(new_place=1, doc=document)["text"].startswith(f"first payment {new}")
        assert only(places_1h=5, doc=document)["text"].startswith(many)
    (known,) = told(transfer, contributions={"novelty": 1.0}, seen_place=1)
    assert known["text"].endswith("to this payee 1 time before")
    (new,) = told(transfer, contributions={"novelty": 1.0}, lifetime_count=1, new_place=1)[:1]
    assert new["text"].endswith("new payee")


def test_where_nothing_was_spent_before_no_sum_of_zero_is_usual() -> None:
    day = {"sum_24h": 90_000.0, "count_24h": 1.0, "sum_30d": 90_000.0, "count_30d": 1.0}
    texts = [reason["text"] for reason in told(**day, age_days=21.0, count_7d=1)]
    assert "EUR 930.00 in 24 h; nothing in the 20 days before" in texts
