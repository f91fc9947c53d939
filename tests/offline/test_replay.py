"""Replay: the same bytes however the work is cut, resumable, and respectful of erasures."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import orjson
import pytest

from model import bundle as bundles
from model.registry import Registry
from streams.batch import Batch
from streams.errors import ConfigError, FormatError
from streams.offline import results
from streams.offline import source as spooled
from streams.offline.replay import ARENA_BYTES, Shard
from streams.offline.run import Job, replay
from streams.offline.source import RecordingSource, open_source
from streams.privacy import account_digest
from streams.schema import MAX_BATCH_EVENTS
from streams.state import Arena
from tests.messages import message
from tests.offline import world


@pytest.fixture(scope="module")
def source(tmp_path_factory: pytest.TempPathFactory) -> RecordingSource:
    files = world.stream(tmp_path_factory.mktemp("stream"), late=0.02, duplicates=0.02, faults=0.02)
    return RecordingSource(open_source(*files, tmp_path_factory.mktemp("spool")).location())


def job(source: RecordingSource, out: Path, batch: int = 4_096) -> Job:
    return Job(source, (world.settings(),), out, batch=batch)


def test_jobs_and_batch_sizes_leave_no_trace(source: RecordingSource, tmp_path: Path) -> None:
    one = replay(job(source, tmp_path / "a"))
    two = replay(job(source, tmp_path / "b", batch=77), jobs=2)
    assert one["digest"] == two["digest"]
    assert one["messages"] == sum(source.rows(shard) for shard in source.shards())
    assert set(one["outcomes"]) == {"scored", "duplicate", "dead"}
    assert sum(one["dead"].values()) == one["outcomes"]["dead"]


def test_a_run_goes_on_with_the_shards_that_are_missing(
    source: RecordingSource, tmp_path: Path
) -> None:
    whole = replay(job(source, tmp_path / "a"))
    kept = results.shard_path(tmp_path / "a", 0)
    before = kept.stat().st_mtime_ns
    for shard in results.shards(tmp_path / "a")[1:]:
        results.shard_path(tmp_path / "a", shard).unlink()
    (tmp_path / "a" / "00003.part").write_bytes(b"the remains of a run that died")
    again = replay(job(source, tmp_path / "a"))
    assert again["digest"] == whole["digest"]
    assert kept.stat().st_mtime_ns == before
    assert not list((tmp_path / "a").glob("*.part"))


def test_a_file_that_was_given_before_is_read_whole_after_another_one_failed(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The other one, broken in its last line, had written over files that the manifest named."""
    monkeypatch.setattr(spooled, "FILE_ROWS", 2)
    good, broken = tmp_path / "good.jsonl", tmp_path / "broken.jsonl"
    rows = [message(transaction_id=f"t-{n}", account_id="a") for n in range(4)]
    good.write_bytes(b"\n".join(rows))
    broken.write_bytes(b"\n".join([*rows[::-1], b"{"]))
    open_source(good, None, tmp_path / "out")
    with pytest.raises(FormatError, match="line 5"):
        open_source(broken, None, tmp_path / "out")
    again = open_source(good, None, tmp_path / "out")
    read = [each for shard in again.shards() for each in again.batches(shard, 10)]
    assert [value for batch in read for value in batch.values] == rows


def test_a_promotion_in_the_middle_changes_nothing(tmp_path: Path) -> None:
    """Each shard asked anew what `default` stands for: the report named one bundle, and what came
    after the promotion was scored by the other."""
    files = world.stream(tmp_path / "s", events=300)
    source = open_source(*files, tmp_path / "spool")
    given = (world.settings("model.bundle=default", f"model.registry={tmp_path / 'registry'}"),)
    shipped = bundles.read(bundles.shipped())
    assert shipped.golden_scores is not None
    odds = shipped.golden_scores / (1 - shipped.golden_scores) / np.e
    lower = tuple((logit, calibrated - 1) for logit, calibrated in shipped.calibration)
    low = replace(shipped, calibration=lower, golden_scores=odds / (1 + odds))
    bundles.write(low, tmp_path / "low")
    registry = Registry(tmp_path / "registry")

    def promote(done: int, total: int) -> None:
        if not registry.history():
            registry.promote(registry.add(tmp_path / "low").model_id, 1)

    whole = replay(Job(source, given, tmp_path / "whole"))
    found = replay(Job(source, given, tmp_path / "found"), progress=promote)
    assert registry.current() is not None
    assert found == whole and whole["job"]["models"] == [shipped.model_id]
    after = replay(Job(source, given, tmp_path / "after"))
    assert after["digest"] != whole["digest"], "another job by then"


@pytest.mark.parametrize("jobs", [1, 2])
def test_rules_edited_in_the_middle_end_the_run(tmp_path: Path, jobs: int) -> None:
    """Each shard read the file anew: one result was of two sets of rules, under the digest of the
    first."""
    source = open_source(*world.stream(tmp_path / "s", events=300), tmp_path / "spool")
    rules = tmp_path / "rules.toml"
    lax, strict = (
        f'[[rule]]\nrule_id = "r"\nversion = 1\noutcome = "block"\n'
        f'all = [ {{ field = "amount", op = "ge", value = {least} }} ]\n'
        for least in (10**12, 1)
    )
    rules.write_text(lax)
    given = (world.settings(f"decide.rules={rules}"),)

    def edit(done: int, total: int) -> None:
        rules.write_text(strict)

    with pytest.raises(ConfigError, match=r"rules at .*rules\.toml changed during the run"):
        replay(Job(source, given, tmp_path / "found"), jobs=jobs, progress=edit)
    rules.write_text(lax + "# the same rules\n")
    whole = replay(Job(source, given, tmp_path / "whole"))
    assert whole["decisions"]["approve"], "none by the rules that block everything"
    rules.write_text(lax)
    assert replay(Job(source, given, tmp_path / "found"))["digest"] == whole["digest"]


def test_a_bundle_written_anew_in_the_middle_ends_the_run(tmp_path: Path) -> None:
    """As a fit does that was told to write to the folder that a backtest reads."""
    source = open_source(*world.stream(tmp_path / "s", events=300), tmp_path / "spool")
    shipped = bundles.read(bundles.shipped())
    bundles.write(shipped, tmp_path / "mine")
    given = (world.settings(f"model.bundle={tmp_path / 'mine'}"),)

    def fit_again(done: int, total: int) -> None:
        bundles.write(replace(shipped, name="again"), tmp_path / "mine")

    with pytest.raises(ConfigError, match=r"bundle at .*mine changed during the run: again@"):
        replay(Job(source, given, tmp_path / "found"), progress=fit_again)
    assert replay(Job(source, given, tmp_path / "new"))["job"]["models"][0].startswith("again@")


def test_a_result_that_cannot_be_written_names_its_file(tmp_path: Path) -> None:
    """So the command tells one line: the folder may not be written to, or the disk is full."""
    path, draft = tmp_path / "00000.parquet", tmp_path / "00000.part"
    draft.mkdir()
    with pytest.raises(OSError, match=r"00000\.parquet") as refused:
        results.ResultWriter(path, 1)
    draft.rmdir()
    draft.symlink_to("/dev/full")
    with pytest.raises(OSError, match=r"00000\.parquet") as full, results.ResultWriter(path, 1):
        pass
    assert [refused.value.filename, full.value.filename] == [str(path), str(path)]
    assert not path.exists()


def test_the_results_of_another_job_are_not_mixed_in(
    source: RecordingSource, tmp_path: Path
) -> None:
    replay(job(source, tmp_path / "a"))
    other = Job(source, (world.settings("decide.block=0.9"),), tmp_path / "a")
    with pytest.raises(ConfigError, match="another run"):
        replay(other)


def test_a_file_of_rules_that_is_not_there_is_wrong_use(
    source: RecordingSource, tmp_path: Path
) -> None:
    settings = world.settings(f"decide.rules={tmp_path / 'rules.toml'}")
    with pytest.raises(ConfigError, match="cannot read the rules"):
        replay(Job(source, (settings,), tmp_path / "a"))
    assert not (tmp_path / "a").exists()


def test_an_erased_account_does_not_come_back(source: RecordingSource, tmp_path: Path) -> None:
    replay(job(source, tmp_path / "a"))
    before = results.read(tmp_path / "a", ["account_id", "offset"])
    account = before["account_id"].drop_null()[0].as_py()
    forgotten = {account_digest(account): 10**9}
    replay(Job(source, (world.settings(),), tmp_path / "b", forgotten=forgotten))
    after = results.read(tmp_path / "b", ["account_id", "reason"])
    assert account not in after["account_id"].to_pylist()
    gone = before["account_id"].to_pylist().count(account)
    assert after["reason"].to_pylist().count("forgotten") >= gone
    others = [name for name in before["account_id"].to_pylist() if name not in (account, None)]
    assert [name for name in after["account_id"].to_pylist() if name is not None] == others


def test_more_accounts_than_a_store_takes_in_one_step(monkeypatch: pytest.MonkeyPatch) -> None:
    """All accounts changed and the arena is crowded: the records go out in several steps."""
    accounts, events = 2 * MAX_BATCH_EVENTS + 100, 3 * MAX_BATCH_EVENTS

    def digests(arena_bytes: int) -> list[int]:
        shard = Shard(0, [], None, max_future_ms=0, forgotten={}, arena_bytes=arena_bytes)
        found: list[int] = []
        for first in range(0, events, 4_096):
            numbers = range(first, min(first + 4_096, events))
            values: list[bytes | None] = [
                orjson.dumps(
                    {
                        "schema_version": 1,
                        "transaction_id": f"t{number}",
                        "account_id": f"a{number % accounts}",
                        "event_time": 1_700_000_000_000 + 1_000 * number,
                        "amount": number,
                        "currency": "EUR",
                    }
                )
                for number in numbers
            ]
            keys: list[bytes | None] = [b"a%d" % (number % accounts) for number in numbers]
            offsets = np.arange(numbers.start, numbers.stop)
            times = np.full(len(numbers), 1_800_000_000_000)
            batch = Batch("transactions", 0, offsets, times, keys, values, None, numbers.stop)
            found += shard.step(batch).work.digest.tolist()
        assert shard.record("a5") is not None
        return found

    steps: list[int] = []
    pages = Arena.pages
    monkeypatch.setattr(
        Arena, "pages", lambda self: [steps.append(len(each)) or each for each in pages(self)]
    )
    crowded = digests(ARENA_BYTES // 16)
    assert max(steps[:-1]) == MAX_BATCH_EVENTS and len(steps) > 2, "the case is what it says"
    assert len(crowded) == events
    assert crowded == digests(ARENA_BYTES)


def test_a_snapshot_with_more_accounts_than_messages_before_it(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """As after a rebuild that moved accounts: their messages are in other partitions."""
    monkeypatch.setattr("streams.offline.replay.PAGE", 1)
    held = {f"a{number}": bytes([number]) * 96 for number in range(4)}
    for erasure in (False, True):
        shard = Shard(0, [], None, max_future_ms=0, forgotten={})
        shard.start_from(iter(held.items()), 2)
        keys: list[bytes | None] = [b"before", b"before", b"new"]
        values: list[bytes | None] = [None, None, message(account_id="new")]
        if erasure:
            keys, values = [*keys, b"a0"], [*values, None]
        n = len(keys)
        times = np.full(n, 1_800_000_000_000)
        batch = Batch("transactions", 0, np.arange(n), times, keys, values, None, n)
        (step,) = shard.steps(iter([batch]))
        assert step.work.columns.account_id == ["new"]
        assert shard.record("new") is not None
        assert {name: shard.record(name) for name in held} == held | (
            {"a0": None} if erasure else {}
        )
