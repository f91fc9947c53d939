"""From settings to a judge: the bundle named, or an error that says what to do."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from model import bundle as bundles
from model import signing
from model.inputs import EVENT_WORDS, ScoringBatch
from streams import assembly, features
from streams.errors import BundleError, ConfigError
from streams.settings import load
from tests.messages import rule_file


def test_the_shipped_bundle_fits_the_features_of_this_code(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    judge = assembly.judge(load())
    assert judge.scorer.model_id.startswith("default@")
    assert judge.policy.versions["features"] == features.DIGEST
    assert judge.policy.explain is not None


def test_a_bundle_made_for_other_features_is_refused(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(features, "DIGEST", "0123456789abcdef")
    with pytest.raises(BundleError, match="was made for features"):
        assembly.judge(load())


def test_a_bundle_that_is_not_there_is_named(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    with pytest.raises(ConfigError, match=r"'nowhere'.*models list"):
        assembly.judge(load(flags=["model.bundle=nowhere"]))


def test_without_a_model_rules_decide_alone_and_a_score_is_none_at_all() -> None:
    """The stub's made-up scores went out as if a model had given them."""
    alone, stub = (assembly.judge(load(flags=[f"model.bundle={b}"])) for b in ("none", "stub"))
    assert alone.policy.mode == "rules_only" and stub.policy.mode == "full"
    assert alone.policy.versions["model"] == "none"
    n = 3
    batch = ScoringBatch(
        current=np.zeros((n, EVENT_WORDS), np.uint64),
        history=np.zeros((n, 0, EVENT_WORDS), np.uint64),
        length=np.zeros(n, np.int32),
        features=np.ones((n, features.COUNT), np.float32),
    )
    assert np.isnan(alone.scorer.score(batch)).all()
    assert not np.isnan(stub.scorer.score(batch)).any()


def test_a_score_says_that_the_cpu_took_the_place_of_a_gpu(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "")
    assert assembly.judge(load()).policy_now().mode == "full", "no GPU is no fault"
    monkeypatch.setattr("torch.cuda.is_available", lambda: True)
    judge = assembly.judge(load())
    assert judge.policy_now().mode == "cpu_fallback"
    assert judge.policy_now().versions == judge.policy.versions


def test_with_a_key_in_the_settings_only_a_bundle_signed_by_it_scores(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    seed, key = bytes(range(32)), tmp_path / "sign.pub"
    key.write_bytes(signing.public_key(seed))
    bundles.write(bundles.read(bundles.shipped()), tmp_path / "signed", seed)
    asked = f"model.public_key={key}"
    assert assembly.judge(load(flags=[asked, "model.bundle=signed"])).policy.explain is not None
    with pytest.raises(BundleError, match=r"default is not signed\. sign it"):
        assembly.judge(load(flags=[asked]))
    key.write_bytes(bytes(32))
    with pytest.raises(BundleError, match="signed is not signed by the expected key"):
        assembly.judge(load(flags=[asked, "model.bundle=signed"]))


@pytest.mark.parametrize(
    ("content", "said"),
    [(None, r"cannot read model\.public_key at .*: No such file"), (b"PEM" * 20, "has 60 bytes")],
)
def test_a_key_that_is_none_lets_no_bundle_score(
    content: bytes | None, said: str, tmp_path: Path
) -> None:
    key = tmp_path / "sign.pub"
    if content is not None:
        key.write_bytes(content)
    with pytest.raises(ConfigError, match=said):
        assembly.judge(load(flags=[f"model.public_key={key}"]))


def test_other_risk_settings_than_those_of_the_training_are_told_once(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    """A replay loads its judge for each partition: with 64 of them this hid how far it was."""
    shipped = bundles.read(bundles.shipped())
    trained = {"delay_days": 7, "period_hours": 3}
    about = {**shipped.about, "risk": trained}
    bundles.write(replace(shipped, about=about), tmp_path / "other")
    settings = load(flags=[f"model.bundle={tmp_path / 'other'}"])
    for _ in range(2):
        assembly.judge(settings)
    (told,) = [record.getMessage() for record in caplog.records]
    assert f"was trained on risk snapshots of {trained}, these settings say {{" in told


RULE = rule_file("large")


def test_rules_come_from_the_file_of_the_settings(tmp_path: Path) -> None:
    file = tmp_path / "rules.toml"
    flags = [f"decide.rules={file}"]
    with pytest.raises(ConfigError, match="cannot read the rules"):
        assembly.rule_book(load(flags=flags))
    for mark in (b"", b"\xef\xbb\xbf"):  # as some editors begin a file
        file.write_bytes(mark + RULE.encode())
        found = assembly.rule_book(load(flags=flags)).rules().rules
        assert [rule.rule_id for rule in found] == ["large"]
    file.write_bytes(b"\xc0" + RULE.encode())
    with pytest.raises(ConfigError, match="no text in UTF-8"):
        assembly.rule_book(load(flags=flags))
    file.write_bytes(RULE.replace("50000", "9" * 5_000).encode())
    with pytest.raises(ConfigError, match="not TOML"):
        assembly.rule_book(load(flags=flags))
    assert not assembly.rule_book(load()).rules().rules
