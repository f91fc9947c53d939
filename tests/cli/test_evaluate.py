"""What `evaluate` and `explain` say of a bundle, and what they refuse."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import pyarrow as pa
import pytest

from model import data, finetune, quiet
from model.bundle import read
from model.case import rows_of
from model.errors import DatasetError, DeviceMissing
from model.knots import knots_for
from model.page import day
from model.tokens import quantile_knots
from streams.cli import build, checks, fitting
from streams.cli.judging import split_of
from streams.dev.simulate.world import CURRENCIES
from streams.errors import ConfigError
from tests.cli.running import RUN, verb
from tests.clients import records


def test_a_fit_that_may_have_known_the_test_days_is_said(
    made: tuple[Path, pa.Table], bundles: Path, tmp_path: Path
) -> None:
    """The same stream a day later has another digest; whether it is the same cannot be told."""
    whole = data.read(made[0])
    label = np.array(whole.label)
    label[np.flatnonzero(label == 1)[0]] = -1
    data.write(replace(whole, label=label), tmp_path / "later")
    command = ["evaluate", str(bundles / "fraud"), str(tmp_path / "later"), "--no-compare"]
    done = RUN.invoke(build(), [*command, "--from", "0", "--json"], catch_exceptions=False)
    assert json.loads(done.stdout)["known_to_the_fit"] is None
    assert "warning: the fit knew of test days like these" in done.stderr
    quiet = RUN.invoke(build(), [*command, "--json"], catch_exceptions=False)
    found = json.loads(quiet.stdout)
    assert found["known_to_the_fit"] is False
    assert "warning" not in quiet.stderr
    assert 0 < found["immature"] < found["models"]["this bundle"]["events"]
    assert "younger than 14 days" in quiet.stderr
    old = RUN.invoke(build(), [*command, "--json", "--maturity-days", "0"])
    assert json.loads(old.stdout)["immature"] == 0


def test_frauds_that_become_known_after_the_maturity_are_told(
    made: tuple[Path, pa.Table], bundles: Path, tmp_path: Path
) -> None:
    """A fit before their labels took them for legitimate without a word."""
    whole = data.read(made[0])
    frauds = np.flatnonzero(np.asarray(whole.label) == 1)
    days = np.array(whole.label_time)
    days[frauds] = whole.time[frauds] + 2 * data.DAY_MS
    late = len(frauds) // 4
    days[frauds[:late]] = whole.time[frauds[:late]] + 20 * data.DAY_MS + 1
    data.write(replace(whole, label_time=days), tmp_path / "late")
    for verb_ in ("evaluate", "finetune"):
        words = [str(bundles / "fraud"), str(tmp_path / "late"), "--from", "2099-12-31"]
        if verb_ == "finetune":
            words = [str(tmp_path / "late"), str(tmp_path / "b"), "--cut", "2000-01-01"]
        told = RUN.invoke(build(), [verb_, *words])
        assert told.exit_code == 1
        assert (
            f"{late} of {len(frauds)} known frauds became known more than 14 days after the event,"
            " and count as legitimate until then; --maturity-days 21 would be enough for 95 % of"
        ) in told.stderr
        enough = RUN.invoke(build(), [verb_, *words, "--maturity-days", "21"])
        assert enough.exit_code == 1 and "legitimate until" not in enough.stderr


def test_a_few_late_frauds_or_a_pretraining_are_not_worth_a_word(
    made: tuple[Path, pa.Table], capsys: pytest.CaptureFixture[str]
) -> None:
    assert (data.report_days(data.read(made[0])) > 7).any()
    checks.whole_data(made[0], 7)
    checks.whole_data(made[0])
    assert "legitimate until" not in capsys.readouterr().err


def test_without_any_known_fraud_no_other_days_are_advised(
    made: tuple[Path, pa.Table], bundles: Path, tmp_path: Path
) -> None:
    """No --from helps there: labels do, as `finetune` says of the same set."""
    whole = data.read(made[0])
    nobody = np.where(np.asarray(whole.label) == 1, -1, whole.label).astype(np.int8)
    unknown = np.full(len(whole), -1, np.int8)
    data.write(replace(whole, label=nobody, truth=unknown), tmp_path / "silent")
    command = ["evaluate", str(bundles / "fraud"), str(tmp_path / "silent"), "--no-compare"]
    done = RUN.invoke(build(), command)
    assert isinstance(done.exception, DatasetError) and not done.exception.wrong_use
    assert "no known fraud" in str(done.exception) and "--labels FILE" in str(done.exception)
    assert "--from" not in str(done.exception)
    RUN.invoke(build(), [*command[:1], str(bundles / "base"), *command[2:]], catch_exceptions=False)


def test_evaluation_leaves_the_days_that_the_fit_knew(
    made: tuple[Path, pa.Table], bundles: Path, tmp_path: Path
) -> None:
    page = tmp_path / "page.html"
    command = ("evaluate", bundles / "fraud", made[0], "--no-compare", "--out", page)
    found = json.loads(verb(*command, "--ceiling", "ap=0.0001", "--json"))
    about = json.loads((bundles / "fraud" / "manifest.json").read_text())["about"]
    assert found["tested"]["from_ms"] >= about["plan"]["cut_ms"]
    assert not found["known_to_the_fit"]
    assert "ap" in found["ceiling"]["leak_suspected"]
    assert page.read_text().startswith("<!doctype html>")
    early = json.loads(verb(*command, "--from", "0", "--json"))
    assert early["known_to_the_fit"]


def test_a_page_that_a_full_disk_does_not_take_is_named(
    made: tuple[Path, pa.Table], bundles: Path
) -> None:
    command = ["evaluate", str(bundles / "fraud"), str(made[0]), "--no-compare"]
    done = RUN.invoke(build(), [*command, "--out", "/dev/full"])
    assert isinstance(done.exception, OSError)
    assert done.exception.filename == "/dev/full"
    assert "this bundle: ap" in done.stdout, "the figures of minutes are not lost with the page"


def test_a_cost_matrix_sets_thresholds_and_is_held_against_the_test_days(
    made: tuple[Path, pa.Table], tmp_path: Path
) -> None:
    """That of the fit, until another is given."""
    matrix = ("--cost", "review=1", "--cost", "block=10", "--cost", "missed=50")
    verb("finetune", made[0], tmp_path / "f", "--steps", "2", "--no-teacher", *matrix)
    manifest = json.loads((tmp_path / "f" / "manifest.json").read_text())
    assert manifest["thresholds"]["cost_review"] == pytest.approx(1 / 50)
    assert manifest["thresholds"]["cost_block"] == pytest.approx(1 - 1 / 10)
    page = tmp_path / "page.html"
    command = ("evaluate", tmp_path / "f", made[0], "--no-compare", "--json", "--out", page)
    found = json.loads(verb(*command))
    assert found["costs"]["matrix"] == {"review": 1, "block": 10, "missed": 50}
    ours = found["models"]["this bundle"]
    silent = 1_000 * 50 * ours["frauds"] / ours["events"]
    assert found["costs"]["per_thousand"]["no decisions"] == pytest.approx(silent)
    assert "review 1, block 10, missed 50" in page.read_text()
    other = json.loads(verb(*command, "--cost", "review=2", *matrix[2:]))
    assert other["thresholds"]["cost_review"]["threshold"] == pytest.approx(2 / 50)


def test_what_a_fit_began_with_counts_as_known(
    made: tuple[Path, pa.Table], bundles: Path, tmp_path: Path
) -> None:
    """A base that saw the test days hands them on, and one that did not does not. Days that are yet
    to come nobody saw, whatever moment was asked for."""
    every = int(data.read(made[0]).time.max()) + 1
    verb("pretrain", made[0], tmp_path / "all", "--steps", "1", "--until", "2099-12-31")
    for base, known in ((tmp_path / "all", True), (bundles / "base", False)):
        verb("finetune", made[0], tmp_path / "f", "--steps", "1", "--no-teacher", "--base", base)
        for bundle in (base, tmp_path / "f"):
            found = json.loads(verb("evaluate", bundle, made[0], "--no-compare", "--json"))
            assert found["known_to_the_fit"] is (known and (True if bundle == base else None))
        assert ("base_learnt_until" in found) is known
        assert (found.get("base_learnt_until") == every) is known


def test_a_fit_says_that_its_base_knows_the_days_of_the_test_and_keeps_its_size(
    made: tuple[Path, pa.Table], bundles: Path, tmp_path: Path
) -> None:
    every = int(data.read(made[0]).time.max()) + 1
    verb("pretrain", made[0], tmp_path / "all", "--steps", "1", "--until", every)
    command = ["finetune", str(made[0]), str(tmp_path / "f"), "--steps", "1", "--no-teacher"]
    warned = RUN.invoke(build(), [*command, "--base", str(tmp_path / "all")])
    assert f"has learnt events up to {day(every)}" in warned.stderr
    known = RUN.invoke(build(), ["evaluate", str(tmp_path / "f"), str(made[0]), "--no-compare"])
    assert "warning: the bundle that it began with had learnt events" in known.stderr
    quiet = RUN.invoke(build(), [*command, "--base", str(bundles / "base"), "--preset", "small"])
    assert quiet.exit_code == 0 and "warning" not in quiet.stderr
    other = RUN.invoke(build(), [*command, "--base", str(bundles / "base"), "--preset", "base"])
    assert other.exit_code == 2 and "of another size" in other.stderr


def test_a_fit_bends_its_features_where_the_fraud_rate_jumps(
    made: tuple[Path, pa.Table], bundles: Path
) -> None:
    """Of the events it learns from, as it hears them; not only at the quantiles of its base."""
    found, base = read(bundles / "fraud"), read(bundles / "base")
    dataset = checks.whole_data(made[0], 14)
    plan = finetune.plan_in(found.about)
    assert plan is not None
    then = data.as_of(dataset, plan.cut_ms, 14 * data.DAY_MS)
    chosen = finetune.blocks(then, plan)
    learnt = chosen.fit
    if found.about["card"]["taught_by_trees"] is not None:
        learnt = learnt | fitting.others_of(then, plan, chosen, True)
    fit = np.flatnonzero(chosen.fit)
    heard = quiet.hushed(then, learnt, found.about["seed"]).features[fit]
    expected = knots_for(heard, then.label[fit], found.shape.knots)
    np.testing.assert_array_equal(found.weights["knots"], expected)
    jumps = (found.weights["knots"] != quantile_knots(heard, found.shape.knots)).any(1)
    assert 0 < jumps.sum() < len(jumps)
    assert (base.weights["knots"] != expected).any()


def test_a_plan_that_is_none_counts_as_not_told(made: tuple[Path, pa.Table], bundles: Path) -> None:
    """What a bundle tells of itself is free text to others: evaluate does without."""
    found, dataset = read(bundles / "fraud"), data.read(made[0])
    for odd in (7, {"cut_ms": "soon"}, {"begun": 1}, None):
        bundle = replace(found, about={"plan": odd, "learnt_until": "soon"})
        split, known = split_of(bundle, dataset, None, 14.0, 14.0)
        assert len(split.test) and not known


def test_what_a_report_lacks_is_said_before_any_work(
    bundles: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The training set is not even looked for. A pretrained bundle needs nothing."""
    monkeypatch.setattr(checks, "find_spec", lambda name: None)
    for name, said in (
        ("fraud", "not installed: lightgbm"),
        ("base", "no training set in nowhere"),
    ):
        done = RUN.invoke(build(), ["evaluate", str(bundles / name), "nowhere"])
        assert said in str(done.exception)


def test_the_bundles_own_plan_is_enough_to_compare_by(
    made: tuple[Path, pa.Table], bundles: Path
) -> None:
    """Though nothing was known when the test begins, and a plan of that moment cannot be made. And
    with the labels of the fit: what came later leaves no event out."""
    fitted, whole = read(bundles / "fraud"), checks.whole_data(made[0], 14)
    split, seen = split_of(fitted, whole, 0, None, 14)
    assert seen
    card = fitted.about["card"]
    for rows, told in ((split.fit, card["fitted_on"]), (split.judge, card["judged_on"])):
        assert (told["events"], told["frauds"]) == (len(rows), (split.label[rows] == 1).sum())


def test_why_no_model_stands_beside_is_told_without_flags_of_another_verb(
    made: tuple[Path, pa.Table], bundles: Path, tmp_path: Path
) -> None:
    """It gave the remedy of `finetune`: days to judge by, which nobody can ask of `evaluate`."""
    whole = data.read(made[0])
    label, when = np.full(len(whole), -1, np.int8), np.full(len(whole), -1, np.int64)
    newest = int(np.argmax(whole.time))
    label[newest], when[newest] = 1, whole.time[newest] + 1
    data.write(replace(whole, label=label, label_time=when, kind=0 * label), tmp_path / "one")
    command = ["evaluate", str(bundles / "fraud"), str(tmp_path / "one")]
    done = RUN.invoke(build(), command, catch_exceptions=False)
    assert "no comparison models: the training block has 0 known frauds" in done.stderr
    assert "--judge-days" not in done.stderr


def test_a_pretrained_bundle_is_measured_without_labels(
    made: tuple[Path, pa.Table], bundles: Path
) -> None:
    found = json.loads(verb("evaluate", bundles / "base", made[0], "--json"))
    assert {"anomaly score", "amount", "gap"} <= set(found["anomaly"])
    assert set(found["propensity"]) == {"merchant group", "channel", "amount band"}


def test_a_pretrained_bundle_needs_no_label_at_all(
    made: tuple[Path, pa.Table], bundles: Path, tmp_path: Path
) -> None:
    whole = data.read(made[0])
    none = np.full(len(whole), -1)
    silent = replace(whole, label=none.astype(np.int8), label_time=none, truth=none.astype(np.int8))
    data.write(silent, tmp_path / "silent")
    page = tmp_path / "page.html"
    told = verb("evaluate", bundles / "base", tmp_path / "silent", "--out", page)
    assert "0 frauds" in told and "hit@3" in told and "nan" not in told
    assert "average precision" not in page.read_text()
    late = ["evaluate", str(bundles / "base"), str(made[0]), "--from", "2099-12-31T00:00"]
    assert "no test events" in str(RUN.invoke(build(), late).exception)


def test_an_explanation_names_events_cases_and_reasons(
    made: tuple[Path, pa.Table], bundles: Path
) -> None:
    truth = made[1].to_pylist()
    transaction = truth[len(truth) * 3 // 4]["transaction_id"]
    words = ("explain", transaction, "--data", made[0], "--bundle", bundles / "fraud")
    found = json.loads(verb(*words, "--json"))
    assert found["transaction_id"] == transaction
    assert found["reasons"]
    assert len(found["similar"]) == 3
    times = [case["event_time"] for case in found["similar"]]
    assert max(times) < found["event"]["event_time"]
    assert {case["label"] for case in found["similar"]} <= {0, 1}
    backs = [one["back"] for one in found["looked_at"]]
    assert sorted(set(backs)) == sorted(backs)
    currency = found["event"]["currency"]
    assert currency in CURRENCIES
    assert f", {currency} " in verb(*words).splitlines()[1]
    words = ("explain", transaction, "--data", made[0], "--bundle", bundles / "base")
    anomalous = json.loads(verb(*words, "--json"))
    # Its fraud head is untrained.
    assert not {"score", "groups", "reasons"} & set(anomalous)
    text = verb(*words)
    assert "no score, pretrained@" in text and "because" not in text and "surprise" in text
    assert set(anomalous["likely"]) == {"merchant group", "channel", "amount band"}
    assert np.isfinite(list(anomalous["surprise"].values())).all()


def test_an_explanation_is_made_on_the_device_of_the_settings(
    made: tuple[Path, pa.Table], bundles: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("torch.cuda.is_available", lambda: False)
    transaction = made[1]["transaction_id"][0].as_py()
    words = ["explain", transaction, "--data", str(made[0]), "--bundle", str(bundles / "fraud")]
    done = RUN.invoke(build(), [*words, "--set", "model.device=cuda"])
    assert isinstance(done.exception, DeviceMissing)
    assert RUN.invoke(build(), [*words, "--set", "model.device=auto"]).exit_code == 0


def test_of_payments_with_one_id_the_one_that_is_meant_can_be_chosen(
    made: tuple[Path, pa.Table], bundles: Path, tmp_path: Path
) -> None:
    """An id is an account's own; that of the first account was explained, and nothing said so."""
    whole, one = data.read(made[0]), made[1].to_pylist()[0]
    words, alike = np.array(whole.words), rows_of(whole, one["transaction_id"])
    assert len(rows_of(whole, "\udcff")) == 0, "what is no UTF-8 is an unknown id"
    other = int(np.flatnonzero(whole.account != whole.account[alike[0]])[-1])
    words[other, 2] = words[alike[0], 2]
    data.write(replace(whole, words=words), tmp_path / "shared")
    command = ["explain", one["transaction_id"], "--data", str(tmp_path / "shared")]
    command += ["--bundle", str(bundles / "fraud"), "--json"]
    done = RUN.invoke(build(), command, catch_exceptions=False)
    assert "2 payments have this transaction_id, explained is the first" in done.stderr
    for row in (int(alike[0]), other):
        time = int(whole.time[row])
        assert str(time) in done.stderr
        chosen = RUN.invoke(build(), [*command, "--event-time", str(time)], catch_exceptions=False)
        assert chosen.stderr == ""
        assert json.loads(chosen.stdout)["event"]["event_time"] == time


def test_what_cannot_be_explained_is_told_where_to_look_for(
    made: tuple[Path, pa.Table], bundles: Path
) -> None:
    """A known id with a mistyped time was called unknown."""
    one = made[1].to_pylist()[0]
    rest = ["--data", str(made[0]), "--bundle", str(bundles / "fraud")]
    refused = RUN.invoke(build(), ["explain", "refused-1", *rest]).exception
    assert "no transaction refused-1 in" in str(refused)
    assert "`fraudstream dlq list`" in str(refused)
    wrong = ["explain", one["transaction_id"], *rest, "--event-time", "1"]
    mistyped = RUN.invoke(build(), wrong).exception
    assert isinstance(mistyped, DatasetError)
    assert f"its event_time is {one['event_time']}" in str(mistyped)


@pytest.mark.parametrize("bundle", ["stub", "none"])
def test_what_has_no_bundle_has_no_reasons_and_says_so(
    made: tuple[Path, pa.Table], bundles: Path, bundle: str
) -> None:
    """It said that there is no bundle of that name."""
    one = made[1].to_pylist()[0]["transaction_id"]
    words = ["explain", one, "--data", str(made[0]), "--set", f"model.bundle={bundle}"]
    refused = RUN.invoke(build(), words).exception
    assert isinstance(refused, ConfigError)
    assert f"model.bundle is {bundle}: " in str(refused) and "--bundle names one" in str(refused)
    assert RUN.invoke(build(), [*words, "--bundle", str(bundles / "fraud")]).exit_code == 0


def test_what_the_service_decided_stands_beside_what_the_bundle_says(
    made: tuple[Path, pa.Table], bundles: Path, kafka: str, topic_prefix: str
) -> None:
    one = made[1].to_pylist()[0]
    records.settings(kafka, topic_prefix)
    about = {"transaction_id": one["transaction_id"], "event_time": one["event_time"]}
    reasons = [{"code": "RULE", "text": "a large one"}]
    mine = records.alert(8, **about, reasons=reasons)
    other = records.alert(9, **about | {"event_time": 1_735_689_600_000})
    records.put(kafka, f"{topic_prefix}alerts", [mine, mine, other, records.alert(7)])
    words = ["explain", one["transaction_id"], "--data", str(made[0])]
    words += ["--bundle", str(bundles / "fraud"), "--set", f"kafka.topic_prefix={topic_prefix}"]
    words += ["--set", f"kafka.bootstrap={kafka}", "--alert"]
    assert json.loads(verb(*words, "--json"))["alerts"] == [mine]
    text = verb(*words)
    assert "alert: block, score 0.0080 by m1\n  rule big, version 1: review, a large one" in text
