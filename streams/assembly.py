"""From settings to the parts that judge: a scorer and a policy. Shared by live and offline.

In: settings. Out: `Judge`. Reads the model bundle and the rules file; touches nothing else.
Does not know Kafka or Redis, nor who calls it.
"""

from __future__ import annotations

import logging
from collections.abc import Callable
from dataclasses import dataclass, replace
from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING

from model.inputs import AnyScorer
from model.stub import NoScorer, StubScorer
from streams import features
from streams.decide import Thresholds
from streams.errors import BundleError, ConfigError
from streams.risk_pace import Pace
from streams.rulebook import RuleBook, parse_toml
from streams.schema import Mode
from streams.settings import Settings
from streams.settle import Policy
from streams.versions import code_version

if TYPE_CHECKING:
    from model.score import Scorer

NO_MODEL = "none"
STUB = "stub"
DEFAULT = "default"

_logger = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class Judge:
    """A model and the policy over its scores."""

    name: str
    scorer: AnyScorer
    policy: Policy

    def policy_now(self) -> Policy:
        """The policy of what was just scored: a GPU may have failed meanwhile."""
        if self.scorer.fell_back and self.policy.mode is Mode.FULL:
            return replace(self.policy, mode=Mode.CPU_FALLBACK)
        return self.policy


def rule_book(settings: Settings) -> RuleBook:
    """The rules of the settings' file; empty without one. Raises ConfigError."""
    path = settings.decide.rules
    if path is None:
        return RuleBook(frozenset(features.NAMES))
    return parse_toml(rules_text(path), features.NAMES)


def rules_text(path: Path) -> str:
    """The text of a file of rules. Raises ConfigError."""
    try:
        return path.read_text("utf-8-sig")
    except OSError as error:
        raise ConfigError(f"cannot read the rules at {path}: {error.strerror}") from None
    except UnicodeDecodeError:
        raise ConfigError(f"the rules at {path} are no text in UTF-8") from None


def bundle_path(settings: Settings) -> Path:
    """Where the bundle named by the settings lies: a path, the shipped one, or the registry's."""
    from model.bundle import read, shipped
    from model.registry import Registry

    name = settings.model.bundle
    if name == DEFAULT:
        promoted = Registry(settings.model.registry).current()
        return promoted if promoted is not None else shipped()
    if Path(name).is_dir():
        return Path(name)
    found = Registry(settings.model.registry).find(name)
    if found is None and name == read(shipped()).model_id:
        return shipped()
    if found is None:
        raise ConfigError(
            f"no model bundle {name!r}",
            remedy="give a directory, or a name that `fraudstream models list` shows",
        )
    return found


def public_key(settings: Settings) -> bytes | None:
    """The key that bundles must be signed by, where the settings name one. Raises ConfigError."""
    from model.signing import KEY_BYTES

    path = settings.model.public_key
    if path is None:
        return None
    try:
        key = path.read_bytes()
    except OSError as error:
        raise ConfigError(
            f"cannot read model.public_key at {path}: {error.strerror}",
            remedy="name the key's file, or unset it: then bundles need no signature",
        ) from None
    if len(key) != KEY_BYTES:
        raise ConfigError(
            f"model.public_key at {path} has {len(key)} bytes, an Ed25519 key {KEY_BYTES}",
            remedy="give the raw key, not PEM or hex (docs/security.md)",
        )
    return key


def wants_model(settings: Settings) -> bool:
    """Whether these settings name a bundle; without one nothing of torch is imported."""
    return settings.model.bundle not in (STUB, NO_MODEL)


def model_id(settings: Settings) -> str:
    """What scores by these settings name as their model. Raises as `bundle_path` does, and
    BundleError when the bundle is damaged."""
    if not wants_model(settings):
        return (NoScorer if settings.model.bundle == NO_MODEL else StubScorer).model_id
    from model.bundle import read

    return read(bundle_path(settings)).model_id


def learnt_until(settings: Settings) -> int:
    """Up to when the bundle of these settings saw events or labels, ms; 0 where none is told of.
    Raises as `model_id`."""
    if not wants_model(settings):
        return 0
    from model.bundle import read
    from model.finetune import learnt_until as told_by

    return told_by(read(bundle_path(settings)))


def with_model(settings: Settings, model_id: str) -> Settings:
    """The same settings with the model that scores name so."""
    own = {NoScorer.model_id: NO_MODEL, StubScorer.model_id: STUB}
    model = settings.model.model_copy(update={"bundle": own.get(model_id, model_id)})
    return settings.model_copy(update={"model": model})


def pinned(settings: Settings) -> Settings:
    """The same settings, with the bundle that `default` stands for now by its own name: a promotion
    in the middle of long work must not change what the rest of it is scored by. Raises as
    `model_id`."""
    if settings.model.bundle != DEFAULT:
        return settings
    return with_model(settings, model_id(settings))


@dataclass(frozen=True, slots=True)
class Held:
    """What settings stood for at a moment: files can be written anew in the middle of long work."""

    model: str
    rules: str

    @classmethod
    def by(cls, settings: Settings) -> Held:
        """By these settings now. Raises as `model_id` and `rule_book`."""
        return cls(model_id(settings), rule_book(settings).rules().digest)

    def check(self, settings: Settings, loaded: Judge) -> None:
        """Raises ConfigError where what was loaded by the same settings later is another."""
        for what, place, before, now in (
            ("rules", settings.decide.rules, self.rules, loaded.policy.rules.digest),
            ("bundle", settings.model.bundle, self.model, loaded.scorer.model_id),
        ):
            if before != now:
                raise ConfigError(
                    f"the {what} at {place} changed during the run: {now}, and {before} when it"
                    " began; one result cannot be of both",
                    remedy="start again with another --out; edit a copy next time. With the old"
                    " ones put back, the same command goes on",
                )


def load(settings: Settings, bundle: Path) -> Scorer:
    """The bundle, to be scored as the settings have it. Raises BundleError when it is damaged or
    lacks the signature that they ask for; DeviceMissing and DeviceFailed where a GPU is asked for
    by name."""
    from model.score import Scorer

    return Scorer.load(
        bundle,
        device=settings.model.device,
        threads=settings.worker.threads,
        batch=settings.worker.score_batch,
        precision=settings.model.precision,
        public_key=public_key(settings),
    )


def scorer(settings: Settings) -> AnyScorer:
    """Load the model. Raises BundleError when it is damaged, made for other features, or has seen
    no label."""
    if settings.model.bundle == NO_MODEL:
        return NoScorer()
    if settings.model.bundle == STUB:
        return StubScorer()
    from model.bundle import require_fitted

    loaded = load(settings, bundle_path(settings))
    require_fitted(loaded.bundle)
    if loaded.feature_digest != features.DIGEST:
        raise BundleError(
            f"bundle {loaded.model_id} was made for features {loaded.feature_digest}, "
            f"this service computes {features.DIGEST}",
            remedy="train it again on a data set of this version, or use another bundle",
        )
    trained, told = loaded.bundle.about.get("risk"), Pace.of(settings.risk).told()
    if trained not in (None, told):
        _warn_of_risk(loaded.model_id, str(trained), str(told))
    return loaded


@cache
def _warn_of_risk(model_id: str, trained: str, told: str) -> None:
    """Once a process: a replay loads its judge for each partition."""
    _logger.warning(
        "bundle %s was trained on risk snapshots of %s, these settings say %s: "
        "set them alike, or train it again",
        model_id,
        trained,
        told,
    )


def judge(settings: Settings) -> Judge:
    """The scorer and policy of these settings."""
    loaded = scorer(settings)
    explain: Callable[..., object] | None = getattr(loaded, "explain", None)
    policy = Policy(
        thresholds=Thresholds(settings.decide.review, settings.decide.block),
        versions={
            "model": loaded.model_id,
            "features": features.DIGEST,
            "code": code_version(),
        },
        rules=rule_book(settings).rules(),
        mode=Mode.RULES_ONLY if settings.model.bundle == NO_MODEL else Mode.FULL,
        explain=explain if settings.decide.explain else None,  # type: ignore[arg-type]
    )
    return Judge(settings.model.bundle, loaded, policy)
