"""Sixteen events at once: questions to one column of a block, and what a set of its events sums to.

In: the arena's blocks, the number of a block, words to compare with. Out: sets of the block's 16
events as the low bits of a word; sums, smallest and largest. Does not know rings, time or windows.

Numba's loops over a block do not become what a processor offers here: one instruction compares four
or eight words and leaves a mask of bits. So these few functions are written as vectors of 16 words,
in LLVM's language; it cuts them to whatever the machine has, and all of it is integers, so every
machine gives the same bits.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, Final, TypeAlias, cast

from llvmlite import ir
from numba.core import types
from numba.extending import intrinsic

LANES: Final = 16
"""Events of a block; also the distance of its columns."""
BLOCK: Final = 4 * LANES

_WORD = ir.IntType(64)
_WIDE = ir.IntType(128)
_VECTOR = ir.VectorType(_WORD, LANES)
_MASK = ir.VectorType(ir.IntType(1), LANES)
_BITS = ir.IntType(LANES)
_LARGEST: Final = 2**63 - 1
_TWO: Final[Any] = types.UniTuple(types.uint64, 2)  # type: ignore[no-untyped-call]
_FOUR: Final[Any] = types.UniTuple(types.uint64, 4)  # type: ignore[no-untyped-call]

Typed: TypeAlias = tuple[Any, Callable[..., Any]]
"""A signature, and the function that writes the code."""


def written(function: Callable[..., Typed]) -> Callable[..., Any]:
    """A function for kernels to call; `function` gives its signature and writes its code."""
    return cast(Callable[..., Any], intrinsic(function))


def _all(builder: Any, word: Any) -> Any:
    """A vector with the word in every lane."""
    one = builder.insert_element(ir.Constant(_VECTOR, ir.Undefined), word, ir.IntType(32)(0))
    lanes = ir.Constant(ir.VectorType(ir.IntType(32), LANES), [0] * LANES)
    return builder.shuffle_vector(one, ir.Constant(_VECTOR, ir.Undefined), lanes)


def _column(context: Any, builder: Any, kind: Any, blocks: Any, block: Any, column: Any) -> Any:
    """The 16 words of a block's column."""
    assert kind.layout == "C" and kind.dtype == types.uint64
    start = builder.add(builder.mul(block, _WORD(BLOCK)), builder.mul(column, _WORD(LANES)))
    data = context.make_array(kind)(context, builder, value=blocks).data
    words = builder.load(builder.bitcast(builder.gep(data, [start]), _VECTOR.as_pointer()))
    words.align = 8
    return words


def _as_word(builder: Any, mask: Any) -> Any:
    """A mask as the low bits of a word."""
    return builder.zext(builder.bitcast(mask, _BITS), _WORD)


@written
def equal(_: Any, blocks: Any, block: Any, column: Any, word: Any, mask: Any) -> Typed:
    """The events whose word in a column equals `word` in the bits of `mask`."""

    def write(context: Any, builder: Any, signature: Any, given: Any) -> Any:
        words = _column(context, builder, signature.args[0], *given[:3])
        apart = builder.xor(words, _all(builder, given[3]))
        apart = builder.and_(apart, _all(builder, given[4]))
        return _as_word(builder, builder.icmp_unsigned("==", apart, ir.Constant(_VECTOR, None)))

    return types.uint64(blocks, types.int64, types.int64, types.uint64, types.uint64), write


@written
def at_least(_: Any, blocks: Any, block: Any, column: Any, word: Any) -> Typed:
    """The events whose word in a column is `word` or more."""

    def write(context: Any, builder: Any, signature: Any, given: Any) -> Any:
        words = _column(context, builder, signature.args[0], *given[:3])
        return _as_word(builder, builder.icmp_unsigned(">=", words, _all(builder, given[3])))

    return types.uint64(blocks, types.int64, types.int64, types.uint64), write


@written
def totals(_: Any, blocks: Any, block: Any, column: Any, shift: Any, events: Any) -> Typed:
    """Of the column's values, each `word >> shift` and below 2^50: (sum, squares, least, most).

    `events` are the low 16 bits of a word, at least one of them set. The sum of squares is that of
    the values' low 32 bits, modulo 2^64: right while `most` is below 2^30.
    """

    def write(context: Any, builder: Any, signature: Any, given: Any) -> Any:
        words = _column(context, builder, signature.args[0], *given[:3])
        values = builder.lshr(words, _all(builder, given[3]))
        chosen = builder.bitcast(builder.trunc(given[4], _BITS), _MASK)
        some = builder.select(chosen, values, ir.Constant(_VECTOR, None))
        least = builder.select(chosen, values, ir.Constant(_VECTOR, [_LARGEST] * LANES))
        low = builder.and_(some, ir.Constant(_VECTOR, [2**32 - 1] * LANES))

        def reduced(how: str, vector: Any) -> Any:
            kind = ir.FunctionType(_WORD, [_VECTOR])
            name = f"llvm.vector.reduce.{how}.v{LANES}i64"
            return builder.call(builder.module.declare_intrinsic(name, (), kind), [vector])

        found = (
            reduced("add", some),
            reduced("add", builder.mul(low, low)),
            reduced("smin", least),
            reduced("smax", some),
        )
        return context.make_tuple(builder, signature.return_type, found)

    return _FOUR(blocks, types.int64, types.int64, types.uint64, types.uint64), write


@written
def popcount(_: Any, word: Any) -> Typed:
    """Set bits of a word."""

    def write(_context: Any, builder: Any, _signature: Any, given: Any) -> Any:
        return builder.ctpop(given[0])

    return types.uint64(types.uint64), write


@written
def multiply(_: Any, a: Any, b: Any) -> Typed:
    """The 128-bit product of two words as (high, low)."""

    def write(context: Any, builder: Any, signature: Any, given: Any) -> Any:
        product = builder.mul(*(builder.zext(each, _WIDE) for each in given))
        high = builder.trunc(builder.lshr(product, _WIDE(64)), _WORD)
        found = high, builder.trunc(product, _WORD)
        return context.make_tuple(builder, signature.return_type, found)

    return _TWO(types.uint64, types.uint64), write
