"""The windows against the oracle, to the last bit; and what the contract promises beside that."""

from __future__ import annotations

import json
import math
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from streams import features, windows
from streams.features import INDEX, NAMES
from streams.kernels import SOURCES, message, pack, traits
from streams.state import Arena
from tests.events import FixedRisk, Line, Shelf, columns_of, line_of, lines_of, run
from tests.oracle import Oracle
from tests.oracle_record import Event
from tests.stories import DAY_MS, START_MS, cuts, story

GOLDEN = json.loads((Path(__file__).parent / "golden" / "windows.json").read_text("utf-8"))
ROOMY = 1 << 20

SEEDS = st.integers(0, 2**32 - 1)


def value(line: Line, name: str) -> float:
    """One feature of a line."""
    return float(np.frombuffer(line.features, np.float32)[INDEX[name]])


def differences(expected: list[Line], found: list[Line]) -> str:
    """Where two runs part, in words."""
    for at, (want, got) in enumerate(zip(expected, found, strict=True)):
        if want != got:
            a, b = (np.frombuffer(line.features, np.float32) for line in (want, got))
            names = [f"{NAMES[i]}: {a[i]!r} {b[i]!r}" for i in np.flatnonzero(a != b)]
            rest = [(replace(line, features=b"", history=())) for line in (want, got)]
            return f"event {at}: {names} {rest}, history equal: {want.history == got.history}"
    return ""


def check(events: list[Event], at: list[int]) -> None:
    """A story in batches says what the oracle says, keeps the same records, and is honest."""
    arena, shelf, oracle = Arena(0, ROOMY), Shelf(), Oracle()
    found = run(events, at, arena, shelf)
    expected = []
    for event in events:
        exact = oracle.exact(event)
        result = oracle.apply(event)
        if result.status == "applied" and not result.edge:
            assert result.features == exact, "edge is not set, but a window is not exact"
        expected.append(line_of(result))
    assert expected == found, differences(expected, found)
    for account in oracle.accounts:
        assert arena.record(account) == oracle.record(account) == shelf.records[account]


@settings(max_examples=60, deadline=None)
@given(SEEDS)
def test_long_stories_equal_the_oracle(seed: int) -> None:
    events = story(seed, most=260)
    check(events, cuts(seed, events))


NEAR_MS = st.sampled_from([-DAY_MS, -3_600_000, -2_000, -1, 0, 1, 1_999, 60_000, 300_000, DAY_MS])


@st.composite
def short_story(draw: st.DrawFn) -> list[Event]:
    """A ring that is nearly full or not begun, then a few events that hypothesis can shrink."""
    kept = draw(st.sampled_from([0, 1, 62, 64, 100]))
    gap = draw(st.sampled_from([0, 1, 1_000, DAY_MS // 2]))
    events = [
        Event("a", START_MS + i * gap, 7, name=i + 1, place=i % 5, country=i % 3)
        for i in range(kept)
    ]
    steps = st.tuples(
        NEAR_MS, st.sampled_from([0, 1, 10**15 - 1]), st.booleans(), st.integers(0, 3)
    )
    time = START_MS + kept * gap
    for i, (later, amount, counting, key) in enumerate(draw(st.lists(steps, max_size=12))):
        time += later
        events.append(Event("a", time, amount, 1_000 + i, 0, counting, place=key, country=key))
    return events


@settings(max_examples=150, deadline=None)
@given(short_story())
def test_short_stories_equal_the_oracle(events: list[Event]) -> None:
    check(events, [])


@settings(max_examples=40, deadline=None)
@given(SEEDS, SEEDS, SEEDS)
def test_batches_do_not_matter(seed: int, one: int, other: int) -> None:
    """However the log is cut: the same features, digests and records."""
    events = story(seed)
    arenas = [Arena(0, ROOMY), Arena(0, ROOMY), Arena(0, ROOMY)]
    each = list(range(len(events)))
    runs = [
        run(events, at, arena)
        for at, arena in zip([cuts(one, events), cuts(other, events), each], arenas, strict=True)
    ]
    assert runs[0] == runs[1] == runs[2]
    for account in {event.account for event in events}:
        assert len({arena.record(account) for arena in arenas}) == 1


@pytest.mark.parametrize("case", GOLDEN["cases"], ids=lambda case: case["name"])
def test_golden(case: dict[str, Any]) -> None:
    """Cases worked out by hand; every number stands in the file beside its reason."""
    given = [each for each in case["events"] for _ in range(each.get("times", 1))]
    events = []
    for at, each in enumerate(given):
        fields = {"name": at + 1, **each["event"]}
        if "position" in fields:
            fields["position"] = tuple(fields["position"])
        spread = min(at, len(given) - 2) * case.get("spread_ms", 0)
        events.append(Event("a", START_MS + max(each["after_ms"], spread), **fields))
    last = run(events, [], Arena(0, ROOMY))[-1]
    found = {name: value(last, name) for name in case["features"]}
    assert found == {name: float(np.float32(want)) for name, want in case["features"].items()}
    assert (last.status, last.late, last.edge) == (
        case.get("status", "applied"),
        case.get("late", False),
        case.get("edge", False),
    )


def test_pinned_story() -> None:
    """Machine, compiler and Numba must not change a bit; a wanted change needs a new VERSION."""
    events = story(20_240_266)
    lines = run(events, [], arena := Arena(0, ROOMY))
    total = 0
    for line in lines:
        total = (total * 1_000_003 + line.digest) % 2**64
    words = [np.frombuffer(arena.record(name), "<u8") for name in sorted(arena_names(events))]
    found = {
        "features": features.DIGEST,
        "digests": f"{total:016x}",
        "records": f"{int(np.bitwise_xor.reduce([w[1] for w in words])):016x}",
    }
    assert found == GOLDEN["pinned"]


def arena_names(events: list[Event]) -> set[str]:
    return {event.account for event in events}


def test_duplicate_has_no_effect_and_conflict_neither() -> None:
    events = [Event("a", START_MS + i, name=i + 1, content=i) for i in range(5)]
    arena = Arena(0, ROOMY)
    shelf = Shelf()
    run(events, [], arena, shelf)
    before = arena.record("a")
    again, other = events[2], replace(events[2], content=77)
    lines = run([again, other], [], arena, shelf)
    assert [line.status for line in lines] == ["duplicate", "id_conflict"]
    assert arena.record("a") == before
    assert not any(line.history or any(line.features) or line.digest for line in lines)


def test_duplicate_within_one_batch() -> None:
    event = Event("a", START_MS, name=9)
    lines = run([event, event, replace(event, content=1)], [], Arena(0, ROOMY))
    assert [line.status for line in lines] == ["applied", "duplicate", "id_conflict"]


def test_horizon_of_duplicates_is_the_ring() -> None:
    events = [Event("a", START_MS + i, name=i + 1) for i in range(65)]
    lines = run([*events, events[1], events[0]], [], Arena(0, ROOMY))
    assert [line.status for line in lines[-2:]] == ["duplicate", "applied"]


def test_refunds_do_not_count_but_are_history() -> None:
    pay = Event("a", START_MS, 500, name=1, place=4)
    refund = Event("a", START_MS + 1, 300, name=2, place=5, counts=False, kind=4)
    last = run([pay, refund, Event("a", START_MS + 2, 100, name=3)], [], Arena(0, ROOMY))[-1]
    assert value(last, "count_1m") == 1 and value(last, "sum_1m") == 500
    assert value(last, "places_1m") == 1 and value(last, "lifetime_count") == 1
    assert len(last.history) == 2 and value(last, "since_last_s") == np.float32(0.001)


def test_late_event_does_not_see_what_comes_after_it() -> None:
    events = [Event("a", START_MS + i * 1_000, 10, name=i + 1) for i in range(10)]
    late = Event("a", START_MS + 4_500, 10, name=99)
    found = run([*events, late], [], Arena(0, ROOMY))[-1]
    alone = run([*events[:5], late], [], Arena(0, ROOMY))[-1]
    assert found.late and not alone.late
    assert replace(found, late=False) == alone


def test_an_event_from_before_the_ring_has_windows_and_no_past() -> None:
    """Panes give it counts, but what is told of the past is unknown, rates of 30 days among it."""
    events = [Event("a", START_MS + i * DAY_MS // 8, 10, name=i + 1) for i in range(80)]
    found = run([*events, Event("a", START_MS + DAY_MS, 10, name=99)], [], Arena(0, ROOMY))[-1]
    assert found.late and found.edge and value(found, "count_30d") > 0
    for name in ("since_last_s", "age_days", "rate_1h_30d", "rate_24h_30d", "spend_24h_30d"):
        assert value(found, name) == -1, name


def test_accounts_do_not_see_each_other() -> None:
    one, two = story(5), [replace(event, account=f"x{event.account}") for event in story(6)]
    mixed = [event for pair in zip(one, two, strict=False) for event in pair]
    alone = run([event for event in mixed if event.account[0] != "x"], [], Arena(0, ROOMY))
    together = run(mixed, [], Arena(0, ROOMY))
    kept = [line for line, event in zip(together, mixed, strict=True) if event.account[0] != "x"]
    assert kept == alone


def test_without_history_all_else_is_the_same() -> None:
    events = story(11)
    columns, risk = columns_of(events), FixedRisk(events)
    works = []
    for history in (True, False):
        arena = Arena(0, ROOMY)
        arena.fill((name, None) for name in arena.missing(columns.account_id))
        works.append(windows.apply(columns, arena, risk, history=history))
    full, bare = works
    assert bare.history.shape == (len(columns), 0, 4) and full.history.any()
    for name in ("status", "late", "edge", "features", "length", "digest"):
        assert getattr(full, name).tobytes() == getattr(bare, name).tobytes()


def test_without_risk_its_columns_are_unknown() -> None:
    columns = columns_of([Event("a", START_MS)])
    arena = Arena(0, ROOMY)
    arena.fill((name, None) for name in arena.missing(columns.account_id))
    work = windows.apply(columns, arena, None)
    assert (work.features[:, features.RISK_AT :] == -1).all()
    assert work.risk_versions == [windows.NO_RISK]


def test_nothing_to_apply() -> None:
    arena = Arena(0, ROOMY)
    work = windows.apply(columns_of([]), arena, None)
    assert len(work.status) == 0 and lines_of(work) == [] and len(arena.writes()) == 0


def test_scoring_batch_hides_the_response() -> None:
    events = [Event("a", START_MS + i, name=i + 1, auth=2) for i in range(3)]
    columns = columns_of(events)
    arena = Arena(0, ROOMY)
    arena.fill((name, None) for name in arena.missing(columns.account_id))
    work = windows.apply(columns, arena, None)
    batch = windows.scoring_batch(work)
    hidden = np.array([replace(event, auth=0).words() for event in events], np.uint64)
    assert (batch.current == hidden).all()
    assert (batch.history[2, 62:] == columns.words[:2]).all(), "the past keeps its responses"
    chosen = windows.scoring_batch(work, np.array([2, 0]))
    assert len(chosen) == 2 and (chosen.current == hidden[[2, 0]]).all()
    assert chosen.current.flags.c_contiguous and chosen.history.flags.c_contiguous


def test_response_of_the_event_itself_changes_nothing() -> None:
    events = [Event("a", START_MS + i, name=i + 1, auth=2) for i in range(3)]
    other = [*events[:2], replace(events[2], auth=1)]
    assert run(events, [], Arena(0, ROOMY))[-1] == run(other, [], Arena(0, ROOMY))[-1]


def test_no_feature_is_ever_nan_or_infinite() -> None:
    extreme = [
        Event("a", START_MS + i // 2, (10**15 - 1) * (i % 2), name=i + 1, position=(i * 10**6, 0))
        for i in range(90)
    ]
    for line in run(extreme, [], Arena(0, ROOMY)):
        assert np.isfinite(np.frombuffer(line.features, np.float32)).all()


@settings(max_examples=300, deadline=None)
@given(
    st.integers(-90_000_000, 90_000_000),
    st.integers(-180_000_000, 180_000_000),
    st.integers(-90_000_000, 90_000_000),
    st.integers(-180_000_000, 180_000_000),
)
def test_distance_is_the_chord(lat1: int, lon1: int, lat2: int, lon2: int) -> None:
    """Against the great circle of the textbook: chord = 2 R sin(arc / 2 R)."""
    found = traits.distance_km(lat1, lon1, lat2, lon2)
    a, b, c, d = (math.radians(v / 1e6) for v in (lat1, lon1, lat2, lon2))
    points = [
        (math.cos(lat) * math.cos(lon), math.cos(lat) * math.sin(lon), math.sin(lat))
        for lat, lon in ((a, b), (c, d))
    ]
    assert found == pytest.approx(6371.0088 * math.dist(*points), abs=1e-5)


def test_machine_code_is_tied_to_all_of_its_sources() -> None:
    entries = (
        message.clear,
        windows.apply_rows,
        pack.load_records,
        pack.measure_pieces,
        pack.store_pieces,
        pack.release_blocks,
    )
    for each in entries:
        cells = each.py_func.__closure__  # type: ignore[attr-defined]
        assert [cell.cell_contents for cell in cells] == [SOURCES]
