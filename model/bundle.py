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
import re
import shutil
import stat
import tempfile
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import IO, Any, Final

import numpy as np
import torch
from numpy.typing import NDArray
from safetensors import SafetensorError
from safetensors.numpy import load, save

from model import bounds, signing, tokens
from model.disk import folder_into_place, to_disk
from model.errors import BundleError, BundleMisnamed, BundleMissing, OutputTaken, writing
from model.inputs import EVENT_WORDS, HISTORY, ScoringBatch
from model.place import kept_elsewhere, try_place
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
ELSEWHERE: Final = "name another folder; nothing there was touched"
AGAIN: Final = "copy it again from where it was made, or fit it again"
MAX_BYTES: Final = 1 << 30
MAX_MANIFEST_BYTES: Final = 1 << 22
NAME: Final = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,63}")
"""A name becomes part of a path in the registry."""
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

    @property
    def only_pretrained(self) -> bool:
        """Whether its fraud head is untrained: it carries the field heads of the pretraining."""
        return any(name.startswith("heads.") for name in self.extra)

    def model(self) -> Transformer:
        """The training form, ready to go on training."""
        found = Transformer(self.shape, self.weights["knots"])
        state = {name: torch.from_numpy(value.copy()) for name, value in self.weights.items()}
        try:
            found.load_state_dict(state)
        except RuntimeError as error:
            raise BundleError(f"weights of {self.name} do not fit its shape: {error}") from None
        return found.eval()


def check_name(name: str) -> None:
    """Raise BundleMisnamed for a name that could lead out of a folder."""
    if not NAME.fullmatch(name):
        raise BundleMisnamed(
            f"{name!r} is no name of a bundle",
            remedy="use letters, digits, dots, dashes and underscores, at most 64",
        )


def check_place(folder: Path) -> None:
    """Make sure that a bundle can be written here, and will replace nothing but a bundle.

    Raises OutputTaken where something else lies; OSError where nothing can be written.
    """
    if folder.is_symlink() or (folder.exists() and not folder.is_dir()):
        raise OutputTaken(f"{folder} is there and is no folder", remedy=ELSEWHERE)
    if folder.exists():
        others = sorted({path.name for path in folder.iterdir()} - {MANIFEST, WEIGHTS})
        if others:
            raise OutputTaken(
                f"{folder} holds {others[0]}, which is no part of a bundle", remedy=ELSEWHERE
            )
    try_place(folder)


def shipped() -> Path:
    """The folder of the bundle that comes with the package."""
    return Path(__file__).parent / "bundles" / "default"


def weights_of(model: Transformer) -> Arrays:
    """The tensors of a model as arrays."""
    state = model.state_dict()
    return {name: value.detach().cpu().float().numpy() for name, value in state.items()}


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


def write(
    bundle: Bundle, folder: Path, key: bytes | None = None, room: IO[bytes] | None = None
) -> Bundle:
    """Write a bundle to `folder`, replacing one there at once. `key`: Ed25519 seed, 32 bytes.
    `room`: what `room_for` has held for it, let go when it is needed. Then it comes of a fit, and
    is kept elsewhere where its place was lost meanwhile: OutputLost says where.

    Returns the bundle with its digest. Raises BundleMisnamed for a name that is no file's name, and
    as `check_place`.
    """
    check_name(bundle.name)
    weights, manifest = _files(bundle, key)

    def put(place: Path) -> None:
        _replace(weights, manifest, place)

    if room is None:
        put(folder)
    else:
        room.close()
        with kept_elsewhere(folder, put):
            put(folder)
    return read(folder)


def _files(bundle: Bundle, key: bytes | None) -> tuple[bytes, str]:
    """The weights and the manifest of a bundle."""
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
    manifest[signing.DIGEST] = signing.digest(manifest)
    if key is not None:
        signing.sign(manifest, key)
    return raw, json.dumps(manifest, indent=1) + "\n"


def _replace(weights: bytes, manifest: str, folder: Path) -> None:
    """Both files beside the folder, then in its place by a rename."""
    check_place(folder)
    made = Path(tempfile.mkdtemp(prefix=f".{folder.name}-", dir=folder.parent))
    try:
        made.chmod(0o755)
        with writing(folder):
            (made / WEIGHTS).write_bytes(weights)
            (made / MANIFEST).write_text(manifest, "utf-8")
            for name in (WEIGHTS, MANIFEST):
                to_disk(made / name)
        read(made)
        folder_into_place(made, folder)
    finally:
        shutil.rmtree(made, ignore_errors=True)


def _whole(path: Path, limit: int) -> bytes:
    """The bytes of a regular file. Raises OSError; BundleError for another kind, or a larger one.

    Links are followed (a mounted volume is made of them), but never to a device or a pipe, which
    would have no end or never begin.
    """
    with open(os.open(path, os.O_RDONLY | os.O_NONBLOCK), "rb") as file:
        about = os.fstat(file.fileno())
        if not stat.S_ISREG(about.st_mode):
            raise BundleError(f"{path} is not a regular file")
        raw = file.read(limit + 1) if about.st_size <= limit else b""
    if about.st_size > limit or len(raw) > limit:
        raise BundleError(f"{path} is larger than {limit} bytes")
    return raw


def _manifest(folder: Path) -> dict[str, Any]:
    try:
        manifest = json.loads(_whole(folder / MANIFEST, MAX_MANIFEST_BYTES).decode())
    except (FileNotFoundError, NotADirectoryError):
        raise BundleMissing(
            f"no model bundle in {folder}", remedy="give a folder with a manifest.json"
        ) from None
    except RecursionError:
        raise BundleError(f"the manifest of {folder} nests too deep") from None
    except (json.JSONDecodeError, UnicodeDecodeError, OSError) as error:
        raise BundleError(
            f"the manifest of {folder} cannot be read: {error}", remedy=AGAIN
        ) from None
    if not isinstance(manifest, dict) or manifest.get("format") != FORMAT:
        raise BundleError(
            f"{folder} is not a bundle of format {FORMAT}",
            remedy="name the folder of a bundle; fit one of another version again",
        )
    if "kinds" in manifest:
        raise BundleError(f"{folder} is a training set, not a bundle", remedy="name a bundle")
    if manifest.get(signing.DIGEST) != signing.digest(manifest):
        raise BundleError(f"the manifest of {folder} does not match its own digest", remedy=AGAIN)
    return manifest


def read(folder: Path, public_key: bytes | None = None) -> Bundle:
    """Read and check a bundle. With `public_key` (Ed25519, 32 bytes) a signature is required.

    Raises BundleError, which says what is wrong, for anything but a whole and fitting bundle.
    """
    manifest = _manifest(folder)
    if public_key is not None:
        signing.check(manifest, public_key, folder)
    try:
        raw = _whole(folder / WEIGHTS, MAX_BYTES)
    except OSError as error:
        raise BundleError(
            f"the weights of {folder} cannot be read: {error}", remedy=AGAIN
        ) from None
    try:
        if hashlib.sha256(raw).hexdigest() != manifest["sha256"][WEIGHTS]:
            raise BundleError(f"the weights of {folder} do not match their checksum", remedy=AGAIN)
        arrays = load(raw)
        return _assemble(manifest, arrays)
    except (
        KeyError,
        TypeError,
        ValueError,
        AttributeError,
        OverflowError,
        SafetensorError,
    ) as error:
        what = str(error) if type(error) is ValueError else repr(error)
        raise BundleError(
            f"the bundle in {folder} is damaged or foreign: {what}",
            remedy=AGAIN,
        ) from None


def _assemble(manifest: Mapping[str, Any], arrays: Arrays) -> Bundle:
    check_name(manifest["name"])
    if manifest.get("schema", SCHEMA) != SCHEMA:
        raise BundleError(f"{manifest['name']} scores events of schema {manifest['schema']}")
    names = bounds.texts(manifest["features"], "features")
    groups = bounds.texts(manifest["groups"], "groups")
    about = {"history": HISTORY, "rows": tokens.ROWS, "relations": tokens.RELATION_ROWS}
    if manifest["tokens"] != about:
        raise BundleError(f"{manifest['name']} was trained with other event codes")
    golden = None
    if any(name.startswith("golden.") for name in arrays):
        bounds.check_golden(arrays, len(names))
        golden = ScoringBatch(
            current=arrays["golden.current"].view(np.uint64),
            history=arrays["golden.history"].view(np.uint64),
            length=arrays["golden.length"],
            features=arrays["golden.features"],
        )
    weights = {k.removeprefix("weight."): v for k, v in arrays.items() if k.startswith("weight.")}
    if len(groups) != len(names):
        raise ValueError(f"{len(names)} features, {len(groups)} groups")
    shape = bounds.shape_of(manifest["shape"], weights, len(names))
    bounds.check_weights(weights, shape, arrays["usual"], len(names))
    return Bundle(
        name=str(manifest["name"]),
        shape=shape,
        weights=weights,
        names=names,
        feature_digest=str(manifest["feature_digest"]),
        groups=groups,
        usual=arrays["usual"],
        calibration=bounds.calibration(manifest["calibration"]),
        golden=golden,
        golden_scores=arrays.get("golden.scores"),
        thresholds=bounds.thresholds(manifest["thresholds"]),
        about=dict(manifest["about"]),
        extra={k.removeprefix("extra."): v for k, v in arrays.items() if k.startswith("extra.")},
        digest=str(manifest["digest"]),
    )


def require_fitted(bundle: Bundle) -> None:
    """Refuse to serve a bundle that has seen no label: its scores mean nothing."""
    if bundle.only_pretrained:
        raise BundleError(
            f"bundle {bundle.model_id} is pretrained only, its scores mean nothing",
            remedy="fit it on labels: fraudstream finetune DATA OUT --base BUNDLE",
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
