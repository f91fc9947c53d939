"""The bundle that comes with the package fits this version, is small, and earned its place."""

from __future__ import annotations

import json

import numpy as np
import pytest

from model import bundle as bundles
from model.inputs import HISTORY, ScoringBatch
from model.score import Scorer
from streams import features

FOLDER = bundles.shipped()
MAX_BYTES = 5_000_000


def test_fits_the_feature_list() -> None:
    bundle = bundles.read(FOLDER)
    bundles.require_features(bundle, features.NAMES, features.DIGEST)
    assert set(bundle.groups) == set(features.GROUPS)
    assert sum(path.stat().st_size for path in FOLDER.iterdir()) <= MAX_BYTES


def test_loads_scores_and_explains() -> None:
    scorer = Scorer.load(FOLDER)
    golden = scorer.bundle.golden
    assert golden is not None
    scores = scorer.score(golden)
    assert scores.max() > 0.5
    assert scores.min() < 0.01
    told = scorer.explain(golden)
    # One group alone may add little to a sure fraud: the others say the same. Some row shows it.
    assert max(value for row in told for value in row.values()) > 1.0
    assert all(set(row) == set(told[0]) for row in told)


def test_an_account_without_a_past_is_an_ordinary_case() -> None:
    scorer = Scorer.load(FOLDER)
    batch = ScoringBatch(
        current=np.zeros((3, 4), np.uint64),
        history=np.zeros((3, HISTORY, 4), np.uint64),
        length=np.zeros(3, np.int32),
        features=np.full((3, features.COUNT), features.UNKNOWN, np.float32),
    )
    scores = scorer.score(batch)
    assert (scores == scores[0]).all()
    assert 0 < scores[0] < 1


@pytest.mark.parametrize("rival", ["logistic regression", "best single feature"])
def test_its_report_shows_it_above(rival: str) -> None:
    """The report is written by the command that trained the bundle, on weeks it never saw."""
    report = json.loads(FOLDER.with_name("default.report.json").read_text())
    assert report["model_id"] == bundles.read(FOLDER).model_id
    single = report["best_single_feature"]["ap"]
    other = single if rival == "best single feature" else report["models"][rival]["ap"]
    assert report["models"]["this bundle"]["ap"] > other
    # Frauds lie together, so even random trees rank them all high or all low: the bound is wide.
    assert abs(report["shuffled_label_auc"] - 0.5) < 0.25
