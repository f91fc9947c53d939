"""What aiokafka packs comes out again, and nothing is unpacked past the limit."""

from __future__ import annotations

import gzip
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor

import pytest
from aiokafka import codec
from aiokafka.record._crecords import default_records

from streams.live import unpack
from streams.schema import MAX_UNPACKED_BYTES

PAIRS = {
    "gzip": (codec.gzip_encode, unpack.gunzip),
    "snappy": (codec.snappy_encode, unpack.unsnappy),
    "snappy of one block": (
        lambda plain: codec.snappy_encode(plain, xerial_compatible=False),
        unpack.unsnappy,
    ),
    "lz4": (codec.lz4_encode, unpack.unlz4),
    "zstd": (codec.zstd_encode, unpack.unzstd),
}
Pair = tuple[Callable[[bytes], bytes], Callable[[bytes], bytes]]


@pytest.fixture(params=list(PAIRS))
def pair(request: pytest.FixtureRequest) -> Pair:
    return PAIRS[request.param]


@pytest.mark.parametrize("plain", [b"", b"x", bytes(range(256)) * 1_000, bytes(MAX_UNPACKED_BYTES)])
def test_what_was_packed_comes_out(pair: Pair, plain: bytes) -> None:
    pack, unpacked = pair
    assert unpacked(pack(plain)) == plain


def test_one_byte_too_much_is_refused(pair: Pair) -> None:
    pack, unpacked = pair
    with pytest.raises(unpack.TooMuch):
        unpacked(pack(bytes(MAX_UNPACKED_BYTES + 1)))
    assert unpacked(pack(b"and the next is read")) == b"and the next is read"


def test_damage_is_not_taken_for_too_much(pair: Pair) -> None:
    pack, unpacked = pair
    packed = pack(bytes(range(256)) * 100)
    with pytest.raises(Exception) as caught:  # noqa: PT011 - each codec has its own
        unpacked(packed[: len(packed) // 2])
    assert not isinstance(caught.value, unpack.TooMuch)


def test_two_threads_do_not_mix_their_bytes(pair: Pair) -> None:
    pack, unpacked = pair
    plains = [bytes([number]) * 1_000_000 for number in range(4)]
    packed = [pack(plain) for plain in plains]
    with ThreadPoolExecutor(4) as threads:
        found = list(threads.map(unpacked, packed * 20))
    assert found == plains * 20


def test_gzip_streams_behind_each_other_count_together() -> None:
    half = gzip.compress(bytes(MAX_UNPACKED_BYTES // 2))
    assert len(unpack.gunzip(half + half)) == MAX_UNPACKED_BYTES
    with pytest.raises(unpack.TooMuch):
        unpack.gunzip(half + half + gzip.compress(b"x"))


@pytest.mark.parametrize("behind", [b"\0" * 8, b"no stream"])
def test_what_stands_behind_a_gzip_stream_is_nothing(behind: bytes) -> None:
    assert unpack.gunzip(gzip.compress(b"x") + behind) == b"x"


def test_aiokafka_unpacks_with_these() -> None:
    unpack.install()
    for name, function in unpack.BOUNDED.items():
        assert getattr(default_records, name) is function


def test_many_short_gzip_streams_do_not_hold_the_consumer_up() -> None:
    """A megabyte of empty ones took seconds of the thread that sends the heartbeats: each was cut
    off what stands behind it by a copy of that."""

    def spent(streams: int) -> float:
        packed = gzip.compress(b"") * streams + gzip.compress(b"the last")
        began = time.process_time()
        assert unpack.gunzip(packed) == b"the last"
        return time.process_time() - began

    assert spent(60_000) < 8 * min(spent(15_000) for _ in range(3))
