"""Each promise can be seen broken: by damage to what a good run left, and by broken workers."""

from __future__ import annotations

import copy
from collections.abc import Callable, Iterator

import pytest
import redis

from tests.faults import deaths
from tests.faults.conftest import Tally
from tests.faults.driver import Place, Run
from tests.faults.expected import Expected
from tests.faults.promises import Broken, Seen, broken, look
from tests.faults.watch import Watch

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
                while watch.offsets().get(0) != offset:
                    pass
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
    return lambda place, seed: deaths.frozen_between_compute_and_commit(
        place, seed, zombies=2, mutant=mutant
    )


@pytest.mark.parametrize(
    ("mutant", "scene", "promises"),
    [
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
