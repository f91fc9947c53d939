"""The model's verbs from a training set to a promoted bundle, as a data scientist types them."""

from __future__ import annotations

import json
import os
import re
import shutil
import subprocess
import sys
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pytest
import torch

from model import teacher
from model.bundle import read, shipped, write
from model.data import Dataset
from model.teacher import Lesson, labels_only
from streams.assembly import bundle_path, scorer
from streams.cli import build, fitting, main
from streams.errors import BundleError, DatasetError, OutputTaken
from streams.settings import load
from tests.cli.running import RUN, verb
from tests.full_disk import no_room


def test_training_leaves_what_it_was_asked_for(bundles: Path) -> None:
    assert list((bundles / "board").glob("events.out.tfevents.*"))
    assert (bundles / "pre.pt").exists()
    assert (bundles / "f.pt.0").exists()
    manifest = json.loads((bundles / "fraud" / "manifest.json").read_text())
    assert {"schema", "normalisation", "feature_digest", "calibration", "thresholds"} <= set(
        manifest
    )
    about = manifest["about"]
    assert {"judged", "data_digest", "plan", "card"} <= set(about)
    assert about["card"]["pretrained_from"].startswith("pretrained@")
    assert about["card"]["fitted_on"]["to"] <= about["card"]["labels_known_before"]


def test_the_plan_is_told_first(made: tuple[Path, pa.Table], tmp_path: Path) -> None:
    words = ["pretrain", str(made[0]), str(tmp_path / "b"), "--steps", "1"]
    lines = RUN.invoke(build(), words).stderr.splitlines()
    assert lines[0] == f"reading {made[0]}", "at once: a plan takes a while"
    assert lines[2].startswith("plan: small, 1,1")
    assert "MB to train" in lines[3]
    assert "scores/s" in lines[3]
    assert lines[4].startswith("step 1/1")
    assert lines[5].startswith("writing the bundle"), "the end of a long set takes a while, too"


@pytest.mark.parametrize("verb", ["pretrain", "finetune"])
def test_a_fit_begins_only_where_its_bundle_finds_room(
    verb: str, made: tuple[Path, pa.Table], tmp_path: Path
) -> None:
    words = [verb, str(made[0]), str(tmp_path / "b"), "--steps", "1"]
    with no_room(1_000_000):
        done = RUN.invoke(build(), words)
    assert isinstance(done.exception, OSError)
    assert done.exception.filename == str(tmp_path / "b")
    assert done.stderr == f"reading {made[0]}\n", "neither a plan nor an update"


@pytest.mark.parametrize("verb", ["pretrain", "finetune"])
def test_ctrl_c_says_how_to_go_on_though_a_compiled_function_hid_it(
    verb: str, made: tuple[Path, pa.Table], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def stopped(*_: object) -> None:
        raise SystemError("returned a result with an exception set") from KeyboardInterrupt()

    monkeypatch.setattr("model.loop.tokens.encode_features", stopped)
    words = [verb, str(made[0]), str(tmp_path / "b"), "--steps", "1"]
    done = RUN.invoke(build(), words)
    assert done.exit_code == 130
    assert "stopped; the same command goes on from what --checkpoint kept last" in done.stderr


def test_the_plan_tells_the_memory_that_a_run_takes(
    made: tuple[Path, pa.Table], tmp_path: Path
) -> None:
    words = ["finetune", str(made[0]), str(tmp_path / "b"), "--steps", "1"]
    command = [sys.executable, "-c", "from streams.cli import main; main()", *words]
    with (tmp_path / "told").open("w") as told:
        child = subprocess.Popen(command, stderr=told, stdout=subprocess.DEVNULL)
        _, status, used = os.wait4(child.pid, 0)
    child.returncode = os.waitstatus_to_exitcode(status)
    said = (tmp_path / "told").read_text()
    assert child.returncode == 0, said
    found = re.search(r"and ([\d,]+) MB to train", said)
    assert found is not None
    unit = 1 if sys.platform == "darwin" else 1_024
    real_mb = used.ru_maxrss * unit / 1e6
    assert 0.85 * real_mb < int(found[1].replace(",", "")) < 1.5 * real_mb


def test_the_same_seed_gives_the_same_bytes(
    made: tuple[Path, pa.Table], bundles: Path, tmp_path: Path
) -> None:
    few = ("--steps", "2", "--no-teacher")
    verb("finetune", made[0], tmp_path / "again", "--base", bundles / "base", *few)
    for name in ("weights.safetensors", "manifest.json"):
        assert (tmp_path / "again" / name).read_bytes() == (bundles / "fraud" / name).read_bytes()


def test_with_a_teacher_what_judges_better_is_kept(
    made: tuple[Path, pa.Table], bundles: Path, tmp_path: Path
) -> None:
    words = ["finetune", made[0], tmp_path / "taught", "--steps", "2"]
    words = [str(word) for word in (*words, "--checkpoint", tmp_path / "f.pt")]
    lines = RUN.invoke(build(), words, catch_exceptions=False).stderr.splitlines()
    assert sum(line.startswith("step 2/2") for line in lines) == 2
    kept = {
        path.name: torch.load(path, weights_only=False)["progress"]["best"]
        for path in tmp_path.glob("f.pt*")
    }
    assert set(kept) == {"f.pt.0", "f.pt.taught.0"}
    cards = [
        json.loads((folder / "manifest.json").read_text())["about"]["card"]
        for folder in (tmp_path / "taught", bundles / "fraud")
    ]
    better = kept["f.pt.taught.0"] > kept["f.pt.0"]
    assert lines[-1] == f"kept: {'taught by trees' if better else 'labels alone'}"
    assert (cards[0]["taught_by_trees"] is not None) == better
    assert not better or cards[0]["taught_by_trees"]["events"] > 0
    assert cards[1]["taught_by_trees"] is None
    (tmp_path / "f.pt.taught.0").replace(tmp_path / "f.pt.0")
    done = RUN.invoke(build(), [*words, "--no-teacher"])
    assert "is of a run with other rows" in str(done.exception)


def test_trees_that_teach_are_told_how_surprising_events_are_to_a_pretrained_base(
    made: tuple[Path, pa.Table], bundles: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    seen = []

    def lesson(data: Dataset, rows: Any, others: Any, *_: Any, beside: Any, **__: Any) -> Lesson:
        seen.append((beside, rows | others))
        return labels_only(np.asarray(data.label), rows)

    monkeypatch.setattr(teacher, "lesson", lesson)
    words = ["finetune", str(made[0]), str(tmp_path / "b"), "--steps", "1", "--base"]
    done = RUN.invoke(build(), [*words, str(bundles / "base")], catch_exceptions=False)
    assert re.search(r"reading how surprising [\d,]+ events are to pretrained@", done.stderr)
    RUN.invoke(build(), [*words, str(bundles / "fraud")], catch_exceptions=False)
    (beside, rows), (none, _) = seen
    assert none is None, "a bundle that was fitted has forgotten what surprises"
    assert len(beside) == len(rows) and beside[rows, -1].all() and not beside[~rows].any()


def test_a_fit_begins_from_the_weights_of_a_fitted_base_only(bundles: Path) -> None:
    fitted, pretrained = read(bundles / "fraud"), read(bundles / "base")
    assert fitting.begun_from(fitted) is fitted
    assert fitting.begun_from(pretrained) is fitting.begun_from(None) is None


def test_a_base_of_other_features_is_refused_before_the_fit(
    made: tuple[Path, pa.Table], bundles: Path, tmp_path: Path
) -> None:
    odd = read(bundles / "base")
    write(replace(odd, names=("other", *odd.names[1:]), feature_digest="other"), tmp_path / "base")
    words = ["finetune", str(made[0]), str(tmp_path / "b"), "--base", str(tmp_path / "base")]
    done = RUN.invoke(build(), words)
    assert isinstance(done.exception, BundleError) and "only here" in str(done.exception)


def test_without_lightgbm_labels_teach_alone_and_it_is_said(
    made: tuple[Path, pa.Table], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("streams.cli.checks.find_spec", lambda name: None)
    words = ["finetune", str(made[0]), str(tmp_path / "b"), "--steps", "1"]
    lines = RUN.invoke(build(), words, catch_exceptions=False).stderr.splitlines()
    assert any("no teacher: LightGBM is not installed" in line for line in lines)
    assert not any("taught" in line for line in lines)
    manifest = json.loads((tmp_path / "b" / "manifest.json").read_text())
    assert manifest["about"]["card"]["taught_by_trees"] is None


@pytest.mark.parametrize(
    ("verb", "more", "said"),
    [
        ("evaluate", ("--ceiling", "foo=0.5"), "nothing measures foo"),
        ("evaluate", ("--ceiling", "ap"), "write ap=0.785"),
        ("evaluate", ("--out", "nowhere/x.html"), "no file in a folder that exists"),
        ("evaluate", ("--out", "."), "no file in a folder that exists"),
        ("evaluate", ("--test-days", "inf"), "give a number of days"),
        ("evaluate", ("--cost", "review"), "write missed=120"),
        ("evaluate", ("--cost", "review=4", "--cost", "block=5"), "give review, block and missed"),
        ("finetune", ("--cost", "review=0", "--cost", "block=5", "--cost", "missed=9"), "above 0"),
        ("finetune", ("--judge-days", "nan"), "give a number of days"),
        ("finetune", ("--maturity-days", "-1"), "give a number of days"),
        ("finetune", ("--maturity-days", "1e300"), "give a number of days, 0 to 36,500"),
        ("finetune", ("--device", "tpu"), "no device tpu. give one of auto, cpu, cuda"),
        ("pretrain", ("--device", "cuda"), "no CUDA device. give auto or cpu"),
        ("pretrain", ("--until", "1735689600"), "is not from 2000 to 2100"),
        ("finetune", ("--cut", "1735689600000000"), "is not from 2000 to 2100"),
        ("evaluate", ("--from", "20250131"), "is not from 2000 to 2100"),
        ("finetune", ("--key", "nowhere"), "no file of 32 bytes"),
        ("finetune", ("--key", __file__), "no file of 32 bytes"),
    ],
)
def test_what_cannot_work_is_said_before_any_work(
    verb: str,
    more: tuple[str, ...],
    said: str,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """The training set is not even looked for."""
    monkeypatch.setattr("torch.cuda.is_available", lambda: False)
    words = [verb, *(str(tmp_path / name) for name in ("one", "two"))]
    done = RUN.invoke(build(), [*words, *more])
    wrong = done.exit_code == 2 or getattr(done.exception, "wrong_use", False)
    assert wrong
    told = done.stderr if done.exit_code == 2 else str(done.exception)
    assert said in " ".join(told.replace("│", " ").split())


def test_training_replaces_no_folder_of_something_else(
    made: tuple[Path, pa.Table], tmp_path: Path
) -> None:
    before = {path.name: path.stat().st_mtime_ns for path in made[0].iterdir()}
    for verb_ in ("pretrain", "finetune"):
        done = RUN.invoke(build(), [verb_, str(made[0]), str(made[0]), "--steps", "1"])
        assert isinstance(done.exception, OutputTaken)
        assert not done.stderr, "refused before any work"
    assert {path.name: path.stat().st_mtime_ns for path in made[0].iterdir()} == before


@pytest.mark.parametrize("verb_", ["pretrain", "finetune"])
def test_a_folder_that_cannot_be_replaced_is_refused_before_the_fit(
    verb_: str, made: tuple[Path, pa.Table], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The last rename failed, and with it went the fit."""
    monkeypatch.chdir(tmp_path)
    done = RUN.invoke(build(), [verb_, str(made[0]), ".", "--steps", "1"])
    assert isinstance(done.exception, OutputTaken)
    assert "cannot be replaced by a bundle" in str(done.exception)
    assert not done.stderr and not list(tmp_path.iterdir()), "neither work, nor anything left"


def test_the_plan_of_a_run_that_is_gone_on_with_tells_what_is_done(
    made: tuple[Path, pa.Table], bundles: Path, tmp_path: Path
) -> None:
    for name in ("pre.pt", "f.pt.0"):
        shutil.copy(bundles / name, tmp_path)
    alone = ("--no-teacher", "--base", str(bundles / "base"))
    for verb_, name, flags in (("pretrain", "pre.pt", ()), ("finetune", "f.pt", alone)):
        words = [verb_, str(made[0]), str(tmp_path / "b"), "--steps", "2", *flags]
        words += ["--checkpoint", str(tmp_path / name)]
        done = RUN.invoke(build(), words, catch_exceptions=False)
        assert "2 updates of 4,096, 2 of them done" in done.stderr
        assert "(updates 0 s" in done.stderr


def test_a_changed_byte_of_the_training_set_is_found(
    made: tuple[Path, pa.Table], tmp_path: Path
) -> None:
    copy = shutil.copytree(made[0], tmp_path / "copy")
    raw = bytearray((copy / "features.npy").read_bytes())
    raw[-5] ^= 1
    (copy / "features.npy").write_bytes(raw)
    done = RUN.invoke(build(), ["pretrain", str(copy), str(tmp_path / "b"), "--steps", "1"])
    assert isinstance(done.exception, DatasetError)
    assert "features.npy" in str(done.exception) and "checksum" in str(done.exception)


def test_workers_serve_what_was_promoted_and_a_bad_bundle_changes_nothing(
    made: tuple[Path, pa.Table], bundles: Path, tmp_path: Path
) -> None:
    place = ("--set", f"model.registry={tmp_path / 'registry'}")
    settings = load(flags=[place[1]])
    first = verb("models", "promote", bundles / "fraud", *place).strip()
    verb("finetune", made[0], tmp_path / "two", "--steps", "1", "--no-teacher", "--name", "other")
    second = verb("models", "promote", tmp_path / "two", *place, "--note", "try").strip()
    assert bundle_path(settings).name == second
    assert verb("models", "rollback", *place).strip() == first
    assert bundle_path(settings).name == first
    listed = json.loads(verb("models", "list", *place, "--json"))
    assert listed["current"] == first
    assert [entry["model_id"] for entry in listed["history"]] == [first, second, first]
    told = [line.split("  ") for line in verb("models", "history", *place).splitlines()]
    back = f"rolled back {second}"
    assert [line[1:] for line in told] == [[first], [second, "try"], [first, back]]
    assert json.loads(verb("models", "history", *place, "--json")) == listed["history"]
    shown = json.loads(verb("models", "show", first, *place))
    assert shown["about"]["card"]["limits"]
    bad = tmp_path / "bad"
    bad.mkdir()
    for name in ("weights.safetensors", "manifest.json"):
        raw = bytearray((bundles / "fraud" / name).read_bytes())
        (bad / name).write_bytes(raw[:-200] if name.startswith("weights") else raw)
    done = RUN.invoke(build(), ["models", "promote", str(bad), *place])
    assert done.exit_code != 0
    assert bundle_path(settings).name == first


def test_a_worker_says_that_its_bundle_was_told_otherwise(
    bundles: Path, caplog: pytest.LogCaptureFixture
) -> None:
    named = f"model.bundle={bundles / 'fraud'}"
    scorer(load(flags=[named]))
    assert not caplog.records
    scorer(load(flags=[named, "risk.period_hours=12"]))
    assert "'period_hours': 24" in caplog.text and "'period_hours': 12" in caplog.text


def test_what_has_seen_no_label_is_not_served(bundles: Path, tmp_path: Path) -> None:
    place = ("--set", f"model.registry={tmp_path / 'registry'}")
    done = RUN.invoke(build(), ["models", "promote", str(bundles / "base"), *place])
    assert done.exit_code != 0
    assert "pretrained only" in str(done.exception)
    assert json.loads(verb("models", "list", *place, "--json")) == {
        "models": [],
        "current": None,
        "history": [],
    }
    with pytest.raises(BundleError, match="pretrained only"):
        scorer(load(flags=[f"model.bundle={bundles / 'base'}"]))


def test_a_promoted_bundle_that_is_gone_is_said_and_not_served(tmp_path: Path) -> None:
    place = f"model.registry={tmp_path / 'registry'}"
    promoted = verb("models", "promote", str(shipped()), "--set", place).strip()
    again = RUN.invoke(build(), ["models", "rollback", "--set", place])
    assert "the shipped one serves" in str(again.exception)
    shutil.rmtree(tmp_path / "registry" / "bundles" / promoted)
    listed = RUN.invoke(build(), ["models", "list", "--set", place])
    assert listed.stderr.startswith(f"{promoted} is promoted and no longer in ")
    assert "shipped" not in listed.stderr
    # Who only looks needs no key.
    key = ["--set", f"model.public_key={tmp_path / 'gone.pub'}"]
    for look in ("list", "history"):
        assert promoted in RUN.invoke(build(), ["models", look, "--set", place, *key]).output
    refused = RUN.invoke(build(), ["models", "rollback", "--set", place, *key])
    assert "cannot read model.public_key" in str(refused.exception)
    with pytest.raises(BundleError):
        scorer(load(flags=[place]))


@pytest.mark.parametrize(
    "given",
    [
        ("pretrain", "nowhere", "out"),
        ("finetune", "nowhere", "out"),
        ("evaluate", "nowhere", "nowhere"),
        ("models", "show", "nobody"),
        ("models", "promote", "nobody"),
        ("models", "add", "nowhere"),
        ("dataset", __file__, "out", "--labels", "nowhere"),
    ],
)
def test_what_is_not_there_is_wrong_use(
    given: tuple[str, ...],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr("sys.argv", ["fraudstream", *given])
    monkeypatch.setattr("signal.signal", lambda *_: None)
    with pytest.raises(SystemExit) as ended:
        main()
    assert ended.value.code == 2
    assert "error: no " in capsys.readouterr().err


def test_a_path_that_cannot_be_had_is_one_line(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "file").write_text("")
    place = f"model.registry={tmp_path / 'file' / 'registry'}"
    monkeypatch.setattr("sys.argv", ["fraudstream", "models", "list", "--set", place])
    monkeypatch.setattr("signal.signal", lambda *_: None)
    with pytest.raises(SystemExit) as ended:
        main()
    assert ended.value.code == 1
    assert re.fullmatch(r"error: \S+: Not a directory\n", capsys.readouterr().err)
