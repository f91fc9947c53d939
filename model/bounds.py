"""What must hold of a bundle's numbers before anything is made of them.

In: what the manifest tells and the arrays of the weights. Out: nothing, or the checked value; a
ValueError says what is wrong. Does not know files, nor whether the scores are right.

The compiled kernels do not check an index: an array of another shape or type would be read beyond
its end. Codes of events need no check, `model/tokens.py` keeps them inside the tables for any bits.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from itertools import pairwise
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray

from model import tokens
from model.inputs import EVENT_WORDS, HISTORY
from model.transformer import TAPS, Shape

Arrays = Mapping[str, NDArray[Any]]
MULTIPLES: Final = {"width": 16, "key": 8, "value": 8}
"""Sizes that the CPU kernel walks in whole lanes."""
MAX_KNOTS: Final = 255
"""The row of a feature's table is told in one byte."""


def texts(told: Any, name: str) -> tuple[str, ...]:
    """A list of texts of the manifest."""
    if not isinstance(told, list) or not all(isinstance(one, str) for one in told):
        raise ValueError(f"{name} is no list of texts")
    return tuple(told)


def shape_of(told: Mapping[str, Any], weights: Arrays, features: int) -> Shape:
    """The shape, if the weights are enough for it: nothing of another size is ever allocated.

    Raises ValueError, TypeError.
    """
    s = Shape(**told)
    for name, value in s.as_dict().items():
        if type(value) is not type(getattr(Shape(), name)) or value < (value is not False):
            raise ValueError(f"shape: {name}")
    for name, unit in MULTIPLES.items():
        if getattr(s, name) % unit:
            raise ValueError(f"shape: {name} is {getattr(s, name)}, no multiple of {unit}")
    if s.knots > MAX_KNOTS:
        raise ValueError(f"shape: {s.knots} knots, {MAX_KNOTS} are the most")
    both = s.key + s.value
    layer = s.width * (s.heads * both + 2 * s.hidden) + tokens.RELATION_ROWS * both
    tables = tokens.ROWS * (s.event + s.width) + TAPS * s.event * both
    steps = features * (s.knots + 1) * s.width
    if tables + steps + s.layers * layer > sum(array.size for array in weights.values()):
        raise ValueError("shape: larger than the weights")
    return s


def calibration(told: Sequence[Sequence[float]]) -> tuple[tuple[float, float], ...]:
    """At least two knots, finite, rising. Raises ValueError, TypeError."""
    knots = tuple((float(x), float(y)) for x, y in told)
    xs, ys = zip(*knots, strict=True) if len(knots) > 1 else ((), ())
    rising = all(a < b for a, b in pairwise(xs)) and all(a <= b for a, b in pairwise(ys))
    if not (xs and rising and all(map(math.isfinite, (*xs, *ys)))):
        raise ValueError("calibration: no finite, rising line")
    return knots


def thresholds(told: Mapping[str, Any]) -> dict[str, float]:
    """Finite numbers by name."""
    found = {name: float(value) for name, value in dict(told).items()}
    if not all(map(math.isfinite, found.values())):
        raise ValueError("thresholds: not all are finite")
    return found


def _is(array: NDArray[Any], name: str, kind: Any, *sizes: int) -> None:
    """Of this type and shape, and finite where it has fractions."""
    if array.dtype != np.dtype(kind) or array.shape != sizes:
        wanted = f"{np.dtype(kind)} {list(sizes)}"
        raise ValueError(f"{name} is {array.dtype} {list(array.shape)}, not {wanted}")
    if array.dtype.kind == "f" and not np.isfinite(array).all():
        raise ValueError(f"{name} is not finite everywhere")


def check_weights(weights: Arrays, shape: Shape, usual: NDArray[Any], features: int) -> None:
    """The knots rise strictly up to the first infinite one, all else is finite.

    Which tensors there must be, and their shapes, torch checks when it takes them.
    """
    for name, array in weights.items():
        if name != "knots":
            _is(array, f"weight.{name}", np.float32, *array.shape)
    _is(usual, "usual", np.float32, features)
    knots = weights["knots"]
    _is(np.nan_to_num(knots, nan=np.nan, posinf=0), "knots", np.float32, features, shape.knots)
    low, high = knots[:, :-1], knots[:, 1:]
    if not (np.isfinite(knots[:, 0]).all() and ((low < high) | (high == np.inf)).all()):
        raise ValueError("knots do not rise")


def check_golden(arrays: Arrays, features: int) -> None:
    """Golden rows as the kernels read them: as `ScoringBatch` says, at least one, and a score each.

    Words are held as int64, a type that every reader of such files knows.
    """
    length = arrays["golden.length"]
    n = length.size
    _is(length, "golden.length", np.int32, max(n, 1))
    _is(arrays["golden.current"], "golden.current", np.int64, n, EVENT_WORDS)
    _is(arrays["golden.history"], "golden.history", np.int64, n, HISTORY, EVENT_WORDS)
    _is(arrays["golden.features"], "golden.features", np.float32, n, features)
    _is(arrays["golden.scores"], "golden.scores", np.float64, n)
    if length.min() < 0 or length.max() > HISTORY:
        raise ValueError(f"golden.length is not 0 to {HISTORY} everywhere")
