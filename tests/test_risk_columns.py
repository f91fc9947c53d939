"""The columns that an event gets of a snapshot, against slow words."""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from streams.features import RISK_COURSE, RISK_NAMES
from streams.risk import NO_SNAPSHOT, RiskView, Sheet, Snapshot, Totals, digest_of
from streams.risk_pace import Pace
from tests.test_risk import FIRST, Payment, columns_of, hashed

NAMES = "abcd"
Counts = tuple[int, int, int]
"""Transactions, frauds, amount."""
Known = Mapping[str, tuple[Counts, Counts, Counts, list[int]]]
"""By name: a window each, and the course."""

counts = st.tuples(st.integers(0, 3), st.integers(0, 3), st.integers(0, 10**12)).map(
    lambda each: (each[0], min(each[:2]), each[2] if each[0] else 0)
)
course = st.lists(st.integers(0, 300), min_size=6, max_size=6)
entities = st.dictionaries(st.sampled_from(NAMES), st.tuples(counts, counts, counts, course))
snapshots = st.tuples(entities, entities)


def totals(known: Known) -> Totals:
    names = sorted(known, key=hashed)
    table = np.array([known[name][:3] for name in names], np.int64).reshape(len(names), 3, 3)
    lie = np.array([known[name][3] for name in names], np.int64).reshape(len(names), 6)
    return Totals(np.array([*map(hashed, names)], np.uint64), *table.transpose(2, 1, 0), lie.T)


def told(known: Known, name: str | None, hours: int) -> list[float]:
    """What docs/risk.md says of one merchant or terminal."""
    if name is None or name not in known:
        return [-1.0] * 18
    *windows, lie = known[name]
    found: list[float] = []
    for transactions, frauds, amount in windows:
        found += [transactions, frauds]
        found += [frauds / transactions, amount / transactions] if transactions else [-1, -1]
    days = hours / 24
    safe = lie[-1] * days if lie[-1] else -1.0
    if not windows[-1][1]:
        return [*found, *[-1.0] * 5, safe]
    for word, each in zip(RISK_COURSE[:-1], lie[:-1], strict=True):
        found.append(each * days if "days" in word else each)
    return [*found, safe]


@given(
    st.dictionaries(st.integers(0, 4), snapshots),
    st.lists(
        st.tuples(
            st.integers(0, 6), st.sampled_from([None, *NAMES]), st.sampled_from([None, *NAMES])
        ),
        min_size=1,
        max_size=8,
    ),
    st.sampled_from([24, 6]),
)  # fmt: skip
def test_an_event_is_told_what_the_snapshot_of_its_period_holds(
    kept: dict[int, tuple[Known, Known]],
    asked: list[tuple[int, str | None, str | None]],
    hours: int,
) -> None:
    """Alone, and among events of other periods; after the front what the front's says."""
    pace, front = Pace(1, hours), 4
    first = Pace(1, hours).periods(FIRST)
    sheets = {}
    for at, (merchants, terminals) in kept.items():
        content = Snapshot(first + at, pace, totals(merchants), totals(terminals)).to_bytes()
        sheets[first + at] = Sheet.of(content, digest_of(content))
    view = RiskView(pace, sheets, first + front)
    events = [
        Payment("q", str(n), FIRST + at * hours // 24, m, t, 1, hour=at * hours % 24)
        for n, (at, m, t) in enumerate(asked)
    ]
    found, versions = view.lookup(columns_of(events))
    assert found.shape == (len(asked), len(RISK_NAMES))
    for row, version, event, (at, merchant, terminal) in zip(
        found, versions, events, asked, strict=True
    ):
        alone, same = view.lookup(columns_of([event]))
        assert same == [version] and (alone[0] == row).all()
        at = min(at, front)
        if at not in kept:
            assert version == NO_SNAPSHOT and (row == -1).all()
            continue
        assert version == sheets[first + at].version
        expected = told(kept[at][0], merchant, hours) + told(kept[at][1], terminal, hours)
        assert row.tolist() == pytest.approx(expected, rel=1e-6)
