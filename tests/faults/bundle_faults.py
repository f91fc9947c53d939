"""Faults of the model bundle: damaged before a worker starts, exchanged while one runs.

In: a place and a seed. Out: nothing, or `Broken`. The bundle is a copy of the shipped one.
"""

from __future__ import annotations

import hashlib
import json
import shutil
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, Final

import numpy as np
from safetensors.numpy import load, save

from model import bundle as bundles
from model.bundle import MANIFEST, WEIGHTS
from tests.faults.driver import Place, Run
from tests.faults.redis_faults import until_moving

Damage = Callable[[Path], None]
ROUND = 40
TRACE: Final = "Traceback"


def _signed(folder: Path, manifest: dict[str, Any], raw: bytes) -> None:
    """Write a bundle whose checksums are right, whatever it holds."""
    manifest["sha256"] = {WEIGHTS: hashlib.sha256(raw).hexdigest()}
    kept = {name: value for name, value in manifest.items() if name not in ("digest", "signature")}
    canonical = json.dumps(kept, sort_keys=True, separators=(",", ":")).encode()
    manifest["digest"] = hashlib.sha256(canonical).hexdigest()[:12]
    (folder / MANIFEST).write_text(json.dumps(manifest))
    (folder / WEIGHTS).write_bytes(raw)


def _changed(folder: Path, change: Callable[[dict[str, Any], dict[str, Any]], None]) -> None:
    manifest = json.loads((folder / MANIFEST).read_text())
    arrays = dict(load((folder / WEIGHTS).read_bytes()))
    change(manifest, arrays)
    _signed(folder, manifest, save(arrays))


def _cut(folder: Path) -> None:
    raw = (folder / WEIGHTS).read_bytes()
    (folder / WEIGHTS).write_bytes(raw[: len(raw) // 2])


def _flipped(folder: Path) -> None:
    raw = bytearray((folder / WEIGHTS).read_bytes())
    raw[len(raw) // 2] ^= 1
    (folder / WEIGHTS).write_bytes(raw)


def _largest(arrays: dict[str, Any]) -> str:
    weights = [name for name in arrays if name.startswith("weight.") and arrays[name].ndim == 2]
    return max(weights, key=lambda name: (arrays[name].size, name))


def _wrong_shapes(folder: Path) -> None:
    def change(_: dict[str, Any], arrays: dict[str, Any]) -> None:
        name = _largest(arrays)
        arrays[name] = np.ascontiguousarray(arrays[name][:-1])

    _changed(folder, change)


def _not_a_number(folder: Path) -> None:
    def change(_: dict[str, Any], arrays: dict[str, Any]) -> None:
        name = _largest(arrays)
        arrays[name] = arrays[name].copy()
        arrays[name][0, 0] = np.nan

    _changed(folder, change)


def _other_features(folder: Path) -> None:
    _changed(folder, lambda manifest, _: manifest.update(feature_digest="0" * 12))


DAMAGES: Final[dict[str, Damage]] = {
    "cut": _cut,
    "flipped": _flipped,
    "wrong shapes": _wrong_shapes,
    "NaN weights": _not_a_number,
    "other feature digest": _other_features,
}


def refused(
    place: Place, seed: int, damages: Sequence[str] = tuple(DAMAGES), mutant: str | None = None
) -> int:
    """F14: no worker starts with a damaged bundle; each says in one line why, and claims nothing.
    The undamaged bundle then works."""
    with Run(place, seed, f"model.bundle={bundles.shipped()}") as run:
        run.publish(2 * ROUND)
        for name in damages:
            folder = place.directory / f"bundle-{seed}-{name.replace(' ', '-')}"
            shutil.copytree(bundles.shipped(), folder)
            DAMAGES[name](folder)
            worker = run.start(f"model.bundle={folder}", mutant=mutant)
            run.until(lambda: not worker.alive or "ready" in worker.said())  # noqa: B023
            code, said = None if worker.alive else worker.ended(), worker.said()
            if code != 1 or "error: " not in said or TRACE in said or run.watch.moves:
                raise run.failure([f"a bundle ({name}) was not refused: exit {code}", said])
        run.put_right(lambda: None, f"model.bundle={bundles.shipped()}")
        run.judge()
    return len(damages)


def swapped(place: Place, seed: int) -> int:
    """F14: the bundle of a running worker is overwritten in place, and then removed: the worker
    goes on with what it has loaded, to the last bit; a new worker refuses to start."""
    with Run(place, seed, f"model.bundle={bundles.shipped()}") as run:
        folder = place.directory / f"bundle-{seed}-live"
        shutil.copytree(bundles.shipped(), folder)
        worker = run.start(f"model.bundle={folder}", f"worker.batch_events={ROUND}").ready()
        run.feed(100)
        until_moving(run)
        _wrong_shapes(folder)
        until_moving(run)
        newcomer = run.start(f"model.bundle={folder}")
        if newcomer.ended() != 1 or TRACE in newcomer.said():
            raise run.failure(["an exchanged bundle was not refused", newcomer.said()])
        shutil.rmtree(folder)
        gone = time.monotonic()
        until_moving(run)
        place.resumed_s.append(run.watch.resumed_s(gone, {0, 1}))
        if not worker.alive:
            raise run.failure(["the worker ended with its bundle's files", worker.said()])
        run.starve()
        run.judge()
    return 1
