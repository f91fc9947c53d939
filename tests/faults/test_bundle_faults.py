"""The model bundle is damaged before a worker starts, or exchanged while one runs."""

from __future__ import annotations

from tests.faults import bundle_faults
from tests.faults.conftest import Booked


def test_damaged_bundles_are_refused(booked: Booked) -> None:
    booked("F14", "bundle damaged: refused", bundle_faults.refused)


def test_a_bundle_exchanged_under_a_worker(booked: Booked) -> None:
    booked("F14", "bundle exchanged while a worker runs", bundle_faults.swapped)
