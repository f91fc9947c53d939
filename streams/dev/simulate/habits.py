"""Ordinary life: what accounts do when nobody defrauds them.

In: the world, a number of events, a random generator. Out: `Events`, unsorted; their order carries
no information, so a caller may cut the tail. Does not know frauds.

Some of it looks like fraud on purpose: journeys abroad, bursts of shopping, single large purchases,
new devices, declined payments, changes of credentials.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from streams.dev.simulate import events as ev
from streams.dev.simulate.world import (
    CATEGORIES,
    CATEGORY,
    CITIES,
    DAY_MS,
    DEVICES,
    HOUR_MS,
    LOCAL_FAVOURITES,
    ONLINE,
    ONLINE_FAVOURITES,
    PAYEES,
    SHOPS,
    Accounts,
    World,
)

BURST_SHARE = 0.12
"""Events that follow another one of the same account within minutes."""
ODD_DEVICE = 1 << 24
"""Device numbers from here on belong to nobody's habits."""


def home_device(account: NDArray[np.int32], number: NDArray[np.int64] | int) -> NDArray[np.int32]:
    """The number of an account's own device."""
    return (account.astype(np.int64) * DEVICES + number).astype(np.int32)


def _when(rng: np.random.Generator, world: World, account: NDArray[np.int32]) -> NDArray[np.int64]:
    """Times by each account's favourite hour and its taste for weekends."""
    a, n = world.accounts, len(account)
    days = (world.end - world.start) // DAY_MS
    day = (rng.random(n) * days).astype(np.int64)
    weekday = (world.start // DAY_MS + day + 3) % 7
    moved = (weekday >= 5) & (rng.random(n) > a.weekend[account]) & (day >= 5)
    day = np.where(moved, day - 2 - rng.integers(0, 3, n), day)
    hour = (a.hour[account] + a.spread[account] * rng.standard_normal(n)) % 24
    offset = np.array([c[5] for c in CITIES], np.float64)[a.city[account]]
    span = days * DAY_MS
    since = (day * DAY_MS + ((hour - offset) * HOUR_MS).astype(np.int64)) % span
    burst = np.flatnonzero(rng.random(n) < BURST_SHARE)
    burst = burst[burst > 0]
    account[burst] = account[burst - 1]
    gap = (rng.exponential(4 * 60_000, len(burst)) + 5_000).astype(np.int64)
    since[burst] = (since[burst - 1] + gap) % span
    return world.start + since


def _where(
    rng: np.random.Generator,
    world: World,
    account: NDArray[np.int32],
    time: NDArray[np.int64],
    channel: NDArray[np.int8],
) -> NDArray[np.int32]:
    """A merchant each: a favourite mostly, else another one where the account is that day."""
    a, n = world.accounts, len(account)
    away = (time >= a.trip_start[account]) & (time < a.trip_end[account])
    place = np.where(away, a.trip_city[account], a.city[account]).astype(np.int32)
    online = (channel == ev.ECOMMERCE) | (channel == ev.DIRECT_DEBIT)
    weight = np.array([c[-1] for c in CATEGORIES], np.float64)
    shop = np.searchsorted(np.cumsum(weight[:SHOPS] / weight[:SHOPS].sum()), rng.random(n))
    net_weight = weight[SHOPS + 1 :]
    net = np.searchsorted(np.cumsum(net_weight / net_weight.sum()), rng.random(n)) + SHOPS + 1
    category = np.where(online, net, shop)
    category[channel == ev.ATM] = CATEGORY["atm"]
    category[channel == ev.DIRECT_DEBIT] = CATEGORY["utility"]
    place[online] = ONLINE
    other = world.merchants.pick(rng, place, np.minimum(category, len(CATEGORIES) - 1))
    skewed = rng.random(n) ** 1.6
    local = a.local_favourites[account, (skewed * LOCAL_FAVOURITES).astype(np.int64)]
    net_favourite = a.online_favourites[account, (skewed * ONLINE_FAVOURITES).astype(np.int64)]
    keeps = (rng.random(n) < 0.78) & (channel != ev.ATM) & (channel != ev.DIRECT_DEBIT)
    keeps &= online | ~away
    return np.where(keeps, np.where(online, net_favourite, local), other).astype(np.int32)


def price(
    rng: np.random.Generator,
    accounts: Accounts,
    world: World,
    account: NDArray[np.int32],
    merchant: NDArray[np.int32],
) -> NDArray[np.int64]:
    """An amount each, by merchant, its category and the account's spending."""
    m = world.merchants
    typical = np.array([c[2] for c in CATEGORIES], np.float64)[m.category[merchant]]
    spread = np.array([c[3] for c in CATEGORIES])[m.category[merchant]]
    noise = np.exp(spread * rng.standard_normal(len(account)))
    found = typical * noise * m.price[merchant] * accounts.spending[account]
    return np.maximum(1, found * accounts.scale[account]).astype(np.int64)


def at_merchant(
    rng: np.random.Generator, world: World, e: ev.Events, rows: NDArray[np.intp]
) -> None:
    """Fill till, position and entry mode of these rows from their merchants and channels."""
    m = world.merchants
    shop = e.merchant[rows]
    e.terminal[rows] = rng.integers(0, 256, len(rows)) % m.tills[shop]
    door = m.city[shop] != ONLINE
    there = rows[door]
    e.latitude[there] = m.latitude[e.merchant[there]]
    e.longitude[there] = m.longitude[e.merchant[there]]
    e.terminal[rows[~door]] = ev.NONE
    modes = np.where(rng.random(len(rows)) < 0.7, ev.CONTACTLESS, ev.CHIP)
    modes[e.channel[rows] == ev.WALLET] = ev.CONTACTLESS
    modes[e.channel[rows] == ev.ATM] = ev.CHIP
    net = rng.random(len(rows)) < 0.5
    modes[~door] = np.where(net[~door], ev.ENTRY_ECOMMERCE, ev.ON_FILE)
    e.entry[rows] = modes


def _transfers(rng: np.random.Generator, e: ev.Events, world: World) -> None:
    """Payments between accounts: own payees, and a tenth of them an income."""
    rows = np.flatnonzero(e.channel == ev.TRANSFER_CHANNEL)
    n, people = len(rows), len(world.accounts)
    e.kind[rows] = ev.TRANSFER
    payee = rng.integers(0, PAYEES, n)
    known = (e.account[rows].astype(np.int64) * 7_919 + payee * 104_729 + 1) % people
    fresh = rng.random(n) < 0.1
    e.counterparty[rows] = np.where(fresh, rng.integers(0, people, n), known)
    amount = np.exp(rng.normal(9.6, 1.0, n)) * world.accounts.scale[e.account[rows]]
    income = rng.random(n) < 0.2
    e.direction[rows[income]] = ev.CREDIT
    amount[income] *= 8
    e.amount[rows] = amount.astype(np.int64) + 1


def ordinary(rng: np.random.Generator, world: World, n: int) -> ev.Events:
    """n events of ordinary life."""
    a = world.accounts
    chance = np.cumsum(a.weight / a.weight.sum())
    account = np.searchsorted(chance, rng.random(n) * chance[-1], side="right").astype(np.int32)
    account = np.minimum(account, len(a) - 1).astype(np.int32)
    time = _when(rng, world, account)
    e = ev.blank(time, account)
    draw = rng.random(n)
    online = 0.12 + 0.76 * a.online[account]
    e.channel[:] = np.where(rng.random(n) < 0.25, ev.WALLET, ev.CARD_PRESENT)
    e.channel[draw < online] = ev.ECOMMERCE
    e.channel[draw < 0.12] = ev.ATM
    e.channel[draw < 0.07] = ev.TRANSFER_CHANNEL
    e.channel[draw < 0.03] = ev.DIRECT_DEBIT
    e.merchant[:] = _where(rng, world, account, time, e.channel)
    e.amount[:] = price(rng, a, world, account, e.merchant)
    big = rng.random(n) < 0.005
    e.amount[big] *= 8
    at_merchant(rng, world, e, np.arange(n))
    second = rng.random(n) < 0.15
    e.device[:] = home_device(account, second.astype(np.int64))
    changed = rng.random(n) < 0.004
    e.device[changed] = ODD_DEVICE + rng.integers(0, 1 << 20, int(changed.sum()))
    shop = (e.channel == ev.CARD_PRESENT) | (e.channel == ev.ATM)
    e.device[shop | (e.channel == ev.DIRECT_DEBIT)] = ev.NONE
    away = (time >= a.trip_start[account]) & (time < a.trip_end[account])
    country = np.array([sorted({c[1] for c in CITIES}).index(c[1]) for c in CITIES], np.int16)
    seen = np.where(away, country[a.trip_city[account]], a.country[account])
    e.ip[:] = np.where(e.channel == ev.ECOMMERCE, seen, ev.NONE)
    e.entry[e.channel == ev.DIRECT_DEBIT] = ev.NONE
    transfer = e.channel == ev.TRANSFER_CHANNEL
    for column, none in (
        (e.merchant, ev.NONE), (e.terminal, ev.NONE), (e.entry, ev.NONE),
        (e.latitude, ev.NO_POSITION), (e.longitude, ev.NO_POSITION),
    ):  # fmt: skip
        column[transfer] = none
    _transfers(rng, e, world)
    fate = rng.random(n)
    e.auth[fate < 0.035] = ev.DECLINED
    e.auth[fate < 0.004] = ev.REFERRED
    e.auth[fate < 0.002] = ev.TIMEOUT
    back = (rng.random(n) < 0.008) & ~transfer
    e.kind[back] = ev.REFUND
    e.direction[back] = ev.CREDIT
    credentials = (rng.random(n) < 0.003) & (e.channel == ev.ECOMMERCE)
    _status(e, credentials)
    return e


def _status(e: ev.Events, rows: NDArray[np.bool_]) -> None:
    """Turn rows into changes of credentials: no amount, no merchant."""
    e.kind[rows] = ev.STATUS
    e.channel[rows] = 6
    e.amount[rows] = 0
    e.merchant[rows] = ev.NONE
    e.entry[rows] = ev.NONE
    e.direction[rows] = ev.DEBIT
