"""What a builder of risk snapshots does at sizes that the oracle's small worlds do not reach."""

from __future__ import annotations

from streams.risk import Snapshot
from streams.risk_build import RiskBuilder
from streams.schema import DAY_MS
from tests.test_risk import DAILY, FIRST, Payment, Verdict, columns_of, labels_of

KNOWN = (FIRST + 1) * DAY_MS


def paid(numbers: range, day: int) -> list[Payment]:
    return [
        Payment("x", str(n), day, f"m{n % 3}", f"t{n % 2}" if n % 5 else None, n) for n in numbers
    ]


def frauds(snapshot: Snapshot) -> int:
    return int(snapshot.merchants.frauds[-1].sum())


def test_one_batch_may_be_larger_than_all_before() -> None:
    """Rows double as they are needed; a batch may need more than twice what there was."""
    whole, pieces = RiskBuilder(DAILY), RiskBuilder(DAILY)
    everything = paid(range(6_000), FIRST)
    labels = labels_of([Verdict("l", "x", str(n), "fraud", KNOWN) for n in range(0, 6_000, 7)])
    whole.add(columns_of(everything))
    for start in range(0, 6_000, 500):
        pieces.add(columns_of(everything[start : start + 500]))
    for builder in (whole, pieces):
        builder.add_labels(labels)
    found = whole.build(FIRST + 3)
    assert found.to_bytes() == pieces.build(FIRST + 3).to_bytes()
    assert found.merchants.transactions[-1].sum() == 6_000 and frauds(found) == 6_000 // 7 + 1


def test_labels_that_come_at_once_count_once_each() -> None:
    """Two of each payment, the newest last in none of the orders they come in."""
    told = [
        Verdict(
            f"{n}-{late}", "x", str(n), "fraud" if late or n == 2 else "legitimate", KNOWN + late
        )
        for n in range(4)
        for late in (0, 1)
    ]
    for order in (told, told[::-1], told[::2] + told[1::2]):
        for size in (1, len(told)):
            builder = RiskBuilder(DAILY)
            builder.add(columns_of(paid(range(6), FIRST)))
            for start in range(0, len(order), size):
                builder.add_labels(labels_of(order[start : start + size]))
            assert frauds(builder.build(FIRST + 3)) == 4
            builder.add_labels(labels_of([Verdict("n", "x", "1", "legitimate", KNOWN + 2)]))
            assert frauds(builder.build(FIRST + 4)) == 3


def test_rows_that_stay_are_moved_whole_when_most_are_let_go() -> None:
    """More than a builder has room for at first, twice; a label comes for what was moved."""
    builder, fresh = RiskBuilder(DAILY), RiskBuilder(DAILY)
    late = FIRST + 20
    builder.add(columns_of(paid(range(9_000), FIRST)))
    stay = columns_of(paid(range(9_000, 12_000), late))
    builder.add(stay)
    builder.forget_before(FIRST + 40)
    assert len(builder) == 3_000
    fresh.add(stay)
    labels = [
        Verdict("l", "x", str(n), "fraud", (late + 2) * DAY_MS)
        for n in (5, *range(9_000, 16_000, 11))
    ]
    for each in (builder, fresh):
        each.add(columns_of(paid(range(12_000, 16_000), late + 1)))
        each.add_labels(labels_of(labels))
    found = builder.build(FIRST + 40)
    assert found.to_bytes() == fresh.build(FIRST + 40).to_bytes()
    assert found.merchants.transactions[-1].sum() == 7_000 and frauds(found) == len(labels) - 1
