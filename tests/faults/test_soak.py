"""The soak's book and its choice of what comes next; the scenes themselves run elsewhere."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest

from benchmarks.soak import Book, chosen, new_entry, next_scene, piece, table
from tests.faults.driver import Place
from tests.faults.promises import Broken
from tests.faults.scenes import SCENES, Scene


def scene(make: Callable[[Place, int], int] = lambda place, seed: 3) -> Scene:
    return Scene("F1", "kills", "kill -9 of one of two workers", 10, "kills", make)


def nowhere(path: Path) -> Place:
    return Place("", "", path)


def test_every_fault_of_the_issue_has_a_scene_with_a_name_of_its_own() -> None:
    assert {scene.fault for scene in SCENES} == {f"F{number}" for number in range(1, 18)}
    assert len({scene.name for scene in SCENES}) == len(SCENES)


def test_a_scene_that_this_machine_cannot_make_is_left_out_and_named(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    lacking = replace(scene(), own="native", missing=lambda: "a part")
    monkeypatch.setattr("benchmarks.soak.SCENES", (scene(), lacking))
    assert [each.name for each in chosen([])] == ["F1-kills"]
    assert "F1-native is left out: it needs a part" in capsys.readouterr().err


def test_every_fault_has_its_turn_before_any_has_a_second() -> None:
    spent: Counter[str] = Counter()
    for _ in range(17):
        found = next_scene(SCENES, {}, spent, left_s=-1)
        assert found is not None and found.fault not in spent
        spent[found.fault] += 1
    assert next_scene(SCENES, {"F1-kills": new_entry() | {"seconds": 1}}, spent, -1) is None


def test_what_lacks_most_comes_next_and_what_is_reached_no_more() -> None:
    redis = chosen(["F6"])
    spent = Counter({"F6": 1})
    faults = {each.name: new_entry() | {"made": each.asked} for each in redis}
    faults["F6-older"]["made"] = 10
    faults["F6-full"]["made"] = 20
    found = next_scene(redis, faults, spent, 100)
    assert found is not None and found.name == "F6-older"
    faults["F6-older"] |= {"pieces": 1, "seconds": 101}
    found = next_scene(redis, faults, spent, 100)
    assert found is not None and found.name == "F6-full", "the other does not fit into the time"


def test_counts_of_two_runs_add_up_and_no_seed_comes_twice(tmp_path: Path) -> None:
    for _ in range(2):
        book = Book(tmp_path / "soak.json")
        run = book.begin("F1")
        place = nowhere(tmp_path / f"{run}")
        place.resumed_s.append(0.26)
        place.counts["changes"] += 2
        seed = book.seed_for(scene())
        assert seed == 1_000 + run
        book.note(scene(), 3, 1.5, place, "")
        book.went_on(run, 2)
    entry = book.read()["faults"]["F1-kills"]
    assert (entry["made"], entry["pieces"], entry["seconds"]) == (6, 2, 3.0)
    assert entry["counts"] == {"changes": 4} and entry["resumed_s"] == {"0.3": 2}
    shown = table(book.read())
    assert "6 / 1,000 kills" in shown and "1000..1001" in shown and "2 runs, 4 minutes" in shown


def test_a_broken_promise_is_kept_with_its_seed(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    def break_it(place: Place, seed: int) -> int:
        (place.directory / "w.log").write_text("what a worker said")
        raise Broken("I1 no score")

    made, error = piece(scene(break_it), 7, nowhere(tmp_path / "here"), tmp_path / "kept")
    assert made == 0 and error == "seed 7: Broken: I1 no score"
    assert "--again F1-kills:7" in capsys.readouterr().out
    assert (tmp_path / "kept" / "F1-kills-7" / "w.log").read_text() == "what a worker said"
