"""What goes wrong before a broker runs: each fault is an error that says what to do."""

from __future__ import annotations

import os
import sys
from pathlib import Path

import pytest
from confluent_kafka import Producer
from confluent_kafka.admin import AdminClient, NewTopic

from streams.dev import kafka
from streams.errors import ServiceError, ToolMissing


def program(directory: Path, name: str, script: str) -> None:
    """An executable shell script in the directory."""
    directory.mkdir(exist_ok=True)
    path = directory / name
    path.write_text(f"#!/bin/sh\n{script}\n")
    path.chmod(0o755)


@pytest.fixture
def path(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A PATH with nothing in it but what a test puts there and a shell's own tools."""
    programs = tmp_path / "bin"
    programs.mkdir()
    monkeypatch.setenv("PATH", str(programs))
    monkeypatch.delenv("JAVA_HOME", raising=False)
    return programs


def test_no_java(path: Path) -> None:
    with pytest.raises(ToolMissing, match=r"no java in PATH.*apt-get install.*embedded"):
        kafka.java()


def test_an_old_java(path: Path) -> None:
    program(path, "java", """echo 'openjdk version "11.0.2" 2019-01-15' >&2""")
    with pytest.raises(ToolMissing, match=r"is Java 11.*Install Java 17"):
        kafka.java()


def test_a_java_that_does_not_work_is_not_a_missing_one(path: Path) -> None:
    program(path, "java", "exit 1")
    with pytest.raises(ServiceError, match=r"tells no version.*Install Java 17") as caught:
        kafka.java()
    assert not isinstance(caught.value, ToolMissing)


def test_java_home_comes_first(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    home = path / "home"
    home.mkdir()
    program(home / "bin", "java", """echo 'openjdk version "21" 2023-09-19' >&2""")
    monkeypatch.setenv("JAVA_HOME", str(home))
    assert kafka.java() == str(home / "bin" / "java")


def test_no_maven_and_nothing_in_the_cache(path: Path, tmp_path: Path) -> None:
    with pytest.raises(ToolMissing, match=r"no mvn in PATH.*apt-get install maven"):
        kafka.jars(tmp_path / "cache")


def maven(path: Path, script: str) -> None:
    """A stand-in for Maven that knows $output, the directory asked for."""
    find = 'for word; do case "$word" in -DoutputDirectory=*) output=${word#*=};; esac; done'
    program(path, "mvn", f"PATH={os.defpath}\n{find}\n{script}")


GOOD = f'mkdir -p "$output" && echo jar > "$output/kafka_2.13-{kafka.KAFKA_VERSION}.jar"'


def test_a_cut_download_is_not_taken_for_a_cache(path: Path, tmp_path: Path) -> None:
    cache = tmp_path / "cache"
    maven(path, 'mkdir -p "$output" && echo half > "$output/one.jar"; echo no route >&2; exit 1')
    with pytest.raises(ServiceError, match=r"(?s)could not get Kafka.*no route.*network"):
        kafka.jars(cache)
    assert list(cache.iterdir()) == []
    maven(path, GOOD)
    home = kafka.jars(cache)
    assert [jar.name for jar in home.iterdir()] == [f"kafka_2.13-{kafka.KAFKA_VERSION}.jar"]
    (path / "mvn").unlink()
    assert kafka.jars(cache) == home


def test_maven_that_says_all_is_well_and_brings_nothing(path: Path, tmp_path: Path) -> None:
    maven(path, 'mkdir -p "$output"')
    with pytest.raises(ServiceError, match="could not get Kafka"):
        kafka.jars(tmp_path / "cache")


def test_two_fill_the_cache_at_once(path: Path, tmp_path: Path) -> None:
    """The second finds the place taken when it is done, and uses what is there."""
    cache = tmp_path / "cache"
    nested = path / "nested.py"
    nested.write_text(
        f"import sys; sys.path.insert(0, {str(Path.cwd())!r})\n"
        "from pathlib import Path\n"
        "from streams.dev import kafka\n"
        f"kafka.jars(Path({str(cache)!r}))\n"
    )
    marker = path / "started"
    first_starts_second = f'[ -e {marker} ] || {{ : > {marker}; "{sys.executable}" {nested}; }}'
    maven(path, f"{first_starts_second}\n{GOOD}")
    environment = (
        (path / "mvn").read_text().replace(f"PATH={os.defpath}", f"PATH={path}:{os.defpath}")
    )
    (path / "mvn").write_text(environment)
    home = kafka.jars(cache)
    assert sorted(entry.name for entry in cache.iterdir()) == [home.name]


@pytest.mark.parametrize(
    ("said", "remedy"),
    [
        ("java.io.IOException: No space left on device", "disk is full"),
        ("java.net.BindException: Address already in use", "another port"),
        ("java.lang.OutOfMemoryError: Java heap space", "heap"),
    ],
)
def test_causes_met_most_have_a_remedy(said: str, remedy: str) -> None:
    assert remedy in (kafka._hint(said) or "")
    assert kafka._hint("something else") is None


def test_a_broker_lays_nothing_out_among_everybodys_files(broker: kafka.Broker) -> None:
    """One that was killed left a library and a file of figures in /tmp, each time."""
    topic = NewTopic("lz4", 1, 1, config={"compression.type": "lz4"})  # so the broker packs it
    admin = AdminClient({"bootstrap.servers": broker.bootstrap})
    admin.create_topics([topic])["lz4"].result()
    producer = Producer({"bootstrap.servers": broker.bootstrap})
    producer.produce("lz4", b"a" * 1_000)
    assert producer.flush(120) == 0
    mapped = Path(f"/proc/{broker.child.pid}/maps").read_text().splitlines()
    loaded = {Path(line.split()[-1]).parent for line in mapped if "liblz4-java" in line}
    assert loaded == {broker.logs[0].parent / "tmp"}
    assert not any("hsperfdata" in line for line in mapped)
