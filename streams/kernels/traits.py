"""Everything about one event that is not a window: its past, its novelty, its place, itself.

In: the event's words, the account's history and header, the closed windows. Out: features from
`since_last_s` on. Does not know the arena, the risk columns or the order of the list, which it
takes from `features.INDEX`. Every formula uses only + - * / and sqrt in float64, in a fixed order,
so the result is the same on every machine; docs/windows.md gives them one by one.
"""

from __future__ import annotations

import math

import numpy as np
from numpy.typing import NDArray

from model import inputs
from model.inputs import AUTH_RESPONSES, CHANNELS, ENTRY_MODES, EVENT_TYPES, HISTORY
from streams.columns import NO_POSITION
from streams.features import INDEX
from streams.kernels.record import (
    LIFE_COUNT,
    LIFE_SUM,
    OLDEST,
    POSITION,
    POSITION_TIME,
    POSITIONED,
    kernel,
    variance_numerator,
)

Words = NDArray[np.uint64]
Floats = NDArray[np.float32]

DAY = 86_400_000
HOUR = 3_600_000
MONTH = 2_592_000_000
EARTH_KM = 6371.0088
MIN_TRAVEL_MS = 60_000
"""Speed is taken over at least a minute: two clocks are not exact to the second."""
DECLINED = np.uint64(AUTH_RESPONSES.index("declined") + 1)
CREDIT = 2

_RADIANS = math.pi / 180.0e6
_HALF_PI = math.pi / 2.0
_SINE = tuple((-1.0) ** n / math.factorial(2 * n + 1) for n in range(10))
_S20 = np.uint64(inputs.TIME_SHIFT)
_S14 = np.uint64(inputs.AMOUNT_SHIFT)
_AUTH_SHIFT = np.uint64(inputs.AUTH_SHIFT)
_AUTH_MASK = np.uint64(inputs.AUTH_MASK)
_COUNTS = np.uint64(inputs.COUNTS_SHIFT)
_PLACE = np.uint64(inputs.PLACE_SHIFT)
_COUNTRY = np.uint64(inputs.COUNTRY_SHIFT)
_COUNTRY_MASK = np.uint64(inputs.COUNTRY_MASK)
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
def sine(x: float) -> float:
    """Sine for |x| <= pi/2 by its series to x^19 (error below 1e-15); the same on every machine."""
    square = x * x
    result = _SINE[9]
    for n in range(8, -1, -1):
        result = result * square
        result = result + _SINE[n]
    return result * x


@kernel
def distance_km(lat1: int, lon1: int, lat2: int, lon2: int) -> float:
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
def tempo(
    t: int,
    header: Words,
    aggregates: Words,
    last: int,
    newer: int,
    newer_sum: np.uint64,
    out: Floats,
) -> None:
    """How fast the account moves; `last` is the time of the event before, -1 if there is none.

    newer, newer_sum: counting events of the ring later than t, which a late event must not see.
    """
    for at in range(_SINCE_LAST, _LIFE_MEAN + 1):
        out[at] = -1.0
    life = np.int64(header[LIFE_COUNT]) - newer
    out[_LIFE_COUNT] = float(life)
    if life > 0:
        out[_LIFE_MEAN] = float(header[LIFE_SUM] - newer_sum) / float(life)
    if last < 0:
        return
    out[_SINCE_LAST] = float(t - last) / 1000.0
    age = t - np.int64(header[OLDEST])
    out[_AGE] = float(age) / 86_400_000.0
    span = min(age, MONTH)
    count = np.int64(aggregates[5, 0])
    if count == 0:
        return
    if span >= HOUR:
        hour = float(np.int64(aggregates[2, 0]) * span)
        out[_RATE_1H] = hour / float(count * HOUR)
    if span >= DAY:
        day = float(np.int64(aggregates[3, 0]) * span)
        out[_RATE_24H] = day / float(count * DAY)
        if aggregates[5, 1] > np.uint64(0):
            spent = float(aggregates[3, 1]) / float(aggregates[5, 1])
            out[_SPEND_24H] = spent * float(span) / 86_400_000.0


@kernel
def amounts(amount: np.uint64, month: Words, out: Floats) -> None:
    """The amount against the account's own last 30 days. Call after `tempo`."""
    if month[0] == np.uint64(0) or month[1] == np.uint64(0):
        return
    mean = float(month[1]) / float(month[0])
    out[_RATIO] = float(amount) / mean
    out[_OF_MAX] = float(amount) / float(month[5])
    spread = variance_numerator(month[0], month[1], month[2], month[3])
    if spread > 0.0:
        out[_Z] = (float(amount) - mean) / (math.sqrt(spread) / float(month[0]))


@kernel
def novelty(event: Words, view: Words, first: int, out: Floats) -> None:
    """The event against the last 64: declines, new and seen places, countries, devices, amounts."""
    t = np.int64(event[0] >> _S20)
    country = (event[3] >> _COUNTRY) & _COUNTRY_MASK
    device = event[3] & _DEVICE_MASK
    places, countries, devices, same, hour, day = 0, 0, 0, 0, 0, 0
    for j in range(first, HISTORY):
        w0, w1, w3 = view[j, 0], view[j, 1], view[j, 3]
        places += (w3 ^ event[3]) >> _PLACE == np.uint64(0)
        countries += (w3 >> _COUNTRY) & _COUNTRY_MASK == country
        devices += w3 & _DEVICE_MASK == device
        same += (w1 ^ event[1]) >> _S14 == np.uint64(0)
        declined = (w0 >> _AUTH_SHIFT) & _AUTH_MASK == DECLINED
        declined &= (w0 >> _COUNTS) & np.uint64(1) == np.uint64(1)
        time = np.int64(w0 >> _S20)
        hour += declined & (time >= t - HOUR)
        day += declined & (time >= t - DAY)
    out[_DECLINED_1H] = float(hour)
    out[_DECLINED_24H] = float(day)
    out[_SAME_AMOUNT] = float(same)
    known = first < HISTORY
    has_place = event[3] >> _PLACE != np.uint64(0)
    out[_SEEN_PLACE] = float(places) if has_place else -1.0
    out[_SEEN_DEVICE] = float(devices) if device != np.uint64(0) else -1.0
    out[_NEW_PLACE] = truth(places == 0) if known and has_place else -1.0
    out[_NEW_COUNTRY] = truth(countries == 0) if known and country != np.uint64(0) else -1.0
    out[_NEW_DEVICE] = truth(devices == 0) if known and device != np.uint64(0) else -1.0


@kernel
def truth(condition: bool) -> float:
    """1 or 0."""
    return 1.0 if condition else 0.0


@kernel
def differ(a: int, b: int) -> float:
    """1 if two countries differ, 0 if they do not, -1 if either is not given."""
    return -1.0 if a == 0 or b == 0 else truth(a != b)


@kernel
def place(
    t: int,
    country: int,
    billing: int,
    ip: int,
    lat: int,
    lon: int,
    flags: int,
    header: Words,
    out: Floats,
) -> None:
    """Where the event is: countries against each other, distance and speed from the last place."""
    out[_MERCHANT_BILLING] = differ(country, billing)
    out[_MERCHANT_IP] = differ(country, ip)
    out[_BILLING_IP] = differ(billing, ip)
    out[_DISTANCE] = -1.0
    out[_SPEED] = -1.0
    then = np.int64(header[POSITION_TIME])
    if lat == NO_POSITION or flags & POSITIONED == 0 or then > t:
        return
    last_lat = np.int64(np.int32(header[POSITION] >> _32))
    last_lon = np.int64(np.int32(header[POSITION] & _LOW))
    distance = distance_km(last_lat, last_lon, lat, lon)
    out[_DISTANCE] = distance
    out[_SPEED] = distance * 3_600_000.0 / float(max(t - then, MIN_TRAVEL_MS))


@kernel
def itself(event: Words, out: Floats) -> None:
    """What the event says of itself; its auth_response is not looked at."""
    t = np.int64(event[0] >> _S20)
    low = np.int64(event[0] & np.uint64(0xFFFFF))
    amount = np.int64(event[1] >> _S14)
    for at in range(_AMOUNT, _FOOD + 1):
        out[at] = 0.0
    out[_AMOUNT] = float(amount)
    out[_ROUND] = truth(amount % 100 == 0)
    out[_CLOCK] = float(t // HOUR % 24)
    out[_WEEKDAY] = float((t // DAY + 3) % 7)  # 1970-01-01 was a Thursday
    kind = (low >> inputs.TYPE_SHIFT) & inputs.TYPE_MASK
    channel = (low >> inputs.CHANNEL_SHIFT) & inputs.CHANNEL_MASK
    mode = (low >> inputs.ENTRY_SHIFT) & inputs.ENTRY_MASK
    if 0 < kind <= len(EVENT_TYPES):
        out[_TYPE + kind] = 1.0
    if channel > 0:
        out[_CHANNEL + channel] = 1.0
    if 0 < mode <= len(ENTRY_MODES):
        out[_ENTRY + mode] = 1.0
    out[_CREDIT] = truth((low >> inputs.DIRECTION_SHIFT) & inputs.DIRECTION_MASK == CREDIT)
    mcc = np.int64(event[1] & np.uint64(inputs.MCC_MASK))
    out[_MCC] = float(mcc) if mcc != 0 else -1.0
    out[_CASH] = truth(mcc == 4829 or mcc == 6010 or mcc == 6011 or mcc == 6051)
    out[_GAMBLING] = truth(mcc == 7995 or 7800 <= mcc <= 7802)
    out[_DIGITAL] = truth(5815 <= mcc <= 5818)
    out[_TRAVEL] = truth(3000 <= mcc <= 3999 or mcc == 4511 or mcc == 4722 or mcc == 7011)
    out[_ELECTRONICS] = truth(mcc == 5045 or mcc == 5732 or mcc == 5734)
    out[_FUEL] = truth(mcc == 5541 or mcc == 5542 or mcc == 5983)
    out[_FOOD] = truth(mcc == 5411 or mcc == 5499 or 5811 <= mcc <= 5814)
