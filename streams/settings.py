"""One frozen Settings object: `fraudstream.toml`, then environment, then flags.

In: a TOML file, `FRAUDSTREAM_<SECTION>__<NAME>` variables, `section.name=value` flags; below them
all, the addresses that `fraudstream services up` wrote to `services.json` in `worker.data_dir`.
Out: `Settings`, validated as a whole; `ConfigError` names every problem at once.
Does not know what any setting is used for; secrets are masked wherever it is printed.
"""

from __future__ import annotations

import difflib
import json
import os
import re
import tomllib
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, Literal

from pydantic import (
    BaseModel,
    ConfigDict,
    Field,
    SecretStr,
    ValidationError,
    ValidationInfo,
    field_validator,
)
from pydantic_settings import (
    BaseSettings,
    EnvSettingsSource,
    InitSettingsSource,
    PydanticBaseSettingsSource,
    SettingsConfigDict,
)

from streams.errors import ConfigError

DEFAULT_FILE = "fraudstream.toml"
PREFIX = "FRAUDSTREAM_"
DEFAULT_DATA_DIR = ".fraudstream"
SERVICES_FILE = "services.json"
"""Where the local services, if they run, tell their addresses; in the data directory."""

ADDRESS = re.compile(r"(?:\[[0-9A-Fa-f:.%]+\]|[^\s:/,\[\]]+)(?::([0-9]{1,5}))?")
"""A broker: a name or number, in brackets where it holds colons, and a port if not 9092."""


class Section(BaseModel):
    """A section: frozen, and an unknown name in it is an error."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    @field_validator("*", mode="before")
    @classmethod
    def _no_truth(cls, value: Any, about: ValidationInfo) -> Any:
        # Pydantic would read true as 1.
        assert about.field_name is not None
        if isinstance(value, bool) and cls.model_fields[about.field_name].annotation is not bool:
            raise ValueError("true and false are no value of this setting")
        return value

    @field_validator("ssl_key", check_fields=False)
    @classmethod
    def _of_a_certificate(cls, key: Path | None, about: ValidationInfo) -> Path | None:
        if key is not None and about.data.get("ssl_cert") is None:
            raise ValueError("a key without its certificate: set ssl_cert, too")
        return key


class KafkaSettings(Section):
    """How to reach Kafka, and how the service reads from it."""

    bootstrap: str = Field("localhost:9092", min_length=1)
    group: str = Field("fraudstream", min_length=1)
    security_protocol: Literal["PLAINTEXT", "SSL", "SASL_PLAINTEXT", "SASL_SSL"] = "PLAINTEXT"
    sasl_mechanism: Literal["PLAIN", "SCRAM-SHA-256", "SCRAM-SHA-512"] = "SCRAM-SHA-512"
    sasl_username: str | None = None
    sasl_password: SecretStr | None = Field(None, validate_default=True)
    ssl_ca: Path | None = None
    ssl_cert: Path | None = None
    ssl_key: Path | None = None
    ssl_key_password: SecretStr | None = None
    fetch_max_wait_ms: int = Field(20, ge=1, le=5_000)
    session_timeout_ms: int = Field(10_000, ge=6_000, le=90_000)
    """Faust gives a request 90 s, and refuses a session that is longer."""
    topic_prefix: str = Field("", max_length=32, pattern=r"^[A-Za-z0-9._-]*$")

    @field_validator("bootstrap")
    @classmethod
    def _addresses(cls, bootstrap: str) -> str:
        for address in bootstrap.split(","):
            found = ADDRESS.fullmatch(address.strip())
            if not found or not 0 < int(found[1] or 9_092) < 65_536:
                raise ValueError("write host:port, and a comma between two of them")
        return bootstrap

    # Here and below: what looks at the section as a whole would wait until each of it is right.
    @field_validator("sasl_password")
    @classmethod
    def _credentials(cls, password: SecretStr | None, about: ValidationInfo) -> SecretStr | None:
        sasl = about.data.get("security_protocol", "").startswith("SASL")
        if sasl and not (about.data.get("sasl_username") and password):
            raise ValueError("sasl_username and sasl_password are needed with SASL")
        return password


class TopicsSettings(Section):
    """What `topics create` makes."""

    partitions: int = Field(6, ge=1, le=1_024)
    replication: int = Field(1, ge=1, le=9)


class RedisSettings(Section):
    """How to reach Redis. A rediss:// URL means TLS."""

    url: SecretStr = SecretStr("redis://localhost:6379/0")
    username: str | None = None
    password: SecretStr | None = None
    ssl_ca: Path | None = None
    ssl_cert: Path | None = None
    ssl_key: Path | None = None
    timeout_s: float = Field(5.0, gt=0, le=120)
    namespace: str = Field("fs", min_length=1, max_length=16, pattern=r"^[a-z0-9]+$")
    require_durable: bool = True
    """Refuse to start unless appendonly, appendfsync always and noeviction are set."""

    @field_validator("url")
    @classmethod
    def _scheme(cls, url: SecretStr) -> SecretStr:
        # The rest of it is looked at when it is used: it may hold a password, and is not quoted.
        if not url.get_secret_value().startswith(("redis://", "rediss://", "unix://")):
            raise ValueError("write redis://host:port/0, or rediss://host:port/0 for TLS")
        return url


class WorkerSettings(Section):
    """One worker process."""

    batch_events: int = Field(8_192, ge=1, le=8_192)
    buffer_batches: int = Field(16, ge=1, le=64)
    score_batch: int = Field(64, ge=1, le=1_024)
    threads: int = Field(1, ge=1, le=64)
    arena_mb: int = Field(512, ge=16, le=1_048_576)
    watchdog_s: float = Field(30.0, ge=1, le=3_600)
    retry_s: float = Field(60.0, ge=0, le=3_600)
    max_future_s: int = Field(86_400, ge=0, le=31_536_000)
    """How far event_time may be ahead of the broker's append time before it is a dead letter."""
    quarantine_after: int = Field(3, ge=2, le=100)
    data_dir: Path = Path(DEFAULT_DATA_DIR)
    failpoint: str | None = None
    """Test aid: `step:n` ends the process at the n-th passage of a named step."""


class RiskSettings(Section):
    """Merchant and terminal risk snapshots."""

    enabled: bool = True
    delay_days: int = Field(7, ge=0, le=60)
    period_hours: int = Field(24, ge=1, le=24)
    """Each period has its own snapshot. Train on the same: it is part of what the model is told."""
    wait_s: float = Field(30.0, ge=0, le=600)

    @field_validator("period_hours")
    @classmethod
    def _whole_periods(cls, hours: int) -> int:
        if 24 % hours:
            raise ValueError("a day must be whole periods: 24, 12, 8, 6, 4, 3, 2 or 1")
        return hours


class ModelSettings(Section):
    """Which model, on what."""

    bundle: str = "default"
    """A path, a name in the registry, `default` (the promoted or shipped one), `stub` (scores
    without a meaning) or `none` (no scores: rules decide alone)."""
    registry: Path = Path(".fraudstream/models")
    device: Literal["auto", "cpu", "cuda"] = "auto"
    precision: Literal["fp32", "bf16"] = "fp32"
    """Of the matrix products on a GPU; the CPU kernel is always fp32."""


class DecideSettings(Section):
    """Thresholds on the calibrated score."""

    review: float = Field(0.3, ge=0, le=1)
    block: float = Field(0.8, ge=0, le=1, validate_default=True)
    rules: Path | None = None
    """A TOML file of rules; rules from the `rules` topic come on top."""
    explain: bool = True

    @field_validator("block")
    @classmethod
    def _ordered(cls, block: float, about: ValidationInfo) -> float:
        if about.data.get("review", block) > block:
            raise ValueError("review must not be above block")
        return block


class MetricsSettings(Section):
    """The Prometheus endpoint; port 0 means off."""

    host: str = Field("127.0.0.1", min_length=1)
    """Empty would be every address of the machine: who wants that writes 0.0.0.0."""
    port: int = Field(0, ge=0, le=65_535)


class LogSettings(Section):
    """Logging."""

    level: Literal["DEBUG", "INFO", "WARNING", "ERROR"] = "INFO"
    json_lines: bool = False


class Settings(BaseSettings):
    """All settings. Use `load`, which gathers every problem into one ConfigError."""

    model_config = SettingsConfigDict(
        frozen=True,
        extra="forbid",
        env_prefix=PREFIX,
        env_nested_delimiter="__",
        nested_model_default_partial_update=True,
    )

    kafka: KafkaSettings = KafkaSettings()
    topics: TopicsSettings = TopicsSettings()
    redis: RedisSettings = RedisSettings()
    worker: WorkerSettings = WorkerSettings()
    risk: RiskSettings = RiskSettings()
    model: ModelSettings = ModelSettings()
    decide: DecideSettings = DecideSettings()
    metrics: MetricsSettings = MetricsSettings()
    log: LogSettings = LogSettings()

    @classmethod
    def settings_customise_sources(
        cls,
        settings_cls: type[BaseSettings],
        init_settings: PydanticBaseSettingsSource,
        env_settings: PydanticBaseSettingsSource,
        dotenv_settings: PydanticBaseSettingsSource,
        file_secret_settings: PydanticBaseSettingsSource,
    ) -> tuple[PydanticBaseSettingsSource, ...]:
        """Flags, then the environment, then the file (`_file`), then local services (`_local`)."""
        assert isinstance(init_settings, InitSettingsSource)
        assert isinstance(env_settings, EnvSettingsSource)
        # A variable that names a whole section is a problem of its own, and hides no other.
        env_settings.env_vars = {
            variable: value
            for variable, value in env_settings.env_vars.items()
            if variable.removeprefix(PREFIX.lower()) not in cls.model_fields
        }
        given = dict(init_settings.init_kwargs)
        document = given.pop("_file", {})
        local = given.pop("_local", {})
        return (
            InitSettingsSource(settings_cls, given),
            env_settings,
            InitSettingsSource(settings_cls, document),
            InitSettingsSource(settings_cls, local),
        )

    def topic(self, name: str) -> str:
        """The topic's name on the broker: the prefix, then the schema's name."""
        return f"{self.kafka.topic_prefix}{name}"


def parse_flags(pairs: Sequence[str]) -> tuple[dict[str, dict[str, Any]], list[str]]:
    """`section.name=value` strings to nested mappings, and what is wrong with pairs of other form.

    null, lists and objects are JSON; all else stays text, which the setting's own type reads: a
    password of digits is a password.
    """
    nested: dict[str, dict[str, Any]] = {}
    problems = []
    for pair in pairs:
        path, sign, text = pair.partition("=")
        section, dot, name = path.partition(".")
        if not (sign and dot and section and name):
            problems.append(f"cannot read the flag {path!r}: write it as section.name=value")
            continue
        try:
            value = json.loads(text)
        except RecursionError:
            problems.append(f"cannot read the flag {path!r}: its value nests too deep")
            continue
        except ValueError:  # no JSON, or a number of more digits than Python reads
            value = text
        scalar = isinstance(value, bool | int | float)
        nested.setdefault(section, {})[name] = text if scalar else value
    return nested, problems


def _unknown(section: str, name: str | None) -> str:
    """What is said of a name that no setting has, with the nearest one."""
    sections = Settings.model_fields
    if name is None or section not in sections:
        near = difflib.get_close_matches(section, sections, 1)
        return "no such section" + (f"; did you mean {near[0]}?" if near else "")
    known = getattr(sections[section].annotation, "model_fields", {})
    near = difflib.get_close_matches(name, known, 1)
    return "no such setting" + (f"; did you mean {section}.{near[0]}?" if near else "")


def _environment_problems(environ: Mapping[str, str]) -> dict[tuple[str, str], str]:
    """Variables with our prefix that name no setting, by section and name: pydantic would pass
    over some of them."""
    problems = {}
    for variable in sorted(environ):
        if not variable.startswith(PREFIX) or variable == f"{PREFIX}CONFIG":
            continue
        section, _, name = variable.removeprefix(PREFIX).lower().partition("__")
        field = Settings.model_fields.get(section)
        if field is None or name not in getattr(field.annotation, "model_fields", {}):
            said = f"environment variable {variable}: {_unknown(section, name)}"
            problems[section, name] = said
    return problems


def _local_services(data_dir: Path) -> dict[str, dict[str, str]]:
    """The addresses of the services that run on this machine for this directory, if any do."""
    path = data_dir / SERVICES_FILE
    try:
        document = json.loads(path.read_text("utf-8"))
        return {
            "kafka": {"bootstrap": document["kafka"]["bootstrap"]},
            "redis": {"url": document["redis"]["url"]},
        }
    except (FileNotFoundError, NotADirectoryError):
        return {}
    except (ValueError, KeyError, TypeError) as error:
        raise ConfigError(
            f"{path} is damaged: {error!r}", remedy="Run `fraudstream services up` again"
        ) from None


def _data_dir(flags: Mapping[str, Mapping[str, Any]], document: Mapping[str, Any]) -> Path:
    """`worker.data_dir` before the settings are there, because it names one of their sources."""
    in_file = document.get("worker")
    candidates = (
        flags.get("worker", {}).get("data_dir"),
        os.environ.get(f"{PREFIX}WORKER__DATA_DIR"),
        in_file.get("data_dir") if isinstance(in_file, dict) else None,
    )
    return Path(next((c for c in candidates if isinstance(c, str)), DEFAULT_DATA_DIR))


def _read(file: Path | None) -> tuple[dict[str, Any], list[str]]:
    """The settings file, where there is one, and what is wrong with it."""
    from_environment = os.environ.get(f"{PREFIX}CONFIG")
    named = file or (Path(from_environment) if from_environment else None)
    path = named or Path(DEFAULT_FILE)
    if named is None and not path.exists():
        return {}, []
    try:
        return tomllib.loads(path.read_text("utf-8-sig")), []
    except FileNotFoundError:
        return {}, [f"no configuration file at {path}"]
    except OSError as error:
        return {}, [f"cannot read {path}: {error.strerror or error}"]
    except (ValueError, RecursionError) as error:  # also not UTF-8, or a number without end
        return {}, [f"{path} is not TOML: {error}"]


def load(file: Path | None = None, flags: Sequence[str] = ()) -> Settings:
    """Read the settings. `file` defaults to $FRAUDSTREAM_CONFIG, then ./fraudstream.toml if there.

    Raises ConfigError that lists every problem found in file, environment and flags.
    """
    document, problems = _read(file)
    given, unread = parse_flags(flags)
    from_environment = _environment_problems(os.environ)
    problems += [*from_environment.values(), *unread]
    local = _local_services(_data_dir(given, document))
    settings: Settings | None = None
    try:
        sources: dict[str, Any] = {"_file": document, "_local": local, **given}
        settings = Settings(**sources)
    except ValidationError as error:
        for fault in error.errors():
            place = tuple(str(part) for part in fault["loc"])
            said = fault["msg"].removeprefix("Value error, ")
            if fault["type"] == "extra_forbidden":
                section, name = (*place, None)[:2]
                if (section, name or "") in from_environment:
                    continue
                said = _unknown(str(section), name)
            elif fault["type"] == "model_type":
                said = "is a section: write its settings below it"
            problems.append(f"{'.'.join(place) or 'settings'}: {said}")
    if problems or settings is None:
        raise ConfigError(
            "configuration has {} problem{}:\n  {}".format(
                len(problems), "" if len(problems) == 1 else "s", "\n  ".join(problems)
            )
        )
    return settings
