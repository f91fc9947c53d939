"""The sections of the settings: each setting with its type, its default and its bounds.

In: values by name. Out: frozen sections, or what is wrong with each value.
Does not know where values come from, nor what any setting is used for.
"""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any, Literal

from pydantic import BaseModel, ConfigDict, Field, SecretStr, ValidationInfo, field_validator

DEFAULT_DATA_DIR = ".fraudstream"

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
    watchdog_s: float = Field(30.0, ge=5, le=3_600)
    """Signs of life come once a second, and a large round takes seconds."""
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
    public_key: Path | None = None
    """Ed25519, 32 bytes: set, no bundle scores or is promoted that was not signed by it."""


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
