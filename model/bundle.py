"""A model as a folder of two files: `weights.safetensors` and `manifest.json`. No pickle anywhere.

In: a trained model and what is known about it. Out: the folder; read back as `Bundle`, checked.
Does not know how scores are computed: golden scores are checked by `model/score.py` after load.

The manifest holds the schema of the events, the shape, feature names and digest, normalisation
(knots are in the weights), calibration, thresholds, versions, data digest, metrics, a model card
(`about`), the sha256 of the weights and its own digest. A bundle is written beside its place and
renamed into it, so a reader sees all or none, and a bad bundle never replaces a good one. A
signature, if wanted, is Ed25519 over the manifest.
"""

from __future__ import annotations

import hashlib
import json
import os
import shutil
import tempfile
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Final

import numpy as np
import torch
from numpy.typing import NDArray
from safetensors import SafetensorError
from safetensors.numpy import load, save

from model import tokens
from model.errors import BundleError
from model.inputs import EVENT_WORDS, HISTORY, ScoringBatch
from model.transformer import Shape, Transformer

FORMAT: Final = 1
SCHEMA: Final = {"version": 1, "event_words": EVENT_WORDS}
"""Of the events that a bundle scores: schema v1, packed as `model/inputs.py` says."""
NORMALISATION: Final = {
    "features": "linear between the knots of each feature, weight.knots; outside, the last knot",
    "unknown": float(tokens.UNKNOWN),
    "events": "integer codes, model/tokens.py",
}
WEIGHTS, MANIFEST = "weights.safetensors", "manifest.json"
MAX_BYTES: Final = 1 << 30
GOLDEN: Final = 32
"""Rows scored after every load, against the scores written at export."""

Arrays = dict[str, NDArray[Any]]


@dataclass(frozen=True)
class Bundle:
    """A model and everything needed to serve, explain, compare and go on training it."""

    name: str
    shape: Shape
    weights: Arrays
    names: tuple[str, ...]
    feature_digest: str
    groups: tuple[str, ...]
    """Explanation group of each feature."""
    usual: NDArray[np.float32]
    """What a feature is replaced by when its part in a score is wanted: the legitimate median."""
    calibration: tuple[tuple[float, float], ...]
    """Knots (log-odds of the model, calibrated log-odds), rising; straight lines between."""
    golden: ScoringBatch | None = None
    golden_scores: NDArray[np.float64] | None = None
    thresholds: Mapping[str, float] = field(default_factory=dict)
    about: Mapping[str, Any] = field(default_factory=dict)
    """Versions, data digest, metrics, model card: told, not used."""
    extra: Mapping[str, NDArray[Any]] = field(default_factory=dict)
    """Further arrays, such as the heads of the pretraining."""
    digest: str = ""

    @property
    def model_id(self) -> str:
        return f"{self.name}@{self.digest}"

    def model(self) -> Transformer:
        """The training form, ready to go on training."""
        found = Transformer(self.shape, self.weights["knots"])
        state = {name: torch.from_numpy(value.copy()) for name, value in self.weights.items()}
        try:
            found.load_state_dict(state)
        except RuntimeError as error:
            raise BundleError(f"weights of {self.name} do not fit its shape: {error}") from None
        return found.eval()


def shipped() -> Path:
    """The folder of the bundle that comes with the package."""
    return Path(__file__).parent / "bundles" / "default"


def weights_of(model: Transformer) -> Arrays:
    """The tensors of a model as arrays."""
    state = model.state_dict()
    return {name: value.detach().cpu().float().numpy() for name, value in state.items()}


def _canonical(manifest: Mapping[str, Any]) -> bytes:
    kept = {k: v for k, v in manifest.items() if k not in ("digest", "signature")}
    return json.dumps(kept, sort_keys=True, separators=(",", ":")).encode()


def _golden_arrays(bundle: Bundle) -> Arrays:
    if bundle.golden is None or bundle.golden_scores is None:
        return {}
    g = bundle.golden
    return {
        "golden.current": g.current.view(np.int64),
        "golden.history": g.history.view(np.int64),
        "golden.length": g.length,
        "golden.features": g.features,
        "golden.scores": bundle.golden_scores,
    }


def write(bundle: Bundle, folder: Path, key: bytes | None = None) -> Bundle:
    """Write a bundle to `folder`, replacing what is there at once. `key`: Ed25519 seed, 32 bytes.

    Returns the bundle with its digest.
    """
    arrays = {f"weight.{name}": np.ascontiguousarray(a) for name, a in bundle.weights.items()}
    arrays["usual"] = bundle.usual
    arrays |= {f"extra.{name}": np.ascontiguousarray(a) for name, a in bundle.extra.items()}
    arrays |= _golden_arrays(bundle)
    raw = save(arrays)
    manifest: dict[str, Any] = {
        "format": FORMAT,
        "name": bundle.name,
        "schema": SCHEMA,
        "normalisation": NORMALISATION,
        "made_with": {"numpy": np.__version__, "torch": torch.__version__},
        "tokens": {"history": HISTORY, "rows": tokens.ROWS, "relations": tokens.RELATION_ROWS},
        "shape": bundle.shape.as_dict(),
        "features": list(bundle.names),
        "groups": list(bundle.groups),
        "feature_digest": bundle.feature_digest,
        "calibration": [list(knot) for knot in bundle.calibration],
        "thresholds": dict(bundle.thresholds),
        "about": dict(bundle.about),
        "sha256": {WEIGHTS: hashlib.sha256(raw).hexdigest()},
    }
    manifest["digest"] = hashlib.sha256(_canonical(manifest)).hexdigest()[:12]
    if key is not None:
        from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

        signed = Ed25519PrivateKey.from_private_bytes(key).sign(_canonical(manifest))
        manifest["signature"] = signed.hex()
    folder.parent.mkdir(parents=True, exist_ok=True)
    made = Path(tempfile.mkdtemp(prefix=f".{folder.name}-", dir=folder.parent))
    try:
        made.chmod(0o755)
        (made / WEIGHTS).write_bytes(raw)
        (made / MANIFEST).write_text(json.dumps(manifest, indent=1) + "\n", "utf-8")
        read(made)
        if folder.exists():
            old = made.with_name(made.name + "-old")
            os.rename(folder, old)
            os.rename(made, folder)
            shutil.rmtree(old)
        else:
            os.rename(made, folder)
    finally:
        shutil.rmtree(made, ignore_errors=True)
    return read(folder)


def _manifest(folder: Path) -> dict[str, Any]:
    try:
        manifest = json.loads((folder / MANIFEST).read_text("utf-8"))
    except FileNotFoundError:
        raise BundleError(
            f"no model bundle in {folder}", remedy="give a folder with a manifest.json"
        ) from None
    except (json.JSONDecodeError, UnicodeDecodeError, OSError) as error:
        raise BundleError(f"the manifest of {folder} cannot be read: {error}") from None
    if not isinstance(manifest, dict) or manifest.get("format") != FORMAT:
        raise BundleError(f"{folder} is not a bundle of format {FORMAT}")
    digest = hashlib.sha256(_canonical(manifest)).hexdigest()[:12]
    if manifest.get("digest") != digest:
        raise BundleError(f"the manifest of {folder} does not match its own digest")
    return manifest


def _check_signature(manifest: Mapping[str, Any], public_key: bytes) -> None:
    from cryptography.exceptions import InvalidSignature
    from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PublicKey

    try:
        signature = bytes.fromhex(manifest.get("signature", ""))
        Ed25519PublicKey.from_public_bytes(public_key).verify(signature, _canonical(manifest))
    except (InvalidSignature, ValueError):
        raise BundleError(
            "the bundle is not signed by the expected key", remedy="export it again with the key"
        ) from None


def read(folder: Path, public_key: bytes | None = None) -> Bundle:
    """Read and check a bundle. With `public_key` (Ed25519, 32 bytes) a signature is required.

    Raises BundleError, which says what is wrong, for anything but a whole and fitting bundle.
    """
    manifest = _manifest(folder)
    if public_key is not None:
        _check_signature(manifest, public_key)
    try:
        if (folder / WEIGHTS).stat().st_size > MAX_BYTES:
            raise BundleError(f"the weights of {folder} are larger than {MAX_BYTES} bytes")
        raw = (folder / WEIGHTS).read_bytes()
    except OSError as error:
        raise BundleError(f"the weights of {folder} cannot be read: {error}") from None
    try:
        if hashlib.sha256(raw).hexdigest() != manifest["sha256"][WEIGHTS]:
            raise BundleError(f"the weights of {folder} do not match their checksum")
        arrays = load(raw)
        return _assemble(manifest, arrays)
    except (KeyError, TypeError, ValueError, SafetensorError) as error:
        raise BundleError(f"the bundle in {folder} is damaged: {error!r}") from None


def _assemble(manifest: Mapping[str, Any], arrays: Arrays) -> Bundle:
    if manifest.get("schema", SCHEMA) != SCHEMA:
        raise BundleError(f"{manifest['name']} scores events of schema {manifest['schema']}")
    names = tuple(manifest["features"])
    about = {"history": HISTORY, "rows": tokens.ROWS, "relations": tokens.RELATION_ROWS}
    if manifest["tokens"] != about:
        raise BundleError(f"{manifest['name']} was trained with other event codes")
    golden = None
    if "golden.current" in arrays:
        golden = ScoringBatch(
            current=arrays["golden.current"].view(np.uint64),
            history=arrays["golden.history"].view(np.uint64),
            length=arrays["golden.length"],
            features=arrays["golden.features"],
        )
    weights = {k.removeprefix("weight."): v for k, v in arrays.items() if k.startswith("weight.")}
    calibration = tuple((float(x), float(y)) for x, y in manifest["calibration"])
    if not all(np.isfinite(a).all() for k, a in weights.items() if k != "knots"):
        raise BundleError(f"{manifest['name']} has weights that are not finite")
    if len(weights["knots"]) != len(names) or len(calibration) < 2:
        raise BundleError(f"{manifest['name']}: features, knots and calibration do not fit")
    return Bundle(
        name=str(manifest["name"]),
        shape=Shape(**manifest["shape"]),
        weights=weights,
        names=names,
        feature_digest=str(manifest["feature_digest"]),
        groups=tuple(manifest["groups"]),
        usual=arrays["usual"],
        calibration=calibration,
        golden=golden,
        golden_scores=arrays.get("golden.scores"),
        thresholds=dict(manifest["thresholds"]),
        about=dict(manifest["about"]),
        extra={k.removeprefix("extra."): v for k, v in arrays.items() if k.startswith("extra.")},
        digest=str(manifest["digest"]),
    )


def require_features(bundle: Bundle, names: Sequence[str], digest: str) -> None:
    """Refuse a bundle trained on another feature list, and say what differs."""
    if bundle.feature_digest == digest and bundle.names == tuple(names):
        return
    missing = [n for n in bundle.names if n not in set(names)][:5]
    extra = [n for n in names if n not in set(bundle.names)][:5]
    raise BundleError(
        f"bundle {bundle.model_id} was trained on features {bundle.feature_digest}, this is "
        f"{digest} (only in the bundle: {missing}, only here: {extra})",
        remedy="train a bundle on this feature list, or run the version it was trained with",
    )
