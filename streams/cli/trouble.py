"""What a verb says when the system refuses it something: what failed, and what to do.

In: an OSError. Out: one line, or None where no user can mend it and a traceback is wanted.
Does not know the verbs. A file that cannot be had names itself; a write that fails names none, and
`model.errors.writing` gives it one where it is known.
"""

from __future__ import annotations

import contextlib
import errno
import os
import sys
from typing import Final

from streams.errors import NO_ROOM

REMEDIES: Final = {
    **{number: f"{todo}, or choose another place" for number, todo in NO_ROOM.items()},
    errno.EROFS: "Nothing can be written there: choose another place",
    errno.EACCES: "It belongs to somebody else: ask for the right, or choose another place",
    errno.EPERM: "It belongs to somebody else: ask for the right, or choose another place",
    errno.EMFILE: "Raise the limit of open files: `ulimit -n`",
    errno.ENFILE: "The machine has no open files left: stop something",
    errno.ENOMEM: "The machine has no memory left: stop something",
    errno.EIO: "Look at the disk and at the kernel's log",
}
"""An error of these, also one that names no file, is the machine's and no defect of ours."""


def told(error: OSError) -> str | None:
    """The line for the user."""
    if error.filename is None and error.errno not in REMEDIES:
        return None
    # Not `strerror` where there is a number: Arrow puts a sentence of its own there.
    said = str(error) if error.errno is None else os.strerror(error.errno)
    where = error.filename
    if where is None and _stdout_fails():
        where = "standard output"
    remedy = REMEDIES.get(error.errno or 0)
    return (f"{where}: " if where is not None else "") + said + (f". {remedy}" if remedy else "")


def _stdout_fails() -> bool:
    """Whether it was stdout that took nothing; it is then let go, or Python tries again at exit."""
    try:
        sys.stdout.flush()
    except OSError:
        with contextlib.suppress(OSError, ValueError):
            os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return True
    return False
