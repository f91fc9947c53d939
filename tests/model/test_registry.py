"""The registry: a bundle that no worker could serve replaces nothing, and nobody is in the way."""

from __future__ import annotations

import contextlib
import errno
import os
import shutil
import tempfile
import threading
from dataclasses import replace
from pathlib import Path
from unittest.mock import Mock

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from model import bundle as bundles
from model import signing
from model.bundle import Bundle
from model.data import Dataset
from model.errors import BundleError, BundleMissing
from model.registry import MAX_HISTORY, ROLLED_BACK, Promotion, Registry, _served
from tests.model import streams_of_words as made
from tests.rights import bound_by_rights


@pytest.fixture(scope="module")
def data() -> Dataset:
    return made.dataset(accounts=4)


@pytest.fixture
def registry(data: Dataset, tmp_path: Path) -> Registry:
    """One with a good bundle promoted."""
    found = Registry(tmp_path / "registry")
    bundles.write(made.bundle(data), tmp_path / "good")
    found.promote(found.add(tmp_path / "good").model_id, 1)
    return found


def unfit(data: Dataset, kind: str) -> Bundle:
    """Every byte as it was written, and yet no worker can start on it."""
    good = made.bundle(data, seed=1)
    if kind == "scores":
        assert good.golden_scores is not None
        return replace(good, golden_scores=np.full_like(good.golden_scores, 0.5))
    if kind == "tensor":
        weights = {name: a for name, a in good.weights.items() if not name.endswith("query.bias")}
        return replace(good, weights=weights)
    return replace(good, golden=None, golden_scores=None)


@pytest.mark.parametrize("kind", ["scores", "tensor", "no golden rows"])
def test_what_no_worker_can_load_is_neither_taken_nor_promoted(
    data: Dataset, registry: Registry, tmp_path: Path, kind: str
) -> None:
    before, serves = registry.ids(), registry.current()
    bad = bundles.write(unfit(data, kind), tmp_path / "bad")
    with pytest.raises(BundleError):
        registry.add(tmp_path / "bad")
    assert registry.ids() == before
    # As an earlier version would have taken it.
    bundles.write(bad, registry.root / "bundles" / bad.model_id)
    with pytest.raises(BundleError):
        registry.promote(bad.model_id, 2)
    assert registry.current() == serves


def test_the_way_back_asks_too(data: Dataset, registry: Registry, tmp_path: Path) -> None:
    bundles.write(made.bundle(data, seed=1), tmp_path / "two")
    second = registry.promote(registry.add(tmp_path / "two").model_id, 2).model_id

    def refuse(found: Bundle) -> None:
        raise BundleError(f"{found.model_id} is of other features")

    with pytest.raises(BundleError, match="other features"):
        registry.roll_back(3, refuse)
    assert registry.history()[-1].model_id == second


def test_of_promotions_at_once_none_is_lost(
    registry: Registry, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Each is made to wait between reading the history and writing it, for the others to come."""
    name, write, others = registry.ids()[0], Registry._write, threading.Barrier(3)

    def slow(self: Registry, history: list[Promotion]) -> None:
        with contextlib.suppress(threading.BrokenBarrierError):
            others.wait(0.5)
        write(self, history)

    monkeypatch.setattr(Registry, "_write", slow)
    failed: list[Exception] = []

    def promote(time: int) -> None:
        try:
            registry.promote(name, time)
        except Exception as error:
            failed.append(error)

    started = [threading.Thread(target=promote, args=(time,)) for time in (2, 3, 4)]
    for one in started:
        one.start()
    for one in started:
        one.join()
    assert not failed
    assert sorted(entry.time for entry in registry.history()) == [1, 2, 3, 4]


def test_what_a_dead_process_left_is_in_nobodys_way(
    data: Dataset, registry: Registry, tmp_path: Path
) -> None:
    """Under any process id, this one's too."""
    found = bundles.write(made.bundle(data, seed=1), tmp_path / "two")
    (registry.root / "bundles" / f".{found.model_id}.{os.getpid()}").mkdir()
    assert registry.add(tmp_path / "two").model_id in registry.ids()
    assert len(registry.ids()) == 2


@pytest.mark.parametrize("file", [bundles.WEIGHTS, bundles.MANIFEST])
def test_a_copy_that_was_damaged_is_taken_again(
    registry: Registry, tmp_path: Path, file: str
) -> None:
    """As by a crash of the machine before it was on the disk; `add` called it well and left it."""
    name = registry.ids()[0]
    path = registry.path(name) / file
    path.write_bytes(path.read_bytes()[:100])
    with pytest.raises(BundleError):
        registry.promote(name, 2)
    registry.add(tmp_path / "good")
    assert registry.promote(name, 2).model_id == name
    assert registry.ids() == [name]


def test_a_copy_without_the_signature_asked_for_is_taken_again(
    data: Dataset, registry: Registry, tmp_path: Path
) -> None:
    """It has the same digest: the signed one was called added, and the other stayed."""
    seed = bytes(range(32))
    public = signing.public_key(seed)
    bundles.write(bundles.read(tmp_path / "good"), tmp_path / "signed", seed)
    name = registry.ids()[0]
    strict = Registry(registry.root, public)
    assert strict.add(tmp_path / "signed").model_id == name
    assert bundles.read(registry.path(name), public).model_id == name
    registry.add(tmp_path / "good")
    assert bundles.read(registry.path(name), public).model_id == name


def test_a_registry_with_a_key_promotes_only_what_was_signed_by_it(
    data: Dataset, registry: Registry, tmp_path: Path
) -> None:
    seed = bytes(range(32))
    public = signing.public_key(seed)
    strict, plain = Registry(registry.root, public), registry.ids()[0]
    for refused in (
        lambda: strict.add(tmp_path / "good"),
        lambda: strict.promote(plain, 2),
        lambda: strict.roll_back(2),  # the shipped one is not signed, either
    ):
        with pytest.raises(BundleError, match="is not signed"):
            refused()
    assert [entry.model_id for entry in strict.history()] == [plain]
    bundles.write(made.bundle(data, 1), tmp_path / "signed", seed)
    signed = strict.promote(strict.add(tmp_path / "signed").model_id, 3).model_id
    with pytest.raises(BundleError, match=f"{plain} is not signed"):
        strict.roll_back(4)
    assert strict.history()[-1].model_id == signed
    assert registry.roll_back(4).model_id == plain


def test_a_copy_is_signed_by_who_adds_it_and_the_folder_stays_as_it_was(
    data: Dataset, registry: Registry, tmp_path: Path
) -> None:
    """Who fitted it may not be who approves of it."""
    seed, public = bytes(range(32)), signing.public_key(bytes(range(32)))
    plain, name = bundles.read(tmp_path / "good"), registry.ids()[0]
    before = (tmp_path / "good" / bundles.MANIFEST).read_bytes()
    assert registry.add(tmp_path / "good", seed).model_id == name, "a signature changes no digest"
    held = bundles.read(registry.path(name), public)
    assert held.digest == plain.digest and held.about == plain.about
    assert (tmp_path / "good" / bundles.MANIFEST).read_bytes() == before
    strict = Registry(tmp_path / "strict", public)
    with pytest.raises(BundleError, match="is not the one that bundles here must be signed by"):
        strict.add(tmp_path / "good", bytes(range(1, 33)))
    assert strict.ids() == []
    strict.promote(strict.add(tmp_path / "good", seed).model_id, 1)
    # Signed by another before: now by the one that is asked for.
    other = bytes(range(1, 33))
    assert registry.add(registry.path(name), other).model_id == name
    assert bundles.read(registry.path(name), signing.public_key(other)).model_id == name


def test_the_way_back_to_the_shipped_bundle_is_its_signed_copy(registry: Registry) -> None:
    """The message says to sign a copy; nobody looked at it then."""
    seed = bytes(range(32))
    shipped = registry.add(bundles.shipped(), seed).model_id
    strict = Registry(registry.root, signing.public_key(seed))
    assert strict.roll_back(2).model_id == shipped
    assert registry.history()[-1].model_id == shipped


def test_a_copy_that_cannot_be_replaced_stays(
    registry: Registry, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It was deleted first: a kill in between, and what serves was gone."""
    name, rename = registry.ids()[0], os.rename
    place = registry.path(name)

    def refuse(there: Path, here: Path) -> None:
        if here == place and not there.name.endswith("-old"):
            raise OSError(errno.EIO, "Input/output error")
        rename(there, here)

    monkeypatch.setattr(os, "rename", refuse)
    with pytest.raises(OSError, match="Input/output"):
        registry.add(tmp_path / "good", bytes(range(32)))
    assert bundles.read(place).model_id == name
    assert [path.name for path in place.parent.iterdir()] == [name]


def test_a_history_of_odd_models_is_called_damaged(registry: Registry) -> None:
    (registry.root / "current.json").write_text('{"history": [{"model_id": 5, "time": 1}]}')
    with pytest.raises(BundleError, match=r"current\.json is damaged: a model_id is no text"):
        registry.current()


@pytest.mark.parametrize("what", ["history", "bundle"])
def test_a_full_disk_is_named_and_changes_nothing(
    data: Dataset, registry: Registry, tmp_path: Path, what: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    full = OSError(errno.ENOSPC, "No space left on device")
    bundles.write(made.bundle(data, seed=1), tmp_path / "two")
    name = registry.ids()[0]
    before = sorted(registry.root.rglob("*"))
    monkeypatch.setattr(os, "fsync", Mock(side_effect=full))
    monkeypatch.setattr(shutil, "copyfileobj", Mock(side_effect=full))
    place = "bundles" if what == "bundle" else r"current\.json'"
    with pytest.raises(OSError, match=f"No space left on device: '{registry.root}/{place}"):
        registry.add(tmp_path / "two") if what == "bundle" else registry.promote(name, 2)
    assert sorted(registry.root.rglob("*")) == before


def test_what_another_user_made_is_locked_and_what_may_not_be_read_is_not_empty() -> None:
    """`models list` said that there was no bundle, and that the shipped one serves."""
    root = Path(tempfile.mkdtemp())
    bundles_of_another = root / "bundles"
    try:
        root.chmod(0o777)
        (root / ".lock").touch(0o444)
        bundles_of_another.mkdir(0)
        with bound_by_rights():
            with pytest.raises(BundleError, match="no model was promoted"):
                Registry(root).roll_back(1)
            with pytest.raises(PermissionError, match="bundles"):
                Registry(root).ids()
    finally:
        bundles_of_another.chmod(0o700)
        shutil.rmtree(root)


def test_what_serves_is_on_the_disk_before_it_is_named(
    data: Dataset, registry: Registry, tmp_path: Path, synced: list[int]
) -> None:
    """Else a machine that loses its power may keep the name of a bundle, and not the bundle."""
    bundles.write(made.bundle(data, seed=1), tmp_path / "new")
    own = [(tmp_path / "new" / name).stat().st_ino for name in (bundles.WEIGHTS, bundles.MANIFEST)]
    assert set(own) <= set(synced), "a fit took hours"
    synced.clear()
    registry.promote(registry.add(tmp_path / "new").model_id, 2)
    folder = registry.current()
    assert folder is not None
    files = [folder / bundles.MANIFEST, folder / bundles.WEIGHTS]
    expected = [*files, folder.parent, registry.root / "current.json", registry.root]
    assert synced == [path.stat().st_ino for path in expected]


@given(st.lists(st.sampled_from(["a", "b", "c", "back"]), max_size=12))
def test_each_way_back_undoes_one_promotion_in_whatever_order(steps: list[str]) -> None:
    """Held to a stack; below the first promotion lies the shipped bundle."""
    history: list[Promotion] = []
    stack = ["shipped"]
    for step in steps:
        note = ""
        if step == "back":
            if len(stack) == 1:
                continue  # refused
            note = f"{ROLLED_BACK} {stack.pop()}"
        elif step != stack[-1]:
            stack.append(step)
        history.append(Promotion(stack[-1], len(history), note))
        served = _served(history)
        assert served[-1] == stack[-1]
        assert served[-2:-1] in ([], stack[-2:-1]) and len(served) in (len(stack), len(stack) - 1)


def test_a_bundle_is_found_by_any_of_its_names(data: Dataset, registry: Registry) -> None:
    (name,) = registry.ids()
    for other in ("no bundle", ".hidden@1"):
        (registry.root / "bundles" / other).mkdir()
    assert registry.ids() == [name]
    for known in (name, *name.split("@")):
        assert registry.path(known) == registry.root / "bundles" / name
    for unknown in ("", "@", name[:-1], "no bundle", ".hidden@1"):
        assert registry.find(unknown) is None
        with pytest.raises(BundleMissing, match="no bundle named"):
            registry.path(unknown)


def test_a_long_history_loses_its_oldest_entries_only(registry: Registry) -> None:
    (name,) = registry.ids()
    registry._write([Promotion(name, time) for time in range(MAX_HISTORY)])
    registry.promote(name, MAX_HISTORY, "the newest")
    history = registry.history()
    assert [entry.time for entry in history] == list(range(1, MAX_HISTORY + 1))
    assert history[-1] == Promotion(name, MAX_HISTORY, "the newest")


@pytest.mark.parametrize(
    "content",
    ["", "[]", "{}", '{"history": 5}', '{"history": [{}]}', "[" * 200_000,
     '{"history": [{"model_id": "a@1", "time": 1}, {"model_id": 5, "time": 1}]}'],
)  # fmt: skip
def test_a_damaged_history_is_named_and_not_taken_for_an_empty_one(
    registry: Registry, content: str
) -> None:
    (registry.root / "current.json").write_text(content)
    for ask in (registry.current, registry.history, lambda: registry.promote("test", 2)):
        with pytest.raises(BundleError, match=r"current\.json is damaged"):
            ask()
    assert (registry.root / "current.json").read_text() == content


def test_a_bundle_that_was_replaced_while_it_was_read_is_not_taken(
    data: Dataset, registry: Registry, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """What was checked is not what would be copied."""
    bundles.write(made.bundle(data, seed=1), tmp_path / "two")
    before = sorted(registry.root.rglob("*"))

    def swapped(_: Bundle) -> None:
        bundles.write(made.bundle(data, seed=2), tmp_path / "two")

    monkeypatch.setattr("model.registry._check_scores", swapped)
    with pytest.raises(BundleError, match="was changed while it was read"):
        registry.add(tmp_path / "two")
    assert sorted(registry.root.rglob("*")) == before


@pytest.mark.parametrize("torn", [False, True])
def test_what_was_not_checked_is_not_signed_either(
    data: Dataset,
    registry: Registry,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    torn: bool,
) -> None:
    """The copy of what took its place was signed first, and lay for a moment where all may read."""
    bundles.write(made.bundle(data, seed=1), tmp_path / "two")

    def swapped(_: Bundle) -> None:
        bundles.write(made.bundle(data, seed=2), tmp_path / "two")
        if torn:
            (tmp_path / "two" / bundles.MANIFEST).write_text("{")

    signed: list[object] = []
    monkeypatch.setattr("model.registry._check_scores", swapped)
    monkeypatch.setattr("model.registry.signing.sign", lambda *given: signed.append(given))
    with pytest.raises(BundleError):
        registry.add(tmp_path / "two", bytes(range(32)))
    assert signed == []


def test_what_has_seen_no_label_is_kept_and_not_promoted(
    data: Dataset, registry: Registry, tmp_path: Path
) -> None:
    serves = registry.current()
    pretrained = replace(made.bundle(data, seed=1), extra={"heads.amount": np.zeros(1, np.float32)})
    bundles.write(pretrained, tmp_path / "base")
    name = registry.add(tmp_path / "base").model_id
    with pytest.raises(BundleError, match="is pretrained only"):
        registry.promote(name, 2)
    assert registry.current() == serves and name in registry.ids()


def test_another_user_may_read_what_is_written(
    data: Dataset, registry: Registry, tmp_path: Path
) -> None:
    """Both are made in folders for their maker alone; workers run as somebody else."""
    for folder in (tmp_path / "good", registry.path("test")):
        assert folder.stat().st_mode & 0o777 == 0o755
