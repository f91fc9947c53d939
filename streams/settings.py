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
import tomllib
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from pydantic import ValidationError
from pydantic_settings import (
    BaseSettings,
    EnvSettingsSource,
    InitSettingsSource,
    PydanticBaseSettingsSource,
    SettingsConfigDict,
)

from streams.errors import ConfigError
from streams.sections import (
    DEFAULT_DATA_DIR,
    DecideSettings,
    KafkaSettings,
    LogSettings,
    MetricsSettings,
    ModelSettings,
    RedisSettings,
    RiskSettings,
    TopicsSettings,
    WorkerSettings,
)

DEFAULT_FILE = "fraudstream.toml"
PREFIX = "FRAUDSTREAM_"
SERVICES_FILE = "services.json"
"""Where the local services, if they run, tell their addresses; in the data directory."""


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
