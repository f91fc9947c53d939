"""The place of a bundle on disk, tried before the work that will fill it.

In: a folder that a bundle is to take. Out: an error now, not after hours of fitting; room held;
where the place was lost meanwhile, another one. Does not know what a bundle consists of.
"""

from __future__ import annotations

import errno
import os
import shutil
import stat
import tempfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import IO, Final

from model.errors import OutputLost, OutputTaken, writing
from model.transformer import Shape, cost

ROOM_PARAMETER, ROOM_ELSE = 5, 1 << 20
"""Bytes held for a bundle that is to be written: heads of a pretraining are a sixth beside."""
FULL: Final = (errno.ENOTEMPTY, errno.EEXIST)
STUCK: Final = (errno.EBUSY, errno.EINVAL)


def try_place(folder: Path) -> None:
    """Try what writing a bundle will do beside `folder`, and in its place where it is there.

    Raises OutputTaken where a bundle can replace no folder of that name, OSError where nothing can
    be written.
    """
    folder.parent.mkdir(parents=True, exist_ok=True)
    tried = Path(tempfile.mkdtemp(prefix=f".{folder.name}-", dir=folder.parent))
    try:
        if folder.exists():
            _try_to_replace(folder, tried)
    finally:
        if tried.exists():
            tried.rmdir()


def _try_to_replace(folder: Path, empty: Path) -> None:
    """The rename itself is tried: nothing else tells of a mounted volume, or of another user's
    folder where only owners may rename.

    A folder that holds something stays as it is. An empty one becomes another empty one.
    """
    if any(folder.iterdir()) and not os.access(folder, os.W_OK | os.X_OK, effective_ids=True):
        raise PermissionError(errno.EACCES, os.strerror(errno.EACCES), str(folder))
    empty.chmod(stat.S_IMODE(folder.stat().st_mode))
    try:
        os.rename(empty, folder)
    except OSError as error:
        if error.errno in FULL:
            return
        if error.errno in STUCK:
            raise OutputTaken(
                f"{folder} cannot be replaced by a bundle: it is a mounted disk, or its name ends"
                " in a dot",
                remedy="name a folder in it, or elsewhere; nothing there was touched",
            ) from None
        raise OSError(error.errno, error.strerror, str(folder)) from None


@contextmanager
def room_for(folder: Path, shape: Shape, features: int) -> Iterator[IO[bytes]]:
    """Hold the room of a bundle on the disk of `folder` until what is yielded is closed.

    So a fit that took hours does not find at its end that there is none. The file has no name, and
    goes with the process, however that ends. Raises OSError where there is no room now.
    """
    size = ROOM_PARAMETER * cost(shape, features)["parameters"] + ROOM_ELSE
    block = bytes(ROOM_ELSE)
    with tempfile.TemporaryFile(dir=folder.parent, buffering=0) as held:
        with writing(folder):
            while size > 0:
                size -= held.write(block[:size])
            os.fsync(held.fileno())
        yield held


@contextmanager
def kept_elsewhere(folder: Path, put: Callable[[Path], object]) -> Iterator[None]:
    """What took hours of fitting is not lost where its place is taken, or locked, at the end.

    `put` writes it to another folder, beside or among the temporary files. Raises OutputLost, which
    names that; the first error where nothing can be written there either.
    """
    try:
        yield
    except (OutputTaken, OSError) as error:
        other = _elsewhere(folder, put)
        if other is None:
            raise
        if isinstance(error, OSError):
            why = f"{folder}: {error.strerror}"
        else:
            why = str(error).removesuffix(f". {error.remedy}")
        raise OutputLost(
            f"the fit is done, and its bundle cannot take its place: {why}",
            remedy=f"It is in {other}: move it, or use it there",
        ) from None


def _elsewhere(folder: Path, put: Callable[[Path], object]) -> Path | None:
    for parent in (folder.parent, Path(tempfile.gettempdir())):
        try:
            other = Path(tempfile.mkdtemp(prefix=f"{folder.name}-", dir=parent))
        except OSError:
            continue
        try:
            put(other)
        except OSError:
            shutil.rmtree(other, ignore_errors=True)
        else:
            return other
    return None
