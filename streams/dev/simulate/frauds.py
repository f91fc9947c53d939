"""Frauds put into ordinary life, one function a scenario; `order.py` holds the hardest one.

In: the world, how many frauds are wanted, a random generator. Out: `Events` with `fraud` and
`scenario` set. Does not know how labels reach anybody.

    card_testing          small online payments in quick succession, then large ones
    takeover              credentials change, then a new device empties the account in hours
    lost_stolen           a card used by a stranger in the home town until it is stopped
    compromised_merchant  payments of many accounts at one till during some weeks
    impossible_travel     a payment in a far country minutes after one at home
    mule                  money in from strangers, most of it out again, over weeks
"""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
from numpy.typing import NDArray

from streams.dev.simulate import events as ev
from streams.dev.simulate.habits import ODD_DEVICE, at_merchant, price
from streams.dev.simulate.world import CATEGORY, CITIES, DAY_MS, HOUR_MS, ONLINE, World

SCENARIOS = (
    "card_testing",
    "takeover",
    "lost_stolen",
    "compromised_merchant",
    "impossible_travel",
    "mule",
    "order",
)
SHARES = (0.20, 0.15, 0.15, 0.20, 0.05, 0.10, 0.15)
"""Of the frauds, when all scenarios are on."""

BUSY_TILL = 20
"""Payments a till must see in the time it is compromised, or nobody could learn of it."""

Rng = np.random.Generator
I64 = NDArray[np.int64]


def code(name: str) -> int:
    """The number of a scenario in `Events.scenario`."""
    return SCENARIOS.index(name) + 1


def episodes(
    rng: Rng, world: World, frauds: int, low: int, high: int, span_ms: int
) -> tuple[NDArray[np.int32], I64, I64, I64]:
    """Victims and starts of episodes of low..high-1 events: (account, start, episode, step) a row.

    Starts leave room for `span_ms` before the end of the stream.
    """
    size: list[int] = []
    total = 0
    while total < frauds:
        size.append(int(rng.integers(low, high)))
        total += size[-1]
    if size:
        size[-1] -= total - frauds
    sizes = np.array(size, np.int64)
    count = len(sizes)
    victims = rng.integers(0, len(world.accounts), count).astype(np.int32)
    room = max(1, world.end - world.start - span_ms)
    starts = world.start + (rng.random(count) * room).astype(np.int64)
    episode = np.repeat(np.arange(count), sizes)
    step = np.arange(len(episode)) - np.repeat(np.cumsum(sizes) - sizes, sizes)
    return victims[episode], starts[episode], episode, step


def _times(rng: Rng, start: I64, episode: I64, step: I64, mean_ms: NDArray[np.float64]) -> I64:
    """start plus the running sum of exponential gaps within each episode."""
    gap = (rng.exponential(1.0, len(start)) * mean_ms).astype(np.int64) + 1_000
    gap[step == 0] = 0
    total = np.cumsum(gap)
    first = np.flatnonzero(step == 0)
    return start + total - total[first][episode]


def _strange_device(rng: Rng, episode: I64) -> NDArray[np.int32]:
    """One device an episode that the account never had; fraudsters reuse theirs."""
    count = int(episode.max(initial=-1)) + 1
    devices = ODD_DEVICE + (1 << 20) + rng.integers(0, max(1, count // 2) + 1, count)
    return devices[episode].astype(np.int32)


def _online(rng: Rng, world: World, e: ev.Events, category: NDArray[np.int64]) -> None:
    """Make all rows payments at online merchants of these categories."""
    n = len(e)
    city = np.full(n, ONLINE, np.int32)
    e.channel[:] = ev.ECOMMERCE
    e.merchant[:] = world.merchants.pick(rng, city, category.astype(np.int32))
    e.amount[:] = price(rng, world.accounts, world, e.account, e.merchant)
    at_merchant(rng, world, e, np.arange(n))
    e.ip[:] = world.accounts.country[e.account]


def card_testing(rng: Rng, world: World, frauds: int) -> ev.Events:
    """Four to eight small payments some seconds apart, then two large ones."""
    account, start, episode, step = episodes(rng, world, frauds, 6, 11, 4 * HOUR_MS)
    last = np.bincount(episode, minlength=1)[episode] - step
    large = last <= 2
    mean = np.where(large, 12 * 60_000.0, 40_000.0)
    e = ev.blank(_times(rng, start, episode, step, mean), account)
    small_at = np.where(rng.random(len(e)) < 0.6, CATEGORY["digital"], CATEGORY["charity"])
    large_at = np.where(rng.random(len(e)) < 0.5, CATEGORY["retail"], CATEGORY["jewellery"])
    _online(rng, world, e, np.where(large, large_at, small_at))
    scale = world.accounts.scale[account]
    e.amount[:] = np.where(
        large, e.amount * 2 + 5_000 * scale, rng.uniform(50, 400, len(e)) * scale
    )
    e.amount += 1
    e.entry[:] = ev.ENTRY_ECOMMERCE
    e.auth[~large & (rng.random(len(e)) < 0.4)] = ev.DECLINED
    e.device[:] = _strange_device(rng, episode)
    e.fraud[:] = True
    return e


def takeover(rng: Rng, world: World, frauds: int) -> ev.Events:
    """A change of credentials (no fraud yet), then three to six large payments and transfers."""
    account, start, episode, step = episodes(rng, world, frauds, 3, 7, DAY_MS)
    e = ev.blank(
        _times(rng, start + HOUR_MS, episode, step, np.full(len(start), 1.5 * HOUR_MS)), account
    )
    _online(
        rng, world, e, np.where(rng.random(len(e)) < 0.6, CATEGORY["retail"], CATEGORY["travel"])
    )
    e.amount[:] = e.amount * rng.uniform(2, 6, len(e)) + 4_000
    device = _strange_device(rng, episode)
    e.device[:] = device
    abroad = (rng.random(len(e)) < 0.5)[episode]
    e.ip[abroad] = (world.accounts.country[account[abroad]] + 7) % len({c[1] for c in CITIES})
    sends = rng.random(len(e)) < 0.4
    e.kind[sends] = ev.TRANSFER
    e.channel[sends] = ev.TRANSFER_CHANNEL
    e.merchant[sends] = ev.NONE
    e.entry[sends] = ev.NONE
    e.ip[sends] = ev.NONE
    e.counterparty[sends] = rng.integers(0, len(world.accounts), int(sends.sum()))
    e.fraud[:] = True
    opening = step == 0
    before = ev.blank(start[opening], account[opening])
    before.kind[:] = ev.STATUS
    before.channel[:] = 6
    before.device[:] = device[opening]
    return ev.concat([before, e])


def lost_stolen(rng: Rng, world: World, frauds: int) -> ev.Events:
    """Three to eight payments in shops the owner does not go to, minutes apart, at any hour."""
    account, start, episode, step = episodes(rng, world, frauds, 3, 9, DAY_MS)
    e = ev.blank(_times(rng, start, episode, step, np.full(len(start), 14 * 60_000.0)), account)
    n = len(e)
    wanted = np.array([CATEGORY[c] for c in ("electronics", "clothing", "fuel", "grocery", "atm")])
    category = wanted[rng.integers(0, len(wanted), n)].astype(np.int32)
    city = world.accounts.city[account]
    e.merchant[:] = world.merchants.pick(rng, city, category)
    e.channel[:] = np.where(category == CATEGORY["atm"], ev.ATM, ev.CARD_PRESENT)
    e.amount[:] = price(rng, world.accounts, world, account, e.merchant) * rng.uniform(1, 2.5, n)
    e.amount += 1
    at_merchant(rng, world, e, np.arange(n))
    e.entry[:] = np.where(rng.random(n) < 0.5, ev.CONTACTLESS, ev.MAGSTRIPE)
    e.auth[rng.random(n) < 0.12] = ev.DECLINED
    e.fraud[:] = True
    return e


def impossible_travel(rng: Rng, world: World, frauds: int) -> ev.Events:
    """A payment at home, then one to three in a far country within 10 to 90 minutes."""
    account, start, episode, step = episodes(rng, world, frauds, 1, 4, DAY_MS)
    opening = step == 0
    home = ev.blank(start[opening], account[opening])
    home.merchant[:] = world.accounts.local_favourites[home.account, 0]
    home.amount[:] = price(rng, world.accounts, world, home.account, home.merchant)
    home.channel[:] = ev.CARD_PRESENT
    at_merchant(rng, world, home, np.arange(len(home)))
    wait = rng.integers(10 * 60_000, 90 * 60_000, len(home))[episode]
    e = ev.blank(
        _times(rng, start + wait, episode, step, np.full(len(start), 20 * 60_000.0)), account
    )
    far = (world.accounts.city[account] + 10 + (episode % 16)) % len(CITIES)
    category = np.where(rng.random(len(e)) < 0.5, CATEGORY["electronics"], CATEGORY["atm"])
    e.merchant[:] = world.merchants.pick(rng, far.astype(np.int32), category.astype(np.int32))
    e.channel[:] = np.where(category == CATEGORY["atm"], ev.ATM, ev.CARD_PRESENT)
    e.amount[:] = price(rng, world.accounts, world, account, e.merchant)
    at_merchant(rng, world, e, np.arange(len(e)))
    e.entry[:] = ev.MAGSTRIPE
    e.fraud[:] = True
    return ev.concat([home, e])


def mule(rng: Rng, world: World, frauds: int) -> ev.Events:
    """Four to nine incomes from strangers; 85-98 % of each leaves again in hours or days."""
    weeks = min(20 * DAY_MS, (world.end - world.start) // 2)
    account, start, episode, step = episodes(rng, world, frauds, 4, 10, weeks)
    n, people = len(account), len(world.accounts)
    arrival = start + (rng.random(n) * weeks * 0.8).astype(np.int64)
    into = ev.blank(arrival, account)
    into.kind[:] = ev.TRANSFER
    into.channel[:] = ev.TRANSFER_CHANNEL
    into.direction[:] = ev.CREDIT
    into.counterparty[:] = rng.integers(0, people, n)
    sums = np.exp(rng.normal(11.2, 0.6, n)) * world.accounts.scale[account]
    into.amount[:] = sums.astype(np.int64) + 100
    out = into.take(np.arange(n))
    wait = rng.uniform(0.02, 0.19, n) * weeks
    out.time[:] = arrival + wait.astype(np.int64)
    out.direction[:] = ev.DEBIT
    out.amount[:] = into.amount * rng.uniform(0.85, 0.98, n)
    out.counterparty[:] = ((episode * 31_337 + step % 2) % people).astype(np.int32)
    out.device[:] = account * 2
    out.fraud[:] = True
    return ev.concat([into, out])


def compromised_merchant(rng: Rng, world: World, frauds: int, life: ev.Events) -> None:
    """Make about `frauds` of the payments in `life` frauds: most of those at some tills for weeks.

    Nothing in the payment itself tells it; only what others report about the till does.
    """
    there = np.flatnonzero(life.terminal != ev.NONE)
    till = life.merchant[there].astype(np.int64) * 4 + life.terminal[there]
    order = np.argsort(till, kind="stable")
    there, till = there[order], till[order]
    _, first, count = np.unique(till, return_index=True, return_counts=True)
    length = min(28 * DAY_MS, (world.end - world.start) // 2)
    busy = count * length >= BUSY_TILL * (world.end - world.start)
    chances = np.flatnonzero(busy) if busy.any() else np.argsort(count, kind="stable")[-20:]
    done = 0
    for chosen in rng.permutation(chances):
        if done >= frauds:
            return
        rows = there[first[chosen] : first[chosen] + count[chosen]]
        begin = world.start + int(rng.random() * max(1, world.end - world.start - length))
        inside = (life.time[rows] >= begin) & (life.time[rows] < begin + length)
        hit = rows[inside & (rng.random(len(rows)) < 0.7) & (life.scenario[rows] == 0)]
        hit = hit[: frauds - done]
        life.fraud[hit] = True
        life.scenario[hit] = code("compromised_merchant")
        done += len(hit)


INJECTED: dict[str, Callable[[Rng, World, int], ev.Events]] = {
    "card_testing": card_testing,
    "takeover": takeover,
    "lost_stolen": lost_stolen,
    "impossible_travel": impossible_travel,
    "mule": mule,
}
