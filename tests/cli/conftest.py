"""A training set and two bundles of it, for the tests of the model's verbs."""

from __future__ import annotations

from pathlib import Path

import pyarrow as pa
import pytest

from model import data
from streams.dev.simulate import Plan, simulate
from streams.dev.training_set import build as build_set
from tests.cli.running import verb


@pytest.fixture(scope="session")
def made(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, pa.Table]:
    """A training set of a simulated stream, and the frauds of it."""
    plan = Plan(events=6_000, accounts=150, days=75, seed=31, fraud_rate=0.04, unreported=0.0)
    stream = simulate(plan)
    folder = tmp_path_factory.mktemp("model") / "data"
    data.write(build_set(stream.transactions, stream.labels), folder)
    return folder, stream.truth


@pytest.fixture(scope="session")
def bundles(made: tuple[Path, pa.Table], tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A pretrained and a fine-tuned bundle, after two updates each."""
    folder = tmp_path_factory.mktemp("bundles")
    few = ("--steps", "2", "--checkpoint")
    alone = ("--no-teacher", "--base", folder / "base")
    verb("pretrain", made[0], folder / "base", *few, folder / "pre.pt", "--tensorboard",
         folder / "board")  # fmt: skip
    verb("finetune", made[0], folder / "fraud", *alone, *few, folder / "f.pt")
    return folder
