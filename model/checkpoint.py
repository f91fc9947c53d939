"""A run on disk: saved at its evaluations, and gone on with to the same bits (on a CPU).

In: a model, its optimiser and averages, what the run is. Out: a file; or all of that out of one.
Does not know what is trained, nor how.
"""

from __future__ import annotations

import hashlib
import zipfile
from collections.abc import Mapping
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from model import processes
from model.data import checksum
from model.disk import into_place
from model.errors import DatasetError, writing

if TYPE_CHECKING:
    from model.loop import Average, Progress, Recipe, Source

ANOTHER = "delete it, or name another file"
WORDS = {
    "data": "another training set",
    "chosen": "other rows",
    "start": "other weights to begin with (base, preset or data)",
    "lesson": "other labels or another teacher",
    "judge": "another judging block",
}
"""For parts of an identity that are digests."""


def digest_of(*arrays: NDArray[Any]) -> str:
    """Of all bytes of the arrays, as an identity keeps it."""
    return checksum(np.array([checksum(array) for array in arrays]))[:16]


def identity(
    model: torch.nn.Module,
    source: Source,
    chosen: NDArray[np.bool_],
    recipe: Recipe,
    marks: Mapping[str, str],
) -> dict[str, Any]:
    """What a run is, apart from its length: a checkpoint of another one is not gone on with.

    `marks`: digests of what its loss and its judge hold."""
    start = hashlib.sha256()
    for name, value in sorted(model.state_dict().items()):
        start.update(name.encode() + value.detach().cpu().contiguous().numpy().tobytes())
    return {
        "data": source.digest,
        "chosen": checksum(chosen)[:16],
        "start": start.hexdigest()[:16],
        **marks,
        "processes": processes.count(),
        **asdict(recipe),
        "steps": 0,
    }


def save(
    path: Path,
    model: torch.nn.Module,
    optimiser: torch.optim.Optimizer,
    average: Average,
    progress: Progress,
    best: dict[str, Tensor],
    run: dict[str, Any],
) -> None:
    """Write it in one step, from the first process; the others only tell their random state.

    On a full disk the one before stays as it is. Raises OSError.
    """
    random = processes.random_states()
    if not processes.is_first():
        return
    path.parent.mkdir(parents=True, exist_ok=True)
    made = path.with_name(f"{path.name}.part")
    held = {
        "model": model.state_dict(),
        "optimiser": optimiser.state_dict(),
        "average": average.values,
        "count": average.count,
        "progress": progress.__dict__,
        "best": best,
        "random": random,
        "run": run,
    }
    try:
        with writing(path):
            with made.open("wb") as file:
                torch.save(held, file)
            into_place(made, path)
    finally:
        made.unlink(missing_ok=True)


def _unfit(path: Path, error: Exception) -> DatasetError:
    # Its first sentence: torch adds what its own users should look for.
    said = str(error).splitlines()[0].partition(". ")[0] if str(error) else repr(error)
    return DatasetError(f"checkpoint {path} does not fit: {said}", remedy=ANOTHER)


def _held(path: Path, device: str) -> dict[str, Any]:
    """What a file holds, on `device`. Raises any error when it is damaged: torch writes the sums of
    its parts, and does not look at them as it reads."""
    with zipfile.ZipFile(path) as file:
        damaged = file.testzip()
    if damaged is not None:
        raise zipfile.BadZipFile(f"the checksum of {damaged} in it is wrong")
    return dict(torch.load(path, weights_only=True, map_location=device))


def steps_in(path: Path) -> int:
    """How many steps a checkpoint holds; 0 where there is none. Whether it is of the same run is
    seen as it is gone on with. Raises DatasetError when the file is damaged."""
    if not path.exists():
        return 0
    try:
        return int(_held(path, "meta")["progress"]["step"])
    except Exception as error:  # what torch's reader raises depends on where a file is damaged
        raise _unfit(path, error) from None


def resume(
    path: Path,
    model: torch.nn.Module,
    optimiser: torch.optim.Optimizer,
    average: Average,
    run: dict[str, Any],
    steps: int,
) -> tuple[dict[str, Any], dict[str, Tensor]]:
    """Fill model, optimiser and averages; returns the fields of `Progress`, and the best weights.

    Raises DatasetError when the file is damaged, or of another run or one of more than `steps`.
    """
    try:
        saved = _held(path, average.device())
    except Exception as error:  # what torch's reader raises depends on where a file is damaged
        raise _unfit(path, error) from None
    try:
        held = dict.fromkeys(run) | saved["run"]
        other = {k: v for k, v in held.items() if run.get(k) != v}
        if other:
            said = ", ".join(WORDS.get(k, f"{k} {v}") for k, v in other.items())
            raise DatasetError(f"checkpoint {path} is of a run with {said}", remedy=ANOTHER)
        done = saved["progress"]["step"]
        if done > steps:
            raise DatasetError(
                f"checkpoint {path} is of {done} steps, asked are {steps}", remedy=ANOTHER
            )
        model.load_state_dict(saved["model"])
        optimiser.load_state_dict(saved["optimiser"])
        processes.set_random_states(saved["random"])
        average.values, average.count = saved["average"], saved["count"]
        return dict(saved["progress"]), saved["best"]
    except (RuntimeError, KeyError, IndexError, TypeError, ValueError) as error:
        raise _unfit(path, error) from None
