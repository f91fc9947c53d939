"""Settings: precedence, every problem at once, secrets never shown."""

from __future__ import annotations

import re
from pathlib import Path

import pytest
from pydantic import SecretStr

from streams.errors import ConfigError
from streams.settings import Settings, load


@pytest.fixture(autouse=True)
def _empty_directory(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)


def test_flag_beats_environment_beats_file_and_sections_merge(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    file = tmp_path / "fraudstream.toml"
    file.write_text('[decide]\nreview = 0.1\nblock = 0.6\n[kafka]\ngroup = "from-file"\n')
    monkeypatch.setenv("FRAUDSTREAM_DECIDE__BLOCK", "0.7")
    monkeypatch.setenv("FRAUDSTREAM_KAFKA__GROUP", "from-environment")
    settings = load(flags=["kafka.group=from-flag"])
    assert settings.decide.review == 0.1
    assert settings.decide.block == 0.7
    assert settings.kafka.group == "from-flag"


def test_every_problem_is_named_at_once(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    file = tmp_path / "other.toml"
    file.write_text("[worker]\nbatch_events = 0\n[no_such_section]\nx = 1\n")
    monkeypatch.setenv("FRAUDSTREAM_RISK__DELAY_DAYS", "many")
    monkeypatch.setenv("FRAUDSTREAM_KAFKA__BOOTSTRAPP", "typo:9092")
    with pytest.raises(ConfigError) as caught:
        load(file, flags=["decide.block=2", "nonsense", "redis.tmeout_s=3"])
    message = str(caught.value)
    assert message.count("BOOTSTRAPP") == 1
    assert "bootstrapp:" not in message
    for named in (
        "7 problems",
        "'nonsense'",
        "did you mean redis.timeout_s?",
        "did you mean kafka.bootstrap?",
        "worker.batch_events",
        "no_such_section",
        "risk.delay_days",
        "FRAUDSTREAM_KAFKA__BOOTSTRAPP",
        "decide.block",
    ):
        assert named in message


def test_what_two_settings_say_together_waits_for_no_other_problem() -> None:
    flags = ["kafka.session_timeout_ms=5", "kafka.security_protocol=SASL_SSL"]
    flags += ["decide.explain=maybe", "decide.review=0.9"]
    with pytest.raises(ConfigError) as caught:
        load(flags=flags)
    message = str(caught.value)
    for named in ("4 problems", "session_timeout_ms", "sasl_password", "explain", "above block"):
        assert named in message


def test_an_address_that_is_none_is_among_the_problems() -> None:
    with pytest.raises(ConfigError) as caught:
        load(flags=["redis.url=u:hunter2@localhost:6379", "kafka.bootstrap=", "decide.block=2"])
    message = str(caught.value)
    for named in ("3 problems", "redis.url: write redis://", "kafka.bootstrap", "decide.block"):
        assert named in message
    assert "hunter2" not in message


@pytest.mark.parametrize(
    ("flag", "right"),
    [
        ("kafka.bootstrap=h:99999", "kafka.bootstrap=h:65535"),
        ("kafka.bootstrap=h:0", "kafka.bootstrap=h"),
        ("kafka.bootstrap=h:x", "kafka.bootstrap=[::1]:9092"),
        ("kafka.bootstrap=a:1,", "kafka.bootstrap=a:1, b:2"),
        ("kafka.bootstrap=SSL://h:1", "kafka.bootstrap=kafka-1.payments_eu.svc:9093"),
        ("kafka.group=", "kafka.group=g"),
        ("kafka.session_timeout_ms=90001", "kafka.session_timeout_ms=90000"),
        ("metrics.host=", "metrics.host=0.0.0.0"),
    ],
)
def test_what_no_worker_can_start_with_is_refused_before_it_starts(flag: str, right: str) -> None:
    """The broker was asked at a port that is none; Faust ended with a traceback."""
    load(flags=[right])
    with pytest.raises(ConfigError, match=re.escape(flag.partition("=")[0])):
        load(flags=[flag])


def test_true_is_no_number(tmp_path: Path) -> None:
    """`batch_events = true` made rounds of one message, `port = true` listened at port 1."""
    file = tmp_path / "true.toml"
    file.write_text("[worker]\nbatch_events = true\nretry_s = false\n[metrics]\nport = true\n")
    with pytest.raises(ConfigError, match="3 problems") as caught:
        load(file)
    for named in ("worker.batch_events", "worker.retry_s", "metrics.port"):
        assert named in str(caught.value)
    file.write_text("[risk]\nenabled = false\n")
    assert not load(file).risk.enabled


def test_a_day_is_whole_periods_of_risk() -> None:
    assert load(flags=["risk.period_hours=3"]).risk.period_hours == 3
    with pytest.raises(ConfigError, match=r"risk\.period_hours: a day must be whole periods"):
        load(flags=["risk.period_hours=5"])


def test_a_file_that_cannot_be_read_does_not_hide_the_rest(tmp_path: Path) -> None:
    broken = tmp_path / "broken.toml"
    broken.write_text("[kafka\n")
    for file in (broken, tmp_path / "absent.toml", tmp_path):
        with pytest.raises(ConfigError, match=r"2 problems[\s\S]*decide\.block"):
            load(file, flags=["decide.block=2"])


def test_a_flag_is_read_as_its_setting_wants_it() -> None:
    found = load(
        flags=["redis.password=12345678", "kafka.group=7", "risk.enabled=false", "worker.threads=2"]
    )
    assert found.redis.password == SecretStr("12345678")
    assert (found.kafka.group, found.risk.enabled, found.worker.threads) == ("7", False, 2)
    assert load(flags=["redis.password=null"]).redis.password is None


def test_thresholds_in_the_wrong_order_are_refused() -> None:
    with pytest.raises(ConfigError, match="review must not be above block"):
        load(flags=["decide.review=0.9", "decide.block=0.5"])


def test_sasl_without_credentials_is_refused() -> None:
    with pytest.raises(ConfigError, match="sasl_username and sasl_password"):
        load(flags=["kafka.security_protocol=SASL_SSL"])


@pytest.mark.parametrize("pair", ["decide.block", "block=1", "=1", "decide.=1"])
def test_a_flag_of_another_form_is_refused(pair: str) -> None:
    with pytest.raises(ConfigError, match=r"section\.name=value"):
        load(flags=[pair])


def test_a_flag_that_no_parser_reads_is_told_or_is_text() -> None:
    with pytest.raises(ConfigError, match=r"flag 'kafka.bootstrap': its value nests too deep"):
        load(flags=["kafka.bootstrap=" + "[" * 100_000])
    assert load(flags=["kafka.group=" + "7" * 5_000]).kafka.group == "7" * 5_000


def test_secrets_are_masked_wherever_settings_are_printed() -> None:
    settings = load(
        flags=[
            "redis.url=redis://u:hunter2@localhost:6379/0",
            "redis.password=hunter2",
            "kafka.sasl_password=hunter2",
        ]
    )
    assert settings.redis.password == SecretStr("hunter2")
    shown = f"{settings!r} {settings} {settings.model_dump()} {settings.model_dump_json()}"
    assert "hunter2" not in shown


def test_a_secret_in_a_bad_value_is_not_echoed() -> None:
    with pytest.raises(ConfigError) as caught:
        load(flags=["redis.password=[1]", 'kafka.sasl_password={"p":"hunter2"}'])
    assert "hunter2" not in str(caught.value)


@pytest.mark.parametrize("value", ['{"password": "hunter2"', "hunter2", '{"password": "hunter2"}'])
def test_a_variable_that_names_a_section_is_one_problem(
    monkeypatch: pytest.MonkeyPatch, value: str
) -> None:
    monkeypatch.setenv("FRAUDSTREAM_REDIS", value)
    monkeypatch.setenv("FRAUDSTREAM_METRICS__PORT", "abc")
    with pytest.raises(ConfigError, match="FRAUDSTREAM_REDIS: no such setting") as caught:
        load(flags=["decide.review=7"])
    assert "hunter2" not in str(caught.value)
    assert "configuration has 3 problems" in str(caught.value)
    assert "metrics.port: " in str(caught.value) and "decide.review: " in str(caught.value)


@pytest.mark.parametrize("password", ["12345", "0123", "1e5", "007.50"])
def test_a_password_of_digits_stays_as_it_is_written(password: str) -> None:
    found = load(flags=[f"redis.password={password}", "worker.batch_events=64"])
    assert found.redis.password == SecretStr(password)
    assert found.worker.batch_events == 64


def test_a_missing_or_broken_file_says_so(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="no configuration file"):
        load(tmp_path / "absent.toml")
    broken = tmp_path / "broken.toml"
    for text in (b"[kafka\n", b"\xc0", b"a = " + b"9" * 5_000, b"a = " + b"[" * 5_000):
        broken.write_bytes(text)
        with pytest.raises(ConfigError, match="is not TOML"):
            load(broken)


def test_a_file_of_an_editor_that_marks_its_bytes_is_read(tmp_path: Path) -> None:
    (tmp_path / "f.toml").write_bytes(b"\xef\xbb\xbf[worker]\nbatch_events = 64\n")
    assert load(tmp_path / "f.toml").worker.batch_events == 64


def test_a_section_that_is_given_a_value_is_named_as_one(tmp_path: Path) -> None:
    wrong = tmp_path / "wrong.toml"
    wrong.write_text("decide = 0.4")
    with pytest.raises(ConfigError, match="decide: is a section"):
        load(wrong)


def test_settings_are_frozen() -> None:
    settings = load()
    with pytest.raises(ValueError, match="frozen"):
        settings.decide.block = 0.1  # type: ignore[misc]


def test_the_page_of_settings_has_every_one_with_its_default() -> None:
    page = (Path(__file__).parents[1] / "docs" / "settings.md").read_text("utf-8")
    told = dict(re.findall(r"^\| `(\w+\.\w+)` \| (?:`(.*?)` )?\| \S.* \|$", page, re.MULTILINE))
    defaults = {}
    for section, values in Settings.model_construct().model_dump(mode="python").items():
        for name, value in values.items():
            plain = value.get_secret_value() if isinstance(value, SecretStr) else value
            text = str(plain).lower() if isinstance(plain, bool) else str(plain)
            defaults[f"{section}.{name}"] = "" if plain is None else text
    assert told == defaults
