"""Stories: lists of oracle events, from a seed, with everything that goes wrong on a real topic.

In: a seed. Out: events in order of arrival: several accounts, ties, late ones from a millisecond to
40 days, repeats with the same and with other bytes, refunds, amounts up to the largest, pauses that
let the ring overflow into panes or not at all.
"""

from __future__ import annotations

import random
from dataclasses import replace

from tests.oracle_record import Event

START_MS = 1_700_000_000_000
DAY_MS = 86_400_000
PACES_MS = (100, 3_000, 60_000, 1_800_000, 20_000_000)


def lateness(chance: random.Random, pace: int) -> int:
    """How far an event lags behind the stream's clock, in ms."""
    if chance.random() > 0.2:
        return 0
    return chance.choice(
        [0, 1, 2_000, 60_000, 3_600_000, chance.randrange(70 * pace), chance.randrange(40 * DAY_MS)]
    )


def position(chance: random.Random) -> tuple[int, int] | None:
    """Anywhere on Earth in microdegrees, or not known."""
    if chance.random() < 0.5:
        return None
    return (
        chance.randrange(-90_000_000, 90_000_001),
        chance.randrange(-180_000_000, 180_000_001),
    )


def event(chance: random.Random, account: str, time: int) -> Event:
    """One event with every field somewhere in its range, often where the limits are."""
    return Event(
        account=account,
        time=time,
        amount=chance.choice([0, 100, chance.randrange(10**5), chance.randrange(10**15)]),
        name=chance.randrange(1, 2**48),
        content=chance.randrange(2**16),
        counts=chance.random() < 0.9,
        kind=chance.randrange(8),
        direction=chance.randrange(3),
        channel=chance.randrange(8),
        entry=chance.randrange(8),
        auth=chance.randrange(6),
        mcc=chance.choice([0, 5411, 3333, 9999, 4829, 7995, 5816, 5732, 5541]),
        place=chance.choice([0, 1, 2, 65, chance.randrange(2**32)]),
        country=chance.choice([0, 1, 65, 676]),
        device=chance.choice([0, 1, chance.randrange(2**22)]),
        billing=chance.choice([0, 1, 65]),
        ip=chance.choice([0, 1, 65]),
        position=position(chance),
        risk=tuple(float(chance.randrange(-1, 100)) for _ in Event("", 0).risk),
    )


def story(seed: int, most: int = 400) -> list[Event]:
    """A story of up to `most` events."""
    chance = random.Random(seed)
    accounts = chance.choice([1, 2, 5])
    pace = chance.choice(PACES_MS)
    clock = START_MS
    events: list[Event] = []
    for _ in range(chance.choice([20, most // 2, most])):
        clock += chance.randrange(2 * pace + 1)
        account = f"account-{chance.randrange(accounts)}"
        fresh = event(chance, account, clock - lateness(chance, pace))
        if events and chance.random() < 0.05:
            fresh = chance.choice(events[-80:])
            if chance.random() < 0.5:
                fresh = replace(fresh, content=(fresh.content + 1) % 2**16)
        events.append(fresh)
    return events


def cuts(seed: int, events: list[Event]) -> list[int]:
    """Where the story is cut into batches."""
    chance = random.Random(seed)
    return sorted(chance.randrange(len(events) + 1) for _ in range(chance.randrange(8)))
