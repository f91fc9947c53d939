"""Verify: by whom and by what a score was made, where the features are the same."""

from __future__ import annotations

import math
import shutil
from pathlib import Path

import orjson

from streams.offline.recording import Recording
from tests.offline import world
from tests.offline.world import World, check


def test_another_bundle_is_named(copy: World, tmp_path: Path) -> None:
    verdict = check(world.said_by(copy, "versions", "model", "other@1"), tmp_path / "v")
    assert set(verdict.causes) == {"model"} and "--set model.bundle" in str(verdict.first)


def test_scores_of_two_models_are_each_compared_with_their_own(copy: World, tmp_path: Path) -> None:
    """As they are recorded when workers get another bundle one after the other."""
    shutil.copytree(copy.recording.path, tmp_path / "later")
    flags = ("model.bundle=default", f"model.registry={tmp_path / 'none'}")
    later = World(Recording(str(tmp_path / "later")), world.settings(*flags))
    world.say(later, tmp_path / "said")
    manifest = copy.recording.manifest()
    for partition in manifest.partitions("transactions"):
        half = world.offset_at(copy, partition, len(world.scores(copy, partition)) // 2)
        for topic in ("scores", "alerts"):
            before = [one for one in world.told(copy, topic, partition) if world.source(one) < half]
            after = [
                one for one in world.told(later, topic, partition) if world.source(one) >= half
            ]
            world.put(copy.recording, manifest, topic, partition, [*before, *after])
    copy.recording.save(manifest)

    verdict = check(copy, tmp_path / "v")
    assert verdict.equal and "scores of several models: " in verdict.text()
    live = {orjson.loads(one)["versions"]["model"] for one in world.scores(later, 0)}
    assert set(verdict.models) == {"stub@1"} | live and min(verdict.models.values()) > 1_000
    # Whichever of the two the settings name.
    assert check(World(copy.recording, later.settings), tmp_path / "w").models == verdict.models
    assert verdict.document()["models"] == dict(verdict.models)

    (model,) = live
    world.edit(copy, lambda document: document["versions"].update(model=model))
    assert set(check(copy, tmp_path / "x").causes) == {"model"}


def test_another_device_is_named(copy: World, tmp_path: Path) -> None:
    """The last bits of a score differ between a CPU and a GPU; the model is the same."""
    world.edit(copy, lambda document: document.update(score=math.nextafter(document["score"], 1)))
    verdict = check(copy, tmp_path / "v")
    assert set(verdict.causes) == {"model"}
    assert verdict.first is not None
    assert verdict.first.detail.startswith("the same model, ")
    assert "model.device" in verdict.first.detail


def test_another_threshold_is_named(made: World, tmp_path: Path) -> None:
    verdict = check(made, tmp_path / "v", settings=(world.settings("decide.review=0.05"),))
    assert set(verdict.causes) == {"settings"}
    assert verdict.first is not None
    assert verdict.first.detail.startswith("other thresholds: ")


def test_other_rules_that_decide_the_same_are_named(copy: World, tmp_path: Path) -> None:
    verdict = check(world.said_by(copy, "versions", "rules", "0123456789ab"), tmp_path / "v")
    assert set(verdict.causes) == {"settings"}
    assert verdict.first is not None
    assert verdict.first.detail.startswith("rules 0123456789ab live, ")
