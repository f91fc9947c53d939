"""`whatif` against a count of its own over the two runs."""

from __future__ import annotations

from collections import Counter
from pathlib import Path
from typing import Any

import orjson
import pytest

from streams.errors import ConfigError
from streams.money import amount_text
from streams.offline import results
from streams.offline.run import Job, replay
from streams.offline.source import RecordingSource, open_source
from streams.offline.whatif import text, whatif
from tests.offline import world

NOW = ("decide.review=0.05", "decide.block=0.5")
THEN = ("decide.review=0.2", "decide.block=0.3")


def test_the_alerts_that_appear_and_vanish(tmp_path: Path) -> None:
    files = world.stream(tmp_path / "stream", events=2_000)
    source = RecordingSource(open_source(*files, tmp_path / "spool").location())
    both = (world.settings(*NOW), world.settings(*THEN))
    found = whatif(Job(source, both, tmp_path / "w"))

    decided: list[dict[str, dict[str, Any]]] = []
    for name, settings in zip(("now", "then"), both, strict=True):
        replay(Job(source, (settings,), tmp_path / name))
        rows = results.read(tmp_path / name).to_pylist()
        decided.append({each["transaction_id"]: each for each in rows})
    now, then = decided
    labels = {
        document["transaction_id"]: document["label"]
        for document in map(orjson.loads, source.labels())
    }

    def flags(run: dict[str, dict[str, Any]], what: str) -> set[str]:
        return {
            name
            for name, each in run.items()
            if each["decision_0"] == what or (what == "alert" and each["alert_id_0"] is not None)
        }

    vanished = flags(now, "alert") - flags(then, "alert")
    assert len(vanished) > 10, "the case must have something to count"
    assert found["appear"]["alerts"] == len(flags(then, "alert") - flags(now, "alert")) == 0
    assert found["alerts"] == {
        "now": len(flags(now, "alert")),
        "then": len(flags(then, "alert")),
    }
    assert found["blocked"] == {"now": len(flags(now, "block")), "then": len(flags(then, "block"))}
    side = found["vanish"]
    assert side["alerts"] == len(vanished)
    assert sum(side["amount"].values()) == sum(now[name]["amount"] for name in vanished)
    assert side["fraud"] == sum(labels.get(name) == "fraud" for name in vanished)
    frauds = Counter[str]()
    for name in vanished:
        if labels.get(name) == "fraud":
            frauds[now[name]["currency"]] += now[name]["amount"]
    assert side["fraud_amount"] == frauds, "a sum over several currencies means nothing"
    assert side["fraud"] + side["legitimate"] + side["not_labelled"] == len(vanished)
    assert set(side["first"]) <= vanished
    more = flags(then, "block") - flags(now, "block")
    assert found["become_block"]["alerts"] == len(more) > 0
    assert f"vanish: {len(vanished):,} alerts" in text(found)
    currency, minor = next(iter(side["amount"].items()))
    assert f"in all {amount_text(minor, currency)}" in text(found)


def test_a_block_counts_as_one_though_its_alert_is_new_or_gone(tmp_path: Path) -> None:
    """What was no alert and is blocked, and the other way round: the two sides balance."""
    files = world.stream(tmp_path / "stream", events=2_000)
    source = RecordingSource(open_source(*files, tmp_path / "spool").location())
    lax = world.settings("decide.review=0.9", "decide.block=0.95")
    strict = world.settings("decide.review=0.2", "decide.block=0.3")
    found = whatif(Job(source, (lax, strict), tmp_path / "w"))
    blocked, become = found["blocked"], found["become_block"]
    assert become["alerts"] == blocked["then"] - blocked["now"] >= become["appear"] > 0
    assert found["no_longer_block"]["alerts"] == 0
    told = next(line for line in text(found).splitlines() if line.startswith("become block"))
    assert told.endswith(f"; {become['appear']:,} of them appear")
    back = whatif(Job(source, (strict, lax), tmp_path / "back"))
    gone = back["no_longer_block"]
    assert (gone["alerts"], gone["vanish"]) == (become["alerts"], become["appear"])
    assert f"; {gone['vanish']:,} of them vanish" in text(back)


def test_what_is_not_a_decision_is_refused(tmp_path: Path) -> None:
    files = world.stream(tmp_path / "stream", events=100)
    source = RecordingSource(open_source(*files, tmp_path / "spool").location())
    both = (world.settings(), world.settings("risk.delay_days=3", "decide.block=0.3"))
    with pytest.raises(ConfigError, match=r"cannot change risk\.\*"):
        whatif(Job(source, both, tmp_path / "w"))


def test_a_source_without_a_transaction_is_told(tmp_path: Path) -> None:
    (tmp_path / "t.jsonl").write_bytes(b"")
    source = open_source(tmp_path / "t.jsonl", None, tmp_path / "spool")
    with pytest.raises(ConfigError, match="no transaction"):
        whatif(Job(source, (world.settings(*NOW), world.settings(*THEN)), tmp_path / "w"))
