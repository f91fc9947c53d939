"""Frauds told apart from ordinary life by the ORDER of an account's events, and by nothing else.

In: the world, how many frauds are wanted, a random generator. Out: `Events` and the spans of time
in which the account must do nothing else. Does not know models or window features, except that
windows are 1 m, 5 m, 1 h, 24 h, 7 d and 30 d long.

An episode is three steps and one final payment. The steps are one each of

    A  contactless payment at a grocery    B  cash from a machine    C  wallet payment in transit

and the final payment is online at a jeweller's. Whether the final payment is a fraud is drawn after
everything else (account, times, merchants, amounts, devices, the final payment) is fixed, and it
decides only which permutation of A, B, C the three times get:

    fraud:  A B C,  B C A,  C A B    (even)        twin:  A C B,  B A C,  C B A    (odd)

1. Each step stands at each place with chance 1/3 in both classes, so no single past event, wherever
   one looks, tells anything: "what came right after what" does.
2. All three steps lie between 6 and 50 minutes before the final payment: inside every window of
   1 h and more, outside those of 1 and 5 minutes. So all window aggregates (count, sum, mean,
   std, min, max, distinct) of the final payment are functions of the unordered set.
3. Time since last and the flags for a new merchant, country or device are functions of the times
   and of the set. The final payment has no position, so speed is unknown in both classes.
4. Merchants of the final payment come from one pool for both classes, so their risk is equal too.

With two twins a fraud, a scorer blind to order ranks at random: average precision 1/3.
"""

from __future__ import annotations

from itertools import permutations

import numpy as np
from numpy.typing import NDArray

from streams.dev.simulate import events as ev
from streams.dev.simulate.frauds import code
from streams.dev.simulate.habits import at_merchant, home_device, price
from streams.dev.simulate.world import CATEGORY, HOUR_MS, ONLINE, World

TWINS = 2
"""Legitimate episodes a fraud."""
STEPS = 3
QUIET_MS = 5_000
"""Nothing else of the account this long before and after an episode."""

Rng = np.random.Generator


def _parity(order: tuple[int, ...]) -> int:
    return sum(a > b for i, a in enumerate(order) for b in order[i + 1 :]) % 2


EVEN = np.array([p for p in permutations(range(STEPS)) if _parity(p) == 0])
ODD = np.array([p for p in permutations(range(STEPS)) if _parity(p) == 1])


def _schedule(rng: Rng, world: World, frauds: int) -> tuple[NDArray[np.int32], NDArray[np.int64]]:
    """Accounts and end times of the episodes, no two of one account within two hours."""
    wanted = frauds * (1 + TWINS)
    account = rng.integers(0, len(world.accounts), wanted).astype(np.int32)
    room = world.end - world.start - 3 * HOUR_MS
    end = world.start + 2 * HOUR_MS + (rng.random(wanted) * room).astype(np.int64)
    by_account = np.lexsort((end, account))
    account, end = account[by_account], end[by_account]
    close = (np.diff(account) == 0) & (np.diff(end) < 2 * HOUR_MS)
    keep = np.concatenate([[True], ~close]) if wanted else np.zeros(0, np.bool_)
    return account[keep], end[keep]


def _steps(rng: Rng, world: World, account: NDArray[np.int32]) -> list[ev.Events]:
    """The three steps of every episode with amounts and merchants, times still zero."""
    city = world.accounts.city[account]
    found = []
    for name, channel in (
        ("grocery", ev.CARD_PRESENT),
        ("atm", ev.ATM),
        ("transit", ev.WALLET),
    ):
        e = ev.blank(np.zeros(len(account), np.int64), account)
        category = np.full(len(account), CATEGORY[name], np.int32)
        e.merchant[:] = world.merchants.pick(rng, city, category)
        e.channel[:] = channel
        e.amount[:] = price(rng, world.accounts, world, account, e.merchant)
        at_merchant(rng, world, e, np.arange(len(e)))
        e.entry[:] = ev.CHIP if channel == ev.ATM else ev.CONTACTLESS
        if channel == ev.WALLET:
            e.device[:] = home_device(account, 0)
        found.append(e)
    return found


def order_only(
    rng: Rng, world: World, frauds: int
) -> tuple[ev.Events, tuple[NDArray[np.int32], NDArray[np.int64], NDArray[np.int64]]]:
    """`frauds` episodes and TWINS times as many twins; and (account, from, to) to be kept quiet."""
    account, end = _schedule(rng, world, frauds)
    n = len(account)
    gap = rng.integers(6 * 60_000, 15 * 60_000, (n, STEPS))
    times = end[:, None] - np.cumsum(gap, axis=1)[:, ::-1]
    final = ev.blank(end, account)
    category = np.full(n, CATEGORY["jewellery"], np.int32)
    final.merchant[:] = world.merchants.pick(rng, np.full(n, ONLINE, np.int32), category)
    final.channel[:] = ev.ECOMMERCE
    final.amount[:] = price(rng, world.accounts, world, account, final.merchant)
    final.entry[:] = ev.ENTRY_ECOMMERCE
    final.ip[:] = world.accounts.country[account]
    final.device[:] = home_device(account, 0)
    final.scenario[:] = code("order")
    steps = _steps(rng, world, account)
    # Only now the class, and with it nothing but the places of the steps.
    final.fraud[:] = rng.permutation(n) < round(n / (1 + TWINS))
    which = rng.integers(0, len(EVEN), n)
    places = np.where(final.fraud[:, None], EVEN[which], ODD[which])
    for place in range(STEPS):
        for step in range(STEPS):
            here = places[:, place] == step
            steps[step].time[here] = times[here, place]
    quiet = (account, times[:, 0] - QUIET_MS, end + QUIET_MS)
    return ev.concat([*steps, final]), quiet


def outside(
    e: ev.Events, quiet: tuple[NDArray[np.int32], NDArray[np.int64], NDArray[np.int64]], start: int
) -> NDArray[np.bool_]:
    """Which events do not fall into the quiet spans; spans of one account do not overlap."""
    account, begin, end = quiet
    if len(account) == 0:
        return np.ones(len(e), np.bool_)
    wide = np.int64(1) << 40
    opens = account * wide + (begin - start)
    closes = account * wide + (end - start)
    at = e.account * wide + (e.time - start)
    last = np.searchsorted(opens, at, side="right") - 1
    return (last < 0) | (at > closes[np.maximum(last, 0)])
