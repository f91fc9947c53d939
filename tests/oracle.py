"""The windows, written slowly: plain Python, big integers, every event kept for ever.

In: events one by one. Out: what `streams.windows` must say of each, to the last bit. Together with
oracle_record.py this is the only second implementation of the windows; docs/windows.md is the text
that both follow. It shares no code with the kernels, only names.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, field
from itertools import chain

from model.inputs import AUTH_RESPONSES, CHANNELS, ENTRY_MODES, EVENT_TYPES
from streams.features import NAMES, RISK_NAMES, WINDOWS_MS
from tests.oracle_record import WIDTHS_MS, Account, Event, digest, f32, record_bytes

HOUR, DAY, MONTH = 3_600_000, 86_400_000, 2_592_000_000


def halves(value: int) -> float:
    """A 128-bit integer as float64: each half rounded, then added."""
    high, low = divmod(value, 2**64)
    return float(high) * 2.0**64 + float(low)


def sine(x: float) -> float:
    """The series to x^19, by Horner's rule in x^2."""
    result = 0.0
    for n in range(9, -1, -1):
        term = (-1.0) ** n / math.factorial(2 * n + 1)
        result = term if n == 9 else result * (x * x) + term
    return result * x


def distance(a: tuple[int, int], b: tuple[int, int]) -> float:
    """Chord between two places in microdegrees, in km."""
    radians = math.pi / 180.0e6
    apart = b[1] - a[1]
    if apart > 180_000_000:
        apart -= 360_000_000
    elif apart < -180_000_000:
        apart += 360_000_000
    north = sine(float(b[0] - a[0]) * radians / 2.0)
    east = sine(float(apart) * radians / 2.0)
    shrink = sine(math.pi / 2.0 - float(abs(a[0])) * radians)
    shrink_too = sine(math.pi / 2.0 - float(abs(b[0])) * radians)
    return 2.0 * 6371.0088 * math.sqrt(north * north + shrink * shrink_too * east * east)


def spread(amounts: Sequence[int]) -> float:
    """n * (sum of squares) - (sum)^2."""
    n, total = len(amounts), sum(amounts)
    assert n * max(amounts) < 2**64, "beyond the contract's range"
    return halves(n * sum(amount * amount for amount in amounts) - total * total)


@dataclass(frozen=True)
class Result:
    """What the windows say of one event. Only `status` means something unless it is "applied"."""

    status: str
    late: bool = False
    edge: bool = False
    features: dict[str, float] = field(default_factory=dict)
    history: tuple[tuple[int, int, int, int], ...] = ()
    digest: int = 0


@dataclass(frozen=True)
class Window:
    """The payments of one window: events of the ring one by one, and whole panes."""

    ring: list[Event]
    panes: list[list[Event]]

    @property
    def amounts(self) -> list[int]:
        return [event.amount for event in chain(self.ring, *self.panes)]

    def distinct(self, what: str) -> int:
        """Exact over the ring; plus the bits of the panes that the ring's do not set."""
        ring = {getattr(event, what) for event in self.ring} - {0}
        panes = {getattr(event, what) for event in chain(*self.panes)} - {0}
        return len(ring) + len({key % 64 for key in panes} - {key % 64 for key in ring})


def window_of(account: Account, event: Event, name: str) -> Window:
    """The payments in [t - W, t] that came before the event, as far as they are still known."""
    start = event.time - WINDOWS_MS[name]
    ring = [e for e in account.ring if e.counts and start <= e.time <= event.time]
    if not account.overflowed or account.ring[0].time < start:
        return Window(ring, [])
    width = WIDTHS_MS[name]
    numbers = range(max(start, 0) // width, event.time // width + 1)
    panes = account.gone.get(name, {})
    return Window(ring, [panes[number] for number in numbers if number in panes])


def exact_window(account: Account, event: Event, name: str) -> Window:
    """The same from every event that ever was: the truth, which panes only come near."""
    start = event.time - WINDOWS_MS[name]
    return Window([e for e in account.every if e.counts and start <= e.time <= event.time], [])


def window_features(name: str, window: Window) -> dict[str, float]:
    """The eight aggregates of one window."""
    amounts = window.amounts
    n = len(amounts)
    values: dict[str, float] = {"count": float(n), "sum": float(sum(amounts))}
    if n:
        values["mean"] = float(sum(amounts)) / float(n)
        values["std"] = math.sqrt(spread(amounts)) / float(n)
        values["min"] = float(min(amounts))
        values["max"] = float(max(amounts))
    else:
        values |= dict.fromkeys(("mean", "std", "min", "max"), -1.0)
    values["places"] = float(window.distinct("place"))
    values["countries"] = float(window.distinct("country"))
    return {f"{aggregate}_{name}": value for aggregate, value in values.items()}


def tempo_features(account: Account, event: Event, windows: dict[str, Window]) -> dict[str, float]:
    """How fast the account moves."""
    names = ("since_last_s", "age_days", "rate_1h_30d", "rate_24h_30d", "spend_24h_30d")
    values = dict.fromkeys((*names, "lifetime_mean"), -1.0)
    later = [e for e in account.ring if e.counts and e.time > event.time]
    life = [e for e in account.every if e.counts]
    count = len(life) - len(later)
    values["lifetime_count"] = float(count)
    if count:
        total = sum(e.amount for e in life) - sum(e.amount for e in later)
        values["lifetime_mean"] = float(total) / float(count)
    past = [e for e in account.ring if e.time <= event.time]
    if not past:
        return values
    values["since_last_s"] = float(event.time - past[-1].time) / 1000.0
    age = event.time - min(e.time for e in account.every)
    values["age_days"] = float(age) / 86_400_000.0
    span = min(age, MONTH)
    month = windows["30d"].amounts
    if month and span >= HOUR:
        hour = len(windows["1h"].amounts)
        values["rate_1h_30d"] = float(hour * span) / float(len(month) * HOUR)
    if month and span >= DAY:
        day = windows["24h"].amounts
        values["rate_24h_30d"] = float(len(day) * span) / float(len(month) * DAY)
        if sum(month):
            share = float(sum(day)) / float(sum(month))
            values["spend_24h_30d"] = share * float(span) / 86_400_000.0
    return values


def amount_features(event: Event, month: list[int]) -> dict[str, float]:
    """The amount against the last 30 days."""
    values = dict.fromkeys(("amount_ratio_30d", "amount_z_30d", "amount_max_30d"), -1.0)
    if month and sum(month):
        n = float(len(month))
        mean = float(sum(month)) / n
        values["amount_ratio_30d"] = float(event.amount) / mean
        values["amount_max_30d"] = float(event.amount) / float(max(month))
        if spread(month) > 0.0:
            values["amount_z_30d"] = (float(event.amount) - mean) / (math.sqrt(spread(month)) / n)
    return values


def novelty_features(event: Event, past: list[Event]) -> dict[str, float]:
    """The event against the events of the ring before it."""
    values: dict[str, float] = {}
    declined = AUTH_RESPONSES.index("declined") + 1
    refused = [e for e in past if e.counts and e.auth == declined]
    values["declined_1h"] = float(sum(e.time >= event.time - HOUR for e in refused))
    values["declined_24h"] = float(sum(e.time >= event.time - DAY for e in refused))
    values["same_amount"] = float(sum(e.amount == event.amount for e in past))
    for what in ("place", "country", "device"):
        key = getattr(event, what)
        seen = sum(getattr(e, what) == key for e in past)
        values[f"new_{what}"] = float(seen == 0) if past and key else -1.0
        if what != "country":
            values[f"seen_{what}"] = float(seen) if key else -1.0
    return values


def place_features(account: Account, event: Event) -> dict[str, float]:
    """Countries against each other, and the way from the last known position."""
    values = {"distance_km": -1.0, "speed_kmh": -1.0}
    for name, a, b in (
        ("merchant_not_billing", event.country, event.billing),
        ("merchant_not_ip", event.country, event.ip),
        ("billing_not_ip", event.billing, event.ip),
    ):
        values[name] = float(a != b) if a and b else -1.0
    last = account.last_position()
    if event.position is not None and last is not None and last.time <= event.time:
        assert last.position is not None
        way = distance(last.position, event.position)
        values["distance_km"] = way
        values["speed_kmh"] = way * 3_600_000.0 / float(max(event.time - last.time, 60_000))
    return values


MCC_GROUPS: dict[str, tuple[int, ...]] = {
    "mcc_cash": (4829, 6010, 6011, 6051),
    "mcc_gambling": (7995, 7800, 7801, 7802),
    "mcc_digital": (5815, 5816, 5817, 5818),
    "mcc_travel": (*range(3000, 4000), 4511, 4722, 7011),
    "mcc_electronics": (5045, 5732, 5734),
    "mcc_fuel": (5541, 5542, 5983),
    "mcc_food": (5411, 5499, 5811, 5812, 5813, 5814),
}


def own_features(event: Event) -> dict[str, float]:
    """What the event says of itself."""
    values = {
        "amount": float(event.amount),
        "amount_round": float(event.amount % 100 == 0),
        "hour": float(event.time // HOUR % 24),
        "weekday": float((event.time // DAY + 3) % 7),
        "credit": float(event.direction == 2),
        "mcc": float(event.mcc) if event.mcc else -1.0,
    }
    for prefix, code, names in (
        ("type", event.kind, EVENT_TYPES),
        ("channel", event.channel, CHANNELS),
        ("entry", event.entry, ENTRY_MODES),
    ):
        values |= {f"{prefix}_{name}": float(code == at + 1) for at, name in enumerate(names)}
    return values | {name: float(event.mcc in group) for name, group in MCC_GROUPS.items()}


class Oracle:
    """All accounts. `apply` says what the windows must say of an event, and takes it in."""

    def __init__(self) -> None:
        self.accounts: dict[str, Account] = {}

    def apply(self, event: Event) -> Result:
        """One event, in order of arrival."""
        account = self.accounts.setdefault(event.account, Account())
        for known in account.ring:
            if known.name == event.name:
                same = known.content == event.content
                return Result("duplicate" if same else "id_conflict")
        result = self.describe(account, event)
        account.insert(event)
        return result

    def describe(self, account: Account, event: Event) -> Result:
        """The features of an event from what the account was before it."""
        windows = {name: window_of(account, event, name) for name in WINDOWS_MS}
        features = self.features(account, event, windows)
        late = bool(account.ring) and event.time < account.newest
        behind = {
            name: account.overflowed and account.ring[0].time >= event.time - length
            for name, length in WINDOWS_MS.items()
        }
        edge = any(window.panes for window in windows.values()) or (late and any(behind.values()))
        history = tuple(e.words() for e in account.ring if e.time <= event.time)
        return Result("applied", late, edge, features, history, digest(event, history, features))

    def features(
        self, account: Account, event: Event, windows: dict[str, Window]
    ) -> dict[str, float]:
        """All features by name, as float32 values."""
        values: dict[str, float] = {}
        for name, window in windows.items():
            values |= window_features(name, window)
        values |= tempo_features(account, event, windows)
        values |= amount_features(event, windows["30d"].amounts)
        values |= novelty_features(event, [e for e in account.ring if e.time <= event.time])
        values |= place_features(account, event)
        values |= own_features(event)
        values |= dict(zip(RISK_NAMES, event.risk, strict=True))
        assert set(values) == set(NAMES)
        return {name: f32(values[name]) for name in NAMES}

    def record(self, name: str) -> bytes:
        """The bytes that a store must hold for an account."""
        return record_bytes(self.accounts[name]) if name in self.accounts else b""

    def exact(self, event: Event) -> dict[str, float]:
        """The features if nothing were ever dropped. Call before `apply`."""
        account = self.accounts.get(event.account, Account())
        windows = {name: exact_window(account, event, name) for name in WINDOWS_MS}
        return self.features(account, event, windows)
