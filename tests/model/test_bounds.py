"""Bundles whose numbers would lead a kernel astray are refused at the reading, with a reason."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from safetensors.numpy import load, save

from model import bundle as bundles
from model import signing
from model.errors import BundleError
from model.inputs import HISTORY

Arrays = dict[str, Any]


def forge(folder: Path, change: Callable[[Arrays], Any], **told: Any) -> None:
    """Change arrays and manifest as somebody does who knows how the checksums are made."""
    path = folder / bundles.WEIGHTS
    arrays = load(path.read_bytes())
    change(arrays)
    path.write_bytes(save(arrays))
    manifest = json.loads((folder / bundles.MANIFEST).read_text()) | told
    manifest["sha256"][bundles.WEIGHTS] = hashlib.sha256(path.read_bytes()).hexdigest()
    manifest["digest"] = signing.digest(manifest)
    (folder / bundles.MANIFEST).write_text(json.dumps(manifest))


def put(name: str, make: Callable[[Any], Any]) -> Callable[[Arrays], None]:
    def change(arrays: Arrays) -> None:
        arrays[name] = np.ascontiguousarray(make(arrays[name]))

    return change


def at(place: Any, value: float) -> Callable[[Any], Any]:
    def make(array: Any) -> Any:
        array = array.copy()
        array[place] = value
        return array

    return make


@pytest.mark.parametrize(
    ("name", "make", "said"),
    [
        ("golden.length", at(0, 2_000_000_000), f"golden.length is not 0 to {HISTORY}"),
        ("golden.length", at(0, -20), f"golden.length is not 0 to {HISTORY}"),
        ("golden.length", lambda a: a.astype(np.int64), "golden.length is int64"),
        ("golden.length", lambda a: a[:0], "golden.length is int32 [0]"),
        ("golden.current", lambda a: a[:, :3], "golden.current is int64"),
        ("golden.current", lambda a: a.astype(np.float64), "golden.current is float64"),
        ("golden.history", lambda a: a[:, :60], "golden.history is"),
        ("golden.features", lambda a: a[:, :5], "golden.features is"),
        ("golden.features", at((0, 0), np.nan), "golden.features is not finite"),
        ("golden.scores", lambda a: a[:3], "golden.scores is"),
        ("usual", lambda a: a[:3], "usual is float32 [3]"),
        ("usual", at(0, np.inf), "usual is not finite"),
        ("weight.knots", lambda a: a[:, :-1], "knots is"),
        ("weight.knots", lambda a: np.concatenate([a, a + 1e6], 1), "knots is"),
        ("weight.knots", lambda a: a[:, ::-1], "knots"),
        ("weight.knots", at((0, 1), np.nan), "knots is not finite"),
        ("weight.head.weight", at(0, np.nan), "weight.head.weight is not finite"),
        ("weight.head.weight", lambda a: a.astype(np.float64), "weight.head.weight is float64"),
    ],
)
def test_arrays_that_do_not_fit_are_refused_with_a_reason(
    folder: Path, name: str, make: Callable[[Any], Any], said: str
) -> None:
    forge(folder, put(name, make))
    with pytest.raises(BundleError) as refused:
        bundles.read(folder)
    assert said in str(refused.value)
    assert refused.value.remedy


def test_golden_rows_are_whole_or_not_there(folder: Path) -> None:
    forge(folder, lambda arrays: arrays.pop("golden.current"))
    with pytest.raises(BundleError, match="golden"):
        bundles.read(folder)


@pytest.mark.parametrize(
    "change", [{"width": 40}, {"key": 12}, {"value": 20}, {"knots": 256}, {"event": 4_000}]
)
def test_sizes_that_no_kernel_is_made_for_are_refused(folder: Path, change: dict[str, int]) -> None:
    shape = bundles.read(folder).shape.as_dict() | change
    forge(folder, lambda arrays: None, shape=shape)
    with pytest.raises(BundleError, match=f"shape: .*({next(iter(change))}|larger)"):
        bundles.read(folder)


@pytest.mark.parametrize(
    "told",
    [
        {"features": "abcdefghijkl"},
        {"features": list(range(12))},
        {"groups": [["a"]] * 12},
        {"thresholds": {"budget_1%": "high"}},
        {"thresholds": {"budget_1%": float("nan")}},
    ],
    ids=repr,
)
def test_what_the_manifest_tells_is_of_its_kind(folder: Path, told: dict[str, Any]) -> None:
    forge(folder, lambda arrays: None, **told)
    with pytest.raises(BundleError, match="damaged or foreign"):
        bundles.read(folder)


def test_the_shipped_bundle_holds_them_all() -> None:
    assert bundles.read(bundles.shipped()).golden is not None
