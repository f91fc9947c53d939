"""What the system refuses a verb is one line that says what and where; a bug has its traceback."""

from __future__ import annotations

import errno
import os
import signal
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from streams import cli
from streams.cli import main, trouble
from streams.cli.progress import GOES_ON
from streams.offline.source import open_source
from streams.signals import endings
from tests.clients import records
from tests.full_disk import no_room
from tests.offline import world

Run = Callable[..., tuple[int, str]]
ROOM = 2_000
"""Bytes. Less than any of the files that the verbs below write."""


@pytest.fixture
def run(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> Iterator[Run]:
    """A verb as its user runs it, in a directory of its own: exit code and stderr."""
    before = {number: signal.getsignal(number) for number in endings()}
    monkeypatch.chdir(tmp_path)

    def verb(*words: str) -> tuple[int, str]:
        monkeypatch.setattr(sys, "argv", ["fraudstream", *words])
        with pytest.raises(SystemExit) as ended:
            main()
        assert isinstance(ended.value.code, int)
        return ended.value.code, capsys.readouterr().err

    yield verb
    for number, handler in before.items():
        signal.signal(number, handler)


@pytest.mark.parametrize("risk", ["true", "false"])
@pytest.mark.parametrize("verb", ["replay", "dataset"])
def test_a_full_disk_is_one_line_and_the_next_run_trusts_nothing(
    run: Run, verb: str, risk: str
) -> None:
    recording = str(open_source(*world.stream(Path("s"), events=1_500), Path("s")).location())
    flags = ["--set", f"risk.enabled={risk}", "--set", "model.bundle=stub"]
    where = [] if verb == "dataset" else ["--out"]
    assert run(verb, recording, *where, "good", *flags)[0] == 0
    with no_room(ROOM):
        code, said = run(verb, recording, *where, "again", *flags)
    assert code == 1
    assert said.splitlines()[-1].startswith("error: again/"), said
    assert "File too large. Files may not become that large here" in said
    assert GOES_ON in said
    assert run(verb, recording, *where, "again", *flags)[0] == 0
    assert contents("again") == contents("good")


def test_a_plain_file_is_laid_out_in_nothing_of_the_users(run: Run) -> None:
    """Before it was said that nothing there was touched, the file had been laid out there."""
    files = world.stream(Path("s"), events=300)
    recording = Path(open_source(*files, Path("s")).location())
    before = contents(str(recording))
    code, said = run("dataset", str(files[0]), str(recording))
    assert code == 2 and "nothing there was touched" in said
    assert contents(str(recording)) == before


def test_a_file_is_no_recording_to_verify(run: Run) -> None:
    """The error named a temporary folder that nobody had given, and that was gone."""
    Path("stream.jsonl").write_text("{}\n")
    code, said = run("verify", "stream.jsonl")
    assert code == 2 and "error: stream.jsonl is a file, and no recording with scores" in said


def contents(folder: str) -> dict[str, bytes]:
    names = (path for path in Path(folder).rglob("*") if path.is_file())
    return {str(path.relative_to(folder)): path.read_bytes() for path in names}


@pytest.mark.parametrize("suffix", ["parquet", "csv", "jsonl"])
def test_half_a_stream_is_not_left_for_publish(run: Run, suffix: str) -> None:
    words = ("simulate", f"s.{suffix}", "--events", "500", "--accounts", "20")
    with no_room(ROOM):
        code, said = run(*words)
    assert (code, list(Path().iterdir())) == (1, [])
    assert said.startswith(f"error: s.{suffix}: File too large. "), said
    assert run("simulate", f"nowhere/s.{suffix}")[0] == 2


@pytest.mark.parametrize("name", [".", "/", "..", "stream", "stream.xls"])
def test_a_file_without_a_name_is_told_before_the_work(run: Run, name: str) -> None:
    for words in (("simulate",), ("convert", "sparkov", "in.csv")):
        code, said = run(*words, name)
        assert (code, said.startswith(f"error: cannot tell the format of {name}")) == (2, True), (
            said
        )
    assert list(Path().iterdir()) == []


def test_a_place_where_no_file_can_be_is_told_before_the_work(run: Run) -> None:
    Path("d.parquet").mkdir()
    for out in ("nowhere/s.parquet", "d.parquet"):
        # So many events would take longer than the test has.
        code, said = run("simulate", out, "--events", "100000000")
        assert code == 2 and said.startswith(f"error: cannot write {out}: "), said


def test_half_a_key_is_not_left_for_the_next_run(run: Run) -> None:
    source = Path(__file__).parents[1] / "data" / "sparkov.csv"
    words = ("convert", "sparkov", str(source), "out.jsonl", "--set", "worker.data_dir=d")
    with no_room(20):
        code, said = run(*words)
    assert (code, said.partition(". ")[0]) == (1, "error: d/token.key: File too large")
    assert "Files may not become that large here" in said
    with no_room(40):
        code, said = run(*words)
    assert (code, said.partition(".")[0]) == (1, "error: out"), said
    assert [path.name for path in Path().rglob("*")] == ["d", "token.key"]
    assert run(*words)[0] == 0


def test_what_stdout_does_not_take_is_told(run: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    with open("/dev/full", "w") as full:
        monkeypatch.setattr(sys, "stdout", full)
        code, said = run("models", "list", "--json")
    assert (code, said.count("\n")) == (1, 1)
    assert said.startswith("error: standard output: No space left on device. Free some space")


@pytest.mark.parametrize("words", ["alerts", "alerts --json", "--version"])
def test_a_reader_that_goes_ends_a_verb_quietly(kafka: str, topic_prefix: str, words: str) -> None:
    """As `head` does. It exited with 1: under `pipefail` a failure of the verb."""
    settings = records.settings(kafka, topic_prefix)
    records.put(kafka, settings.topic("alerts"), map(records.alert, range(3)))
    env = {"BOOTSTRAP": kafka, "TOPIC_PREFIX": topic_prefix}
    reader, writer = os.pipe()
    os.close(reader)
    done = subprocess.run(
        [sys.executable, "-c", "from streams.cli import main; main()", *words.split()],
        stdout=writer, stderr=subprocess.PIPE, text=True, check=False,
        env=os.environ | {f"FRAUDSTREAM_KAFKA__{name}": value for name, value in env.items()},
    )  # fmt: skip
    os.close(writer)
    assert (done.returncode, done.stderr) == (trouble.UNREAD, "")


def test_ctrl_c_before_the_verb_begins_is_no_traceback(
    run: Run, monkeypatch: pytest.MonkeyPatch
) -> None:
    def build() -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr(cli, "build", build)
    assert run("demo") == (130, "")


def test_what_nobody_can_mend_keeps_its_traceback() -> None:
    for bug in (errno.EBADF, errno.EINVAL, errno.ENOTSOCK):
        assert trouble.told(OSError(bug, "odd")) is None
    assert trouble.told(OSError("odd")) is None
    said = trouble.told(OSError(errno.EMFILE, "Too many open files"))
    assert said == "Too many open files. Raise the limit of open files: `ulimit -n`"
