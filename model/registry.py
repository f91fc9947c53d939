"""Bundles on disk by name, with a promoted one, its history, and the way back.

In: a root folder. Out: bundles by name. Does not know what a bundle scores, nor who serves it.

    ROOT/bundles/NAME@DIGEST/    a bundle, never changed once there and whole
    ROOT/current.json            {"history": [{"model_id", "time", "note"}, ...]}; the last serves

    ROOT/.lock                   held by who adds or promotes

`add` and `promote` load the bundle as a worker does, golden rows included, before anything is
written; then current.json is replaced in one step. So a bad bundle never takes the place of a good
one, a reader always finds a whole file, and of two promotions at once none is lost.
"""

from __future__ import annotations

import fcntl
import json
import os
import shutil
import tempfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from model import bundle as bundles
from model import signing
from model.bundle import Bundle
from model.disk import folder_into_place, into_place, to_disk
from model.errors import BundleError, BundleMissing, writing

CURRENT = "current.json"
MAX_HISTORY = 1_000
ROLLED_BACK = "rolled back"
"""How the note of a way back begins; the model that it left follows."""
Check = Callable[[Bundle], None]


@dataclass(frozen=True)
class Promotion:
    """One entry of the history."""

    model_id: str
    time: int
    note: str = ""


def _served(history: list[Promotion]) -> list[str]:
    """The models that led to the current one, without those that were rolled back."""
    served: list[str] = []
    for entry in history:
        # Before the first promotion the shipped bundle served, whose name the history lacks.
        back = len(served) == 1 or entry.model_id in served[-2:-1]
        if served and back and entry.note == f"{ROLLED_BACK} {served[-1]}":
            served.pop()
        if not served or served[-1] != entry.model_id:
            served.append(entry.model_id)
    return served


def _check_scores(bundle: Bundle) -> None:
    """Raise BundleError where no worker could start on it: the golden rows are scored."""
    from model.score import Scorer  # the compiler comes with it, `models list` has no use for that

    Scorer(bundle)


def _checked(folder: Path, public_key: bytes | None) -> Bundle:
    """The bundle, if workers can serve it. Raises BundleError."""
    found = bundles.read(folder, public_key)
    bundles.require_fitted(found)
    _check_scores(found)
    return found


def _copy(
    source: Path, target: Path, public_key: bytes | None, seed: bytes | None, digest: str
) -> None:
    """Into its place by a rename, so that half a bundle is never found there. With `seed` the copy
    is signed."""
    part = Path(tempfile.mkdtemp(prefix=f".{target.name}-", dir=target.parent))
    try:
        part.chmod(0o755)
        # These two and nothing else that may lie, or be linked, in a stranger's folder.
        # Not by `shutil.copyfile`: of a full disk its error names the source.
        for file in (bundles.MANIFEST, bundles.WEIGHTS):
            with writing(target):
                with (source / file).open("rb") as there, (part / file).open("wb") as to:
                    shutil.copyfileobj(there, to)
                to_disk(part / file)
        # Not before it is known to be what was checked is it signed, where others may read it.
        if bundles.read(part, None if seed is not None else public_key).digest != digest:
            raise BundleError(f"{source} was changed while it was read", remedy="try again")
        if seed is not None:
            with writing(target):
                _sign(part / bundles.MANIFEST, seed)
                to_disk(part / bundles.MANIFEST)
        folder_into_place(part, target)
    finally:
        shutil.rmtree(part, ignore_errors=True)


def _sign(manifest: Path, seed: bytes) -> None:
    told = json.loads(manifest.read_text("utf-8"))
    signing.sign(told, seed)
    manifest.write_text(json.dumps(told, indent=1) + "\n", "utf-8")


def _holds(target: Path, digest: str, public_key: bytes | None) -> bool:
    """Whether the bundle is there, whole, and signed where a key is given: a digest covers no
    signature."""
    try:
        return bundles.read(target, public_key).digest == digest
    except BundleError:
        return False


class Registry:
    """A registry in one folder.

    With `public_key` (Ed25519, 32 bytes) it takes and promotes nothing that was not signed by it.
    """

    def __init__(self, root: Path, public_key: bytes | None = None) -> None:
        self.root = root
        self._public_key = public_key

    @contextmanager
    def _alone(self) -> Iterator[None]:
        """Nobody else writes here meanwhile. The lock goes with the process, however it ends."""
        self.root.mkdir(parents=True, exist_ok=True)
        path = self.root / ".lock"
        try:
            lock = path.open("a")
        except PermissionError:
            # Made by another user, whose umask lets us read it only: that is enough to lock it.
            lock = path.open("r")
        with lock:
            fcntl.flock(lock, fcntl.LOCK_EX)
            yield

    def _folder(self, model_id: str) -> Path:
        return self.root / "bundles" / model_id

    def add(self, source: Path, seed: bytes | None = None) -> Bundle:
        """Check a bundle and take a copy of it; with `seed` (Ed25519, 32 bytes) sign the copy.

        Adding the same one twice changes nothing, unless the copy was damaged since, or lacks the
        signature that is asked for: it is taken again. Raises BundleError when it is damaged, its
        scores are not those it was written with, or it is not signed by the registry's key.
        """
        if seed is not None and self._public_key not in (None, signing.public_key(seed)):
            raise BundleError(
                "the key to sign with is not the one that bundles here must be signed by",
                remedy="sign with the seed of that public key, or give another public key",
            )
        found = bundles.read(source, None if seed is not None else self._public_key)
        _check_scores(found)
        with self._alone():
            self._take(source, found, seed)
        return found

    def _take(self, source: Path, found: Bundle, seed: bytes | None = None) -> None:
        """Copy a checked bundle, unless it is here."""
        target, key = self._folder(found.model_id), self._public_key
        if seed is not None and key is None:
            key = signing.public_key(seed)
        if not _holds(target, found.digest, key):
            target.parent.mkdir(exist_ok=True)
            _copy(source, target, key, seed, found.digest)

    def ids(self) -> list[str]:
        """All bundles, by name."""
        # Not by `glob`, for which a folder that may not be read is an empty one.
        try:
            names = os.listdir(self.root / "bundles")
        except FileNotFoundError:
            return []
        return sorted(name for name in names if "@" in name and not name.startswith("."))

    def current(self) -> Path | None:
        """The folder of the promoted bundle, None when none is."""
        history = self.history()
        return self._folder(history[-1].model_id) if history else None

    def find(self, name: str) -> Path | None:
        """The folder of a bundle by its id, its digest, or its name; None when there is none.

        Raises BundleError where a name means several bundles.
        """
        found = [i for i in self.ids() if name in (i, *i.split("@"))]
        if len(found) > 1:
            raise BundleError(
                f"{len(found)} bundles are named {name!r} in {self.root}",
                remedy="give name@digest, as `fraudstream models list` shows",
            )
        return self._folder(found[0]) if found else None

    def path(self, name: str) -> Path:
        """As `find`. Raises BundleMissing when there is none."""
        found = self.find(name)
        if found is None:
            raise BundleMissing(
                f"no bundle named {name!r} in {self.root}", remedy="see `fraudstream models list`"
            )
        return found

    def history(self) -> list[Promotion]:
        """Promotions, oldest first."""
        try:
            held: Any = json.loads((self.root / CURRENT).read_text("utf-8"))
            history = [Promotion(**entry) for entry in held["history"]]
        except FileNotFoundError:
            return []
        except (ValueError, KeyError, TypeError, RecursionError) as error:
            raise BundleError(f"{self.root / CURRENT} is damaged: {error}") from None
        if not all(isinstance(entry.model_id, str) for entry in history):
            raise BundleError(f"{self.root / CURRENT} is damaged: a model_id is no text")
        return history

    def promote(self, name: str, time_ms: int, note: str = "") -> Promotion:
        """Make a bundle the one that serves, after loading it as a worker does.

        Raises BundleError when it is damaged, does not score as it did, or has seen no label.
        """
        found = _checked(self.path(name), self._public_key)
        with self._alone():
            return self._append(Promotion(found.model_id, time_ms, note))

    def roll_back(self, time_ms: int, check: Check = lambda _: None) -> Promotion:
        """Promote what served before the current one; again, what served before that. Before the
        first promotion the shipped bundle did: it is added.

        Raises BundleError as `promote` does; `check` may raise what else speaks against it.
        """
        with self._alone():
            served = _served(self.history())
            if not served:
                raise BundleError("no model was promoted: the shipped one serves")
            source = self.path(served[-2]) if len(served) > 1 else self._shipped()
            found = _checked(source, self._public_key)
            if found.model_id == served[-1]:
                raise BundleError(
                    "there is no earlier model to roll back to: the shipped one serves",
                    remedy="promote another one",
                )
            check(found)
            self._take(source, found)
            note = f"{ROLLED_BACK} {served[-1]}"
            return self._append(Promotion(found.model_id, time_ms, note))

    def _shipped(self) -> Path:
        """The shipped bundle, or its copy here, which somebody may have signed."""
        shipped = bundles.shipped()
        if self._public_key is None:
            return shipped
        copy = self._folder(bundles.read(shipped).model_id)
        return copy if copy.exists() else shipped

    def _append(self, entry: Promotion) -> Promotion:
        self._write([*self.history(), entry])
        return entry

    def _write(self, history: list[Promotion]) -> None:
        kept = [entry.__dict__ for entry in history[-MAX_HISTORY:]]
        part = self.root / f".{CURRENT}.{os.getpid()}"
        try:
            with writing(self.root / CURRENT):
                part.write_text(json.dumps({"history": kept}, indent=1), "utf-8")
                into_place(part, self.root / CURRENT)
        finally:
            part.unlink(missing_ok=True)
