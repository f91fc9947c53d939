"""Evaluation: blocks by time, guards that notice a leak, a page that needs nothing else."""

from __future__ import annotations

import html.parser
import re
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from model import bundle as bundles
from model import evaluate, metrics, page
from model.data import Dataset
from model.measured import measure
from model.score import Scorer
from tests.browser import browser
from tests.model import streams_of_words as made


@pytest.fixture(scope="module")
def data() -> Dataset:
    return made.dataset(accounts=24, each=150, plain=True)


@pytest.fixture(scope="module")
def scorer(data: Dataset, tmp_path_factory: pytest.TempPathFactory) -> Scorer:
    folder = tmp_path_factory.mktemp("bundle") / "b"
    bundles.write(made.bundle(data, thresholds={"budget_1%": 0.9}), folder)
    return Scorer.load(folder)


def split(data: Dataset) -> evaluate.Split:
    first, second = np.quantile(data.time, [0.4, 0.6]).astype(np.int64)
    parts = (data.time < first, (data.time >= first) & (data.time < second), data.time >= second)
    rows = (np.flatnonzero(part) for part in parts)
    return evaluate.Split(*rows, np.asarray(data.label))


@pytest.fixture(scope="module")
def report(scorer: Scorer, data: Dataset) -> dict:
    return evaluate.report(scorer, data, split(data), ceiling={"ap": 0.01, "auc": 1.0})


def test_every_measure_and_every_rival_is_there(report: dict) -> None:
    assert list(report["models"]) == [
        "this bundle",
        "LightGBM on windows",
        "logistic regression",
        "LightGBM with the embedding",
    ]
    wanted = {"auc", "ap", "cp100", "recall_fpr_0.1%", "recall_fpr_0.01%", "recall_budget"}
    wanted |= {"value_budget", "brier", "ece"}
    wanted |= set(metrics.GAINS)
    assert all(wanted <= set(row) for row in report["models"].values())
    # The planted rule reads one feature and the event before: trees see half of it.
    assert report["models"]["LightGBM on windows"]["ap"] > 0.2


def test_who_trails_a_rival_is_told_what_to_try(report: dict) -> None:
    behind = {"difference": -0.1, "low": -0.2, "high": -0.05}
    undecided = {**behind, "high": 0.05}

    def hint(trees: dict, linear: dict, taught: bool) -> str:
        told = {"ap_minus_lightgbm": trees, "ap_minus_logistic": linear, "taught_by_trees": taught}
        return evaluate.to_text({**report, **told}).splitlines()[-1]

    assert hint(behind, undecided, False).startswith("trees are ahead: ")
    assert hint(undecided, behind, False).startswith("logistic regression is ahead: ")
    assert hint(behind, behind, False).startswith("trees and logistic regression are ahead: ")
    assert "ahead" not in hint(undecided, undecided, False)
    assert "--steps" in hint(behind, behind, True)
    # What trees taught is not told to let them teach; whom they did not, may have refused them.
    assert "teach" not in hint(behind, behind, True)
    assert "--teacher where trees did not teach" in hint(behind, behind, False)


def test_both_differences_are_measured_and_shown(report: dict) -> None:
    shown = page.to_html(report)
    for key, name in (("lightgbm", "LightGBM"), ("logistic", "logistic regression")):
        told = report[f"ap_minus_{key}"]
        assert told["low"] <= told["difference"] <= told["high"]
        assert f"minus that of {name}" in shown


def test_what_is_not_defined_is_not_printed(report: dict) -> None:
    """All test events fraud: no ranking has an area, and nothing but AP is left to compare."""
    rows = {name: {**row, "auc": float("nan")} for name, row in report["models"].items()}
    odd = {**report, "models": rows, "shuffled_label_auc": float("nan")}
    assert "nan" not in evaluate.to_text(odd)
    assert "nan" not in re.sub("base64,[^']*", "", page.to_html(odd))


def test_a_page_says_whose_money_it_tells_of(report: dict) -> None:
    assert (report["currency"], report["amounts_left_out"]) == ("XXX", 0)
    assert "Amounts are in minor units." in page.to_html(report)
    told = page.to_html({**report, "currency": "EUR", "amounts_left_out": 7})
    assert "Value caught is that of EUR: 7 events are in others." in told
    assert "minor units of EUR; 7 events in other currencies" in told


def test_the_ceiling_names_what_is_above_it(report: dict) -> None:
    assert set(report["ceiling"]["leak_suspected"]) == {"ap"}
    assert "find the leak" in page.to_html(report)


def test_shuffled_labels_rank_at_random_and_a_leak_does_not(data: Dataset) -> None:
    """A feature that is the label itself shows on shuffled labels as nothing, in the check of the
    best single feature as everything."""
    told = evaluate.shuffled_check(data, split(data), rounds=3)
    assert abs(told - 0.5) < 0.2
    leaky = np.array(data.features)
    leaky[:, 3] = data.label
    again = replace(data, features=leaky)
    found = evaluate._checks(again, split(data), again.answer()[split(data).test])
    assert found["best_single_feature"] == {"name": "f3", "ap": pytest.approx(1.0)}


def test_alerts_a_day_are_told_of_the_time_that_passed() -> None:
    """Not of the dates it touches: 0.4 days over midnight are no two days."""
    moment = made.START_MS + np.linspace(-0.2, 0.2, 5) * made.DAY_MS
    scores = np.array([0.95, 0.1, 0.92, 0.3, 0.99])
    cuts = {"budget_1%": 0.9}
    told = evaluate.at_thresholds(cuts, scores > 0.9, scores, moment.astype(np.int64))
    assert told["budget_1%"]["alerts_a_day"] == pytest.approx(3 / 0.4)
    one = evaluate.at_thresholds(cuts, scores[:1] > 0.9, scores[:1], np.array([made.START_MS]))
    assert np.isnan(one["budget_1%"]["alerts_a_day"])


def test_a_week_is_judged_by_trees_that_knew_only_what_was_known(data: Dataset) -> None:
    """Labels that came later may be anything: the trees of the first week are the same."""
    start = int(np.quantile(data.time, 0.7))
    rows = np.flatnonzero((data.time >= start) & (data.time < start + 7 * made.DAY_MS))
    later = data.label_time >= start
    assert later.any()
    other = replace(data, label=np.where(later, 1 - data.label, data.label).astype(np.int8))
    one, two = (evaluate._refitted(d, start, 0, rows, 1) for d in (data, other))
    assert one is not None
    assert two is not None
    assert (one == two).all()


def test_a_verdict_of_later_leaves_its_event_in_the_trees_of_a_week(data: Dataset) -> None:
    """It was legitimate by waiting then: left out, it would tell of what was not known yet."""
    start, wait = int(np.quantile(data.time, 0.7)), 5 * made.DAY_MS
    rows = np.flatnonzero((data.time >= start) & (data.time < start + 7 * made.DAY_MS))
    late = (data.time < start - wait) & (data.label == 0)
    late &= np.arange(len(data)) % 3 == 0
    told = np.where(late, start + made.DAY_MS, data.label_time)
    other = replace(data, label=np.where(late, 1, data.label).astype(np.int8), label_time=told)
    one, two = (evaluate._refitted(d, start, wait, rows, 1) for d in (data, other))
    assert one is not None
    assert (one == two).all()


def test_the_trees_of_a_week_learn_from_matured_events_only(data: Dataset) -> None:
    """Of the last 14 days before the week only frauds are known: they change nothing."""
    start, wait = int(np.quantile(data.time, 0.7)), 14 * made.DAY_MS
    rows = np.flatnonzero((data.time >= start) & (data.time < start + 7 * made.DAY_MS))
    young = (data.time >= start - wait) & (data.time < start)
    reported = np.where(young, data.time + 1, data.label_time)
    frauds = replace(
        data, label=np.where(young, 1, data.label).astype(np.int8), label_time=reported
    )
    one, two = (evaluate._refitted(d, start, wait, rows, 1) for d in (data, frauds))
    assert one is not None
    assert (one == two).all()


def test_events_are_waited_for_no_longer_than_labels_came(data: Dataset) -> None:
    """A fraud reported a year after the last event: what is silent then is legitimate."""
    rows, wait = np.arange(len(data)), 14 * made.DAY_MS
    end = int(data.time.max())
    silent = replace(data, label=np.zeros_like(data.label), label_time=data.time + wait)
    young = (data.time + wait > end).sum()
    assert evaluate.immature(silent, rows, wait) == young > 0
    for late, still in ((365, 0), (2, (data.time + wait > end + 2 * made.DAY_MS).sum())):
        label, label_time = np.array(silent.label), np.array(silent.label_time)
        label[0], label_time[0] = 1, end + late * made.DAY_MS
        told = replace(silent, label=label, label_time=label_time)
        assert evaluate.immature(told, rows, wait) == still


class _Tags(html.parser.HTMLParser):
    """Counts of tags, and what they refer to."""

    def __init__(self) -> None:
        super().__init__()
        self.seen: dict[str, int] = {}
        self.sources: list[str] = []

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.seen[tag] = self.seen.get(tag, 0) + 1
        self.sources += [value or "" for name, value in attrs if name in ("src", "href")]


def test_the_page_stands_alone(report: dict, tmp_path: Path) -> None:
    text = page.to_html(report)
    tags = _Tags()
    tags.feed(text)
    assert tags.seen["table"] == 4
    assert tags.seen["img"] == 3
    assert all(source.startswith("data:image/png;base64,") for source in tags.sources)
    assert f"{report['models']['this bundle']['ap']:.3f}" in text


def test_a_phone_breaks_the_names_of_rows_between_words(report: dict, tmp_path: Path) -> None:
    """Beside a wide table the names were given no more room than a letter or three need."""
    frame = f'<iframe width=390 height=844 srcdoc="{html.escape(page.to_html(report))}"></iframe>'
    script = """<script>addEventListener("load", () => {
      const names = document.querySelector("iframe").contentDocument.querySelectorAll("tbody th");
      const heights = [...names].map(each => each.getBoundingClientRect().height);
      document.body.dataset.tallest = Math.max(...heights);
    });</script>"""
    outer = tmp_path / "outer.html"
    outer.write_text(f"<!doctype html><body>{frame}{script}")
    printed = browser(tmp_path, "--virtual-time-budget=5000", "--dump-dom", outer.as_uri())
    found = re.search(r'data-tallest="(\S+)"', printed)
    assert found is not None, printed[-500:]
    assert float(found[1]) < 70, "more than three lines"


def test_average_precision_of_a_constant_is_the_prevalence(data: Dataset) -> None:
    rows = split(data).test
    y = data.answer()[rows]
    found = measure(data, rows, y, np.full(len(rows), 0.5))
    assert found["ap"] == pytest.approx(y.mean())
    assert metrics.roc_auc(y, np.full(len(rows), 0.5)) == pytest.approx(0.5)
