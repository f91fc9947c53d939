"""Bundles: what is written is read back, damage is found, scores survive the trip, registry."""

from __future__ import annotations

import errno
import json
import os
import shutil
from dataclasses import replace
from pathlib import Path
from typing import Any
from unittest.mock import Mock

import numpy as np
import pytest

from model import bundle as bundles
from model import data as datasets
from model import explain, signing
from model.bundle import Bundle
from model.data import Dataset, gather
from model.errors import BundleError, BundleMissing, OutputTaken
from model.registry import Registry
from model.score import Scorer
from model.stub import StubScorer
from tests.model import streams_of_words as made


def test_round_trip_and_scores(data: Dataset, folder: Path) -> None:
    scorer = Scorer.load(folder)
    batch = gather(data, data.place(), np.arange(300))
    scores = scorer.score(batch)
    assert scores.dtype == np.float64
    assert ((scores > 0) & (scores < 1)).all()
    assert scores.std() > 0.05
    assert scorer.model_id == f"test@{bundles.read(folder).digest}"
    three = Scorer.load(folder, threads=3).score(batch)
    assert (three.view(np.uint64) == scores.view(np.uint64)).all()


def test_no_pickle_and_small(folder: Path) -> None:
    assert sorted(p.name for p in folder.iterdir()) == ["manifest.json", "weights.safetensors"]


@pytest.mark.parametrize("file", ["weights.safetensors", "manifest.json"])
@pytest.mark.parametrize("damage", ["flip", "cut", "remove"])
def test_any_damage_is_found(folder: Path, file: str, damage: str) -> None:
    path = folder / file
    raw = bytearray(path.read_bytes())
    if damage == "flip":
        raw[len(raw) // 2] ^= 1
        path.write_bytes(raw)
    elif damage == "cut":
        path.write_bytes(raw[: len(raw) // 2])
    else:
        path.unlink()
    with pytest.raises(BundleError) as failure:
        bundles.read(folder)
    assert failure.value.remedy, "what to do is said, whatever is wrong"


def test_changed_manifest_is_found(folder: Path) -> None:
    path = folder / "manifest.json"
    manifest = json.loads(path.read_text())
    manifest["calibration"][0][1] -= 1.0
    path.write_text(json.dumps(manifest))
    with pytest.raises(BundleError, match="own digest"):
        bundles.read(folder)


def forged(folder: Path, **changes: Any) -> None:
    """Change a manifest as somebody does who knows how its digest is made."""
    path = folder / "manifest.json"
    manifest = json.loads(path.read_text()) | changes
    path.write_text(json.dumps(manifest | {"digest": signing.digest(manifest)}))


@pytest.mark.parametrize(
    "changes",
    [
        *({"name": name} for name in ("../../evil", "/evil", "", ".hidden", "a" * 65, "a/b", 5)),
        *(
            {"shape": {**made.model(made.dataset(1, 5)).shape.as_dict(), **change}}
            for change in (
                {"width": 10**9},
                {"layers": 10**6},
                {"layers": -1},
                {"heads": 0},
                {"hidden": 0},
                {"width": "64"},
                {"width": True},
                {"history": 1},
                {"knots": 10**9},
                {"more": 1},
            )
        ),
        *(
            {"calibration": knots}
            for knots in (
                [[0, 0]],
                [[0, 0], [0, 1]],
                [[1, 0], [0, 1]],
                [[0, 1], [1, 0]],
                [[float("nan"), 0], [1, 1]],
                [[0, 0], [1, float("inf")]],
                [[0], [1]],
            )
        ),
        {"groups": ["one"]},
        {"features": ["f0"]},
        {"thresholds": 5},
        {"sha256": None},
        {"tokens": None},
    ],
    ids=repr,
)
def test_a_forged_manifest_is_refused_before_anything_is_made_of_it(
    folder: Path, changes: dict[str, Any]
) -> None:
    forged(folder, **changes)
    with pytest.raises(BundleError):
        Scorer.load(folder)


def test_a_number_that_no_float_holds_is_refused(folder: Path) -> None:
    forged(folder, thresholds={"budget": 10**400})
    with pytest.raises(BundleError, match="too large"):
        bundles.read(folder)


def test_a_forged_name_leads_nowhere(folder: Path, tmp_path: Path) -> None:
    forged(folder, name="../../../evil")
    before = sorted(tmp_path.rglob("*"))
    with pytest.raises(BundleError, match="no name of a bundle"):
        Registry(tmp_path / "registry").add(folder)
    assert sorted(tmp_path.rglob("*")) == before


@pytest.mark.parametrize("file", ["weights.safetensors", "manifest.json"])
@pytest.mark.parametrize("kind", ["endless", "pipe", "folder", "large"])
def test_only_regular_files_of_a_bearable_size_are_read(folder: Path, file: str, kind: str) -> None:
    path = folder / file
    path.unlink()
    if kind == "endless":
        path.symlink_to("/dev/zero")
    elif kind == "pipe":
        os.mkfifo(path)
    elif kind == "folder":
        path.mkdir()
    else:
        with path.open("wb") as sparse:
            sparse.truncate(bundles.MAX_BYTES + 1)
    with pytest.raises(BundleError, match=r"regular|larger|cannot be read"):
        bundles.read(folder)


def test_a_training_set_in_place_of_a_bundle_is_called_one(data: Dataset, tmp_path: Path) -> None:
    """Both have a manifest of format 1: who swaps two folders is told so."""
    datasets.write(data, tmp_path / "set")
    with pytest.raises(BundleError, match="is a training set, not a bundle"):
        bundles.read(tmp_path / "set")


def test_a_file_or_a_recording_in_place_of_a_bundle_is_told_what_to_name(tmp_path: Path) -> None:
    (tmp_path / "stream.parquet").write_bytes(b"PAR1")
    with pytest.raises(BundleMissing, match=r"no model bundle in .*give a folder"):
        bundles.read(tmp_path / "stream.parquet")
    (tmp_path / "manifest.json").write_text('{"format": "fraudstream-recording"}')
    with pytest.raises(BundleError, match=r"is not a bundle of format 1\. name the folder of a"):
        bundles.read(tmp_path)


def test_a_manifest_that_nests_without_end_is_refused(folder: Path) -> None:
    (folder / "manifest.json").write_text("[" * 200_000)
    with pytest.raises(BundleError, match="nests"):
        bundles.read(folder)


def test_the_registry_takes_the_two_files_and_nothing_beside_them(
    folder: Path, tmp_path: Path
) -> None:
    secret = tmp_path / "secret"
    secret.write_text("of another place")
    (folder / "notes").symlink_to(secret)
    registry = Registry(tmp_path / "registry")
    held = registry.path(registry.add(folder).model_id)
    assert sorted(path.name for path in held.iterdir()) == ["manifest.json", "weights.safetensors"]


def test_wrong_golden_scores_are_refused(data: Dataset, tmp_path: Path) -> None:
    bundle = made.bundle(data)
    assert bundle.golden_scores is not None
    wrong = Bundle(**{**bundle.__dict__, "golden_scores": bundle.golden_scores + 1e-4})
    bundles.write(wrong, tmp_path / "w")
    with pytest.raises(BundleError, match="golden"):
        Scorer.load(tmp_path / "w")


def test_other_features_are_refused(data: Dataset, folder: Path) -> None:
    bundle = bundles.read(folder)
    bundles.require_features(bundle, data.names, "test")
    with pytest.raises(BundleError, match=r"only in the bundle: \['f0'\], only here: \['g0'\]"):
        bundles.require_features(bundle, ["g0", *data.names[1:]], "other")
    # The same names may mean something else, and the same digest is of an order.
    for names, digest in ((data.names, "other"), (data.names[::-1], "test")):
        with pytest.raises(BundleError, match=f"was trained on features test, this is {digest}"):
            bundles.require_features(bundle, names, digest)


def test_signature(data: Dataset, tmp_path: Path) -> None:
    from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

    seed, other = bytes(range(32)), bytes(range(1, 33))
    public = Ed25519PrivateKey.from_private_bytes(seed).public_key().public_bytes_raw()
    stranger = Ed25519PrivateKey.from_private_bytes(other).public_key().public_bytes_raw()
    bundles.write(made.bundle(data), tmp_path / "signed", seed)
    bundles.write(made.bundle(data), tmp_path / "plain")
    assert bundles.read(tmp_path / "signed", public).name == "test"
    odd = shutil.copytree(tmp_path / "plain", tmp_path / "odd")
    told = json.loads((odd / bundles.MANIFEST).read_text())
    (odd / bundles.MANIFEST).write_text(json.dumps({**told, "signature": 5}))
    for folder, key, said in (
        ("signed", stranger, "not signed by the expected key.*give the public key of whoever"),
        ("plain", public, r"is not signed\. sign it"),
        ("odd", public, "not signed by the expected key"),
    ):
        with pytest.raises(BundleError, match=said):
            bundles.read(tmp_path / folder, key)


def test_registry_promotes_rolls_back_and_keeps_the_good_one(data: Dataset, tmp_path: Path) -> None:
    first, second = tmp_path / "one", tmp_path / "two"
    bundles.write(made.bundle(data, 0), first)
    bundles.write(made.bundle(data, 1), second)
    registry = Registry(tmp_path / "registry")
    assert registry.current() is None
    a, b = registry.add(first).model_id, registry.add(second).model_id
    assert registry.ids() == sorted([a, b])
    registry.promote(a, 1)
    registry.promote(b, 2, "better")
    assert registry.current() == registry.path(b)
    assert registry.roll_back(3).model_id == a
    assert [p.model_id for p in registry.history()] == [a, b, a]
    with pytest.raises(BundleError, match="2 bundles"):
        registry.find("test")
    assert registry.find("nothing") is None
    weights = registry.path(b) / "weights.safetensors"
    weights.write_bytes(weights.read_bytes()[:-1])
    with pytest.raises(BundleError):
        registry.promote(b, 4)
    assert registry.current() == registry.path(a)


def test_rolling_back_again_goes_further_back(data: Dataset, tmp_path: Path) -> None:
    registry, ids = Registry(tmp_path / "registry"), []
    for seed in range(3):
        bundles.write(made.bundle(data, seed), tmp_path / str(seed))
        ids.append(registry.add(tmp_path / str(seed)).model_id)
        registry.promote(ids[-1], seed)
    assert [registry.roll_back(time).model_id for time in (3, 4)] == [ids[1], ids[0]]
    registry.promote(ids[2], 6)
    assert registry.roll_back(7).model_id == ids[0]


def test_before_the_first_promotion_the_shipped_bundle_served(
    data: Dataset, tmp_path: Path
) -> None:
    registry = Registry(tmp_path / "registry")
    with pytest.raises(BundleError, match="no model was promoted"):
        registry.roll_back(0)
    bundles.write(made.bundle(data, 0), tmp_path / "0")
    first = registry.promote(registry.add(tmp_path / "0").model_id, 1).model_id
    shipped = bundles.read(bundles.shipped()).model_id
    for time in (2, 5):
        assert registry.roll_back(time).model_id == shipped
        assert registry.current() == registry.path(shipped)
        with pytest.raises(BundleError, match="no earlier model"):
            registry.roll_back(time)
        registry.promote(first, time)
    assert registry.roll_back(6).model_id == shipped


@pytest.mark.parametrize("kind", ["folder", "data", "file", "link"])
def test_a_bundle_takes_the_place_of_nothing_but_a_bundle(
    data: Dataset, tmp_path: Path, kind: str
) -> None:
    place = tmp_path / "out"
    if kind == "file":
        place.write_text("precious")
    elif kind == "link":
        (tmp_path / "else").mkdir()
        place.symlink_to(tmp_path / "else")
    else:
        place.mkdir()
        (place / "notes.txt").write_text("precious")
        if kind == "data":
            (place / "manifest.json").write_text("{}")
    before = sorted(path.relative_to(tmp_path) for path in tmp_path.rglob("*"))
    with pytest.raises(OutputTaken, match="nothing there was touched"):
        bundles.write(made.bundle(data), place)
    assert sorted(path.relative_to(tmp_path) for path in tmp_path.rglob("*")) == before


def test_a_bundle_that_cannot_take_its_place_leaves_the_one_that_has_it(
    data: Dataset, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The one before has made room by then; nothing real fails just between two renames."""
    out, rename = tmp_path / "out", os.rename
    bundles.write(made.bundle(data, seed=1), out)
    before = bundles.read(out).digest

    def failing(source: Path, target: Path) -> None:
        if Path(target) == out and not str(source).endswith("-old"):
            raise OSError(errno.EIO, os.strerror(errno.EIO), str(target))
        rename(source, target)

    monkeypatch.setattr(os, "rename", failing)
    with pytest.raises(OSError, match="Input/output error"):
        bundles.write(made.bundle(data, seed=2), out)
    assert bundles.read(out).digest == before
    assert [path.name for path in tmp_path.iterdir()] == ["out"]


def test_a_full_disk_is_named_and_the_bundle_before_stays(
    data: Dataset, folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    before = sorted(folder.parent.rglob("*"))
    full = OSError(errno.ENOSPC, "No space left on device")
    monkeypatch.setattr(Path, "write_bytes", Mock(side_effect=full))
    with pytest.raises(OSError, match="No space left on device: ") as problem:
        bundles.write(made.bundle(data, seed=1), folder)
    assert problem.value.filename == str(folder)
    assert sorted(folder.parent.rglob("*")) == before


def test_explanation_names_what_matters(data: Dataset, folder: Path) -> None:
    scorer = Scorer.load(folder)
    batch = gather(data, data.place(), np.arange(200, 210))
    told = scorer.explain(batch)
    assert len(told) == 10
    assert set(told[0]) == {"one", "two", "history"}
    blind = batch.features.copy()
    blind[:, 6:] = 0.0
    changed = type(batch)(batch.current, batch.history, batch.length, blind)
    p, q = scorer.score(batch), scorer.score(changed)
    expected = np.log(p / (1 - p)) - np.log(q / (1 - q))
    assert np.allclose([row["two"] for row in told], expected)


def test_stub_tells_every_bit_apart() -> None:
    rng = np.random.default_rng(0)
    x = rng.normal(size=(2_000, 5)).astype(np.float32)
    empty = np.zeros((2_000, 4), np.uint64)
    history, length = np.zeros((2_000, 64, 4), np.uint64), np.zeros(2_000, np.int32)
    batch = type(gather(made.dataset(1, 5), np.zeros(5, np.int32), np.array([0])))
    scores = StubScorer().score(batch(empty, history, length, x))
    assert ((scores >= 0) & (scores < 1)).all()
    assert 0.005 < (scores > 0.3).mean() < 0.05
    y = x.copy()
    y.view(np.uint32)[:, 3] ^= 1
    assert (StubScorer().score(batch(empty, history, length, y)) != scores).all()


def test_our_order_of_groups_beats_chance(data: Dataset, folder: Path) -> None:
    """Deletion falls faster and insertion rises faster than in the order turned round."""
    bundle = bundles.read(folder)
    groups = tuple(f"g{i}" for i in range(made.FEATURES))
    scorer = Scorer(replace(bundle, groups=groups))
    batch = gather(data, data.place(), np.arange(200, 240))
    told = explain.contributions(scorer, batch)
    ours = [explain.order_of(one) for one in told]
    other = [order[::-1] for order in ours]
    assert explain.curve(scorer, batch, ours).mean() < explain.curve(scorer, batch, other).mean()
    up, down = (explain.curve(scorer, batch, one, insert=True) for one in (ours, other))
    assert up.mean() > down.mean()
    # Both curves hold the payment as it is, and the payment without any group, at their ends.
    assert up[-1] == pytest.approx(scorer.score(batch).mean())
    assert up[0] == pytest.approx(explain.curve(scorer, batch, ours)[-1])


def test_gradient_times_input_mostly_agrees_on_large_parts(data: Dataset, folder: Path) -> None:
    scorer = Scorer.load(folder)
    batch = gather(data, data.place(), np.arange(200, 240))
    slopes = explain.gradient_times_input(scorer, batch)
    told = explain.contributions(scorer, batch)
    assert set(slopes[0]) == set(told[0])
    pairs = np.array([[s[g], t[g]] for s, t in zip(slopes, told, strict=True) for g in s])
    large = np.abs(pairs[:, 1]) > np.quantile(np.abs(pairs[:, 1]), 0.8)
    assert (np.sign(pairs[large, 0]) == np.sign(pairs[large, 1])).mean() > 0.7


def test_a_bundle_for_other_events_is_refused(data: Dataset, folder: Path) -> None:
    path = folder / "manifest.json"
    manifest = json.loads(path.read_text())
    manifest["schema"]["version"] = 2
    manifest["digest"] = signing.digest(manifest)
    path.write_text(json.dumps(manifest))
    with pytest.raises(BundleError, match="schema"):
        bundles.read(folder)
