"""The training set on disk: what `fraudstream dataset` writes and all of the model half reads.

In: arrays of scored events in the order in which a pipeline produced them. Out: a folder of npy
files and `manifest.json`, sorted by (account, event time, arrival), opened as memory maps.
Does not know where the events came from, nor which of them a model will be fitted on.

    words.npy       uint64 [n, 4]   the event, layout in model/inputs.py
    features.npy    float32 [n, F]  window and risk features as the event was scored with
    account.npy     int32 [n]       account number, ascending; never an input of a model
    label.npy       int8 [n]        1 fraud, 0 legitimate, -1 never labelled
    label_time.npy  int64 [n]       ms when the label became known; -1 without a label
    kind.npy        int8 [n]        analysis only: kind of fraud, 0 none (segments of a report)

An event without a fraud label is legitimate only once labels would have arrived: `known_at(cut)`.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from model.errors import DatasetError
from model.inputs import EVENT_WORDS, TIME_SHIFT

FORMAT = 1
MANIFEST = "manifest.json"
ARRAYS = ("words", "features", "account", "label", "label_time", "kind")


@dataclass(frozen=True)
class Dataset:
    """A training set in memory or mapped. Rows of an account stand together, oldest first."""

    words: NDArray[np.uint64]
    features: NDArray[np.float32]
    account: NDArray[np.int32]
    label: NDArray[np.int8]
    label_time: NDArray[np.int64]
    kind: NDArray[np.int8]
    names: tuple[str, ...]
    feature_digest: str
    kinds: tuple[str, ...] = ()
    digest: str = ""

    def __post_init__(self) -> None:
        n = len(self.words)
        assert self.words.shape == (n, EVENT_WORDS) and self.words.dtype == np.uint64
        assert self.features.shape == (n, len(self.names)) and self.features.dtype == np.float32
        for name in ARRAYS[2:]:
            assert getattr(self, name).shape == (n,), name

    def __len__(self) -> int:
        return len(self.words)

    @property
    def time(self) -> NDArray[np.int64]:
        """Event time of each row, ms."""
        return (np.asarray(self.words[:, 0]) >> np.uint64(TIME_SHIFT)).astype(np.int64)

    def place(self) -> NDArray[np.int32]:
        """Number of each row within its account, from 0."""
        account = np.asarray(self.account)
        index = np.arange(len(account), dtype=np.int64)
        start = np.zeros(len(account), np.int64)
        if len(account):
            start[1:] = np.where(account[1:] != account[:-1], index[1:], 0)
        return (index - np.maximum.accumulate(start)).astype(np.int32)

    def known_at(self, cut_ms: int) -> NDArray[np.bool_]:
        """Rows whose label was known before `cut_ms`: the only ones a fit may use then."""
        return (self.label >= 0) & (self.label_time < cut_ms)

    def rows(self, keep: NDArray[np.bool_]) -> Dataset:
        """The rows of whole accounts chosen by `keep` (a mask over rows)."""
        arrays = {name: np.ascontiguousarray(getattr(self, name)[keep]) for name in ARRAYS}
        return Dataset(
            **arrays, names=self.names, feature_digest=self.feature_digest, kinds=self.kinds
        )


def build(
    words: NDArray[np.uint64],
    features: NDArray[np.float32],
    accounts: Sequence[str] | NDArray[Any],
    label: NDArray[np.int8],
    label_time: NDArray[np.int64],
    *,
    names: Sequence[str],
    feature_digest: str,
    kind: NDArray[np.int8] | None = None,
    kinds: Sequence[str] = (),
) -> Dataset:
    """Sort rows given in arrival order. Account names become numbers and are not kept."""
    number = np.unique(np.asarray(accounts), return_inverse=True)[1].astype(np.int32)
    time = (words[:, 0] >> np.uint64(TIME_SHIFT)).astype(np.int64)
    order = np.lexsort((np.arange(len(words)), time, number))
    kind = np.zeros(len(words), np.int8) if kind is None else kind
    return Dataset(
        words=words[order],
        features=features[order],
        account=number[order],
        label=label[order].astype(np.int8),
        label_time=label_time[order].astype(np.int64),
        kind=kind[order].astype(np.int8),
        names=tuple(names),
        feature_digest=feature_digest,
        kinds=tuple(kinds),
    )


def write(dataset: Dataset, folder: Path, **about: Any) -> str:
    """Write all arrays and the manifest last. Returns the digest of the whole."""
    folder.mkdir(parents=True, exist_ok=True)
    sums = {}
    for name in ARRAYS:
        array = np.ascontiguousarray(getattr(dataset, name))
        np.save(folder / f"{name}.npy", array, allow_pickle=False)
        sums[name] = hashlib.sha256(array.view(np.uint8).reshape(-1)).hexdigest()
    digest = hashlib.sha256(json.dumps([sums, dataset.names]).encode()).hexdigest()[:16]
    manifest = {
        "format": FORMAT,
        "rows": len(dataset),
        "names": list(dataset.names),
        "feature_digest": dataset.feature_digest,
        "kinds": list(dataset.kinds),
        "sha256": sums,
        "digest": digest,
        "about": about,
    }
    (folder / MANIFEST).write_text(json.dumps(manifest, indent=1) + "\n", "utf-8")
    return digest


def read(folder: Path, *, check: bool = False) -> Dataset:
    """Open a training set as memory maps. `check` reads everything and compares checksums.

    Raises DatasetError when it is missing, foreign, or does not match its manifest.
    """
    try:
        manifest = json.loads((folder / MANIFEST).read_text("utf-8"))
        if manifest["format"] != FORMAT:
            raise DatasetError(f"{folder} has format {manifest['format']}, not {FORMAT}")
        arrays = {
            name: np.load(folder / f"{name}.npy", mmap_mode="r", allow_pickle=False)
            for name in ARRAYS
        }
        sums, rows = manifest["sha256"], int(manifest["rows"])
        names, kinds = tuple(manifest["names"]), tuple(manifest["kinds"])
        feature_digest, digest = str(manifest["feature_digest"]), str(manifest["digest"])
    except FileNotFoundError as error:
        raise DatasetError(
            f"no training set in {folder}: {error.filename} is missing",
            remedy="write one with `fraudstream dataset`",
        ) from None
    except (KeyError, ValueError, TypeError) as error:
        raise DatasetError(f"the training set in {folder} is damaged: {error}") from None
    for name, array in arrays.items():
        if len(array) != rows:
            raise DatasetError(f"{name}.npy in {folder} has {len(array)} rows, not {rows}")
        if check:
            raw = np.ascontiguousarray(array).view(np.uint8).reshape(-1)
            if hashlib.sha256(raw).hexdigest() != sums[name]:
                raise DatasetError(f"{name}.npy in {folder} does not match its checksum")
    return Dataset(**arrays, names=names, feature_digest=feature_digest, kinds=kinds, digest=digest)
