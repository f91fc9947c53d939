"""Files and folders that a machine which loses its power keeps whole, or does not have.

In: what is written. Out: the same on the disk, under its name. Does not know what is in it.
"""

from __future__ import annotations

import os
import shutil
from pathlib import Path


def to_disk(path: Path) -> None:
    """Have a file's bytes on the disk, or the names in a folder: else a machine that loses its
    power may keep what names them and not them."""
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    except OSError:
        if not path.is_dir():  # which some file systems cannot do, nor need
            raise
    finally:
        os.close(descriptor)


def into_place(draft: Path, path: Path) -> None:
    """Give a whole file its name, in place of another one that may have it: the bytes are on the
    disk before the name is, and the name when this returns."""
    to_disk(draft)
    draft.replace(path)
    to_disk(path.parent)


def folder_into_place(draft: Path, folder: Path) -> None:
    """Give a folder, whose files are on the disk, its name, in place of another one that may have
    it. That one is deleted last: it is back where the rename fails, and a process that is killed
    in between leaves it beside."""
    old = draft.with_name(draft.name + "-old") if folder.exists() else None
    if old is not None:
        os.rename(folder, old)
    try:
        os.rename(draft, folder)
    except OSError:
        if old is not None:
            os.rename(old, folder)
        raise
    to_disk(folder.parent)
    if old is not None:
        shutil.rmtree(old)
