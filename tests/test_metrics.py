"""What a worker tells Prometheus: series that are there before they rise, and go when they must."""

from __future__ import annotations

from prometheus_client import generate_latest

from streams.metrics import Metrics


def series(metrics: Metrics, name: str) -> dict[str, float]:
    lines = generate_latest(metrics.registry).decode().splitlines()
    found = (line.rsplit(" ", 1) for line in lines if line.startswith(f"fraudstream_{name}{{"))
    return {labels.split("{")[1].rstrip("}"): float(value) for labels, value in found}


def test_the_lag_of_a_partition_that_was_let_go_goes_with_it() -> None:
    """It stayed as it was last: a sum over workers was never 0 again, and paged somebody."""
    metrics = Metrics()
    metrics.set_lag({0: 5, 1: 38})
    assert series(metrics, "lag_messages") == {'partition="0"': 5.0, 'partition="1"': 38.0}
    metrics.set_lag({0: 4})
    assert series(metrics, "lag_messages") == {'partition="0"': 4.0}
    metrics.set_lag({})
    assert series(metrics, "lag_messages") == {}
    metrics.set_lag({1: 7})
    assert series(metrics, "lag_messages") == {'partition="1"': 7.0}


def test_the_first_wait_for_the_store_is_a_rise() -> None:
    metrics = Metrics()
    causes = {f'cause="{cause}"': 0.0 for cause in ("full", "loading", "lost")}
    assert series(metrics, "store_waits_total") == causes
