"""Made-up streams for the model's tests: random events, random features, a planted rule; a model
and a bundle for them, with random weights."""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np
from numpy.typing import NDArray

from model import data
from model.bundle import Bundle, weights_of
from model.calibrate import IDENTITY
from model.finetune import golden_rows, logits_of
from model.pretrained import with_golden_scores
from model.tokens import quantile_knots
from model.transformer import Shape, Transformer

START_MS = 1_735_689_600_000
DAY_MS = 86_400_000
FEATURES = 12
SMALL = Shape(width=64, event=16, knots=16)
"""Half as wide as what is shipped, and quick to fit; its kernel, that of `model` too, is compiled
once."""


def words(rng: np.random.Generator, n: int, days: float = 60) -> NDArray[np.uint64]:
    """n events in time order, few merchants and devices so that events repeat."""
    out = np.zeros((n, 4), np.uint64)
    time = np.sort(rng.integers(START_MS, START_MS + int(days * DAY_MS), n)).astype(np.uint64)
    out[:, 0] = (time << np.uint64(20)) | rng.integers(0, 1 << 20, n).astype(np.uint64)
    amount = np.exp(rng.normal(8, 1.5, n)).astype(np.uint64)
    out[:, 1] = (amount << np.uint64(14)) | rng.integers(0, 10_000, n).astype(np.uint64)
    out[:, 2] = rng.integers(0, 1 << 63, n).astype(np.uint64)
    place = rng.integers(0, 5, n).astype(np.uint64) * np.uint64(7_919)
    country = rng.integers(0, 3, n).astype(np.uint64)
    device = rng.integers(0, 3, n).astype(np.uint64)
    out[:, 3] = (place << np.uint64(32)) | (country << np.uint64(22)) | device
    return out


def dataset(
    accounts: int = 12, each: int = 150, seed: int = 0, plain: bool = False
) -> data.Dataset:
    """Labels follow a planted rule: a large first feature, and the amount of the event before.

    `plain` leaves out random kinds and categories, which a small stream only invites to learn by
    heart.
    """
    rng = np.random.default_rng(seed)
    parts = [words(rng, each) for _ in range(accounts)]
    whole = np.concatenate(parts)
    n = len(whole)
    if plain:
        whole[:, 0] &= ~np.uint64(0xFFFFF)
        whole[:, 1] &= ~np.uint64(0x3FFF)
    x = rng.normal(0, 2, (n, FEATURES)).astype(np.float32)
    x[rng.random((n, FEATURES)) < 0.1] = -1.0
    large = (whole[:, 1] >> np.uint64(14)) > 6_000
    before = np.concatenate([[False], large[:-1]])
    label = ((x[:, 0] > 0.5) & before).astype(np.int8)
    time = (whole[:, 0] >> np.uint64(20)).astype(np.int64)
    names = [f"a{i:03d}" for i in np.repeat(np.arange(accounts), each)]
    return data.build(
        whole,
        x,
        np.array(names),
        label,
        time + 5 * DAY_MS,
        names=[f"f{i}" for i in range(FEATURES)],
        feature_digest="test",
    )


def model(source: data.Dataset, shape: Shape | None = None, seed: int = 0) -> Transformer:
    """A model with weights large enough for every part of it to matter."""
    import torch

    torch.manual_seed(seed)
    shape = shape or Shape(width=64, knots=16)
    made = Transformer(shape, quantile_knots(np.asarray(source.features), shape.knots))
    with torch.no_grad():
        for p in made.parameters():
            if p.ndim == 1:
                p += 0.1 * torch.randn_like(p)
        made.feature_step *= 5
        made.head.weight *= 12
    return made.eval()


def bundle(
    source: data.Dataset,
    seed: int = 0,
    name: str = "test",
    thresholds: Mapping[str, float] | None = None,
) -> Bundle:
    """The model of `seed` packed with the golden rows of `source`, not calibrated."""
    made, rows = model(source, seed=seed), np.arange(len(source))
    packed = Bundle(
        name=name,
        shape=made.shape,
        weights=weights_of(made),
        names=source.names,
        feature_digest=source.feature_digest,
        groups=("one",) * 6 + ("two",) * 6,
        usual=np.zeros(FEATURES, np.float32),
        calibration=IDENTITY,
        golden=golden_rows(source, rows, logits_of(made, source, rows)),
        thresholds=dict(thresholds or {}),
    )
    return with_golden_scores(packed)
