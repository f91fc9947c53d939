"""Codes and knots, held against the words that docs/model.md has for them, in plain Python: serving
and training share the compiled functions, so a slip in one of these would agree with itself."""

from __future__ import annotations

from bisect import bisect_right
from datetime import UTC, datetime

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from numpy.typing import NDArray

from model import inputs, tokens

Words = NDArray[np.uint64]


def bounds(octave: int) -> list[int]:
    """The least value of each bucket, so many of them to an octave."""
    wide = [(octave + k) << e for e in range(60) for k in range(octave)]
    return [*range(octave), *wide]


EIGHTHS, FOURTHS, HALVES = bounds(8), bounds(4), bounds(2)


def bucket(value: int, least: list[int], last: int) -> int:
    return min(bisect_right(least, max(value, 0)) - 1, last)


def part(word: np.uint64, shift: int, mask: int = (1 << 64) - 1) -> int:
    return int(word) >> shift & mask


def time_of(row: Words) -> int:
    return part(row[0], inputs.TIME_SHIFT)


def amount_of(row: Words) -> int:
    return bucket(part(row[1], inputs.AMOUNT_SHIFT), EIGHTHS, 255)


def place_of(row: Words) -> int:
    return part(row[3], inputs.PLACE_SHIFT)


def country_of(row: Words) -> int:
    return part(row[3], inputs.COUNTRY_SHIFT, inputs.COUNTRY_MASK)


def device_of(row: Words) -> int:
    return part(row[3], 0, inputs.DEVICE_MASK)


def mcc_of(row: Words) -> int:
    return part(row[1], 0, inputs.MCC_MASK)


def codes_of(row: Words, before: list[Words]) -> list[int]:
    """`before`: the past of the account, the newest last."""
    kind = part(row[0], inputs.TYPE_SHIFT, inputs.TYPE_MASK)
    direction = part(row[0], inputs.DIRECTION_SHIFT, inputs.DIRECTION_MASK)
    channel = part(row[0], inputs.CHANNEL_SHIFT, inputs.CHANNEL_MASK)
    entry = part(row[0], inputs.ENTRY_SHIFT, inputs.ENTRY_MASK)
    when = datetime.fromtimestamp(time_of(row) / 1_000, UTC)
    gap, match = 0, 0
    if before:
        last = before[-1]
        gap = 1 + bucket(time_of(row) - time_of(last) >> 7, FOURTHS, 126)
        match += 1 * (place_of(row) == place_of(last))
        match += 2 * (device_of(row) == device_of(last))
        match += 4 * (country_of(row) == country_of(last))
    if len(before) > 1:
        match += 8 * (place_of(row) == place_of(before[-2]))
    return [
        kind * 8 + direction * 2 + part(row[0], inputs.COUNTS_SHIFT, 1),
        channel * 8 + entry,
        part(row[0], inputs.AUTH_SHIFT, inputs.AUTH_MASK),
        amount_of(row),
        mcc_of(row) and mcc_of(row) % 509 + 1,
        min(country_of(row), 679),
        place_of(row) and place_of(row) % 511 + 1,
        when.weekday() * 24 + when.hour,
        gap,
        match,
    ]


def pair_of(row: Words, past: Words) -> list[int]:
    same = 1 * (place_of(row) == place_of(past)) + 2 * (device_of(row) == device_of(past))
    same += 4 * (country_of(row) == country_of(past)) + 8 * (mcc_of(row) == mcc_of(past))
    since = bucket(time_of(row) - time_of(past) >> 7, HALVES, 63)
    half_octaves = (amount_of(row) - amount_of(past)) // 4
    return [same, since, min(max(half_octaves, -16), 15) + 16]


def stream(seed: int) -> tuple[Words, NDArray[np.int32]]:
    """Three accounts whose events come milliseconds to centuries apart, some on the hour, some out
    of order (a late one meets a newer past), in which all repeats, and is not given, at times."""
    rng = np.random.default_rng(seed)
    n = 3 * 70
    apart = (2.0 ** rng.uniform(0, 37, n)).astype(np.int64)
    apart[69::70] = 1 << 43
    time = 1_000_000_000_000 + np.cumsum(apart.reshape(3, -1), 1).ravel()
    time -= np.where(rng.random(n) < 0.1, 5_000_000, 0)
    time -= np.where(rng.random(n) < 0.1, time % 3_600_000, 0)
    amount = (2.0 ** rng.uniform(0, 50, n)).astype(np.int64) * (rng.random(n) > 0.1)
    place = rng.choice([0, 1, *rng.integers(2, 2**32, 2)], n)
    country = rng.choice([0, 1, 678, 679, 680, 1023], n)
    device = rng.choice([0, 5, 2**22 - 1], n)
    out = np.zeros((n, 4), np.uint64)
    out[:, 0] = (time << inputs.TIME_SHIFT) | rng.integers(0, 1 << inputs.TIME_SHIFT, n)
    out[:, 1] = (amount << inputs.AMOUNT_SHIFT) | rng.choice([0, 1, 508, 509, 510, 9_999], n)
    out[:, 3] = place.astype(np.uint64) << np.uint64(inputs.PLACE_SHIFT)
    out[:, 3] |= ((country << inputs.COUNTRY_SHIFT) | device).astype(np.uint64)
    return out, np.tile(np.arange(70, dtype=np.int32), 3)


@pytest.mark.parametrize("seed", range(4))
def test_codes_say_what_the_words_of_an_event_and_of_two_before_say(seed: int) -> None:
    words, place = stream(seed)
    expected = [codes_of(words[i], list(words[i - place[i] : i])) for i in range(len(words))]
    assert tokens.encode_stream(words, place).tolist() == expected


@pytest.mark.parametrize("reach", [1, 7, tokens.REACH])
def test_pairs_say_what_two_events_share_and_reach_no_other_account(reach: int) -> None:
    words, place = stream(reach)
    first = np.array([0, 60, len(words) - 3])
    found = tokens.relate_chunk(words, place, first, 12, reach)
    assert found.shape == (3, 12, reach, 3)
    expected = np.zeros_like(found)
    for b, start in enumerate(first):
        for i in range(start, min(start + 12, len(words))):
            for back in range(1, min(reach, place[i]) + 1):
                expected[b, i - start, reach - back] = pair_of(words[i], words[i - back])
    assert (found == expected).all()


def test_no_two_columns_share_a_row_of_a_table() -> None:
    """Each column's rows begin where those before it end."""
    for sizes, offsets, rows in (
        (tokens.SIZES, tokens.OFFSETS, tokens.ROWS),
        (tokens.RELATION_SIZES, tokens.RELATION_OFFSETS, tokens.RELATION_ROWS),
    ):
        starts = [sum(sizes[:k]) for k in range(len(sizes) + 1)]
        assert [*offsets, rows] == starts


@st.composite
def lines(draw: st.DrawFn) -> tuple[NDArray[np.float32], NDArray[np.float32]]:
    """Knots of a feature, infinite from some on, and values on, between and beyond them."""
    held = st.floats(-1_000, 1_000, width=16)
    known = np.unique(np.array(draw(st.lists(held, min_size=1, max_size=8)), np.float32))
    known = known[known != 0]
    known = known if len(known) else np.ones(1, np.float32)
    knots = np.append(known, np.full(draw(st.integers(0, 3)), np.inf)).astype(np.float32)
    middle = (known[1:] + known[:-1]) / 2
    x = np.concatenate([known, middle, draw(st.lists(held, max_size=8)), [tokens.UNKNOWN]])
    return knots, x.astype(np.float32)


@given(lines())
def test_a_feature_is_read_on_straight_lines_between_its_knots(
    line: tuple[NDArray[np.float32], NDArray[np.float32]],
) -> None:
    """Beyond the outermost it says what they say; unknown has a row of its own."""
    knots, x = line
    row, weight = tokens.encode_features(x[:, None], knots[None])
    at, share = row[:, 0].astype(int), weight[:, 0].astype(float)
    assert ((share >= 0) & (share <= 1)).all()  # 1 where it is rounded to it
    finite = knots[np.isfinite(knots)].astype(float)
    values = np.random.default_rng(0).normal(size=len(finite))
    table = np.array([100.0, *values])
    assert ((at < len(table) - 1) | (share == 0)).all()
    read = table[at] * (1 - share) + table[np.minimum(at + 1, len(table) - 1)] * share
    expected = np.where(x == tokens.UNKNOWN, 100.0, np.interp(x.astype(float), finite, values))
    assert np.allclose(read, expected, atol=1e-5)


def test_knots_reach_from_the_least_to_the_greatest_and_crowd_in_the_tails() -> None:
    rng = np.random.default_rng(0)
    x = np.full((40_000, 3), tokens.UNKNOWN)
    x[:30_000, 0] = rng.permutation(30_000)
    x[7:10, 1] = [3, 4, 3]
    for count in (16, 32, 48):
        knots = tokens.quantile_knots(x, count)
        each = knots[0] / 29_999
        assert each[[0, -1]].tolist() == [0, 1]
        assert ((each <= 0.0201).sum(), (each >= 0.9799).sum()) == (6, 6)
        assert np.allclose(each[:6], 1 - each[::-1][:6], atol=1e-6), "alike on both sides"
        inner = np.diff(each[5:-5])
        assert np.allclose(inner, inner[0], atol=1e-4), "evenly between"
        assert knots[1, [0, -1]].tolist() == [3, np.inf]
        assert knots[1][np.isfinite(knots[1])].max() == 4
        assert knots[2].tolist() == [0, *[np.inf] * (count - 1)], "of nothing known"
