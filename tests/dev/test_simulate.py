"""The simulator: same seed same bytes, the frauds asked for, and order-only frauds that windows
cannot tell."""

from __future__ import annotations

import hashlib
from collections import Counter
from pathlib import Path

import lightgbm as lgb
import numpy as np
import orjson
import polars as pl
import pytest
from numpy.typing import NDArray
from sklearn.metrics import average_precision_score
from sklearn.model_selection import cross_val_predict
from typer.testing import CliRunner

from streams.cli import build
from streams.clients.encode import messages
from streams.clients.writer import write_table
from streams.dev.simulate import Plan, simulate
from streams.dev.simulate.frauds import SCENARIOS
from streams.dev.simulate.tables import numbered
from streams.errors import ConfigError
from streams.schema import DAY_MS, MAX_EVENT_TIME_MS, MIN_EVENT_TIME_MS

MINUTE_MS = 60_000
WINDOWS_MS = (MINUTE_MS, 5 * MINUTE_MS, 60 * MINUTE_MS, DAY_MS, 7 * DAY_MS, 30 * DAY_MS)
STEPS = {"card_present": 0, "atm": 1, "wallet": 2}


def digest(path: Path) -> str:
    return hashlib.sha256(path.read_bytes()).hexdigest()


@pytest.mark.parametrize("suffix", ["parquet", "csv", "jsonl"])
def test_same_seed_same_bytes(tmp_path: Path, suffix: str) -> None:
    plan = {"events": 3_000, "accounts": 200, "late": 0.01, "duplicates": 0.01, "faults": 0.01}
    names = ("transactions", "labels", "truth")
    made = []
    for turn, seed in enumerate((7, 7, 8)):
        stream = simulate(Plan(seed=seed, **plan))  # type: ignore[arg-type]
        paths = [tmp_path / f"{turn}-{name}.{suffix}" for name in names]
        for path, name in zip(paths, names, strict=True):
            write_table(path, getattr(stream, name))
        made.append([digest(path) for path in paths])
    assert made[0] == made[1]
    assert all(a != b for a, b in zip(made[0], made[2], strict=True))


def test_a_scenario_switched_off_leaves_the_world_as_it_was() -> None:
    both = simulate(Plan(events=5_000, accounts=300, scenarios=("mule", "takeover")))
    one = simulate(Plan(events=5_000, accounts=300, scenarios=("takeover",)))
    homes = [
        dict(zip(*(s.transactions.column(c).to_pylist() for c in ("account_id", "currency")),
                 strict=True))
        for s in (both, one)
    ]  # fmt: skip
    shared = homes[0].keys() & homes[1].keys()
    assert len(shared) > 250
    assert all(homes[0][account] == homes[1][account] for account in shared)


def test_shape_of_a_stream() -> None:
    plan = Plan(events=40_000, accounts=2_000, fraud_rate=0.02, seed=3)
    stream = simulate(plan)
    data = pl.from_arrow(stream.transactions)
    truth = pl.from_arrow(stream.truth)
    labels = pl.from_arrow(stream.labels)
    assert isinstance(data, pl.DataFrame)
    assert isinstance(truth, pl.DataFrame)
    assert isinstance(labels, pl.DataFrame)
    assert len(data) == plan.events
    assert data["transaction_id"].n_unique() == plan.events
    assert data["event_time"].is_sorted()
    assert data["event_time"].min() >= plan.start_ms  # type: ignore[operator]
    assert data["event_time"].max() < plan.start_ms + plan.days * DAY_MS  # type: ignore[operator]
    assert data["amount"].min() >= 0  # type: ignore[operator]
    frauds = truth.filter("is_fraud")
    assert 0.8 <= len(frauds) / (plan.events * plan.fraud_rate) <= 1.01
    assert set(frauds["scenario"]) == set(SCENARIOS)
    # Labels: late, most within a week, some never, each of a transaction that is there.
    joined = labels.join(data.select("transaction_id", "event_time"), on="transaction_id")
    assert len(joined) == len(labels)
    assert labels["label_time"].is_sorted()
    bad = joined.filter(pl.col("label") == "fraud")
    days = (bad["label_time"] - bad["event_time"]) / DAY_MS
    assert days.min() > 0  # type: ignore[operator]
    assert (days < 7).mean() > 0.85  # type: ignore[operator]
    assert 0.9 < len(bad) / len(frauds) < 0.99
    assert set(bad["fraud_type"]) <= set(SCENARIOS)
    assert set(frauds["transaction_id"]) >= set(bad["transaction_id"])


def test_frauds_happen_at_compromised_tills() -> None:
    stream = simulate(
        Plan(events=40_000, accounts=2_000, fraud_rate=0.01, scenarios=("compromised_merchant",))
    )
    bad = set(stream.truth.column("transaction_id").to_pylist())
    columns = ("transaction_id", "terminal_id", "account_id")
    rows = list(zip(*(stream.transactions.column(c).to_pylist() for c in columns), strict=True))
    tills = Counter(till for row, till, _ in rows if row in bad)
    victims = {account for row, _, account in rows if row in bad}
    assert len(bad) == 400
    assert len(tills) <= 60
    assert len(victims) > 100


def test_arrivals_late_twice_and_broken() -> None:
    plan = Plan(events=20_000, accounts=500, late=0.02, duplicates=0.01, faults=0.01)
    table = simulate(plan).transactions
    keys, values = messages(table.combine_chunks().to_batches()[0])
    assert len(values) == plan.events
    docs = [orjson.loads(value) for value in values]
    assert keys == [doc["account_id"].encode() for doc in docs]
    assert len(set(values)) == plan.events - 200
    assert len({doc["transaction_id"] for doc in docs}) == plan.events - 200
    broken = Counter(
        "amount" if doc["amount"] < 0
        else "currency" if doc["currency"] == "eur"
        else "mcc" if doc.get("mcc") == "12"
        else "event_time" if doc["event_time"] < plan.start_ms
        else "none"
        for doc in docs
    )  # fmt: skip
    assert set(broken) == {"amount", "currency", "mcc", "event_time", "none"}
    assert 100 < plan.events - broken["none"] < 300
    times = np.array([d["event_time"] for d in docs if d["event_time"] >= plan.start_ms])
    assert 0.01 < (times < np.maximum.accumulate(times)).mean() < 0.04


@pytest.mark.parametrize("unreported", [0.0, 1.0])
def test_frauds_are_reported_as_often_and_as_late_as_asked(unreported: float) -> None:
    plan = Plan(
        events=20_000, accounts=500, fraud_rate=0.02, unreported=unreported, label_delay_days=9
    )
    stream = simulate(plan)
    labels = stream.labels.to_pylist()
    known = {each["transaction_id"]: each for each in labels if each["label"] == "fraud"}
    frauds = {each["transaction_id"] for each in stream.truth.to_pylist() if each["is_fraud"]}
    assert len(frauds) > 200
    assert known.keys() == (set() if unreported else frauds)
    times = dict(
        zip(
            *(stream.transactions[c].to_pylist() for c in ("transaction_id", "event_time")),
            strict=True,
        )
    )
    waits = [each["label_time"] - times[name] for name, each in known.items()]
    assert unreported or 8 * DAY_MS < np.median(waits) < 10 * DAY_MS


@pytest.mark.parametrize(
    "wrong",
    [
        {"events": 0},
        {"days": 0},
        {"scenarios": ("none",)},
        {"fraud_rate": 0.5},
        {"events": 1_000, "fraud_rate": 0.2, "scenarios": ("order",)},
        {"start_ms": MIN_EVENT_TIME_MS - 1},
        {"start_ms": MAX_EVENT_TIME_MS - 3 * DAY_MS, "days": 4},
        {"events": 100, "faults": 0.5, "duplicates": 0.5},
    ],
)
def test_a_plan_that_cannot_be(wrong: dict[str, object]) -> None:
    with pytest.raises(ConfigError):
        simulate(Plan(**{"accounts": 50, **wrong}))  # type: ignore[arg-type]


def test_a_start_is_a_moment_in_the_years_that_the_service_takes(tmp_path: Path) -> None:
    def made(start: str) -> tuple[int, bytes]:
        path = tmp_path / "s.jsonl"
        path.unlink(missing_ok=True)
        arguments = [str(path), "--events", "300", "--accounts", "20", "--days", "3"]
        done = CliRunner().invoke(build(), ["simulate", *arguments, "--start", start])
        wrong = isinstance(done.exception, ConfigError)
        return 2 if wrong else done.exit_code, path.read_bytes() if path.exists() else b""

    for wrong in ("1960-01-01", "1999-12-31", "2099-12-30", "2150-01-01", "0001-01-01"):
        assert made(wrong) == (2, b""), wrong
    assert made("2099-12-29")[0] == 0
    utc = made("2024-12-31T19:00:00")
    assert utc[0] == 0
    assert made("2025-01-01T00:00:00+05:00") == utc


def test_numbered_strings() -> None:
    assert numbered("ab", np.array([0, 7, 999]), 3).to_pylist() == ["ab000", "ab007", "ab999"]
    assert numbered("ab", np.array([], np.int64), 3).to_pylist() == []


def window_row(
    i: int, t: NDArray[np.int64], amount: NDArray[np.float64], seen: list[list[str | None]]
) -> list[float]:
    """All window features of event i of one account, by brute force."""
    row: list[float] = []
    for width in WINDOWS_MS:
        first = int(np.searchsorted(t, t[i] - width))
        past = amount[first:i]
        row += [len(past), past.sum(), *((past.mean(), past.std(), past.min(), past.max())
                                         if len(past) else (-1.0,) * 4)]  # fmt: skip
        row += [len(set(column[first:i])) for column in seen]
    ring = max(0, i - 64)
    row += [float(column[i] in column[ring:i]) for column in seen]
    since = float(t[i] - t[i - 1]) if i else -1.0
    month = float(row[-3 - len(seen)])
    return [*row, since, amount[i], amount[i] / (month + 1), t[i] % DAY_MS, t[i] // DAY_MS % 7]


def order_set() -> tuple[NDArray[np.float64], NDArray[np.int64], NDArray[np.bool_]]:
    """Window features, the last three steps' kinds, and the truth of every final payment."""
    stream = simulate(
        Plan(events=90_000, accounts=2_000, fraud_rate=0.015, scenarios=("order",), seed=5)
    )
    truth = dict(
        zip(*(stream.truth.column(c).to_pylist() for c in ("transaction_id", "is_fraud")),
            strict=True)
    )  # fmt: skip
    data = pl.from_arrow(stream.transactions)
    assert isinstance(data, pl.DataFrame)
    money = data.filter((pl.col("direction") == "debit") & (pl.col("event_type") != "status"))
    windows, kinds, fraud = [], [], []
    for _, own in money.group_by("account_id", maintain_order=True):
        t, amount = own["event_time"].to_numpy(), own["amount"].to_numpy().astype(float)
        seen = [own[c].to_list() for c in ("merchant_id", "merchant_country", "device_id")]
        channel = own["channel"].to_list()
        for i, name in enumerate(own["transaction_id"].to_list()):
            if name in truth:
                windows.append(window_row(i, t, amount, seen))
                kinds.append([STEPS[c] for c in channel[i - 3 : i]])
                fraud.append(truth[name])
    return np.array(windows), np.array(kinds), np.array(fraud)


def precision_of(x: NDArray[np.generic], fraud: NDArray[np.bool_]) -> float:
    model = lgb.LGBMClassifier(n_estimators=80, num_leaves=15, verbose=-1, n_jobs=1, seed=0)
    found = cross_val_predict(model, x, fraud, cv=3, method="predict_proba")[:, 1]
    return float(average_precision_score(fraud, found))


@pytest.mark.filterwarnings("ignore:X does not have valid feature names")
def test_windows_cannot_tell_order_frauds_and_the_order_can() -> None:
    windows, kinds, fraud = order_set()
    assert len(fraud) > 3_500
    assert fraud.mean() == pytest.approx(1 / 3, abs=0.005)
    assert precision_of(windows, fraud) <= 0.45
    assert precision_of(kinds, fraud) >= 0.95
    # No step alone tells: at each place each kind is equally common in both classes.
    for place in range(3):
        for step in range(3):
            here = kinds[:, place] == step
            assert abs(here[fraud].mean() - here[~fraud].mean()) < 0.06
