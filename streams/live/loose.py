"""Record batches with a header name that is no text: read without the headers of that message.

In: the bytes of a record batch that aiokafka's own reader gave up on. Out: its records.
Does not know when that is, nor what a message means.

Kafka takes any bytes for a header's name; aiokafka decodes names as UTF-8 and stops at the first
that is not. One such message would end every worker that reads its partition. librdkafka gives no
header of such a message at all (`connect.headers_of`), so neither is given here: live and replay
see the same.
"""

from __future__ import annotations

from typing import Any, Final

from aiokafka.consumer import fetcher
from aiokafka.record.default_records import _DefaultRecordBatchPy
from aiokafka.record.memory_records import _MemoryRecordsPy

from streams.batch import Headers

MAGIC_AT: Final = 16
WITH_HEADERS: Final = 2
"""The first record format that has headers."""


class KeptRecords(_MemoryRecordsPy):  # type: ignore[misc]
    """aiokafka's walk over the batches of a fetch, which remembers the bytes of the last one."""

    raw: memoryview | None = None

    def next_batch(self) -> Any:
        """The next batch, None behind the last."""
        self.raw = self._next_slice
        return super().next_batch()


class _Loose(bytearray):
    """Bytes whose every piece is text: what is not UTF-8 becomes lone surrogates."""

    def __getitem__(self, at: Any) -> Any:
        found = super().__getitem__(at)
        return _Loose(found) if isinstance(at, slice) else found

    def decode(self, *_: Any) -> str:
        return super().decode("utf-8", "surrogateescape")


class _LooseBatch(_DefaultRecordBatchPy):  # type: ignore[misc]
    _buffer: bytearray

    def _maybe_uncompress(self) -> None:
        super()._maybe_uncompress()
        self._buffer = _Loose(self._buffer)


def loosely(records: Any) -> Any:
    """The batch that `records` gave last, to be read again; None where looseness does not help."""
    raw = getattr(records, "raw", None)
    if raw is None or raw[MAGIC_AT] < WITH_HEADERS:
        return None
    return _LooseBatch(raw)


def text_only(headers: Headers) -> Headers:
    """The headers, or none at all where a name was no UTF-8."""
    loose = any("\udc80" <= letter <= "\udcff" for name, _ in headers for letter in name)
    return () if loose else headers


def install() -> None:
    """From now on aiokafka's fetcher remembers bytes. Again does nothing."""
    assert hasattr(fetcher, "MemoryRecords")  # as in 0.12 to 0.14
    fetcher.MemoryRecords = KeptRecords
