"""The comparison that is always printed beside: boosted trees and logistic regression on windows.

In: feature rows and labels. Out: scores of other rows. Does not see the history, by intent.
scikit-learn and LightGBM come with the extra `train`.
"""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

from model import metrics

Features = NDArray[np.float32]
Labels = NDArray[np.int8]
Scores = NDArray[np.float64]


def lightgbm(
    x: Features,
    y: Labels,
    judge_x: Features | None = None,
    judge_y: Labels | None = None,
    seed: int = 0,
    threads: int = 1,
    rounds: int = 600,
    **other: Any,
) -> Any:
    """Boosted trees, stopped by average precision on the judging block; without one, all rounds.

    1,023 bins: with the usual 255 the top bin of an amount holds hundreds of rows, and a limit that
    lies among them is never found.
    """
    import lightgbm as lgb

    settings = {
        "objective": "binary",
        "metric": "average_precision",
        "learning_rate": 0.05,
        "num_leaves": 31,
        "min_data_in_leaf": 50,
        "feature_fraction": 0.7,
        "bagging_fraction": 0.8,
        "bagging_freq": 1,
        "lambda_l2": 5.0,
        "max_bin": 1_023,
        "min_data_in_bin": 1,
        "verbosity": -1,
        "seed": seed,
        "num_threads": threads,
        "deterministic": True,
        **other,
    }
    fit = lgb.Dataset(x, y)
    if judge_x is None:
        return lgb.train(settings, fit, rounds)
    judge = lgb.Dataset(judge_x, judge_y, reference=fit)
    stop = lgb.early_stopping(50, verbose=False)
    return lgb.train(settings, fit, rounds, valid_sets=[judge], callbacks=[stop])


def _scaled(x: Features) -> NDArray[np.float64]:
    """Signed log of size, and a flag for unknown: what a linear model can use."""
    known = x != -1
    logged = np.sign(x) * np.log1p(np.abs(x, dtype=np.float64)) * known
    return np.concatenate([logged, known], 1)


class Logistic:
    """Logistic regression on scaled features."""

    def __init__(self, x: Features, y: Labels) -> None:
        from sklearn.linear_model import LogisticRegression
        from sklearn.pipeline import make_pipeline
        from sklearn.preprocessing import StandardScaler

        model = make_pipeline(StandardScaler(), LogisticRegression(C=0.1, max_iter=300))
        self._model = model.fit(_scaled(x), y)

    def predict(self, x: Features) -> Scores:
        """Probability of fraud."""
        return np.asarray(self._model.predict_proba(_scaled(x))[:, 1])


def best_single_feature(
    x: Features, y: Labels, test_x: Features, test_y: Labels, names: tuple[str, ...]
) -> tuple[str, float]:
    """The feature (and direction) that ranks the first rows best, and its AP on the others."""
    best, chosen, sign = -1.0, 0, 1.0
    for f in range(x.shape[1]):
        for direction in (1.0, -1.0):
            found = metrics.average_precision(y, direction * x[:, f].astype(np.float64))
            if found > best:
                best, chosen, sign = found, f, direction
    score = sign * test_x[:, chosen].astype(np.float64)
    return names[chosen], metrics.average_precision(test_y, score)
