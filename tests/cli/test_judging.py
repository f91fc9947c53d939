"""Which bundle `evaluate` and `explain` are asked about, and what they warn of at first."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import pyarrow as pa
import pytest

from model import data
from model.bundle import read, shipped
from streams.cli import build
from streams.errors import ConfigError
from tests.cli.running import RUN


@pytest.mark.parametrize("verb_", ["evaluate", "explain"])
def test_a_set_of_other_risk_settings_is_told(
    verb_: str, made: tuple[Path, pa.Table], bundles: Path, tmp_path: Path
) -> None:
    whole, folder = data.read(made[0]), tmp_path / "hourly"
    hourly = {"delay_days": 3, "period_hours": 1}
    data.write(replace(whole, about={**whole.about, "risk": hourly}), folder)
    for path, warned in ((made[0], False), (folder, True)):
        words = ["explain", "nobody", "--bundle", str(bundles / "fraud"), "--data", str(path)]
        if verb_ == "evaluate":
            words = ["evaluate", str(bundles / "fraud"), str(path), "--from", "2099-12-31"]
        told = RUN.invoke(build(), words).stderr
        assert (f", this training set has {hourly}: its scores are not" in told) is warned


def test_a_bundle_may_be_named_as_workers_name_it(
    made: tuple[Path, pa.Table], tmp_path: Path
) -> None:
    """Only a folder was taken, so the shipped one could not be measured."""
    nowhere = ["--set", f"model.registry={tmp_path / 'none'}"]
    path, shown = read(shipped()).model_id, str(made[0])
    for name in ("default", path, str(shipped())):
        words = ["evaluate", name, shown, "--no-compare", "--json", *nowhere]
        found = json.loads(RUN.invoke(build(), words, catch_exceptions=False).stdout)
        assert found["model_id"] == path
    for words in (["evaluate", "nobody", shown], ["explain", "x", "--bundle", "nobody"]):
        refused = RUN.invoke(build(), [*words, *nowhere, *(["--data", shown] * (len(words) == 4))])
        assert isinstance(refused.exception, ConfigError)
        assert "no model bundle 'nobody'" in str(refused.exception)
