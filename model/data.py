"""The training set on disk: what `fraudstream dataset` writes and all of the model half reads.

In: arrays of scored events in the order in which a pipeline produced them. Out: a folder of npy
files and `manifest.json`, sorted by (account, event time, arrival), opened as memory maps.
Does not know where the events came from, nor which of them a model will be fitted on.

    words.npy       uint64 [n, 4]   the event, layout in model/inputs.py
    features.npy    float32 [n, F]  window and risk features as the event was scored with
    account.npy     int32 [n]       account number, ascending; never an input of a model
    label.npy       int8 [n]        1 fraud, 0 legitimate, -1 not known
    label_time.npy  int64 [n]       ms when the label became known; -1 without a label;
                                    of a label -1: when it was disputed
    truth.npy       int8 [n]        evaluation only: what is true, where known; else -1
    kind.npy        int8 [n]        evaluation only: kind of case, 0 none (segments of a report)
    currency.npy    int16 [n]       evaluation and words only: place in the manifest's `currencies`

An event that nobody reported is legitimate, and known as such only once labels would have arrived:
`mature` gives it that label time. `known_at(cut)` is the gate that every fit passes.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import numpy as np
from numba import njit
from numpy.typing import NDArray

from model.disk import into_place
from model.errors import DatasetError, DatasetMissing, OutputTaken, writing
from model.inputs import (
    AMOUNT_SHIFT,
    AUTH_MASK,
    AUTH_SHIFT,
    EVENT_WORDS,
    HISTORY,
    NO_CURRENCY,
    TIME_SHIFT,
    ScoringBatch,
)

FORMAT = 1
DAY_MS = 86_400_000
MANIFEST = "manifest.json"
AGAIN = "write it again with `fraudstream dataset`"
ARRAYS = ("words", "features", "account", "label", "label_time", "truth", "kind", "currency")


@dataclass(frozen=True)
class Dataset:
    """A training set in memory or mapped. Rows of an account stand together, oldest first."""

    words: NDArray[np.uint64]
    features: NDArray[np.float32]
    account: NDArray[np.int32]
    label: NDArray[np.int8]
    label_time: NDArray[np.int64]
    truth: NDArray[np.int8]
    kind: NDArray[np.int8]
    currency: NDArray[np.int16]
    names: tuple[str, ...]
    feature_digest: str
    kinds: tuple[str, ...] = ()
    currencies: tuple[str, ...] = (NO_CURRENCY,)
    digest: str = ""
    about: Mapping[str, Any] = field(default_factory=dict)
    """What it was made from and how, in the words of who made it."""

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

    @property
    def amount(self) -> NDArray[np.int64]:
        """Amount of each row, minor units of its own currency."""
        return (np.asarray(self.words[:, 1]) >> np.uint64(AMOUNT_SHIFT)).astype(np.int64)

    def main_currency(self, rows: NDArray[np.int64]) -> tuple[str, NDArray[np.bool_]]:
        """The currency that most of the rows are in, and which of them are: sums over several mean
        nothing."""
        main, counted = commonest(np.asarray(self.currency)[rows])
        return self.currencies[main], counted

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

    def answer(self) -> NDArray[np.int8]:
        """What an evaluation holds scores against: the truth where known, else the label."""
        return np.where(self.truth >= 0, self.truth, self.label).astype(np.int8)


def commonest(codes: NDArray[np.integer]) -> tuple[int, NDArray[np.bool_]]:
    """The code that most rows have, of two as common the lower, and which rows have it."""
    main = int(np.bincount(codes, minlength=1).argmax())
    return main, codes == main


def mature(
    label: NDArray[np.int8],
    label_time: NDArray[np.int64],
    event_time: NDArray[np.int64],
    maturity_ms: int,
) -> tuple[NDArray[np.int8], NDArray[np.int64]]:
    """Events that nobody said anything of become legitimate, known `maturity_ms` after the event.

    One with a label time and no label is disputed: that stays unknown.
    """
    silent = (label < 0) & (label_time < 0)
    return (
        np.where(silent, 0, label).astype(np.int8),
        np.where(silent, event_time + maturity_ms, label_time).astype(np.int64),
    )


def as_of(dataset: Dataset, cut_ms: int, maturity_ms: int) -> Dataset:
    """The labels of a matured set as they stood at `cut_ms`: an event of which nothing had been
    said for long enough was legitimate then, whatever came later.

    Of a verdict that was overruled only the last is kept, so one that stood at the cut and was
    overruled after it is taken for silence.
    """
    due = dataset.time + maturity_ms
    early = (np.asarray(dataset.label_time) >= cut_ms) & (due < cut_ms)
    return replace(
        dataset,
        label=np.where(early, 0, dataset.label).astype(np.int8),
        label_time=np.where(early, due, dataset.label_time).astype(np.int64),
    )


def report_days(dataset: Dataset) -> NDArray[np.float64]:
    """Of each known fraud the days from the event until it was known."""
    known = np.asarray(dataset.label) == 1
    found: NDArray[np.float64] = (dataset.label_time[known] - dataset.time[known]) / DAY_MS
    return found


def now(dataset: Dataset) -> int:
    """The moment after the newest thing that a set knows: an event, or a report of fraud. What
    `mature` gave later label times has not been waited for yet."""
    told = np.asarray(dataset.label_time)[np.asarray(dataset.label) == 1]
    return max(int(dataset.time.max()), int(told.max()) if len(told) else 0) + 1


@njit(cache=True, nogil=True)
def _gather(
    words: NDArray[np.uint64],
    place: NDArray[np.int32],
    rows: NDArray[np.int64],
    current: NDArray[np.uint64],
    history: NDArray[np.uint64],
    length: NDArray[np.int32],
) -> None:
    for k in range(len(rows)):
        i = rows[k]
        current[k] = words[i]
        current[k, 0] &= np.uint64(0xFFFFFFFFFFFFFFFF ^ (AUTH_MASK << AUTH_SHIFT))
        count = min(place[i], HISTORY)
        length[k] = count
        history[k, HISTORY - count :] = words[i - count : i]


def gather(dataset: Dataset, place: NDArray[np.int32], rows: NDArray[np.int64]) -> ScoringBatch:
    """Rows as the service would score them: the event, and the last of its account before it."""
    n = len(rows)
    current = np.empty((n, EVENT_WORDS), np.uint64)
    history = np.zeros((n, HISTORY, EVENT_WORDS), np.uint64)
    length = np.empty(n, np.int32)
    _gather(np.asarray(dataset.words), place, rows.astype(np.int64), current, history, length)
    features = np.ascontiguousarray(dataset.features[rows], np.float32)
    return ScoringBatch(current, history, length, features)


def build(
    words: NDArray[np.uint64],
    features: NDArray[np.float32],
    accounts: Sequence[str] | NDArray[Any],
    label: NDArray[np.int8],
    label_time: NDArray[np.int64],
    *,
    names: Sequence[str],
    feature_digest: str,
    truth: NDArray[np.int8] | None = None,
    kind: NDArray[np.int8] | None = None,
    kinds: Sequence[str] = (),
    currency: Sequence[str] | NDArray[Any] | None = None,
) -> Dataset:
    """Sort rows given in arrival order. Account names become numbers and are not kept.

    Raises DatasetError for a feature that is no finite number: one would spoil every weight.
    """
    finite = np.isfinite(features).all(0)
    if not finite.all():
        spoilt = ", ".join(names[f] for f in np.flatnonzero(~finite).tolist())
        raise DatasetError(f"not all values are finite numbers in: {spoilt}")
    number = np.unique(np.asarray(accounts), return_inverse=True)[1].astype(np.int32)
    time = (words[:, 0] >> np.uint64(TIME_SHIFT)).astype(np.int64)
    order = np.lexsort((np.arange(len(words)), time, number))
    kind = np.zeros(len(words), np.int8) if kind is None else kind
    truth = np.full(len(words), -1, np.int8) if truth is None else truth
    told = np.full(len(words), NO_CURRENCY) if currency is None else np.asarray(currency)
    currencies, code = np.unique(told, return_inverse=True)
    return Dataset(
        words=words[order],
        features=features[order],
        account=number[order],
        label=label[order].astype(np.int8),
        label_time=label_time[order].astype(np.int64),
        truth=truth[order].astype(np.int8),
        kind=kind[order].astype(np.int8),
        currency=code[order].astype(np.int16),
        names=tuple(names),
        feature_digest=feature_digest,
        kinds=tuple(kinds),
        currencies=tuple(currencies.tolist()),
    )


def checksum(array: NDArray[Any]) -> str:
    """sha256 of an array's bytes in C order, as a manifest holds it."""
    return hashlib.sha256(np.ascontiguousarray(array).data).hexdigest()


def concat(parts: Sequence[Dataset]) -> Dataset:
    """Several streams as one; accounts of different streams are different accounts."""
    first, shift, accounts, money = parts[0], 0, [], []
    currencies = sorted({name for part in parts for name in part.currencies})
    for part in parts:
        assert part.feature_digest == first.feature_digest and part.kinds == first.kinds
        accounts.append(np.asarray(part.account) + np.int32(shift))
        shift += int(part.account.max()) + 1
        place = np.array([currencies.index(name) for name in part.currencies], np.int16)
        money.append(place[np.asarray(part.currency)])
    arrays: dict[str, Any] = {
        name: np.concatenate([getattr(part, name) for part in parts]) for name in ARRAYS
    }
    arrays |= {"account": np.concatenate(accounts), "currency": np.concatenate(money)}
    return replace(first, **arrays, currencies=tuple(currencies), digest="")


def check_place(folder: Path) -> None:
    """Make sure that a training set can be written here, and will replace nothing but one.

    Raises OutputTaken where the manifest of something else lies: without it that would be lost.
    """
    try:
        held = json.loads((folder / MANIFEST).read_bytes())
    except (FileNotFoundError, NotADirectoryError):
        return
    except (ValueError, RecursionError):
        held = None
    if not isinstance(held, dict) or held.get("format") != FORMAT or "kinds" not in held:
        raise OutputTaken(
            f"{folder} holds the {MANIFEST} of something else than a training set",
            remedy="name another folder; nothing there was touched",
        )


def write(dataset: Dataset, folder: Path, **about: Any) -> str:
    """Write all arrays and the manifest last. Returns the digest of the whole.

    Whoever has an older set of this folder open keeps it: files are replaced, not written over.
    Raises OutputTaken as `check_place`.
    """
    check_place(folder)
    folder.mkdir(parents=True, exist_ok=True)
    sums = {}
    for name in ARRAYS:
        array = np.ascontiguousarray(getattr(dataset, name))
        with writing(folder), _draft(folder, f"{name}.npy").open("wb") as out:
            np.save(out, array, allow_pickle=False)
        sums[name] = checksum(array)
    digest = hashlib.sha256(json.dumps([sums, dataset.names]).encode()).hexdigest()[:16]
    manifest = {
        "format": FORMAT,
        "rows": len(dataset),
        "names": list(dataset.names),
        "feature_digest": dataset.feature_digest,
        "kinds": list(dataset.kinds),
        "currencies": list(dataset.currencies),
        "sha256": sums,
        "digest": digest,
        "about": {**dataset.about, **about},
    }
    with writing(folder):
        _draft(folder, MANIFEST).write_text(json.dumps(manifest, indent=1) + "\n", "utf-8")
    # A stop amid the renames leaves no manifest, and so no set, rather than a mixture of two.
    (folder / MANIFEST).unlink(missing_ok=True)
    with writing(folder):
        for name in (*(f"{name}.npy" for name in ARRAYS), MANIFEST):
            into_place(_draft(folder, name), folder / name)
    return digest


def _draft(folder: Path, name: str) -> Path:
    return folder / f"{name}.part"


def _mapped(folder: Path, name: str) -> Any:
    """Raises ValueError, which names the file: numpy only says that something is too short."""
    try:
        return np.load(folder / f"{name}.npy", mmap_mode="r", allow_pickle=False)
    except (ValueError, EOFError) as error:
        raise ValueError(f"{name}.npy: {error}") from None


def read(folder: Path, *, check: bool = False) -> Dataset:
    """Open a training set as memory maps. `check` reads everything and compares checksums.

    Raises DatasetError when it is missing, foreign, or does not match its manifest.
    """
    try:
        manifest = json.loads((folder / MANIFEST).read_text("utf-8"))
        if manifest["format"] == "fraudstream-recording":
            raise DatasetError(
                f"{folder} is a recording, not a training set",
                remedy=f"make one of it with `fraudstream dataset {folder} data/`",
            )
        if manifest["format"] != FORMAT:
            raise DatasetError(
                f"{folder} has format {manifest['format']}, not {FORMAT}", remedy=AGAIN
            )
        kept = [name for name in ARRAYS if name != "currency" or "currencies" in manifest]
        arrays: dict[str, Any] = {name: _mapped(folder, name) for name in kept}
        sums, rows = manifest["sha256"], int(manifest["rows"])
        currencies = tuple(map(str, manifest.get("currencies", (NO_CURRENCY,))))
        names, kinds = tuple(manifest["names"]), tuple(manifest["kinds"])
        feature_digest, digest = str(manifest["feature_digest"]), str(manifest["digest"])
        about = dict(manifest.get("about", {}))
    except FileNotFoundError as error:
        raise DatasetMissing(
            f"no training set in {folder}: {error.filename} is missing",
            remedy="write one with `fraudstream dataset`",
        ) from None
    except NotADirectoryError:
        raise DatasetMissing(
            f"{folder} is a file, not the folder of a training set",
            remedy=f"of transactions make one with `fraudstream dataset {folder} data/`",
        ) from None
    except (KeyError, ValueError, TypeError, RecursionError) as error:
        raise DatasetError(
            f"the training set in {folder} is damaged: {error}", remedy=AGAIN
        ) from None
    for name, array in arrays.items():
        if len(array) != rows:
            raise DatasetError(
                f"{name}.npy in {folder} has {len(array)} rows, not {rows}", remedy=AGAIN
            )
        if check and checksum(array) != sums[name]:
            raise DatasetError(f"{name}.npy in {folder} does not match its checksum", remedy=AGAIN)
    # Sets of 2026-11-28 and before keep no currency.
    arrays.setdefault("currency", np.zeros(rows, np.int16))
    return Dataset(
        **arrays,
        names=names,
        feature_digest=feature_digest,
        kinds=kinds,
        currencies=currencies,
        digest=digest,
        about=about,
    )
