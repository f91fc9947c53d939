"""The rates of a fit, what they hold for, and the average of its weights: in slow words."""

from __future__ import annotations

import math

import pytest
import torch

from model import loop
from model.loop import Average, Recipe
from model.transformer import Transformer


def test_the_rate_rises_shortly_and_falls_to_nothing() -> None:
    shares = [loop._pace(step / 1_000, 0.05) for step in range(1_001)]
    top = shares.index(max(shares))
    assert shares[0] == pytest.approx(0.01) and shares[-1] == pytest.approx(0)
    assert 45 <= top <= 50 and 0.99 < shares[top] <= 1
    assert shares[: top + 1] == sorted(shares[: top + 1])
    assert shares[top:] == sorted(shares[top:], reverse=True)
    assert shares[500] == pytest.approx(0.5), "half a cosine"


def test_each_parameter_learns_by_the_rate_of_its_kind(model: Transformer) -> None:
    recipe = Recipe(rate=0.1, table_rate=3, decay=0.02)
    found = {
        id(p): (group["lr"], group["weight_decay"])
        for group in loop.groups_of(model, recipe)
        for p in group["params"]
    }
    assert len(found) == len(list(model.parameters()))
    for name, p in model.named_parameters():
        table = "table" in name or "feature_step" in name
        free = not table and (p.ndim < 2 or "recency" in name or "frequency" in name)
        expected = (0.1 * 3 if table else 0.1, 0 if free else 0.02)
        assert found[id(p)] == pytest.approx(expected), name


def test_the_average_forgets_its_start_and_then_as_told() -> None:
    """Of constant weights it is soon these; later a step moves it by 1 - rate."""
    one = torch.nn.Linear(1, 1, bias=False)
    torch.nn.init.zeros_(one.weight)
    average, expected = Average(one, 0.9), 0.0
    for step in range(1, 200):
        torch.nn.init.constant_(one.weight, math.sin(step))
        average.update(one)
        rate = min(0.9, (step / 10) / (1 + step / 10))
        expected = rate * expected + (1 - rate) * math.sin(step)
        assert average.values["weight"].item() == pytest.approx(expected, abs=1e-5)
    assert one.weight.item() == pytest.approx(math.sin(199)), "the weights go on as they are"
