"""Measures of a backtest on cases that can be counted by hand."""

from __future__ import annotations

import html
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import orjson
import pyarrow as pa
import pytest

from model import bundle as bundles
from streams.errors import ConfigError
from streams.labels import LabelBook, decode_labels
from streams.offline import evaluation, judged, results
from streams.offline.backtest import backtest
from streams.offline.judged import Events
from streams.offline.run import Job
from streams.offline.source import open_source
from streams.schema import DAY_MS, MAX_AMOUNT_MINOR
from tests.offline import world

DAY_0 = 20_000
DELAY_DAYS = 7
REVIEW_COST = 500
"""In cents, of an alert by default."""


def row(number: int, day: int, **changes: Any) -> dict[str, Any]:
    """One result row of a scored event, `day` days after the first."""
    return {
        "offset": number,
        "outcome": "scored",
        "transaction_id": f"t-{number}",
        "account_id": f"a-{number % 2}",
        "event_time": (DAY_0 + day) * DAY_MS,
        "amount": 100 * (number + 1),
        "currency": "EUR",
        "channel": "ecommerce",
        "country": "DE",
        "score_0": 0.1,
        "decision_0": "approve",
        **changes,
    }


def label(number: int, day: float, what: str = "fraud") -> bytes:
    """A label of transaction `number` that became known `day` days after the first."""
    return orjson.dumps(
        {
            "label_id": f"l-{number}-{day}",
            "transaction_id": f"t-{number}",
            "account_id": f"a-{number % 2}",
            "label": what,
            "label_time": int((DAY_0 + day) * DAY_MS),
        }
    )


def transaction(number: int) -> bytes:
    """A message that becomes such a row, of the first day."""
    return orjson.dumps(
        {
            "schema_version": 1,
            "transaction_id": f"t-{number}",
            "account_id": f"a-{number % 2}",
            "event_time": DAY_0 * DAY_MS + number,
            "amount": 100 * (number + 1),
            "currency": "EUR",
        }
    )


def write_lines(path: Path, messages: list[bytes]) -> None:
    path.write_bytes(b"".join(message + b"\n" for message in messages))


def write(out: Path, rows: list[dict[str, Any]], models: int = 1, shard: int = 0) -> None:
    table = pa.Table.from_pylist(rows, schema=results.schema(models))
    with results.ResultWriter(results.shard_path(out, shard), models) as writer:
        writer.add({name: table[name].combine_chunks() for name in table.column_names})


def gather(out: Path, labels: list[bytes], models: int = 1, **changes: Any) -> Events:
    given: dict[str, Any] = {"as_of": None, "delay_days": DELAY_DAYS, **changes}
    return judged.gather(out, LabelBook(decode_labels(labels)), models, **given)


def test_labels_count_from_their_label_time_on(tmp_path: Path) -> None:
    write(tmp_path, [row(0, 0), row(1, 0), row(2, 1)])
    labels = [label(0, 3), label(1, 9), label(0, 12, "legitimate")]
    moments: dict[float, list[int]] = {
        2.0: [],
        5.0: [1],
        8.5: [1, 0, 0],
        9.0: [1, 1, 0],
        12.0: [0, 1, 0],
    }
    for days, expected in moments.items():
        as_of = int((DAY_0 + days) * DAY_MS)
        if not expected:
            with pytest.raises(ConfigError, match="no event can be judged"):
                gather(tmp_path, labels, as_of=as_of)
            continue
        events = gather(tmp_path, labels, as_of=as_of)
        assert events.label.tolist() == expected, days
        assert events.unlabelled == 3 - len(expected)


def test_without_a_moment_all_labels_count(tmp_path: Path) -> None:
    write(tmp_path, [row(0, 0), row(1, 0)])
    events = gather(tmp_path, [label(0, 3), label(1, 30)])
    assert events.as_of == (DAY_0 + 30) * DAY_MS
    assert events.label.tolist() == [1, 1]


def test_a_label_that_may_have_set_the_moment_by_mistake_is_told(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    write(tmp_path, [row(0, 0), row(1, 1)])
    gather(tmp_path, [label(0, 3), label(1, 541)])
    gather(tmp_path, [label(0, 3), label(1, 600)], as_of=(DAY_0 + 900) * DAY_MS)
    assert caplog.messages == []
    gather(tmp_path, [label(0, 3), label(1, 541.5)])
    (said,) = caplog.messages
    assert "540 days after the last payment:" in said and "--as-of" in said


def test_labels_older_than_their_transactions_are_told_as_dataset_tells_them(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    """Only `dataset` told of them: here they count as known at any moment, too."""
    write(tmp_path, [row(0, 1), row(1, 1)])
    labels = [label(0, 0.5), label(0, 1), label(1, 1)]
    gather(tmp_path, labels)
    assert caplog.messages == []
    gather(tmp_path, [*labels, label(1, 0), label(1, 2), label(0, 3)])
    assert caplog.messages == []
    gather(tmp_path, [label(0, 0.5), label(1, 1)])
    assert caplog.messages == ["labels older than their transactions: 1. Is label_time right?"]


def test_only_scored_events_from_the_first_judged_moment_on(tmp_path: Path) -> None:
    dead = {"outcome": "dead", "transaction_id": None, "account_id": None, "event_time": None}
    write(tmp_path, [row(0, 0), row(1, 1), row(2, 2)])
    write(tmp_path, [row(3, 2, **dead), row(4, 3, outcome="duplicate"), row(5, 3)], shard=1)
    events = gather(tmp_path, [label(0, 40)], judge_from=(DAY_0 + 1) * DAY_MS)
    assert list(zip(events.partition.tolist(), events.offset.tolist(), strict=True)) == [
        (0, 1),
        (0, 2),
        (1, 5),
    ]
    assert (events.day - DAY_0).tolist() == [1, 2, 3]


def test_sums_of_the_largest_amounts_do_not_overflow(tmp_path: Path) -> None:
    """They do not fit int64, and came out negative."""
    many = 40_000
    blocked = {"amount": MAX_AMOUNT_MINOR, "decision_0": "block"}
    write(tmp_path, [row(i, 0, **blocked) for i in range(many)])
    found = evaluation.overall(gather(tmp_path, [label(i, 9) for i in range(0, many, 2)]), 0)
    half = many // 2 * MAX_AMOUNT_MINOR
    assert half > 2**64
    assert found["fraud_amount"] == found["fraud_amount_detected"] == float(half)
    assert found["legitimate_amount_blocked"] == float(half)
    assert orjson.loads(orjson.dumps(found))["value_saved"] == pytest.approx(half)
    assert results.total(np.array([2**62, 2**61, -5])) == 2**62 + 2**61 - 5


def test_an_event_after_the_moment_is_not_judged(tmp_path: Path) -> None:
    """Though its label is too early: nobody could have seen it."""
    write(tmp_path, [row(0, 0), row(1, 3)])
    labels = [label(0, 1), label(1, 2)]
    assert len(gather(tmp_path, labels, as_of=int((DAY_0 + 2.5) * DAY_MS))) == 1
    assert len(gather(tmp_path, labels)) == 2


def test_why_nothing_can_be_judged_is_told(tmp_path: Path) -> None:
    write(tmp_path, [row(0, 0), row(1, 1)])
    labels = [label(0, 3)]
    with pytest.raises(ConfigError, match=r"no accepted transaction from .*earlier --judge-from"):
        gather(tmp_path, labels, judge_from=(DAY_0 + 2) * DAY_MS)
    with pytest.raises(ConfigError, match=r"none of the 2 events had a verdict.*later --as-of"):
        gather(tmp_path, labels, as_of=(DAY_0 + 2) * DAY_MS)


def counted(tmp_path: Path) -> Events:
    """Ten events over two days; frauds are 0, 3 and 6; two models flag different ones."""
    scores = [0.9, 0.8, 0.7, 0.6, 0.5, 0.4, 0.3, 0.2, 0.1, 0.05]
    rows = [
        row(
            number,
            number // 5,
            channel="ecommerce" if number < 6 else None,
            country="DE" if number % 2 else "FR",
            score_0=score,
            decision_0="block" if score > 0.75 else "review" if score > 0.55 else "approve",
            score_1=1 - score,
            decision_1="review" if number in (0, 6, 9) else "approve",
        )
        for number, score in enumerate(scores)
    ]
    write(tmp_path, rows, models=2)
    return gather(tmp_path, [label(0, 1), label(3, 1), label(6, 2), label(9, 40, "legitimate")], 2)


def test_alert_measures(tmp_path: Path) -> None:
    # Alerts of model 0 are events 0 to 3, with frauds 0 and 3; blocked are 0 and 1.
    found = evaluation.overall(counted(tmp_path), 0)
    assert (found["events"], found["days"], found["frauds"]) == (10, 2, 3)
    assert (found["alerts"], found["alerts_a_day"], found["blocked"]) == (4, 2.0, 2)
    assert found["precision"] == 2 / 4
    assert found["recall"] == 2 / 3
    assert found["fraud_amount"] == 100 + 400 + 700
    assert found["fraud_amount_detected"] == 100 + 400
    assert found["value_saved"] == 500 - 4 * REVIEW_COST
    assert found["legitimate_amount_blocked"] == 200
    # Frauds rank 1st, 4th and 7th: (1/1 + 2/4 + 3/7) / 3.
    assert found["average_precision"] == pytest.approx((1 + 2 / 4 + 3 / 7) / 3)
    # Of the 21 pairs of a fraud and a good event, 7 + 5 + 3 are in the right order.
    assert found["roc_auc"] == pytest.approx(15 / 21)


def test_sums_of_money_are_of_the_currency_that_most_events_are_in(tmp_path: Path) -> None:
    """The yen has no cents: a review costs 5 of them, and what was paid in euros is no yen."""
    flagged = {"score_0": 0.9, "decision_0": "block"}
    rows = [row(number, 0, currency="JPY", **flagged) for number in range(3)]
    rows += [row(number, 0, currency="EUR", **flagged) for number in (3, 4)]
    write(tmp_path, rows)
    events = gather(tmp_path, [label(0, 1), label(4, 1), label(1, 40, "legitimate")])
    assert (events.currency, events.counted.tolist()) == ("JPY", [True] * 3 + [False] * 2)
    found = evaluation.overall(events, 0)
    assert (found["alerts"], found["frauds"]) == (5, 2), "only money is left out"
    assert found["fraud_amount"] == found["fraud_amount_detected"] == 100
    assert found["legitimate_amount_blocked"] == 200 + 300
    assert found["value_saved"] == 100 - 3 * 5
    by_count = {point["alerts"]: point["cost"] for point in evaluation.cost_curve(events, 0)}
    assert by_count[5] == 3 * 5


def test_without_alerts_or_frauds_there_is_no_rate(tmp_path: Path) -> None:
    write(tmp_path, [row(0, 0), row(1, 0)])
    found = evaluation.overall(gather(tmp_path, [label(1, 40, "legitimate")]), 0)
    assert np.isnan(found["precision"]) and np.isnan(found["recall"])


def test_weeks(tmp_path: Path) -> None:
    first = 7 - DAY_0 % 7
    write(tmp_path, [row(0, first - 1), row(1, first, decision_0="review"), row(2, first + 6)])
    weeks = evaluation.by_week(gather(tmp_path, [label(1, 60)]), 0)
    assert [(week["events"], week["frauds"], week["alerts"]) for week in weeks] == [
        (1, 0, 0),
        (2, 1, 1),
    ]
    assert [week["recall"] for week in weeks] == [None, 1.0]
    assert all(week["first_day"] % 7 == 0 for week in weeks)


def test_days(tmp_path: Path) -> None:
    assert evaluation.by_day(counted(tmp_path), 0) == [
        {"day": DAY_0, "alerts": 4, "caught": 2, "frauds": 2},
        {"day": DAY_0 + 1, "alerts": 0, "caught": 0, "frauds": 1},
    ]


def test_an_alert_that_cannot_be_judged_yet_is_work_all_the_same(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    """The days before the moment of judgement looked as if there were hardly any alerts."""
    rows = [row(n, n // 4, decision_0="review" if n % 2 else "approve") for n in range(40)]
    write(tmp_path, rows)
    events = gather(tmp_path, [label(3, 2), label(37, 9.5), label(77, 9.5)])
    assert (len(events), events.unlabelled) == (13, 27), "three days are old, and one has a verdict"
    assert evaluation.overall(events, 0)["alerts_a_day"] == 2.0
    days = evaluation.by_day(events, 0)
    assert [each["alerts"] for each in days] == [2] * 10
    assert [each["caught"] for each in days] == [1, *[0] * 8, 1]
    then = gather(tmp_path, [label(3, 2)], as_of=(DAY_0 + 8) * DAY_MS - 1)
    assert [each["alerts"] for each in evaluation.by_day(then, 0)] == [2] * 8
    assert "1 transactions with a label are not among the accepted ones" in caplog.text


def test_what_was_known_at_each_moment(tmp_path: Path) -> None:
    first = 7 - DAY_0 % 7  # the first Monday of the calendar's own, so to say
    rows = [row(n, first + n, decision_0="review" if n < 2 else "approve") for n in range(4)]
    labels = [label(0, first + 3), label(1, first + 20), label(3, first + 30)]
    write(tmp_path, rows)
    book = LabelBook(decode_labels(labels))
    events = gather(tmp_path, labels)
    found = evaluation.by_moment(events, book, 0)
    weeks = [(each["moment"] // DAY_MS - DAY_0 - first) for each in found]
    assert weeks == [7, 14, 21, 28, 30]
    # After a week only fraud 0 is known; then all are old enough to count, unlabelled as good.
    assert [each["events"] for each in found] == [1, 4, 4, 4, 4]
    assert [each["then"]["frauds"] for each in found] == [1, 1, 2, 2, 3]
    assert [each["then"]["precision"] for each in found] == [1.0, 0.5, 1.0, 1.0, 1.0]
    assert [each["since"]["precision"] for each in found] == [1.0] * 5
    assert [each["then"]["recall"] for each in found] == [1.0, 1.0, 1.0, 1.0, 2 / 3]
    assert [each["since"]["recall"] for each in found] == [1.0, 2 / 3, 2 / 3, 2 / 3, 2 / 3]


def test_rates_of_segments(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(evaluation, "MIN_SEGMENT", 5)
    rows = evaluation.by_segment(counted(tmp_path), 0)
    found = {(each["segment"], each["value"]): each for each in rows}
    # Channel "not given" is events 6 to 9: below the least number, hence left out.
    assert list(found) == [("channel", "ecommerce"), ("country", "DE"), ("country", "FR")]
    # E-commerce is 0 to 5: frauds 0, 3 flagged; of the good 1, 2, 4, 5 two are.
    shop = found["channel", "ecommerce"]
    assert (shop["events"], shop["frauds"]) == (6, 2)
    assert (shop["false_positive_rate"], shop["recall"]) == (2 / 4, 1.0)
    # FR is 0, 2, 4, 6, 8: fraud 0 flagged, 6 not; good 2 flagged, 4 and 8 not.
    assert (found["country", "FR"]["false_positive_rate"], found["country", "FR"]["recall"]) == (
        1 / 3,
        1 / 2,
    )


def test_cost_curve(tmp_path: Path) -> None:
    curve = evaluation.cost_curve(counted(tmp_path), 0)
    by_count = {point["alerts"]: point for point in curve}
    assert list(by_count) == list(range(1, 11))
    # One alert catches 100 of 1,200; four catch 500; seven all.
    assert by_count[1]["cost"] == 1_100 + REVIEW_COST
    assert by_count[4]["cost"] == 700 + 4 * REVIEW_COST
    assert by_count[7]["cost"] == 0 + 7 * REVIEW_COST
    assert (by_count[1]["threshold"], by_count[10]["threshold"]) == (0.9, 0.05)


def test_differences(tmp_path: Path) -> None:
    found = evaluation.difference(counted(tmp_path), 1)
    assert found == {
        "both": {"alerts": 1, "frauds": 1, "fraud_amount": 100},
        "only_champion": {"alerts": 3, "frauds": 1, "fraud_amount": 400},
        "only_challenger": {"alerts": 2, "frauds": 1, "fraud_amount": 700},
    }


def test_the_gap_to_the_champion_is_that_of_the_measures(tmp_path: Path) -> None:
    other, mine = (evaluation.overall(counted(tmp_path), k)["average_precision"] for k in range(2))
    gap = evaluation.ap_gap(counted(tmp_path), 1)
    assert sorted(gap.values())[1] == gap["difference"] == pytest.approx(mine - other)


def test_drift_is_nothing_for_equal_scores(tmp_path: Path) -> None:
    rows = [
        row(number, number // 4, score_0=[0.1, 0.2, 0.3, 0.4][number % 4]) for number in range(24)
    ]
    write(tmp_path, rows)
    events = gather(tmp_path, [label(0, 60)])
    assert evaluation.drift(events, 0) == {"over_time": 0.0, "against_champion": 0.0}
    events.score[0][16:] += 0.5
    assert evaluation.drift(events, 0)["over_time"] > 1


def test_events_of_one_day_have_no_drift_over_time(tmp_path: Path) -> None:
    write(tmp_path, [row(number, 0, score_0=0.1 * number) for number in range(4)])
    found = evaluation.drift(gather(tmp_path, [label(0, 60)]), 0)
    assert np.isnan(found["over_time"])
    assert found["against_champion"] == 0.0


def test_a_stream_of_one_day_has_a_report(tmp_path: Path) -> None:
    write_lines(tmp_path / "t.jsonl", [transaction(number) for number in range(3)])
    write_lines(tmp_path / "l.jsonl", [label(0, 3), label(1, 9, "legitimate")])
    source = open_source(tmp_path / "t.jsonl", tmp_path / "l.jsonl", tmp_path)
    found = backtest(Job(source, (world.settings(),), tmp_path / "out"), ["stub"])
    assert found["models"][0]["overall"]["events"] == 3
    assert (tmp_path / "out" / "report.html").read_text().count("<svg") == 6


def test_a_backtest_tells_of_bundles_that_were_fitted_on_the_days_judged(tmp_path: Path) -> None:
    write_lines(tmp_path / "t.jsonl", [transaction(number) for number in range(3)])
    write_lines(tmp_path / "l.jsonl", [label(0, 3), label(1, 9, "legitimate")])
    source = open_source(tmp_path / "t.jsonl", tmp_path / "l.jsonl", tmp_path)
    first, last = (orjson.loads(transaction(number))["event_time"] for number in (0, 2))
    every = [world.settings()]
    shipped = bundles.read(bundles.shipped())
    for name, until in (("first", first), ("amid", last), ("after", last + 1)):
        about = dict(shipped.about) | {"learnt_until": until}
        bundles.write(replace(shipped, about=about), tmp_path / name)
        every.append(world.settings(f"model.bundle={tmp_path / name}"))
    job = Job(source, tuple(every), tmp_path / "out")
    amid, after = backtest(job, ["stub", "first", "amid", "after"])["flattered"]
    assert amid.startswith("amid was fitted on what was known up to ")
    assert amid.endswith(f"judge later ones with --judge-from {last}")
    assert after.startswith("after was fitted on what was known after the newest event judged")
    page = (tmp_path / "out" / "report.html").read_text()
    assert html.escape(amid) in page and html.escape(after) in page


def test_a_backtest_without_labels_is_refused_before_the_work(tmp_path: Path) -> None:
    transactions, _ = world.stream(tmp_path, events=200)
    job = Job(open_source(transactions, None, tmp_path), (world.settings(),), tmp_path / "out")
    with pytest.raises(ConfigError, match="no event can be judged"):
        backtest(job, ["stub"])
    assert not (tmp_path / "out").exists()
