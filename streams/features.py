"""THE feature list: names, order, type and digest of what a model and a rule see of one event.

In: nothing. Out: `FEATURES`, `NAMES`, `INDEX`, `DIGEST`. Does not know how any of them is computed:
the account's own come from `windows.py` and `traits.py`, the risk columns from `risk.py`.

All are float32. -1 means "unknown"; NaN and infinities never occur. The exact formulas are in
docs/windows.md. A feature is added at the end of its group and changes the digest: bundles trained
on another list are refused at start.
"""

from __future__ import annotations

import hashlib
from dataclasses import dataclass
from typing import Final

import numpy as np

from model.inputs import CHANNELS, ENTRY_MODES, EVENT_TYPES

VERSION: Final = 1
DTYPE: Final = np.dtype(np.float32)
UNKNOWN: Final = -1.0

WINDOWS_MS: Final = {
    "1m": 60_000,
    "5m": 300_000,
    "1h": 3_600_000,
    "24h": 86_400_000,
    "7d": 604_800_000,
    "30d": 2_592_000_000,
}
AGGREGATES: Final = ("count", "sum", "mean", "std", "min", "max", "places", "countries")
RISK_ENTITIES: Final = ("merchant", "terminal")
RISK_DAYS: Final = (1, 7, 30)
RISK_AGGREGATES: Final = ("transactions", "frauds", "fraud_share", "mean_amount")
RISK_COURSE: Final = (
    "days_since_first_fraud",
    "days_since_last_fraud",
    "good_before_fraud",
    "good_amid_fraud",
    "good_after_fraud",
    "days_since_good",
)
"""Of the longest of RISK_DAYS: how the known frauds lie among the other payments, and since when
there may have been some: the last good payment before the first known fraud, or the last at all."""


@dataclass(frozen=True, slots=True)
class Feature:
    """One column. `group` is the unit in which a score is explained."""

    name: str
    group: str
    text: str


_WINDOW_TEXT: Final = {
    "count": "payments in the last {}",
    "sum": "amount in the last {}, minor units",
    "mean": "mean amount in the last {}",
    "std": "standard deviation of the amounts in the last {}",
    "min": "smallest amount in the last {}",
    "max": "largest amount in the last {}",
    "places": "different merchants in the last {}",
    "countries": "different countries in the last {}",
}


def _windows() -> list[Feature]:
    return [
        Feature(f"{aggregate}_{window}", f"window_{window}", _WINDOW_TEXT[aggregate].format(window))
        for window in WINDOWS_MS
        for aggregate in AGGREGATES
    ]


_PAST: Final = (
    Feature("since_last_s", "tempo", "seconds since the event before"),
    Feature("age_days", "tempo", "days since the account's first event"),
    Feature("lifetime_count", "tempo", "payments of the account so far"),
    Feature("rate_1h_30d", "tempo", "payments an hour, last hour against the last 30 days"),
    Feature("rate_24h_30d", "tempo", "payments a day, last 24 hours against the last 30 days"),
    Feature("spend_24h_30d", "tempo", "amount a day, last 24 hours against the last 30 days"),
    Feature("amount_ratio_30d", "amount", "amount against the mean of the last 30 days"),
    Feature("amount_z_30d", "amount", "amount in standard deviations from the 30-day mean"),
    Feature("amount_max_30d", "amount", "amount against the largest of the last 30 days"),
    Feature("lifetime_mean", "amount", "mean amount of the account so far"),
    Feature("declined_1h", "declines", "declined payments in the last hour (last 64 events)"),
    Feature("declined_24h", "declines", "declined payments in the last 24 hours (last 64 events)"),
    Feature("new_place", "novelty", "merchant not among the last 64 events"),
    Feature("new_country", "novelty", "country not among the last 64 events"),
    Feature("new_device", "novelty", "device not among the last 64 events"),
    Feature("seen_place", "novelty", "events at this merchant among the last 64"),
    Feature("seen_device", "novelty", "events from this device among the last 64"),
    Feature("same_amount", "novelty", "events of this very amount among the last 64"),
    Feature("distance_km", "place", "distance from the last known position"),
    Feature("speed_kmh", "place", "speed needed from the last known position"),
    Feature("merchant_not_billing", "place", "merchant country is not the billing country"),
    Feature("merchant_not_ip", "place", "merchant country is not the country of the IP address"),
    Feature("billing_not_ip", "place", "billing country is not the country of the IP address"),
)

_OWN: Final = (
    Feature("amount", "amount", "amount, minor units"),
    Feature("amount_round", "amount", "amount is a multiple of 100 minor units"),
    Feature("hour", "clock", "hour of the day, UTC"),
    Feature("weekday", "clock", "day of the week, 0 is Monday"),
    *(Feature(f"type_{name}", "kind", f"event type is {name}") for name in EVENT_TYPES),
    *(Feature(f"channel_{name}", "kind", f"channel is {name}") for name in CHANNELS),
    *(Feature(f"entry_{name}", "kind", f"entry mode is {name}") for name in ENTRY_MODES),
    Feature("credit", "kind", "money comes into the account"),
    Feature("mcc", "kind", "merchant category code"),
    Feature("mcc_cash", "kind", "category: cash, quasi-cash, money transfer"),
    Feature("mcc_gambling", "kind", "category: betting"),
    Feature("mcc_digital", "kind", "category: digital goods"),
    Feature("mcc_travel", "kind", "category: airlines, hotels, travel"),
    Feature("mcc_electronics", "kind", "category: electronics and computers"),
    Feature("mcc_fuel", "kind", "category: fuel"),
    Feature("mcc_food", "kind", "category: food shops and restaurants"),
)

_RISK_TEXT: Final = {
    "transactions": "payments at the {} over {} d, delayed",
    "frauds": "known frauds at the {} over {} d, delayed",
    "fraud_share": "share of known fraud at the {} over {} d, delayed",
    "mean_amount": "mean amount at the {} over {} d, delayed",
    "days_since_first_fraud": "days since the first known fraud at the {} in {} d, delayed",
    "days_since_last_fraud": "days since the last known fraud at the {} in {} d, delayed",
    "good_before_fraud": "payments at the {} before the first known fraud in {} d, delayed",
    "good_amid_fraud": "good payments at the {} from first to last known fraud in {} d, delayed",
    "good_after_fraud": "payments at the {} after the last known fraud in {} d, delayed",
    "days_since_good": "days since the last good payment at the {} before frauds in {} d, delayed",
}


def _risk_of(entity: str) -> list[Feature]:
    windows = [
        (f"{entity}_{days}d_{aggregate}", aggregate, days)
        for days in RISK_DAYS
        for aggregate in RISK_AGGREGATES
    ]
    course = [(f"{entity}_{name}", name, max(RISK_DAYS)) for name in RISK_COURSE]
    return [
        Feature(name, f"{entity}_risk", _RISK_TEXT[text].format(entity, days))
        for name, text, days in (*windows, *course)
    ]


def _risk() -> list[Feature]:
    return [feature for entity in RISK_ENTITIES for feature in _risk_of(entity)]


FEATURES: Final = (*_windows(), *_PAST, *_OWN, *_risk())
NAMES: Final = tuple(feature.name for feature in FEATURES)
INDEX: Final = {name: at for at, name in enumerate(NAMES)}
COUNT: Final = len(NAMES)
RISK_NAMES: Final = tuple(feature.name for feature in _risk())
RISK_COUNT: Final = len(RISK_NAMES)
RISK_AT: Final = COUNT - RISK_COUNT
GROUPS: Final = tuple(dict.fromkeys(feature.group for feature in FEATURES))

DIGEST: Final = hashlib.sha256(
    "\n".join((f"features {VERSION} {DTYPE.name}", *NAMES)).encode()
).hexdigest()[:16]
"""Names, order, type and version of the formulas. A bundle carries it."""
