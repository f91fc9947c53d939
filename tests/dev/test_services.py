"""The local services as one thing: idempotent, torn down on failure, one at a time.

The embedded broker stands in where only the bookkeeping is tested: it starts in half a second.
"""

from __future__ import annotations

import json
import os
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import redis

from streams.dev import process, services
from streams.errors import ConfigError, ServiceError
from streams.settings import load


@pytest.fixture
def place(tmp_path: Path) -> Iterator[Path]:
    yield tmp_path / "services"
    services.down(tmp_path / "services")


def identity(pid: int) -> str | None:
    return process.identity(pid)


def test_up_twice_is_up_once(place: Path) -> None:
    first = services.up(place, "embedded")
    assert first.ready
    assert services.status(place) == first
    assert json.loads((place / "services.json").read_text()) == json.loads(first.to_json())
    assert services.up(place, "embedded") == first
    settings = load(flags=[f"worker.data_dir={place}"])
    assert first.kafka is not None
    assert first.redis is not None
    assert settings.kafka.bootstrap == first.kafka.bootstrap
    assert settings.redis.url.get_secret_value() == first.redis.url


def test_redis_is_durable_and_keeps_its_data_and_port(place: Path) -> None:
    report = services.up(place, "embedded")
    assert report.redis is not None
    with redis.Redis.from_url(report.redis.url) as client:
        settings = client.config_get("appendonly", "appendfsync", "maxmemory-policy")
        client.set("kept", "yes")
    assert settings == {
        "appendonly": "yes",
        "appendfsync": "always",
        "maxmemory-policy": "noeviction",
    }
    os.kill(report.redis.pid, signal.SIGKILL)
    while process.identity(report.redis.pid) is not None:
        time.sleep(0.01)
    assert not services.status(place).ready
    again = services.up(place, "embedded")
    assert again.kafka == report.kafka
    assert again.redis is not None
    assert again.redis.url == report.redis.url
    assert again.redis.pid != report.redis.pid
    with redis.Redis.from_url(again.redis.url) as client:
        assert client.get("kept") == b"yes"


def test_down_waits_until_all_is_gone_and_keeps_the_logs(place: Path) -> None:
    report = services.up(place, "embedded")
    assert report.kafka is not None
    assert report.redis is not None
    assert services.down(place)
    assert identity(report.kafka.pid) is None
    assert identity(report.redis.pid) is None
    assert not (place / "services.json").exists()
    assert [log.name for log in services.logs(place)]
    assert services.status(place) == services.Report(None, None, False)
    assert not services.down(place)
    assert not services.down(place / "never")


def test_a_stale_record_is_passed_over_and_its_pid_left_alone(place: Path) -> None:
    with subprocess.Popen(["sleep", "600"]) as stranger:
        for name in ("redis", "embedded", "kafka"):
            (place / name).mkdir(parents=True)
            process.remember(process.Child(stranger.pid, "earlier"), place / name, {"port": 1})
        assert services.status(place) == services.Report(None, None, False)
        assert services.up(place, "embedded").ready
        services.down(place)
        assert stranger.poll() is None
        stranger.kill()


@pytest.mark.parametrize("nth", [1, 2], ids=["redis", "broker"])
@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM, signal.SIGHUP])
def test_a_signal_while_a_server_is_being_made_leaves_none_behind(
    place: Path, monkeypatch: pytest.MonkeyPatch, nth: int, number: signal.Signals
) -> None:
    """The server runs, and the call that made it has not yet said so to anybody."""
    made: list[int] = []

    class Interrupted(subprocess.Popen[bytes]):
        def __init__(self, *arguments: Any, **options: Any) -> None:
            super().__init__(*arguments, **options)
            made.append(self.pid)
            if len(made) == nth:
                signal.raise_signal(number)

    before = signal.signal(number, signal.default_int_handler)
    monkeypatch.setattr(subprocess, "Popen", Interrupted)
    try:
        with pytest.raises(KeyboardInterrupt):
            services.up(place, "embedded")
    finally:
        signal.signal(number, before)
    assert len(made) == nth
    assert [identity(pid) for pid in made] == [None] * nth
    assert services.status(place) == services.Report(None, None, False)


def test_what_was_started_is_stopped_when_the_rest_fails(place: Path) -> None:
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        port = taken.getsockname()[1]
        with pytest.raises(ServiceError, match=f"port {port}"):
            services.up(place, "embedded", kafka_port=port)
    assert services.status(place) == services.Report(None, None, False)
    assert not (place / "services.json").exists()
    record = process.recall(place / "redis")
    assert record is not None
    assert identity(record["pid"]) is None


def test_what_ran_before_is_left_when_the_rest_fails(place: Path) -> None:
    before = services.up(place, "embedded")
    assert before.redis is not None
    with pytest.raises(ServiceError, match=r"the engine embedded.*services down"):
        services.up(place, "kafka")
    with pytest.raises(ServiceError, match="Redis is at port"):
        services.up(place, "embedded", redis_port=process.free_port())
    assert services.status(place) == before


def test_two_at_once_start_one(place: Path) -> None:
    code = (
        "import sys; from pathlib import Path; from streams.dev import services;"
        "print(services.up(Path(sys.argv[1]), 'embedded').to_json())"
    )
    running = [
        subprocess.Popen(
            [sys.executable, "-c", code, str(place)], stdout=subprocess.PIPE, text=True
        )
        for _ in range(2)
    ]
    said = [one.communicate(timeout=300)[0] for one in running]
    assert json.loads(said[0]) == json.loads(said[1])


def test_a_directory_that_cannot_be_made(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(ServiceError, match=r"using .*file/x failed"):
        services.up(tmp_path / "file" / "x", "embedded")


def test_what_a_user_names_goes_before_what_runs_here(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / ".fraudstream").mkdir()
    found = tmp_path / ".fraudstream" / "services.json"
    report = services.Report(
        services.KafkaReport("127.0.0.1:1", "kafka", 1),
        services.RedisReport("redis://127.0.0.1:2/0", 2),
        ready=True,
    )
    found.write_text(report.to_json())
    assert load().kafka.bootstrap == "127.0.0.1:1"
    assert load(flags=["kafka.bootstrap=flag:9"]).kafka.bootstrap == "flag:9"
    assert load(flags=["kafka.bootstrap=flag:9"]).redis.url.get_secret_value() == report.redis.url
    monkeypatch.setenv("FRAUDSTREAM_KAFKA__BOOTSTRAP", "environment:9")
    assert load().kafka.bootstrap == "environment:9"
    (tmp_path / "fraudstream.toml").write_text('[redis]\nurl = "redis://file:9/0"\n')
    assert load().redis.url.get_secret_value() == "redis://file:9/0"
    assert load(flags=["worker.data_dir=elsewhere"]).kafka.bootstrap == "environment:9"
    monkeypatch.delenv("FRAUDSTREAM_KAFKA__BOOTSTRAP")
    assert load(flags=["worker.data_dir=elsewhere"]).kafka.bootstrap == "localhost:9092"
    found.write_text("{")
    with pytest.raises(ConfigError, match=r"services\.json is damaged.*services up"):
        load()
