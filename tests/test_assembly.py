"""From settings to a judge: the bundle named, or an error that says what to do."""

from __future__ import annotations

from pathlib import Path

import pytest

from streams import assembly, features
from streams.errors import BundleError, ConfigError
from streams.settings import load


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


def test_rules_come_from_the_file_of_the_settings(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="cannot read the rules"):
        assembly.rule_book(load(flags=[f"decide.rules={tmp_path / 'absent.toml'}"]))
    assert not assembly.rule_book(load()).rules().rules
