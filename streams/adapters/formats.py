"""The contract of an adapter, and the list of them.

An adapter module has

    SORTED: bool                          whether its files are in event time order
    rows(path, key) -> Iterator[Converted]

and reads in bounded memory. `key` is the secret for account tokens, used where the source holds
card numbers. Raises FormatError, naming row and column, for input that is not of the format.
"""

from __future__ import annotations

import importlib
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple, Protocol, cast

import pyarrow as pa

from streams.errors import ConfigError

NAMES = ("handbook", "sparkov", "tabformer", "paysim")


class Converted(NamedTuple):
    """A piece of a file: transactions in `canonical.TRANSACTION` columns, and the labels of the
    frauds among them in `canonical.LABEL`. All pieces of one file have the same columns."""

    transactions: pa.RecordBatch
    labels: pa.RecordBatch


class Adapter(Protocol):
    """What a module of this package offers."""

    SORTED: bool

    def rows(self, path: Path, key: bytes) -> Iterator[Converted]: ...


def adapter(name: str) -> Adapter:
    """The adapter of a format. Raises ConfigError for an unknown name."""
    if name not in NAMES:
        raise ConfigError(f"no format {name!r}", remedy=f"one of {', '.join(NAMES)}")
    return cast(Adapter, importlib.import_module(f"streams.adapters.{name}"))
