"""What the oracle keeps of an account: every event, its ring, its panes, the bytes of its record.

In: events one by one. Out: the ring in time order, the events that left it by pane, the record as a
store must hold it, the digest of what a scorer sees. Plain Python; see oracle.py for the windows.
"""

from __future__ import annotations

import struct
from collections.abc import Sequence
from dataclasses import dataclass, field, replace

from streams.features import NAMES, RISK_NAMES, WINDOWS_MS

RING = 64
MASK = 2**64 - 1
WIDTHS_MS = {
    "30d": 86_400_000,
    "7d": 21_600_000,
    "24h": 3_600_000,
    "1h": 120_000,
    "5m": 10_000,
    "1m": 2_000,
}


@dataclass(frozen=True)
class Event:
    """One transaction, as far as the windows look at it. Codes and hashes as in model/inputs.py."""

    account: str
    time: int
    amount: int = 100
    name: int = 0
    content: int = 0
    counts: bool = True
    kind: int = 1
    direction: int = 1
    channel: int = 0
    entry: int = 0
    auth: int = 0
    mcc: int = 0
    place: int = 0
    country: int = 0
    device: int = 0
    billing: int = 0
    ip: int = 0
    position: tuple[int, int] | None = None
    risk: tuple[float, ...] = (-1.0,) * len(RISK_NAMES)

    def words(self) -> tuple[int, int, int, int]:
        """The event's four words."""
        return (
            self.time << 20
            | self.kind << 17
            | self.direction << 15
            | self.channel << 12
            | self.entry << 9
            | self.auth << 6
            | int(self.counts) << 5,
            self.amount << 14 | self.mcc,
            self.name << 16 | self.content,
            self.place << 32 | self.country << 22 | self.device,
        )


@dataclass
class Account:
    """Everything that ever happened to one account.

    ring:  its events in time order (ties in order of arrival), at most 64
    gone:  for each window, the events that left the ring, by pane number
    every: all events ever applied
    turns: how often an event left the ring to make room for another
    """

    ring: list[Event] = field(default_factory=list)
    gone: dict[str, dict[int, list[Event]]] = field(default_factory=dict)
    every: list[Event] = field(default_factory=list)
    overflowed: bool = False
    turns: int = 0
    newest: int = 0

    def insert(self, event: Event) -> None:
        """Into the ring in time order; what does not fit goes to the panes."""
        self.every.append(event)
        self.newest = max(self.newest, event.time)
        earlier = [each for each in self.ring if each.time <= event.time]
        self.ring.insert(len(earlier), event)
        if len(self.ring) > RING:
            if self.ring[0] is not event:
                self.turns += 1
            self.overflowed = True
            self._leave(self.ring.pop(0))

    def _leave(self, event: Event) -> None:
        if not event.counts:
            return
        for window, width in WIDTHS_MS.items():
            if event.time <= self.newest - WINDOWS_MS[window] - width:
                return
            number = event.time // width
            panes = self.gone.setdefault(window, {})
            rivals = [other for other in panes if other % 32 == number % 32 and other != number]
            if any(other > number for other in rivals):
                continue
            for other in rivals:
                del panes[other]
            panes.setdefault(number, []).append(event)

    def last_position(self) -> Event | None:
        """The event with the latest known position; of equal times, the one that came last."""
        last: Event | None = None
        for each in self.every:
            if each.position is not None and (last is None or each.time >= last.time):
                last = each
        return last


def f32(value: float) -> float:
    """Rounded to float32."""
    return float(struct.unpack("<f", struct.pack("<f", value))[0])


def bits(value: float) -> int:
    """The bits of a float32."""
    return int(struct.unpack("<I", struct.pack("<f", value))[0])


def scramble(x: int) -> int:
    """The finaliser of MurmurHash3."""
    x = (x ^ x >> 33) * 0xFF51AFD7ED558CCD & MASK
    x = (x ^ x >> 33) * 0xC4CEB9FE1A85EC53 & MASK
    return x ^ x >> 33


def event_digest(words: Sequence[int]) -> int:
    """64 bits of one event."""
    w0, w1, w2, w3 = words
    k0, k1, k2, k3 = (
        0xA0761D6478BD642F,
        0xE7037ED1A0B428DB,
        0x8EBC6AF09C88C6E3,
        0x589965CC75374CC3,
    )
    middle = scramble(((w1 + k2) * k1 + w2 * k2) & MASK)
    last = scramble((w3 + k3) * k3 & MASK)
    return scramble((w0 + k1) * k0 & MASK ^ middle ^ last)


def splitmix(count: int) -> list[int]:
    """Odd 64-bit numbers."""
    numbers = []
    for step in range(1, count + 1):
        z = step * 0x9E3779B97F4A7C15 & MASK
        z = (z ^ z >> 30) * 0xBF58476D1CE4E5B9 & MASK
        z = (z ^ z >> 27) * 0x94D049BB133111EB & MASK
        numbers.append(z ^ z >> 31 | 1)
    return numbers


KEYS = splitmix(len(NAMES) + 2)


def digest(event: Event, history: Sequence[Sequence[int]], features: dict[str, float]) -> int:
    """64 bits over what a scorer sees: the event without its response, history, features."""
    trail = 0
    for words in history:
        trail = (trail * 0xD1342543DE82EF95 + event_digest(words)) & MASK
    total = trail * KEYS[-2] + len(history) * KEYS[-1]
    total += sum(bits(features[name]) * KEYS[at] for at, name in enumerate(NAMES))
    return scramble(total & MASK ^ event_digest(replace(event, auth=0).words()))


def header(account: Account, rows: int) -> list[int]:
    """Words 0 to 7; the checksum still 0."""
    life = [e for e in account.every if e.counts]
    last = account.last_position()
    flags = int(account.overflowed) | int(last is not None) << 1
    turned = account.turns % RING
    state = 1 << 56 | flags << 48 | len(account.ring) << 40 | turned << 32 | rows << 24
    position, time = 0, 0
    if last is not None and last.position is not None:
        position = (last.position[0] % 2**32) << 32 | last.position[1] % 2**32
        time = last.time
    oldest = min(e.time for e in account.every)
    total = sum(e.amount for e in life) & MASK
    return [state, 0, account.newest, len(life), total, position, time, oldest]


def pane_row(panes: dict[int, list[Event]]) -> list[int]:
    """The 256 words of a pane row."""
    row = [0] * 256
    for number, events in panes.items():
        amounts = [e.amount for e in events]
        squares = sum(amount * amount for amount in amounts)
        at = number % 32 * 8
        row[at : at + 8] = [
            number << 32 | len(events),
            sum(amounts),
            squares >> 64,
            squares & MASK,
            min(amounts),
            max(amounts),
            sum(1 << key for key in {e.place % 64 for e in events if e.place}),
            sum(1 << key for key in {e.country % 64 for e in events if e.country}),
        ]
    return row


def record_bytes(account: Account) -> bytes:
    """The record: header, ring by place, pane rows; the checksum over all other words."""
    places = list(account.ring)
    for i, event in enumerate(account.ring):
        places[(account.turns + i) % len(places)] = event
    rows = [pane_row(account.gone[window]) for window in WIDTHS_MS if window in account.gone]
    words = [
        *header(account, len(rows)),
        *(word for event in places for word in event.words()),
        *(word for row in rows for word in row),
    ]
    for at, word in enumerate(words):
        if at != 1:
            words[1] ^= scramble(word * 0x9E3779B97F4A7C15 * (2 * at + 1) & MASK)
    return struct.pack(f"<{len(words)}Q", *words)
