"""Each promise can be seen broken: by damage to what a good run left, and by broken workers."""

from __future__ import annotations

import copy
import time
from collections.abc import Callable, Iterator
from dataclasses import replace
from functools import partial
from types import SimpleNamespace
from typing import Any, cast

import numpy as np
import pytest
import redis

import streams.decode as decoder
from streams.batch import Batch
from streams.columns import Columns, select
from streams.errors import RecordingError
from streams.schema import Reject
from streams.state import Arena
from tests.faults import (
    bundle_faults,
    clock_faults,
    deaths,
    disk_faults,
    fuzz_decoder,
    hostile,
    poison,
    record_faults,
)
from tests.faults.conftest import Tally
from tests.faults.driver import Place, Run
from tests.faults.expected import Expected
from tests.faults.promises import Broken, Seen, broken, look
from tests.faults.watch import Watch
from tests.messages import message

Damage = Callable[[Seen, Run], None]


@pytest.fixture(scope="module")
def good(
    kafka: str, redis_process: object, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[tuple[Run, Seen, Expected]]:
    """A run without a fault, what it left, and what was expected."""
    url: str = redis_process.url  # type: ignore[attr-defined]
    place = Place(kafka, url, tmp_path_factory.mktemp("good"))
    with Run(place, 1) as run:
        run.publish(600)
        run.start().ready()
        run.finish()
        with redis.Redis.from_url(url) as client:
            seen = look(run.settings, client)
        expected = run.expected()
        assert expected.repeats and expected.erasures and expected.alerts and expected.covered
        assert list(broken(seen, expected, run.source.accounts, run.source.amounts)) == []
        yield run, seen, expected


def _score_lost(seen: Seen, run: Run) -> None:
    seen.scores.pop(min(seen.scores))


def _letter_lost(seen: Seen, run: Run) -> None:
    seen.dead.pop(min(seen.dead))


def _duplicate_scored(seen: Seen, run: Run) -> None:
    place = min(seen.scores)
    seen.scores[place[0], 10**6] = seen.scores[place]


def _left_behind(seen: Seen, run: Run) -> None:
    seen.ends[0] = (seen.ends[0] or 0) - 1


def _other_copy(seen: Seen, run: Run) -> None:
    place = min(seen.scores)
    (value,) = seen.scores[place]
    seen.scores[place].add(value.replace(b'"late":false', b'"late":true'))


def _alert_twice(seen: Seen, run: Run) -> None:
    place = min(seen.alerts)
    (value,) = seen.alerts[place]
    seen.alerts[place].add(value.replace(b'"alert_id":"', b'"alert_id":"0'))


def _alert_lost(seen: Seen, run: Run) -> None:
    seen.alerts.pop(min(seen.alerts))


def _one_bit(seen: Seen, run: Run) -> None:
    records = seen.records[0]
    name = min(records)
    records[name] = records[name][:-1] + bytes([records[name][-1] ^ 1])


def _erased_kept(seen: Seen, run: Run) -> None:
    seen.records[0]["somebody"] = b"x"


def _marker_lost(seen: Seen, run: Run) -> None:
    seen.markers[0].popitem()


def _account_logged(seen: Seen, run: Run) -> None:
    seen.said.append(f"cannot read the record of {run.source.accounts[3]}")


def _amount_logged(seen: Seen, run: Run) -> None:
    seen.said.append(f"amount={min(run.source.amounts)} is large")


@pytest.mark.parametrize(
    ("damage", "promise"),
    [
        (_score_lost, "I1"),
        (_letter_lost, "I1"),
        (_duplicate_scored, "I1"),
        (_left_behind, "I1"),
        (_other_copy, "I2"),
        (_alert_twice, "I2"),
        (_alert_lost, "I2"),
        (_one_bit, "I3"),
        (_erased_kept, "I3"),
        (_marker_lost, "I3"),
        (_account_logged, "I5"),
        (_amount_logged, "I5"),
    ],
)
def test_damage_is_seen(good: tuple[Run, Seen, Expected], damage: Damage, promise: str) -> None:
    run, seen, expected = good
    damaged = copy.deepcopy(seen)
    damage(damaged, run)
    found = list(broken(damaged, expected, run.source.accounts, run.source.amounts))
    assert found and all(line.startswith(promise) for line in found), found


def test_an_offset_that_goes_back_is_seen(redis_url: str) -> None:
    """I4, unless the run itself put Redis back."""
    with redis.Redis.from_url(redis_url) as client:
        watch = Watch(redis_url, "back", 1)
        try:
            for offset, announced in ((7, False), (9, False), (8, False), (2, True)):
                if announced:
                    watch.rollback()
                client.hset("back:{0}:part", mapping={"offset": offset, "token": 1})
                deadline = time.monotonic() + 120
                while watch.offsets().get(0) != offset:
                    assert time.monotonic() < deadline, "the watch does not look"
                    time.sleep(0.001)
        finally:
            watch.stop()
    assert watch.went_back == ["partition 0 went from 9 to 8"]


def _one_worker(mutant: str) -> Callable[[Place, int], object]:
    def run_it(place: Place, seed: int) -> None:
        with Run(place, seed) as run:
            run.publish(400)
            run.start(mutant=mutant).ready()
            run.judge()

    return run_it


def _crashing(mutant: str, *steps: str) -> Callable[[Place, int], object]:
    return lambda place, seed: deaths.crash_at_every_step(place, seed, steps, mutant)


def _frozen(mutant: str) -> Callable[[Place, int], object]:
    def run_it(place: Place, seed: int) -> None:
        # On a busy machine a zombie may hear that it was overtaken first, and break nothing.
        for attempt in range(5):
            deaths.frozen_between_compute_and_commit(
                place, seed + 1_000 * attempt, zombies=2, mutant=mutant
            )

    return run_it


def _several_shapes(place: Place, seed: int) -> None:
    deaths.same_log_again(place, seed, 300, "by_round_size")


def _a_day_ahead(place: Place, seed: int) -> None:
    clock_faults.jumps(place, seed, ["ahead"], "by_the_clock")


@pytest.mark.parametrize(
    ("mutant", "scene", "promises"),
    [
        ("by_round_size", _several_shapes, "I1"),
        ("by_the_clock", _a_day_ahead, "I1"),
        ("late_dropped", _one_worker("late_dropped"), "I1"),
        ("restless", _one_worker("restless"), "I2"),
        ("talkative", _one_worker("talkative"), "I5"),
        ("no_outbox", _crashing("no_outbox", "committed"), "I1"),
        ("set_first", _crashing("set_first", "committed"), "I1"),
        ("no_guards", _frozen("no_guards"), "I2 I3 I4"),
    ],
    ids=lambda value: value if isinstance(value, str) and "_" in value else "",
)
def test_a_broken_worker_is_caught(
    place: Place,
    seeds: Iterator[int],
    tally: Tally,
    mutant: str,
    scene: Callable[[Place, int], object],
    promises: str,
) -> None:
    with tally("F0", f"mutant {mutant}: caught") as row:
        with pytest.raises(Broken) as caught:
            scene(place, next(seeds))
        said = str(caught.value)
        assert any(f"\n{promise} " in said for promise in promises.split()), said[:2_000]
        assert "FAULT_SEED=" in said
        row.count(1)


@pytest.mark.parametrize(
    ("mutant", "scene", "said"),
    [
        ("hasty", partial(poison.put_aside, mutant="hasty"), "death 3"),
        (
            "trusting",
            partial(bundle_faults.refused, damages=["other feature digest"], mutant="trusting"),
            "was not refused",
        ),
    ],
    ids=["hasty", "trusting"],
)
def test_a_worker_that_does_not_refuse_is_caught(
    place: Place,
    seeds: Iterator[int],
    tally: Tally,
    mutant: str,
    scene: Callable[[Place, int], object],
    said: str,
) -> None:
    with tally("F0", f"mutant {mutant}: caught") as row:
        with pytest.raises(Broken, match=said):
            scene(place, next(seeds))
        row.count(1)


def test_a_recorder_that_keeps_a_full_disk_to_itself_is_caught(
    place: Place, seeds: Iterator[int], monkeypatch: pytest.MonkeyPatch
) -> None:
    """F10."""
    record = disk_faults._record

    def quiet(run: Run, out: str) -> object:
        try:
            return record(run, out)
        except RecordingError:
            return None

    monkeypatch.setattr(disk_faults, "_record", quiet)
    with pytest.raises(Broken, match="taken for whole"):
        disk_faults.recording(place, next(seeds))


def test_a_partition_that_stands_still_is_seen() -> None:
    """F5: between two moves, before the first, after the last, and where there is none."""
    moves = [(1.0, 0, 5), (9.0, 0, 6), (2.0, 1, 5), (5.0, 1, 6)]
    run = SimpleNamespace(partitions=2, watch=SimpleNamespace(moves=moves))
    assert deaths.longest_pause_s(cast(Run, run), 0.0, 10.0) == 8.0
    run.partitions = 3
    assert deaths.longest_pause_s(cast(Run, run), 0.0, 10.0) == 10.0


def test_a_leak_is_seen() -> None:
    """F16: one percent an hour over half an hour, under noise of a page or two."""
    hours = [n / 3_600 for n in range(1_800)]
    noise = [4_096 * (n % 3) for n in range(1_800)]
    leaking = [2e8 * (1 + 0.01 * at) + n for at, n in zip(hours, noise, strict=True)]
    steady = [2e8 + n for n in noise]
    assert 0.9 < deaths.grown(hours, leaking, 1).percent_an_hour < 1.1
    assert abs(deaths.grown(hours, steady, 1).percent_an_hour) < 0.1


@pytest.mark.parametrize("lacks", ["message", "neighbours", "detail"])
def test_a_broken_way_of_a_message_is_caught(lacks: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """F11: a message dropped, one judged by its neighbours, a value told in a dead letter."""
    if lacks == "neighbours":
        decode = decoder.decode

        def crowded(batch: Batch, ahead: int) -> Columns:
            columns = decode(batch, ahead)
            keep = np.arange(len(columns)) != 1
            return select(columns, keep, Reject.OUT_OF_RANGE, "the second")

        monkeypatch.setattr(decoder, "decode", crowded)
        check = fuzz_decoder.checker()
        with pytest.raises(AssertionError, match="neighbours"):
            check(b"\0" + message())
        return

    read, render = hostile.read, hostile.render

    def telling(*args: Any) -> Columns:
        columns = read(*args)
        rejects = [replace(each, detail=hostile.SECRET) for each in columns.rejects]
        return replace(columns, rejects=rejects)

    if lacks == "detail":
        monkeypatch.setattr(hostile, "read", telling)
    else:
        monkeypatch.setattr(hostile, "render", lambda *args: list(render(*args))[1:])
    # One batch has a message that becomes a dead letter with a detail.
    with pytest.raises(AssertionError):
        hostile.run([message(), b"{"], [b"acct-1", b"acct-1"], None)


def test_a_record_taken_without_its_checksum_is_caught(monkeypatch: pytest.MonkeyPatch) -> None:
    """F12."""
    record = record_faults.records(1)[0]
    monkeypatch.setattr(record_faults, "load_records", lambda *_: 1)
    with pytest.raises(AssertionError, match="was flipped"):
        record_faults.every_bit(record)
    monkeypatch.setattr(Arena, "fill", lambda *_: None)
    with pytest.raises(AssertionError):
        record_faults.cuts_and_versions(record)
