"""What a verb says when the system refuses it something: what failed, and what to do.

In: an OSError. Out: one line, or None where no user can mend it and a traceback is wanted.
Does not know the verbs. A file that cannot be had names itself; a write that fails names none, and
`model.errors.writing` gives it one where it is known.
"""

from __future__ import annotations

import contextlib
import errno
import os
import select
import sys
from collections.abc import Iterator
from typing import Any, Final

from typer.core import TyperGroup

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
UNREAD: Final = 141
"""The exit code of a program whose reader has gone, as `head` does: 128 and SIGPIPE. The signal
itself would also end whatever writes to a server that has gone."""


class Verbs(TyperGroup):
    """The program: typer would exit 1 where nobody reads on, as if a verb had failed."""

    def make_context(self, *given: Any, **named: Any) -> Any:
        """The program's own flags; `--help` and `--version` speak here."""
        with _read():
            return super().make_context(*given, **named)

    def invoke(self, ctx: Any) -> Any:
        """The verb that is asked for."""
        with _read():
            return super().invoke(ctx)


@contextlib.contextmanager
def _read() -> Iterator[None]:
    try:
        yield
    except BrokenPipeError as error:
        if not unread(error):
            raise
        sys.exit(UNREAD)


def unread(error: OSError) -> bool:
    """Whether it says that nobody reads our output any more; what is left of that is let go."""
    if error.errno != errno.EPIPE:
        return False
    ends = select.poll()
    for number in (1, 2):
        ends.register(number, 0)
    gone = [number for number, found in ends.poll(0) if found & (select.POLLERR | select.POLLHUP)]
    if gone:
        nowhere = os.open(os.devnull, os.O_WRONLY)
        for number in gone:
            os.dup2(nowhere, number)
        os.close(nowhere)
    return bool(gone)


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
