"""F12: a damaged account record is never used: every bit, every cut, another version."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
import pytest

from tests.faults import record_faults
from tests.faults.conftest import Tally
from tests.faults.driver import Place
from tests.faults.record_faults import caught


@pytest.fixture(scope="module")
def records() -> list[bytes]:
    """Records of accounts with few events and with many."""
    return record_faults.records(1)


def test_every_bit(records: list[bytes], tally: Tally) -> None:
    with tally("F12", "one bit of a record flipped") as row:
        for record in records:
            row.count(record_faults.every_bit(record))


def test_cuts_and_other_versions(records: list[bytes], tally: Tally) -> None:
    with tally("F12", "a record cut, prolonged, of another version") as row:
        for record in records:
            row.count(record_faults.cuts_and_versions(record))


def test_a_worker_stops_at_a_damaged_record(
    place: Place, seeds: Iterator[int], tally: Tally
) -> None:
    with tally("F12", "a worker meets a damaged record; rebuilt") as row:
        row.count(record_faults.met_by_a_worker(place, next(seeds)))


def test_two_words_exchanged(records: list[bytes]) -> None:
    """A sum over words alone would not see it."""
    for record in records:
        words = np.frombuffer(record, np.uint64).copy()
        for at in range(2, len(words) - 1):
            if words[at] != words[at + 1]:
                words[[at, at + 1]] = words[[at + 1, at]]
                assert caught(words.tobytes()), at
                words[[at, at + 1]] = words[[at + 1, at]]
