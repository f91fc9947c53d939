"""The packed outbox entry: there and back, and damage is noticed."""

from __future__ import annotations

import numpy as np
import orjson
import pytest
from hypothesis import given
from hypothesis import strategies as st

from streams.entry import DeadRow, Entry, json_strings, keep, pack, plain_strings, unpack
from streams.errors import StoreError

names = st.text(st.characters(codec="utf-8"), min_size=1, max_size=8)
tricky = st.lists(st.one_of(names, st.sampled_from(['",', '","', "\\", '"', ',"', '\\",'])))


@given(tricky)
def test_strings_are_split_right_whatever_they_hold(texts: list[str]) -> None:
    packed = orjson.dumps(texts)
    escaped = json_strings(packed, len(texts))
    assert [orjson.loads(b'"' + each + b'"') for each in escaped] == texts
    assert plain_strings(packed, len(texts)) == [text.encode() for text in texts]


def entry_of(
    ids: list[str], accounts: list[str], dead: tuple[DeadRow, ...] = (), versions: int = 1
) -> Entry:
    n = len(ids)
    return Entry(
        topic="transactions",
        partition=4,
        mode="full",
        versions=tuple({"model": "m", "risk": f"r{i}"} for i in range(versions)),
        offsets=np.arange(n, dtype=np.int64) + 10,
        event_time=np.arange(n, dtype=np.int64) * 7,
        scores=np.linspace(0, 1, n),
        digests=np.arange(n, dtype=np.uint64) << np.uint64(60),
        codes=(np.arange(n) % 3).astype(np.uint8),
        version=(np.arange(n) % versions).astype(np.uint16),
        transaction_ids=orjson.dumps(ids),
        account_ids=orjson.dumps(accounts),
        alerts=tuple((row, b'{"alert_id":"%d"}' % row) for row in range(0, n, 2)),
        dead=dead,
    )


def same(one: Entry, other: Entry) -> bool:
    return all(
        np.array_equal(getattr(one, name), getattr(other, name), equal_nan=True)
        if isinstance(getattr(one, name), np.ndarray) and name == "scores"
        else np.array_equal(getattr(one, name), getattr(other, name))
        if isinstance(getattr(one, name), np.ndarray)
        else getattr(one, name) == getattr(other, name)
        for name in Entry.__slots__
    )


bytes_or_none = st.none() | st.binary(max_size=20)
dead_rows = st.lists(
    st.builds(
        DeadRow,
        offset=st.integers(0, 2**62),
        key=bytes_or_none,
        value=bytes_or_none,
        headers=st.lists(st.tuples(names, st.binary(max_size=9)), max_size=3).map(tuple),
    ),
    max_size=4,
).map(tuple)


@given(
    st.lists(st.tuples(names, names), max_size=6),
    dead_rows,
    st.integers(1, 3),
)
def test_there_and_back(
    rows: list[tuple[str, str]], dead: tuple[DeadRow, ...], versions: int
) -> None:
    entry = entry_of([a for a, _ in rows], [b for _, b in rows], dead, versions)
    packed = pack(entry)
    assert same(unpack(packed), entry)
    assert pack(unpack(packed)) == packed


def test_keep_takes_alerts_along() -> None:
    entry = entry_of(["a", "b", "c", "d", "e"], ["x", "y", "x", "y", "x"], versions=2)
    kept = keep(entry, [1, 2, 4])
    assert kept.offsets.tolist() == [11, 12, 14] and orjson.loads(kept.transaction_ids) == [
        "b",
        "c",
        "e",
    ]
    assert kept.alerts == ((1, b'{"alert_id":"2"}'), (2, b'{"alert_id":"4"}'))
    assert kept.version.tolist() == [1, 0, 0]
    assert len(keep(entry, [])) == 0 and keep(entry, []).alerts == ()


@pytest.mark.parametrize("cut", [0, 3, 4, 7, 30, -1])
def test_damage_is_noticed(cut: int) -> None:
    packed = pack(entry_of(["a"], ["b"]))
    with pytest.raises(StoreError, match="unreadable"):
        unpack(packed[:cut])
    with pytest.raises(StoreError, match="unreadable"):
        unpack(b"fso9" + packed[4:])
