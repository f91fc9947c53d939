"""Risk snapshots against a slow exact oracle; look-ups in them."""

from __future__ import annotations

import random
from collections import defaultdict
from dataclasses import dataclass

import numpy as np
import pytest
import xxhash
from hypothesis import given, settings
from hypothesis import strategies as st

from streams.batch import Batch
from streams.columns import Columns
from streams.errors import StoreError
from streams.features import RISK_COUNT, RISK_COURSE, RISK_NAMES
from streams.labels import Labels, decode_labels
from streams.risk import NO_SNAPSHOT, RiskView, Sheet, Snapshot, digest_of
from streams.risk_build import RiskBuilder
from streams.risk_pace import Pace
from streams.schema import DAY_MS

FIRST = 18_000
"""Day number of the first event day in these tests."""
HOUR_MS = 3_600_000
DAILY = Pace(1)


@dataclass(frozen=True)
class Payment:
    account: str
    transaction: str
    day: int
    merchant: str | None
    terminal: str | None
    amount: int
    copies: int = 1
    hour: int = 12

    @property
    def time(self) -> int:
        return self.day * DAY_MS + self.hour * HOUR_MS


@dataclass(frozen=True)
class Verdict:
    label_id: str
    account: str
    transaction: str
    label: str
    time: int


def hashed(name: str | None) -> int:
    return 0 if name is None else xxhash.xxh3_64_intdigest(name.encode())


def columns_of(payments: list[Payment], appended: int = -1, partition: int = 0) -> Columns:
    """Accepted columns of these payments."""
    n = len(payments)
    batch = Batch(
        topic="transactions",
        partition=partition,
        offsets=np.arange(n, dtype=np.int64),
        timestamps=np.full(n, appended, np.int64),
        keys=[p.account.encode() for p in payments],
        values=[b"{}"] * n,
        headers=None,
        next_offset=n + 1,
    )
    return Columns(
        batch=batch,
        row=np.arange(n, dtype=np.int32),
        account_id=[p.account for p in payments],
        transaction_id=[p.transaction for p in payments],
        tenant_id=[None] * n,
        words=np.zeros((n, 4), np.uint64),
        event_time=np.array([p.time for p in payments], np.int64),
        amount=np.array([p.amount for p in payments], np.int64),
        currency=["EUR"] * n,
        merchant=np.array([hashed(p.merchant) for p in payments], np.uint64),
        terminal=np.array([hashed(p.terminal) for p in payments], np.uint64),
        billing_country=np.zeros(n, np.uint16),
        ip_country=np.zeros(n, np.uint16),
        latitude=np.zeros(n, np.int32),
        longitude=np.zeros(n, np.int32),
        docs=[{}] * n,
        rejects=[],
        tombstones=[],
    )


def labels_of(verdicts: list[Verdict]) -> Labels:
    return decode_labels(
        [
            (
                f'{{"schema_version":1,"label_id":"{v.label_id}","account_id":"{v.account}",'
                f'"transaction_id":"{v.transaction}","label":"{v.label}","label_time":{v.time}}}'
            ).encode()
            for v in verdicts
        ]
    )


def course_of(periods: list[tuple[int, bool]], now: int) -> list[int]:
    """Of (period, is it fraud) within the longest window: what RISK_COURSE names."""
    struck = sorted(period for period, fraud in periods if fraud)
    good = [period for period, fraud in periods if not fraud]
    if not struck:
        return [0] * 5 + [now - max(good)]
    earlier = [period for period in good if period < struck[0]]
    after = sum(period > struck[-1] for period in good)
    counts = [len(earlier), len(good) - len(earlier) - after, after]
    return [now - struck[0], now - struck[-1], *counts, now - max(earlier, default=now)]


def oracle(
    payments: list[Payment], verdicts: list[Verdict], now: int, delay: int, period_ms: int
) -> dict[str, dict[int, list[list[int]]]]:
    """For merchants and terminals: id -> per window [transactions, frauds, amount]; the course."""

    def counted(p: Payment, length: int) -> bool:
        return now - (delay + length) * DAY_MS <= p.time < now - delay * DAY_MS

    known: dict[tuple[str, str], Verdict] = {}
    events = {(p.account, p.transaction): p for p in payments}
    for v in sorted(
        verdicts,
        key=lambda v: (v.time, xxhash.xxh3_64_intdigest(f"{v.label_id}\0{v.label}".encode())),
    ):
        event = events.get((v.account, v.transaction))
        if event is not None and event.time // period_ms * period_ms <= v.time < now:
            known[v.account, v.transaction] = v
    found: dict[str, dict[int, list[list[int]]]] = {}
    for kind in ("merchant", "terminal"):
        totals: dict[int, list[list[int]]] = defaultdict(lambda: [[0, 0, 0] for _ in range(3)])
        seen: dict[int, list[tuple[int, bool]]] = defaultdict(list)
        for key, p in events.items():
            name = getattr(p, kind)
            fraud = key in known and known[key].label == "fraud"
            for w, length in enumerate((1, 7, 30)):
                if name is not None and counted(p, length):
                    total = totals[hashed(name)][w]
                    total[0] += 1
                    total[1] += fraud
                    total[2] += min(p.amount, 10**12)
            if name is not None and counted(p, 30):
                seen[hashed(name)].append((p.time // period_ms, fraud))
        at = now // period_ms
        found[kind] = {i: [*total, course_of(seen[i], at)] for i, total in totals.items()}
    return found


def as_dict(snapshot: Snapshot) -> dict[str, dict[int, list[list[int]]]]:
    return {
        kind: {
            int(totals.ids[i]): [
                [
                    int(totals.transactions[w, i]),
                    int(totals.frauds[w, i]),
                    int(totals.amounts[w, i]),
                ]
                for w in range(3)
            ]
            + [totals.course[:, i].tolist()]
            for i in range(len(totals.ids))
        }
        for kind, totals in (("merchant", snapshot.merchants), ("terminal", snapshot.terminals))
    }


names = st.sampled_from([None, "a", "b", "c"])
# Many, of few: else hardly a label finds its payment, and no merchant has two frauds.
payments_lists = st.lists(
    st.builds(
        Payment,
        account=st.sampled_from(["x", "y"]),
        transaction=st.integers(0, 15).map(str),
        day=st.integers(FIRST, FIRST + 50),
        merchant=names,
        terminal=names,
        amount=st.integers(0, 10**15 - 1),
        copies=st.integers(1, 2),
        hour=st.integers(0, 23),
    ),
    min_size=10,
    max_size=30,
    unique_by=lambda p: (p.account, p.transaction),
)
verdicts_lists = st.lists(
    st.builds(
        Verdict,
        label_id=st.integers(0, 3).map(str),
        account=st.sampled_from(["x", "y", "x", "y", "z"]),
        transaction=st.integers(0, 16).map(str),
        label=st.sampled_from(["fraud", "fraud", "legitimate", "disputed"]),
        time=st.one_of(
            st.integers((FIRST - 5) * DAY_MS, (FIRST + 70) * DAY_MS),
            st.integers(FIRST * 24, (FIRST + 60) * 24).map(lambda hour: hour * HOUR_MS),
        ),
    ),
    min_size=10,
    max_size=40,
)


@settings(max_examples=100)
@given(
    payments=payments_lists,
    verdicts=verdicts_lists,
    pace=st.builds(Pace, st.sampled_from([0, 1, 7]), st.sampled_from([24, 24, 12, 3, 1])),
    seed=st.integers(0, 2**16),
    forget=st.booleans(),
)
def test_snapshots_equal_the_oracle(
    payments: list[Payment], verdicts: list[Verdict], pace: Pace, seed: int, forget: bool
) -> None:
    """Also where both come after snapshots that they would have changed, labels in no order."""
    chance = random.Random(seed)
    first, last = pace.periods(FIRST), pace.periods(FIRST + 95)
    span = chance.choice([1, pace.periods(60)])
    items = [*(p for p in payments for _ in range(p.copies)), *verdicts]
    chance.shuffle(items)
    waiting = sorted(((first + chance.randrange(span), item) for item in items), key=lambda x: x[0])
    came, said = list[Payment](), list[Verdict]()
    builder = RiskBuilder(pace)
    step = 1 + chance.randrange(chance.choice([1, 4, 20]) * pace.periods(1))
    for period in range(first, last, step):
        fresh = [item for at, item in waiting if at <= period]
        waiting = waiting[len(fresh) :]
        paid = [each for each in fresh if isinstance(each, Payment)]
        told = [each for each in fresh if isinstance(each, Verdict)]
        for cut in range(0, len(fresh), 5):
            builder.add(columns_of(paid[cut : cut + 5]))
            builder.add_labels(labels_of(told[cut : cut + 5]))
        came, said = came + paid, said + told
        if forget:
            builder.forget_before(period)
        expected = oracle(came, said, period * pace.ms, pace.delay, pace.ms)
        assert as_dict(builder.build(period)) == expected


@settings(max_examples=40)
@given(
    payments=payments_lists,
    verdicts=verdicts_lists,
    seed=st.integers(0, 2**16),
    hours=st.sampled_from([24, 8]),
)
def test_what_comes_between_snapshots_gives_the_same_bytes(
    payments: list[Payment], verdicts: list[Verdict], seed: int, hours: int
) -> None:
    """What a period needs is there before it is built: the order and the cuts leave no trace."""
    chance = random.Random(seed)
    pace = Pace(2, hours)
    whole = RiskBuilder(pace)
    whole.add(columns_of(payments))
    whole.add_labels(labels_of(verdicts))
    piecewise = RiskBuilder(pace)
    latest: list[tuple[int, Payment | Verdict]]
    # As late as may be: at the last moment before the first snapshot that counts it.
    latest = [(p.time // pace.ms + pace.periods(pace.delay) + 1, p) for p in payments]
    latest += [(v.time // pace.ms + 1, v) for v in verdicts]
    first, last = pace.periods(FIRST), pace.periods(FIRST + 99)
    waiting = [(min(period, chance.randint(first, last)), item) for period, item in latest]
    chance.shuffle(waiting)
    waiting.sort(key=lambda pair: pair[0])
    for period in range(first, last):
        while waiting and waiting[0][0] <= period:
            item = waiting.pop(0)[1]
            if isinstance(item, Payment):
                piecewise.add(columns_of([item]))
            else:
                piecewise.add_labels(labels_of([item]))
        piecewise.forget_before(period)
        assert piecewise.build(period).to_bytes() == whole.build(period).to_bytes()


def test_only_the_days_needed_are_kept() -> None:
    builder = RiskBuilder(Pace(7))
    sizes = []
    for day in range(FIRST, FIRST + 300):
        builder.add(
            columns_of([Payment("x", f"{day}-{i}", day, f"m{day}", None, 5) for i in range(20)])
        )
        builder.add_labels(
            labels_of([Verdict("l", "x", f"{day}-{i}", "fraud", day * DAY_MS) for i in range(20)])
        )
        builder.forget_before(day)
        builder.build(day)
        sizes.append(len(builder))
    assert max(sizes) <= 2 * 20 * (7 + 30 + 2)
    entities = builder._entities[0]
    assert len(entities.periods) <= 38 and entities.numbers.count <= 2 * 40
    assert sum(map(len, builder._labels)) <= 20 * 38


def test_the_moments_at_which_a_label_begins_to_count() -> None:
    """Known only before the snapshot's period; of no use where older than the payment's own."""
    began, now = FIRST * DAY_MS, (FIRST + 3) * DAY_MS
    for time, frauds in ((began - 1, 0), (began, 1), (now - 1, 1), (now, 0)):
        builder = RiskBuilder(DAILY)
        builder.add(columns_of([Payment("x", "1", FIRST, "a", None, 100, hour=0)]))
        builder.add_labels(labels_of([Verdict("l", "x", "1", "fraud", time)]))
        assert builder.build(FIRST + 3).merchants.frauds[-1].tolist() == [frauds], time


def some_snapshot(day: int = FIRST + 10) -> Snapshot:
    builder = RiskBuilder(DAILY)
    payments = [
        Payment("x", "1", day - 2, "a", "t", 100),
        Payment("x", "2", day - 4, "a", None, 300),
        Payment("x", "3", day - 20, "b", "t", 50),
    ]
    builder.add(columns_of(payments))
    builder.add_labels(labels_of([Verdict("l", "x", "2", "fraud", (day - 1) * DAY_MS)]))
    return builder.build(day)


def test_bytes_and_back() -> None:
    snapshot = some_snapshot()
    content = snapshot.to_bytes()
    again = Snapshot.from_bytes(content)
    assert again.to_bytes() == content and as_dict(again) == as_dict(snapshot)
    with pytest.raises(StoreError, match="cut short"):
        Snapshot.from_bytes(content[:-1])
    with pytest.raises(StoreError, match="not a risk snapshot"):
        Snapshot.from_bytes(b"fsr3" + content[4:])
    with pytest.raises(StoreError, match="damaged"):
        Sheet.of(content[:-1] + b"\1", digest_of(content))


def sheet(snapshot: Snapshot) -> Sheet:
    content = snapshot.to_bytes()
    return Sheet.of(content, digest_of(content))


def test_look_up() -> None:
    day = FIRST + 10
    known = sheet(some_snapshot(day))
    view = RiskView(DAILY, {day: known}, day)
    asked = [
        Payment("q", "1", day, "a", "t", 1),
        Payment("q", "2", day, "nobody", None, 1),
        Payment("q", "3", day - 1, "a", "t", 1),
        Payment("q", "4", day + 3, "b", None, 1),
    ]
    found, versions = view.lookup(columns_of(asked))
    assert found.dtype == np.float32 and versions == [known.version] * 2 + [NO_SNAPSHOT] + [
        known.version
    ]
    row = dict(zip(RISK_NAMES, found[0].tolist(), strict=True))
    assert row["merchant_1d_transactions"] == 1 and row["merchant_7d_transactions"] == 2
    assert row["merchant_7d_frauds"] == 1 and row["merchant_7d_fraud_share"] == 0.5
    assert row["merchant_30d_mean_amount"] == 200 and row["merchant_1d_frauds"] == 0
    assert row["terminal_30d_transactions"] == 2 and row["terminal_30d_mean_amount"] == 75
    assert [row[f"merchant_{name}"] for name in RISK_COURSE] == [4, 4, 0, 0, 1, -1]
    assert [row[f"terminal_{name}"] for name in RISK_COURSE] == [-1] * 5 + [2]
    assert (found[1:3] == -1).all()
    b = dict(zip(RISK_NAMES, found[3].tolist(), strict=True))
    assert b["merchant_1d_transactions"] == 0 and b["merchant_1d_fraud_share"] == -1
    assert b["merchant_30d_transactions"] == 1 and b["terminal_30d_transactions"] == -1


def test_no_snapshot_is_no_risk() -> None:
    found, versions = RiskView(DAILY, {}, None).lookup(
        columns_of([Payment("q", "1", FIRST, "a", "b", 1)])
    )
    assert (found == -1).all() and versions == [NO_SNAPSHOT]
    found, versions = RiskView(DAILY, {}, FIRST).lookup(columns_of([]))
    assert found.shape == (0, RISK_COUNT) and versions == []


def test_half_a_day_sooner() -> None:
    """The same payments and label, looked up in the morning and in the afternoon."""
    pace = Pace(1, 12)
    builder = RiskBuilder(pace)
    paid = [Payment("x", str(i), FIRST + i, "a", None, 100, hour=1) for i in range(3)]
    builder.add(columns_of(paid))
    known = (FIRST + 3) * DAY_MS + 5
    builder.add_labels(labels_of([Verdict("l", "x", "1", "fraud", known)]))
    noon = pace.periods(FIRST + 3)
    sheets = {period: sheet(builder.build(period)) for period in (noon, noon + 1)}
    view = RiskView(pace, sheets, noon + 1)
    asked = [Payment("q", str(h), FIRST + 3, "a", None, 1, hour=h) for h in (0, 11, 12, 23)]
    found, versions = view.lookup(columns_of(asked))
    assert versions == [sheets[noon].version] * 2 + [sheets[noon + 1].version] * 2
    rows = [dict(zip(RISK_NAMES, each.tolist(), strict=True)) for each in found]
    assert [row["merchant_30d_transactions"] for row in rows] == [2, 2, 3, 3]
    assert [row["merchant_30d_frauds"] for row in rows] == [0, 0, 1, 1]
    assert [row["merchant_days_since_last_fraud"] for row in rows] == [-1, -1, 2.5, 2.5]


def test_a_clock_that_runs_ahead_asks_for_no_later_day() -> None:
    ahead = columns_of([Payment("q", "1", FIRST + 1, "a", "b", 1)], appended=FIRST * DAY_MS + 5)
    behind = columns_of([Payment("q", "1", FIRST - 9, "a", "b", 1)], appended=FIRST * DAY_MS + 5)
    assert DAILY.needed([ahead, behind]) == [FIRST - 9, FIRST]
    assert Pace(1, 6).needed([ahead, behind]) == [4 * (FIRST - 9) + 2, 4 * FIRST]
