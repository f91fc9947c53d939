"""Everything about one event that is not a window: its past, its novelty, its place, itself.

In: the event's words, the account's history and header, the closed windows. Out: features from
`since_last_s` on. Does not know the arena, the risk columns or the order of the list, which it
takes from `features.INDEX`. Every formula uses only + - * / and sqrt in float64, in a fixed order,
so the result is the same on every machine; docs/windows.md gives them one by one.
"""

from __future__ import annotations

import math

import numpy as np

from model import inputs
from model.inputs import CHANNELS, ENTRY_MODES, EVENT_TYPES
from streams.columns import EARTH_KM, NO_POSITION
from streams.features import INDEX, RISK_AT, RISK_COUNT
from streams.kernels.cells import (
    DECLINED_1H,
    DECLINED_24H,
    LAST_TIME,
    LATER,
    LATER_SUM,
    SAME_AMOUNT,
    SEEN_COUNTRY,
    SEEN_DEVICE,
    SEEN_PLACE,
    Before,
    Events,
    Results,
)
from streams.kernels.record import (
    LIFE_COUNT,
    LIFE_SUM,
    OLDEST,
    POSITION,
    POSITION_TIME,
    POSITIONED,
    Flag,
    Floats,
    Int,
    Real,
    Word,
    kernel,
    outline,
    variance_numerator,
)
from streams.kernels.ring import (
    ZERO,
    amount_of,
    country_of,
    place_of,
    time_of,
    unpack_state,
)
from streams.kernels.walk import emit

DAY = 86_400_000
HOUR = 3_600_000
MONTH = 2_592_000_000
MIN_TRAVEL_MS = 60_000
"""Speed is taken over at least a minute: two clocks are not exact to the second."""
CREDIT = 2

_RADIANS = math.pi / 180.0e6
_HALF_PI = math.pi / 2.0
_SINE = tuple((-1.0) ** n / math.factorial(2 * n + 1) for n in range(10))
_TYPES, _CHANNELS, _ENTRIES = len(EVENT_TYPES), len(CHANNELS), len(ENTRY_MODES)
_DEVICE_MASK = np.uint64(inputs.DEVICE_MASK)
_LOW = np.uint64(0xFFFFFFFF)
_32 = np.uint64(32)

_SINCE_LAST = INDEX["since_last_s"]
_AGE = INDEX["age_days"]
_LIFE_COUNT = INDEX["lifetime_count"]
_RATE_1H = INDEX["rate_1h_30d"]
_RATE_24H = INDEX["rate_24h_30d"]
_SPEND_24H = INDEX["spend_24h_30d"]
_RATIO = INDEX["amount_ratio_30d"]
_Z = INDEX["amount_z_30d"]
_OF_MAX = INDEX["amount_max_30d"]
_LIFE_MEAN = INDEX["lifetime_mean"]
_DECLINED_1H = INDEX["declined_1h"]
_DECLINED_24H = INDEX["declined_24h"]
_NEW_PLACE = INDEX["new_place"]
_NEW_COUNTRY = INDEX["new_country"]
_NEW_DEVICE = INDEX["new_device"]
_SEEN_PLACE = INDEX["seen_place"]
_SEEN_DEVICE = INDEX["seen_device"]
_SAME_AMOUNT = INDEX["same_amount"]
_DISTANCE = INDEX["distance_km"]
_SPEED = INDEX["speed_kmh"]
_MERCHANT_BILLING = INDEX["merchant_not_billing"]
_MERCHANT_IP = INDEX["merchant_not_ip"]
_BILLING_IP = INDEX["billing_not_ip"]
_AMOUNT = INDEX["amount"]
_ROUND = INDEX["amount_round"]
_CLOCK = INDEX["hour"]
_WEEKDAY = INDEX["weekday"]
_TYPE = INDEX[f"type_{EVENT_TYPES[0]}"] - 1
_CHANNEL = INDEX[f"channel_{CHANNELS[0]}"] - 1
_ENTRY = INDEX[f"entry_{ENTRY_MODES[0]}"] - 1
_CREDIT = INDEX["credit"]
_MCC = INDEX["mcc"]
_CASH = INDEX["mcc_cash"]
_GAMBLING = INDEX["mcc_gambling"]
_DIGITAL = INDEX["mcc_digital"]
_TRAVEL = INDEX["mcc_travel"]
_ELECTRONICS = INDEX["mcc_electronics"]
_FUEL = INDEX["mcc_fuel"]
_FOOD = INDEX["mcc_food"]


@kernel
def sine(x: Real) -> Real:
    """Sine for |x| <= pi/2 by its series to x^19 (error below 1e-15); the same on every machine."""
    square = x * x
    result = _SINE[9]
    for n in range(8, -1, -1):
        result = result * square
        result = result + _SINE[n]
    return result * x


@kernel
def distance_km(lat1: Int, lon1: Int, lat2: Int, lon2: Int) -> Real:
    """Straight line through the Earth between two places in microdegrees.

    0.1 % shorter than the great circle at 1,000 km, 2.5 % at 5,000 km, 36 % at most.
    """
    apart = lon2 - lon1
    if apart > 180_000_000:
        apart -= 360_000_000
    elif apart < -180_000_000:
        apart += 360_000_000
    north = sine(float(lat2 - lat1) * _RADIANS / 2.0)
    east = sine(float(apart) * _RADIANS / 2.0)
    first = sine(_HALF_PI - float(abs(lat1)) * _RADIANS)
    second = sine(_HALF_PI - float(abs(lat2)) * _RADIANS)
    north = north * north
    east = first * second * east * east
    return 2.0 * EARTH_KM * math.sqrt(north + east)


@kernel
def tempo(before: Before, at: Int, t: Int, last: Int, features: Floats, i: Int) -> None:
    """How fast the account moves; `last` is the time of the event before, -1 if there is none."""
    for column in range(_SINCE_LAST, _LIFE_MEAN + 1):
        features[i, column] = -1.0
    life = np.int64(before.heads[at, LIFE_COUNT]) - before.notes[at, LATER]
    features[i, _LIFE_COUNT] = float(life)
    if life > 0:
        total = before.heads[at, LIFE_SUM] - before.trail[at, LATER_SUM]
        features[i, _LIFE_MEAN] = float(total) / float(life)
    if last < 0:
        return
    features[i, _SINCE_LAST] = float(t - last) / 1000.0
    age = t - np.int64(before.heads[at, OLDEST])
    features[i, _AGE] = float(age) / 86_400_000.0
    span = min(age, MONTH)
    count, total = np.int64(before.windows[at, 5, 0]), before.windows[at, 5, 1]
    if count == 0:
        return
    if span >= HOUR:
        hour = float(np.int64(before.windows[at, 2, 0]) * span)
        features[i, _RATE_1H] = hour / float(count * HOUR)
    if span >= DAY:
        day = float(np.int64(before.windows[at, 3, 0]) * span)
        features[i, _RATE_24H] = day / float(count * DAY)
        if total > ZERO:
            share = float(before.windows[at, 3, 1]) / float(total)
            features[i, _SPEND_24H] = share * float(span) / 86_400_000.0


@kernel
def amounts(before: Before, at: Int, amount: Word, features: Floats, i: Int) -> None:
    """The amount against the account's own last 30 days. Call after `tempo`."""
    count, total = before.windows[at, 5, 0], before.windows[at, 5, 1]
    if count == ZERO or total == ZERO:
        return
    n, value = float(count), float(amount)
    mean = float(total) / n
    features[i, _RATIO] = value / mean
    features[i, _OF_MAX] = value / float(before.windows[at, 5, 5])
    spread = variance_numerator(count, total, before.windows[at, 5, 2], before.windows[at, 5, 3])
    if spread > 0.0:
        features[i, _Z] = (value - mean) / (math.sqrt(spread) / n)


@kernel
def truth(condition: Flag) -> Real:
    """1 or 0."""
    return 1.0 if condition else 0.0


@kernel
def novelty(before: Before, at: Int, w3: Word, known: Flag, features: Floats, i: Int) -> None:
    """The event against the last 64; `known` when there are any."""
    features[i, _DECLINED_1H] = float(before.notes[at, DECLINED_1H])
    features[i, _DECLINED_24H] = float(before.notes[at, DECLINED_24H])
    features[i, _SAME_AMOUNT] = float(before.notes[at, SAME_AMOUNT])
    for column in range(_NEW_PLACE, _SEEN_DEVICE + 1):
        features[i, column] = -1.0
    if place_of(w3) != ZERO:
        features[i, _SEEN_PLACE] = float(before.notes[at, SEEN_PLACE])
        if known:
            features[i, _NEW_PLACE] = truth(before.notes[at, SEEN_PLACE] == 0)
    if country_of(w3) != ZERO and known:
        features[i, _NEW_COUNTRY] = truth(before.notes[at, SEEN_COUNTRY] == 0)
    if w3 & _DEVICE_MASK != ZERO:
        features[i, _SEEN_DEVICE] = float(before.notes[at, SEEN_DEVICE])
        if known:
            features[i, _NEW_DEVICE] = truth(before.notes[at, SEEN_DEVICE] == 0)


@kernel
def differ(a: Int, b: Int) -> Real:
    """1 if two countries differ, 0 if they do not, -1 if either is not given."""
    return -1.0 if a == 0 or b == 0 else truth(a != b)


@kernel
def whereabouts(
    before: Before, at: Int, t: Int, country: Int, events: Events, features: Floats, i: Int
) -> None:
    """Where the event is: countries against each other, distance and speed from the last place."""
    billing, ip = np.int64(events.billing[i]), np.int64(events.ip[i])
    features[i, _MERCHANT_BILLING] = differ(country, billing)
    features[i, _MERCHANT_IP] = differ(country, ip)
    features[i, _BILLING_IP] = differ(billing, ip)
    features[i, _DISTANCE] = -1.0
    features[i, _SPEED] = -1.0
    flags, _, _, _ = unpack_state(before.heads[at, 0])
    then = np.int64(before.heads[at, POSITION_TIME])
    if events.latitude[i] == NO_POSITION or flags & POSITIONED == 0 or then > t:
        return
    last_lat = np.int64(np.int32(before.heads[at, POSITION] >> _32))
    last_lon = np.int64(np.int32(before.heads[at, POSITION] & _LOW))
    lat, lon = np.int64(events.latitude[i]), np.int64(events.longitude[i])
    distance = distance_km(last_lat, last_lon, lat, lon)
    features[i, _DISTANCE] = distance
    features[i, _SPEED] = distance * 3_600_000.0 / float(max(t - then, MIN_TRAVEL_MS))


@kernel
def itself(w0: Word, w1: Word, features: Floats, i: Int) -> None:
    """What the event says of itself; its auth_response is not looked at."""
    t, amount = time_of(w0), np.int64(amount_of(w1))
    for column in range(_AMOUNT, _FOOD + 1):
        features[i, column] = 0.0
    features[i, _AMOUNT] = float(amount)
    features[i, _ROUND] = truth(amount % 100 == 0)
    features[i, _CLOCK] = float(t // HOUR % 24)
    features[i, _WEEKDAY] = float((t // DAY + 3) % 7)  # 1970-01-01 was a Thursday
    low = np.int64(w0 & _LOW)
    kind = (low >> inputs.TYPE_SHIFT) & inputs.TYPE_MASK
    channel = (low >> inputs.CHANNEL_SHIFT) & inputs.CHANNEL_MASK
    mode = (low >> inputs.ENTRY_SHIFT) & inputs.ENTRY_MASK
    if 0 < kind <= _TYPES:
        features[i, _TYPE + kind] = 1.0
    if 0 < channel <= _CHANNELS:
        features[i, _CHANNEL + channel] = 1.0
    if 0 < mode <= _ENTRIES:
        features[i, _ENTRY + mode] = 1.0
    features[i, _CREDIT] = truth((low >> inputs.DIRECTION_SHIFT) & inputs.DIRECTION_MASK == CREDIT)
    category(np.int64(w1 & np.uint64(inputs.MCC_MASK)), features, i)


@kernel
def category(mcc: Int, features: Floats, i: Int) -> None:
    """The merchant category, and the groups of categories that matter for fraud."""
    if mcc == 0:
        features[i, _MCC] = -1.0
        return
    features[i, _MCC] = float(mcc)
    features[i, _CASH] = truth(mcc == 4829 or mcc == 6010 or mcc == 6011 or mcc == 6051)
    features[i, _GAMBLING] = truth(mcc == 7995 or 7800 <= mcc <= 7802)
    features[i, _DIGITAL] = truth(5815 <= mcc <= 5818)
    travel = 3000 <= mcc <= 3999 or mcc == 4511 or mcc == 4722 or mcc == 7011
    features[i, _TRAVEL] = truth(travel)
    features[i, _ELECTRONICS] = truth(mcc == 5045 or mcc == 5732 or mcc == 5734)
    features[i, _FUEL] = truth(mcc == 5541 or mcc == 5542 or mcc == 5983)
    features[i, _FOOD] = truth(mcc == 5411 or mcc == 5499 or 5811 <= mcc <= 5814)


@outline
def describe_chunk(before: Before, events: Events, begin: Int, many: Int, results: Results) -> None:
    """All features of `many` events from `begin` on."""
    features = results.features
    for at in range(many):
        i = begin + at
        if results.status[i] != 0:
            features[i, :] = 0.0
            continue
        w0, w1, w3 = events.words[i, 0], events.words[i, 1], events.words[i, 3]
        t, last = time_of(w0), before.notes[at, LAST_TIME]
        emit(before, at, features, i)
        tempo(before, at, t, last, features, i)
        amounts(before, at, amount_of(w1), features, i)
        novelty(before, at, w3, last >= 0, features, i)
        whereabouts(before, at, t, np.int64(country_of(w3)), events, features, i)
        itself(w0, w1, features, i)
        for column in range(RISK_COUNT):
            features[i, RISK_AT + column] = events.risk[i, column]
