"""The simulator's world: cities, merchants and accounts with their habits.

In: the number of accounts, the days, a random generator. Out: `World`, arrays only.
Does not know events or frauds.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

DAY_MS = 86_400_000
HOUR_MS = 3_600_000

CITIES = (
    # name, country, currency, latitude, longitude, hours from UTC, weight
    ("London", "GB", "GBP", 51.507, -0.128, 0, 9),
    ("Manchester", "GB", "GBP", 53.481, -2.242, 0, 3),
    ("Edinburgh", "GB", "GBP", 55.953, -3.188, 0, 2),
    ("Paris", "FR", "EUR", 48.857, 2.352, 1, 9),
    ("Lyon", "FR", "EUR", 45.764, 4.836, 1, 3),
    ("Marseille", "FR", "EUR", 43.296, 5.370, 1, 2),
    ("Berlin", "DE", "EUR", 52.520, 13.405, 1, 6),
    ("Hamburg", "DE", "EUR", 53.551, 9.994, 1, 4),
    ("Munich", "DE", "EUR", 48.135, 11.582, 1, 4),
    ("Cologne", "DE", "EUR", 50.938, 6.960, 1, 3),
    ("Madrid", "ES", "EUR", 40.417, -3.704, 1, 6),
    ("Barcelona", "ES", "EUR", 41.387, 2.169, 1, 4),
    ("Rome", "IT", "EUR", 41.903, 12.496, 1, 5),
    ("Milan", "IT", "EUR", 45.464, 9.190, 1, 4),
    ("Brussels", "BE", "EUR", 50.850, 4.352, 1, 3),
    ("Amsterdam", "NL", "EUR", 52.368, 4.904, 1, 4),
    ("Lisbon", "PT", "EUR", 38.722, -9.139, 0, 2),
    ("Vienna", "AT", "EUR", 48.208, 16.374, 1, 3),
    ("Dublin", "IE", "EUR", 53.350, -6.260, 0, 2),
    ("Athens", "GR", "EUR", 37.984, 23.728, 2, 2),
    ("Warsaw", "PL", "PLN", 52.230, 21.012, 1, 4),
    ("Krakow", "PL", "PLN", 50.065, 19.945, 1, 2),
    ("Stockholm", "SE", "SEK", 59.329, 18.069, 1, 3),
    ("Zurich", "CH", "CHF", 47.377, 8.540, 1, 2),
    ("New York", "US", "USD", 40.713, -74.006, -5, 9),
    ("Chicago", "US", "USD", 41.878, -87.630, -6, 4),
    ("Miami", "US", "USD", 25.762, -80.192, -5, 3),
    ("Los Angeles", "US", "USD", 34.052, -118.244, -8, 6),
    ("Toronto", "CA", "CAD", 43.653, -79.383, -5, 3),
    ("Tokyo", "JP", "JPY", 35.690, 139.692, 9, 5),
    ("Singapore", "SG", "SGD", 1.352, 103.820, 8, 2),
    ("Sydney", "AU", "AUD", -33.869, 151.209, 10, 3),
    ("Istanbul", "TR", "TRY", 41.008, 28.978, 3, 1),
    ("Bangkok", "TH", "THB", 13.756, 100.502, 7, 1),
    ("Lagos", "NG", "NGN", 6.524, 3.379, 1, 1),
    ("Sao Paulo", "BR", "BRL", -23.551, -46.633, -3, 2),
)
SCALE = {
    "PLN": 4.0, "SEK": 10.0, "JPY": 1.5, "TRY": 30.0, "THB": 35.0, "NGN": 900.0, "BRL": 5.0,
}  # fmt: skip
"""Minor units of a currency for one euro cent; 1 where absent."""

CATEGORIES = (
    # name, mcc, typical amount in minor units, spread (log), weight among shops
    ("grocery", "5411", 3_200, 0.7, 26),
    ("restaurant", "5812", 2_800, 0.6, 20),
    ("fuel", "5541", 5_200, 0.4, 8),
    ("transit", "4111", 600, 0.5, 10),
    ("pharmacy", "5912", 1_900, 0.6, 7),
    ("clothing", "5651", 5_500, 0.7, 9),
    ("electronics", "5732", 12_000, 0.9, 5),
    ("hotel", "7011", 14_000, 0.5, 3),
    ("leisure", "7832", 2_400, 0.4, 6),
    ("atm", "6011", 9_000, 0.5, 6),
    ("retail", "5999", 4_500, 0.8, 40),
    ("digital", "5815", 900, 0.5, 25),
    ("travel", "4722", 22_000, 0.8, 6),
    ("jewellery", "5944", 16_000, 0.6, 4),
    ("charity", "8398", 1_500, 0.6, 5),
    ("utility", "4900", 7_500, 0.4, 12),
    ("gambling", "7995", 3_000, 0.8, 8),
)
CATEGORY = {name: i for i, (name, *_) in enumerate(CATEGORIES)}
SHOPS = CATEGORY["atm"]
"""Categories below this one are shops with a door; from `retail` on they are online."""
ONLINE = len(CITIES)
"""The city number of everything online."""
COUNTRIES = tuple(sorted({city[1] for city in CITIES}))
CURRENCIES = tuple(sorted({city[2] for city in CITIES}))

LOCAL_FAVOURITES, ONLINE_FAVOURITES, PAYEES, DEVICES = 8, 4, 4, 2

F64 = NDArray[np.float64]
I32 = NDArray[np.int32]
I64 = NDArray[np.int64]


@dataclass(frozen=True, slots=True)
class Merchants:
    """Sorted by city and category; `first` and `count` are [cities + online, categories]."""

    city: I32
    category: I32
    country: I32
    price: F64
    latitude: I32
    longitude: I32
    tills: I32
    first: I64
    count: I64

    def pick(self, rng: np.random.Generator, city: I32, category: I32) -> I32:
        """One merchant of that city and category each; low numbers are the popular ones."""
        skewed = rng.random(len(city)) ** 2
        found = self.first[city, category] + (self.count[city, category] * skewed).astype(np.int64)
        return found.astype(np.int32)


@dataclass(frozen=True, slots=True)
class Accounts:
    """Habits, one row an account; favourites are [accounts, n] merchants."""

    city: I32
    country: I32
    currency: I32
    scale: F64
    weight: F64
    hour: F64
    spread: F64
    weekend: F64
    spending: F64
    online: F64
    local_favourites: I32
    online_favourites: I32
    trip_city: I32
    trip_start: I64
    trip_end: I64

    def __len__(self) -> int:
        return len(self.city)


@dataclass(frozen=True, slots=True)
class World:
    """Where the events happen; start and end in ms UTC."""

    merchants: Merchants
    accounts: Accounts
    start: int
    end: int


def _merchants(rng: np.random.Generator, wanted: int) -> Merchants:
    cities, categories = len(CITIES), len(CATEGORIES)
    count = np.zeros((cities + 1, categories), np.int64)
    weight = np.array([c[-1] for c in CATEGORIES], np.float64)
    size = np.array([c[-1] for c in CITIES], np.float64)
    shops = slice(0, SHOPS + 1)
    local = np.outer(size / size.sum(), weight[shops] / weight[shops].sum()) * wanted * 0.85
    count[:cities, shops] = np.maximum(2, local)
    online = weight[SHOPS + 1 :] / weight[SHOPS + 1 :].sum() * wanted * 0.15
    count[ONLINE, SHOPS + 1 :] = np.maximum(4, online)
    first = (np.cumsum(count.ravel()) - count.ravel()).reshape(count.shape)
    cell = np.repeat(np.arange(count.size), count.ravel())
    city = (cell // categories).astype(np.int32)
    category = (cell % categories).astype(np.int32)
    n = len(city)
    country_of = np.array([COUNTRIES.index(c[1]) for c in CITIES], np.int32)
    centre = np.array([(c[3], c[4]) for c in CITIES] + [(0.0, 0.0)])
    place = np.round((centre[city] + rng.normal(0, 0.04, (n, 2))) * 1e6).astype(np.int32)
    country = np.where(
        city == ONLINE, rng.choice(country_of, n), country_of[np.minimum(city, cities - 1)]
    )
    return Merchants(
        city=city,
        category=category,
        country=country.astype(np.int32),
        price=np.exp(rng.normal(0, 0.35, n)),
        latitude=place[:, 0].copy(),
        longitude=place[:, 1].copy(),
        tills=rng.integers(1, 4, n).astype(np.int32),
        first=first,
        count=count,
    )


def _accounts(
    rng: np.random.Generator, n: int, merchants: Merchants, start: int, days: int
) -> Accounts:
    size = np.array([c[-1] for c in CITIES], np.float64)
    city = rng.choice(len(CITIES), n, p=size / size.sum()).astype(np.int32)
    shop_weight = np.array([c[-1] for c in CATEGORIES], np.float64)
    shops = shop_weight[:SHOPS] / shop_weight[:SHOPS].sum()
    nets = shop_weight[SHOPS + 1 :] / shop_weight[SHOPS + 1 :].sum()

    def favourites(where: I32, each: int, chances: F64, shift: int) -> I32:
        category = (rng.choice(len(chances), n * each, p=chances) + shift).astype(np.int32)
        return merchants.pick(rng, np.repeat(where, each), category).reshape(n, each)

    currency_of = np.array([CURRENCIES.index(c[2]) for c in CITIES], np.int32)
    country_of = np.array([COUNTRIES.index(c[1]) for c in CITIES], np.int32)
    scale = np.array([SCALE.get(name, 1.0) for name in CURRENCIES])
    trip_start = start + (rng.random(n) * days * DAY_MS).astype(np.int64)
    trip_length = (rng.uniform(2, 9, n) * DAY_MS).astype(np.int64)
    travels = rng.random(n) < 0.25
    return Accounts(
        city=city,
        country=country_of[city],
        currency=currency_of[city],
        scale=scale[currency_of[city]],
        weight=np.exp(rng.normal(0, 0.8, n)),
        hour=np.where(rng.random(n) < 0.6, rng.normal(17.5, 2, n), rng.normal(11.5, 2, n)),
        spread=rng.uniform(1.5, 4.5, n),
        weekend=rng.uniform(0.2, 1.0, n),
        spending=np.exp(rng.normal(0, 0.4, n)),
        online=rng.beta(2, 4, n),
        local_favourites=favourites(city, LOCAL_FAVOURITES, shops, 0),
        online_favourites=favourites(
            np.full(n, ONLINE, np.int32), ONLINE_FAVOURITES, nets, SHOPS + 1
        ),
        trip_city=rng.integers(0, len(CITIES), n).astype(np.int32),
        trip_start=trip_start,
        trip_end=np.where(travels, trip_start + trip_length, trip_start),
    )


def build(rng: np.random.Generator, accounts: int, start: int, days: int) -> World:
    """The world of `accounts` accounts over `days` days from `start`."""
    merchants = _merchants(rng, min(60_000, max(2_000, accounts // 3)))
    return World(
        merchants=merchants,
        accounts=_accounts(rng, accounts, merchants, start, days),
        start=start,
        end=start + days * DAY_MS,
    )
