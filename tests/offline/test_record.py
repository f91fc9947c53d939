"""`record` on a real broker: bit for bit, by time, resumed after kills and on a full disk."""

from __future__ import annotations

import resource
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from multiprocessing.synchronize import Event
from pathlib import Path
from typing import Any

import pytest
from typer.testing import CliRunner

from streams.cli import build
from streams.cli.progress import Shown
from streams.errors import BrokerError, RecordingError
from streams.offline import record as recorder
from streams.offline.record import Recorder, Request
from streams.offline.recording import HOME, Manifest, Recording
from streams.offline.source import RecordingSource
from tests.forks import FORKS
from tests.offline import kafka_log
from tests.offline.killing import killed

PARTITIONS = 3
PROGRAM = "import sys; from streams.cli import main; sys.argv[0] = 'fraudstream'; main()"
FULL_DISK = 27
"""Exit status of the child that could not write."""


def topics(prefix: str) -> dict[str, str]:
    return {"transactions": f"{prefix}transactions", "labels": f"{prefix}labels"}


def run(kafka: str, names: dict[str, str], out: Path, **changes: Any) -> Manifest:
    stop: Callable[[], bool] = changes.pop("stop", lambda: False)
    request = Request(names, **changes)
    recorder = Recorder({"bootstrap.servers": kafka}, request, Recording(str(out)))
    return recorder.run(stop=stop)


@pytest.fixture
def names(kafka: str, topic_prefix: str) -> dict[str, str]:
    """Two topics with messages in every partition of the first."""
    made = topics(topic_prefix)
    kafka_log.make_topics(kafka, {made["transactions"]: PARTITIONS, made["labels"]: 1})
    for partition in range(PARTITIONS):
        kafka_log.publish(kafka, made["transactions"], partition, 0, 300 + 50 * partition)
    kafka_log.publish(kafka, made["labels"], 0, 0, 40)
    return made


def check(kafka: str, names: dict[str, str], out: Path) -> None:
    """The recording holds what the topics hold."""
    recording = Recording(str(out))
    for name, partitions in (("transactions", PARTITIONS), ("labels", 1)):
        assert kafka_log.recorded(recording, name) == kafka_log.read(kafka, names[name], partitions)


def test_a_recording_is_the_topic_bit_for_bit(
    kafka: str, names: dict[str, str], tmp_path: Path
) -> None:
    kafka_log.publish_in_transactions(kafka, names["transactions"], 1)
    kafka_log.publish(kafka, names["transactions"], 1, 900, 30)
    kafka_log.publish_in_transactions(kafka, names["transactions"], 2)
    manifest = run(kafka, names, tmp_path / "r", file_rows=100)
    assert manifest.complete
    assert manifest.rows("transactions") == 300 + 350 + 400 + 30 + 2 * 10
    assert RecordingSource(str(tmp_path / "r")).of_a_log()
    assert manifest.origin[HOME] == names["transactions"]
    check(kafka, names, tmp_path / "r")
    rows = kafka_log.recorded(Recording(str(tmp_path / "r")), "transactions")[1]
    offsets = [row[0] for row in rows]
    assert len(offsets) < offsets[-1] + 1, "control records and an aborted transaction left gaps"


def test_again_on_a_whole_recording_adds_nothing(
    kafka: str, names: dict[str, str], tmp_path: Path
) -> None:
    first = run(kafka, names, tmp_path / "r")
    kafka_log.publish(kafka, names["transactions"], 0, 5_000, 20)
    again = run(kafka, names, tmp_path / "r")
    assert again == first, "the end was fixed when the recording was begun"
    prefix = names["transactions"].removesuffix("transactions")
    flags = ["--set", f"kafka.bootstrap={kafka}", "--set", f"kafka.topic_prefix={prefix}"]
    done = CliRunner().invoke(build(), ["record", str(tmp_path / "r"), *flags])
    assert done.exit_code == 0, done.output
    assert "is complete up to the moment when it was begun; 20 newer messages" in done.stderr
    assert "another directory, or add them with --follow" in done.stderr
    new = CliRunner().invoke(build(), ["record", str(tmp_path / "new"), *flags])
    assert "complete up to" not in new.stderr
    run(kafka, names, tmp_path / "r", follow=True, stop=lambda: True)
    assert run(kafka, names, tmp_path / "r").complete
    check(kafka, names, tmp_path / "r")


def test_one_that_was_stopped_says_so_and_goes_on(
    kafka: str, names: dict[str, str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It exited 0 with a count, as a whole one does: a script went on with a part."""
    prefix = names["transactions"].removesuffix("transactions")
    flags = ["--set", f"kafka.bootstrap={kafka}", "--set", f"kafka.topic_prefix={prefix}"]
    words = ["record", str(tmp_path / "r"), *flags]
    with monkeypatch.context() as during:
        during.setattr(recorder, "POLL_MESSAGES", 50)
        during.setattr(Shown, "__call__", lambda *_: signal.raise_signal(signal.SIGINT))
        done = CliRunner().invoke(build(), words)
    assert done.exit_code == 130, done.output
    assert "stopped before its end; the same command goes on" in done.stderr
    assert not Recording(str(tmp_path / "r")).manifest().complete
    done = CliRunner().invoke(build(), words)
    assert (done.exit_code, "stopped" in done.stderr) == (0, False), done.output
    check(kafka, names, tmp_path / "r")


def test_one_that_was_broken_off_is_not_taken_for_whole(
    kafka: str, names: dict[str, str], tmp_path: Path
) -> None:
    """A full disk, say: what is there can be replayed, and the person is told that it is a part."""
    manifest = run(kafka, names, tmp_path / "r", file_rows=100)
    assert RecordingSource(str(tmp_path / "r")).unfinished() == ""
    lost = next(one for one in reversed(manifest.files) if one.topic == "transactions")
    manifest.files.remove(lost)
    manifest.complete = False
    Recording(str(tmp_path / "r")).save(manifest)
    place = f"transactions:{lost.partition}"
    missing = manifest.end[place] - (manifest.resume_at("transactions", lost.partition) or 0)
    assert (
        f"not whole, {missing} offsets of it are missing"
        in RecordingSource(str(tmp_path / "r")).unfinished()
    )
    flags = ["--set", "model.bundle=stub", "--set", f"kafka.bootstrap={kafka}", "--jobs", "1"]
    done = CliRunner().invoke(
        build(), ["replay", str(tmp_path / "r"), "--out", str(tmp_path / "out"), *flags]
    )
    assert done.exit_code == 0 and f"{missing} offsets of it are missing" in done.stderr
    run(kafka, names, tmp_path / "r", file_rows=100)
    assert RecordingSource(str(tmp_path / "r")).unfinished() == ""


def test_from_and_to_are_append_times(kafka: str, names: dict[str, str], tmp_path: Path) -> None:
    begin, end = kafka_log.BEGIN_MS + 100_000, kafka_log.BEGIN_MS + 310_000
    run(kafka, names, tmp_path / "r", from_ms=begin, to_ms=end)
    found = kafka_log.recorded(Recording(str(tmp_path / "r")), "transactions")
    whole = kafka_log.read(kafka, names["transactions"], PARTITIONS)
    for partition, rows in whole.items():
        assert found[partition] == [row for row in rows if begin <= row[1] < end]
    assert [len(rows) for rows in found.values()] == [200, 210, 210]
    assert kafka_log.recorded(Recording(str(tmp_path / "r")), "labels")[0] == []


def test_what_was_followed_can_be_finished(
    kafka: str, names: dict[str, str], tmp_path: Path
) -> None:
    run(kafka, names, tmp_path / "r", follow=True, stop=lambda: True)
    kafka_log.publish(kafka, names["transactions"], 0, 900, 50)
    assert run(kafka, names, tmp_path / "r").complete, "up to now, not for ever"
    check(kafka, names, tmp_path / "r")


def test_one_that_still_grows_is_read_as_it_was_and_says_so(
    kafka: str, names: dict[str, str], tmp_path: Path
) -> None:
    """Nothing was said, and a later pass, or another process, read more than an earlier one."""
    seen: list[RecordingSource] = []

    def stop() -> bool:
        rows = Recording(str(tmp_path / "r")).manifest().rows("transactions")
        if not seen and rows >= 500:
            seen.append(RecordingSource(str(tmp_path / "r")))
        return bool(seen) and rows > seen[0].manifest().rows("transactions")

    run(kafka, names, tmp_path / "r", follow=True, file_rows=50, stop=stop)
    (source,) = seen
    held = sum(map(source.rows, source.shards()))
    labels = len(list(source.labels()))
    told = f"read is what it held at the start, {held:,} transactions and {labels} labels"
    assert told in source.unfinished()
    assert sum(len(batch) for at in source.shards() for batch in source.batches(at, 99)) == held
    again = RecordingSource(str(tmp_path / "r"))
    assert sum(map(again.rows, again.shards())) > held
    assert again.identity() != source.identity()
    assert again.unfinished() == "", "a Ctrl-C is the end of one that is followed"


def test_another_range_is_refused(kafka: str, names: dict[str, str], tmp_path: Path) -> None:
    begin, end = kafka_log.BEGIN_MS + 10_000, kafka_log.BEGIN_MS + 20_000
    first = run(kafka, names, tmp_path / "r", from_ms=begin, to_ms=end)
    assert run(kafka, names, tmp_path / "r") == first, "without times it resumes"
    for other, flag in (({"from_ms": begin + 1}, "--from"), ({"to_ms": end - 1}, "--to")):
        with pytest.raises(RecordingError, match=f"begun with another {flag}"):
            run(kafka, names, tmp_path / "r", **other)


def test_a_topic_made_again_is_another_one(
    kafka: str, names: dict[str, str], tmp_path: Path
) -> None:
    run(kafka, names, tmp_path / "r")
    kafka_log.drop_topics(kafka, [names["labels"]])
    kafka_log.make_topics(kafka, {names["labels"]: 1})
    with pytest.raises(RecordingError, match="another topic labels"):
        run(kafka, names, tmp_path / "r")


def test_scores_are_recorded_to_their_end(
    kafka: str, names: dict[str, str], tmp_path: Path
) -> None:
    # What was said of the last transactions before --to was said after it.
    asked = {"transactions": names["transactions"], "scores": names["labels"]}
    run(kafka, asked, tmp_path / "r", to_ms=kafka_log.BEGIN_MS + 5_000)
    recording = Recording(str(tmp_path / "r"))
    assert recording.manifest().rows("transactions") == 5 * PARTITIONS
    assert kafka_log.recorded(recording, "scores") == kafka_log.read(kafka, names["labels"], 1)


def test_another_set_of_topics_is_refused(
    kafka: str, names: dict[str, str], tmp_path: Path
) -> None:
    run(kafka, names, tmp_path / "r")
    before = (tmp_path / "r" / "manifest.json").read_bytes()
    with pytest.raises(RecordingError, match=r"records \['labels', 'transactions'\]"):
        run(kafka, {"transactions": names["transactions"]}, tmp_path / "r")
    assert (tmp_path / "r" / "manifest.json").read_bytes() == before


def test_a_topic_that_is_not_there(kafka: str, topic_prefix: str, tmp_path: Path) -> None:
    with pytest.raises(BrokerError, match=f"topic={topic_prefix}transactions"):
        run(kafka, topics(topic_prefix), tmp_path / "r")
    assert not (tmp_path / "r").exists()


def test_follow_goes_on_until_it_is_interrupted(
    kafka: str, names: dict[str, str], topic_prefix: str, tmp_path: Path
) -> None:
    out = tmp_path / "r"
    flags = [f"kafka.bootstrap={kafka}", f"kafka.topic_prefix={topic_prefix}"]
    sets = [word for flag in flags for word in ("--set", flag)]
    words = [sys.executable, "-c", PROGRAM, "record", str(out), "--follow", *sets]
    for more in (1_000, 2_000):
        with subprocess.Popen(words, stderr=subprocess.PIPE, text=True) as child:
            _until(lambda: (out / "manifest.json").exists())
            kafka_log.publish(kafka, names["transactions"], 2, more, 30)
            expected = sum(
                len(rows)
                for name, parts in (("transactions", PARTITIONS), ("labels", 1))
                for rows in kafka_log.read(kafka, names[name], parts).values()
            )
            wanted = expected if more == 1_000 else 30
            assert child.stderr is not None
            for line in child.stderr:
                if line.startswith(f"{wanted:,},"):
                    break
            child.send_signal(signal.SIGINT)
            assert child.wait(180) == 0
        check(kafka, names, out)
    assert not Recording(str(out)).manifest().complete, "more may come"


def _until(done: Callable[[], bool]) -> None:
    deadline = time.monotonic() + 180
    while not done():
        assert time.monotonic() < deadline
        time.sleep(0.02)


def _record(kafka: str, names: dict[str, str], out: Path, moved: Event) -> None:
    """In a child: small files, so that there is much to be interrupted."""
    request = Request(names, file_rows=20)
    recorder = Recorder({"bootstrap.servers": kafka}, request, Recording(str(out)))
    recorder.run(progress=lambda done, total: moved.set() if done else None)


def test_twenty_kills_lose_and_repeat_nothing(
    kafka: str, names: dict[str, str], tmp_path: Path
) -> None:
    def request(place: int) -> tuple[str, dict[str, str], Path]:
        return kafka, names, tmp_path / f"r{place}"

    def checked(place: int) -> None:
        check(kafka, names, tmp_path / f"r{place}")

    place = killed(_record, request, checked, times=20, seed=3, within_s=0.25)
    assert run(kafka, names, tmp_path / f"r{place}").complete
    checked(place)
    assert not list((tmp_path / f"r{place}").rglob("*.part"))


def test_a_place_that_cannot_be_written_is_not_told_to_make_room(
    kafka: str, names: dict[str, str], tmp_path: Path
) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(RecordingError, match="name another directory") as refused:
        run(kafka, names, tmp_path / "file" / "r")
    assert "make room" not in str(refused.value)


def _record_with_little_room(kafka: str, names: dict[str, str], out: Path, limit: int) -> None:
    resource.setrlimit(resource.RLIMIT_FSIZE, (limit, limit))
    try:
        run(kafka, names, out)
    except RecordingError as error:
        told = "see `ulimit -f`, and run the same command again: it resumes" in str(error)
        sys.exit(FULL_DISK if told else str(error))


@pytest.mark.parametrize("limit", [0, 1_000, 20_000, 40_000])
def test_a_full_disk_leaves_a_recording_that_resumes(
    kafka: str, names: dict[str, str], tmp_path: Path, limit: int
) -> None:
    out = tmp_path / "r"
    child = FORKS.Process(target=_record_with_little_room, args=(kafka, names, out, limit))
    child.start()
    child.join(180)
    assert child.exitcode == FULL_DISK
    assert run(kafka, names, out).complete
    check(kafka, names, out)
