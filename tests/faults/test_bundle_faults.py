"""The model bundle is damaged before a worker starts, or exchanged while one runs."""

from __future__ import annotations

from collections.abc import Iterator

from tests.faults import bundle_faults
from tests.faults.conftest import Tally
from tests.faults.driver import Place


def test_damaged_bundles_are_refused(place: Place, seeds: Iterator[int], tally: Tally) -> None:
    with tally("F14", "bundle damaged: refused") as row:
        row.count(bundle_faults.refused(place, next(seeds)))


def test_a_bundle_exchanged_under_a_worker(
    place: Place, seeds: Iterator[int], tally: Tally
) -> None:
    with tally("F14", "bundle exchanged while a worker runs") as row:
        row.count(bundle_faults.swapped(place, next(seeds)))
