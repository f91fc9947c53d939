"""Errors that the model raises on purpose, and the base that all of fraudstream's errors share.

In: nothing. Out: exception classes; `writing`, which gives an error of a write its file's name;
`stoppable`, which finds Ctrl-C where a compiled function hid it.
The classes stand here, in the lower package, so that `streams.errors` can draw one tree above both;
it re-exports them. Does not know who catches them.
"""

from __future__ import annotations

import errno
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, ClassVar


class FraudstreamError(Exception):
    """Base of every deliberate error; `remedy` says what the user can do."""

    wrong_use: ClassVar[bool] = False
    """What was asked for cannot be meant: the command line then exits 2, not 1."""

    def __init__(self, message: str, *, remedy: str | None = None) -> None:
        super().__init__(message if remedy is None else f"{message.removesuffix('.')}. {remedy}")
        self.remedy = remedy

    def __reduce__(self) -> tuple[Any, ...]:
        """As it is: an error crosses from a child process without being made anew."""
        return _restored, (type(self), self.args, self.__dict__)


def _restored(kind: type[FraudstreamError], args: Any, fields: dict[str, Any]) -> FraudstreamError:
    error = kind.__new__(kind, *args)
    error.__dict__.update(fields)
    return error


class BundleError(FraudstreamError):
    """A model bundle is damaged, foreign or does not fit the features."""


class BundleMissing(BundleError):
    """The user named a bundle that is not there."""

    wrong_use = True


class BundleMisnamed(BundleError):
    """The user gave a bundle a name that could lead out of a folder."""

    wrong_use = True


class OutputTaken(FraudstreamError):
    """What is to be written would take the place of something else of the user's."""

    wrong_use = True


class OutputLost(FraudstreamError):
    """What was written could not take its place, and lies elsewhere: the message says where."""


class DeviceMissing(FraudstreamError):
    """The user named a device that is not here, or none that there is."""

    wrong_use = True


class DeviceFailed(FraudstreamError):
    """The GPU is here and cannot take the model: no memory left, a driver too old for torch."""


class DatasetError(FraudstreamError):
    """A training set is damaged, foreign or too small for what was asked."""


class DatasetMissing(DatasetError):
    """The user named a folder that holds no training set."""

    wrong_use = True


@contextmanager
def writing(path: Path) -> Iterator[None]:
    """An OSError inside names `path`: a write to a full disk tells no file, and a message has to.

    torch hides it behind an error of its own, and Ctrl-C too; numpy tells no number with it.
    """
    try:
        yield
    except (OSError, RuntimeError) as error:
        held = error.__context__ if isinstance(error, RuntimeError) else error
        if isinstance(held, KeyboardInterrupt):
            raise held from None
        if not isinstance(held, OSError) or held.filename is not None:
            raise
        said = held.strerror or str(held)
        raise OSError(held.errno or errno.EIO, said, str(path)) from None


@contextmanager
def stoppable() -> Iterator[None]:
    """A Ctrl-C inside ends as one. Where it meets a compiled function that is just being called,
    this makes a SystemError of it, and a traceback would take the place of the word that is due."""
    try:
        yield
    except SystemError as error:
        held: BaseException | None = error
        while held is not None and not isinstance(held, KeyboardInterrupt):
            held = held.__cause__ or held.__context__
        if held is None:
            raise
        raise KeyboardInterrupt from None
