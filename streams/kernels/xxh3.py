"""xxh3-64 of up to 128 bytes, inside kernels.

In: bytes. Out: the hash of the library `xxhash`, with seed 0. Does not know what is hashed.

After Yann Collet's specification (doc/xxhash_spec.md of https://github.com/Cyan4973/xxHash, "XXH3
Algorithm Overview"), for 1-3, 4-8, 9-16 and 17-128 bytes; the longer ones are not needed here.
"""

from __future__ import annotations

from typing import Final

import numpy as np
from numpy.typing import NDArray

from streams.kernels.lanes import multiply
from streams.kernels.record import Int, Word, kernel, outline

LONGEST: Final = 128
"""Bytes that can be hashed."""

_SECRET: Final = np.frombuffer(
    bytes.fromhex(
        "b8fe6c3923a44bbe7c01812cf721ad1cded46de9839097db7240a4a4b7b3671f"
        "cb79e64eccc0e578825ad07dccff7221b8084674f743248ee03590e6813a264c"
        "3c2852bb91c300cb88d0658b1b532ea371644897a20df94e3819ef46a9deacd8"
        "a8fa763fe39c343ff9dcbbc7c70b4f1d8a51e04bcdb45931c89f7ec9d9787364"
    ),
    "<u8",
)
"""The first 128 bytes of the default secret, as words."""

_S = tuple(np.uint64(word) for word in _SECRET)
_SHIFTED = np.uint64(int.from_bytes(_SECRET.tobytes()[:4], "little")) ^ np.uint64(
    int.from_bytes(_SECRET.tobytes()[4:8], "little")
)
_PRIME64_1 = np.uint64(0x9E3779B185EBCA87)
_PRIME64_2, _PRIME64_3 = np.uint64(0xC2B2AE3D27D4EB4F), np.uint64(0x165667B19E3779F9)
_MIX_1, _MIX_2 = np.uint64(0x165667919E3779F9), np.uint64(0x9FB21C651E98DF25)


@kernel
def _byte(data: NDArray[np.uint8], at: Int) -> Word:
    return np.uint64(data[at])


@kernel
def _four(data: NDArray[np.uint8], at: Int) -> Word:
    low = _byte(data, at) | _byte(data, at + 1) << np.uint64(8)
    return low | _byte(data, at + 2) << np.uint64(16) | _byte(data, at + 3) << np.uint64(24)


@kernel
def _eight(data: NDArray[np.uint8], at: Int) -> Word:
    return _four(data, at) | _four(data, at + 4) << np.uint64(32)


@kernel
def _turned(word: Word) -> Word:
    """The bytes of a word in the other order."""
    out = np.uint64(0)
    for _ in range(8):
        out = out << np.uint64(8) | word & np.uint64(0xFF)
        word >>= np.uint64(8)
    return out


@kernel
def _folded(a: Word, b: Word) -> Word:
    high, low = multiply(a, b)
    return high ^ low


@kernel
def _finished(h: Word) -> Word:
    h = (h ^ (h >> np.uint64(37))) * _MIX_1
    return h ^ (h >> np.uint64(32))


@kernel
def _left(word: Word, bits: Int) -> Word:
    return word << np.uint64(bits) | word >> np.uint64(64 - bits)


@kernel
def _upto_3(data: NDArray[np.uint8], at: Int, n: Int) -> Word:
    first, middle, last = _byte(data, at), _byte(data, at + (n >> 1)), _byte(data, at + n - 1)
    h = first << np.uint64(16) | middle << np.uint64(24) | last | np.uint64(n) << np.uint64(8)
    h ^= _SHIFTED
    h = (h ^ (h >> np.uint64(33))) * _PRIME64_2
    h = (h ^ (h >> np.uint64(29))) * _PRIME64_3
    return h ^ (h >> np.uint64(32))


@kernel
def _upto_8(data: NDArray[np.uint8], at: Int, n: Int) -> Word:
    h = _four(data, at + n - 4) + (_four(data, at) << np.uint64(32))
    h ^= _S[1] ^ _S[2]
    h = (h ^ _left(h, 49) ^ _left(h, 24)) * _MIX_2
    h = (h ^ ((h >> np.uint64(35)) + np.uint64(n))) * _MIX_2
    return h ^ (h >> np.uint64(28))


@kernel
def _upto_16(data: NDArray[np.uint8], at: Int, n: Int) -> Word:
    low = _eight(data, at) ^ (_S[3] ^ _S[4])
    high = _eight(data, at + n - 8) ^ (_S[5] ^ _S[6])
    return _finished(np.uint64(n) + _turned(low) + high + _folded(low, high))


@kernel
def _mixed(data: NDArray[np.uint8], at: Int, one: Word, other: Word) -> Word:
    return _folded(_eight(data, at) ^ one, _eight(data, at + 8) ^ other)


@kernel
def _upto_128(data: NDArray[np.uint8], at: Int, n: Int) -> Word:
    end = at + n
    h = np.uint64(n) * _PRIME64_1
    if n > 32:
        if n > 64:
            if n > 96:
                h += _mixed(data, at + 48, _S[12], _S[13]) + _mixed(data, end - 64, _S[14], _S[15])
            h += _mixed(data, at + 32, _S[8], _S[9]) + _mixed(data, end - 48, _S[10], _S[11])
        h += _mixed(data, at + 16, _S[4], _S[5]) + _mixed(data, end - 32, _S[6], _S[7])
    h += _mixed(data, at, _S[0], _S[1]) + _mixed(data, end - 16, _S[2], _S[3])
    return _finished(h)


@outline
def xxh3(data: NDArray[np.uint8], at: Int, stop: Int) -> Word:
    """xxh3-64 of data[at:stop], of 1 to LONGEST bytes."""
    n = stop - at
    if n <= 3:
        return _upto_3(data, at, n)
    if n <= 8:
        return _upto_8(data, at, n)
    return _upto_16(data, at, n) if n <= 16 else _upto_128(data, at, n)
