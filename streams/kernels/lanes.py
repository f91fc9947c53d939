"""Four blocks at once: questions to one column of them, and what a set of their events sums to.

In: the arena's blocks, four numbers of blocks, words to compare with. Out: sets of their events as
a word, 16 bits a block; sums, smallest and largest; eight words as eight features. Does not know
rings, time or what a window is.

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


def _start(context: Any, builder: Any, kind: Any, array: Any) -> Any:
    """Where an array begins; the places in it follow one another."""
    assert kind.layout == "C"
    return context.make_array(kind)(context, builder, value=array).data


def _column(context: Any, builder: Any, kind: Any, blocks: Any, block: Any, column: Any) -> Any:
    """The 16 words of a block's column."""
    assert kind.dtype == types.uint64
    start = builder.add(builder.mul(block, _WORD(BLOCK)), builder.mul(column, _WORD(LANES)))
    data = _start(context, builder, kind, blocks)
    words = builder.load(builder.bitcast(builder.gep(data, [start]), _VECTOR.as_pointer()))
    words.align = 8
    return words


def _columns(context: Any, builder: Any, kind: Any, blocks: Any, four: Any, column: Any) -> Any:
    """The 16 words of the column, of each of four blocks."""
    for part in range(4):
        block = builder.sext(builder.extract_value(four, part), _WORD)
        yield _column(context, builder, kind, blocks, block, column)


def _asked(context: Any, builder: Any, kind: Any, given: Any, ask: Callable[[Any], Any]) -> Any:
    """What `ask` answers of a column in four blocks, as the bits of a word, 16 a block."""
    masks = [ask(words) for words in _columns(context, builder, kind, *given[:3])]

    def joined(low: Any, high: Any) -> Any:
        places = list(range(2 * low.type.count))
        lanes = ir.Constant(ir.VectorType(ir.IntType(32), len(places)), places)
        return builder.shuffle_vector(low, high, lanes)

    whole = joined(joined(masks[0], masks[1]), joined(masks[2], masks[3]))
    return builder.bitcast(whole, _WORD)


@written
def equal(_: Any, blocks: Any, four: Any, column: Any, word: Any, mask: Any) -> Typed:
    """The events whose word in a column equals `word` in the bits of `mask`."""

    def write(context: Any, builder: Any, signature: Any, given: Any) -> Any:
        words, bits = _all(builder, given[3]), _all(builder, given[4])

        def ask(column: Any) -> Any:
            apart = builder.and_(builder.xor(column, words), bits)
            return builder.icmp_unsigned("==", apart, ir.Constant(_VECTOR, None))

        return _asked(context, builder, signature.args[0], given, ask)

    return types.uint64(blocks, four, types.int64, types.uint64, types.uint64), write


@written
def at_least(_: Any, blocks: Any, four: Any, column: Any, word: Any) -> Typed:
    """The events whose word in a column is `word` or more."""

    def write(context: Any, builder: Any, signature: Any, given: Any) -> Any:
        words = _all(builder, given[3])

        def ask(column: Any) -> Any:
            return builder.icmp_unsigned(">=", column, words)

        return _asked(context, builder, signature.args[0], given, ask)

    return types.uint64(blocks, four, types.int64, types.uint64), write


@written
def totals(_: Any, blocks: Any, four: Any, column: Any, shift: Any, events: Any) -> Typed:
    """Of a column's values in four blocks, each `word >> shift` and below 2^50: (sum, squares,
    least, most).

    `events` are a word, 16 bits a block, at least one of them set. The sum of squares is that of
    the values' low 32 bits, modulo 2^64: right while `most` is below 2^29.
    """

    def write(context: Any, builder: Any, signature: Any, given: Any) -> Any:
        *place, shifts, sets = given
        by = _all(builder, shifts)
        nothing, low = ir.Constant(_VECTOR, None), ir.Constant(_VECTOR, [2**32 - 1] * LANES)
        total, squares, most = nothing, nothing, nothing
        least = ir.Constant(_VECTOR, [_LARGEST] * LANES)
        columns = _columns(context, builder, signature.args[0], *place)
        for part, words in enumerate(columns):
            values = builder.lshr(words, by)
            share = builder.trunc(builder.lshr(sets, _WORD(LANES * part)), _BITS)
            chosen = builder.bitcast(share, _MASK)
            some = builder.select(chosen, values, nothing)
            short = builder.and_(some, low)
            total = builder.add(total, some)
            squares = builder.add(squares, builder.mul(short, short))
            most = _chosen(builder, ">", most, some)
            least = _chosen(builder, "<", least, builder.select(chosen, values, least))
        found = (
            _reduced(builder, "add", total),
            _reduced(builder, "add", squares),
            _reduced(builder, "smin", least),
            _reduced(builder, "smax", most),
        )
        return context.make_tuple(builder, signature.return_type, found)

    return _FOUR(blocks, four, types.int64, types.uint64, types.uint64), write


def _reduced(builder: Any, how: str, vector: Any) -> Any:
    """The sum, least or most of a vector's words."""
    kind = ir.FunctionType(_WORD, [_VECTOR])
    name = f"llvm.vector.reduce.{how}.v{LANES}i64"
    return builder.call(builder.module.declare_intrinsic(name, (), kind), [vector])


def _chosen(builder: Any, how: str, a: Any, b: Any) -> Any:
    """Of each pair of words `a` where it is `how` than `b`, else `b`."""
    return builder.select(builder.icmp_signed(how, a, b), a, b)


@written
def eight_reals(
    _: Any, words: Any, first: Any, third: Any, fourth: Any, reals: Any, to: Any
) -> Typed:
    """Eight words from `first` on as float32 from `to` on, both counted over the whole array.

    `third` and `fourth` stand in the place of those two words. Where the first word is 0, the fifth
    and the sixth have no meaning and become -1. Each is rounded to float64, then to float32.
    """

    def write(context: Any, builder: Any, signature: Any, given: Any) -> Any:
        source, at, *inserted, target, place = given
        eight = ir.VectorType(_WORD, 8)
        start = builder.gep(_start(context, builder, signature.args[0], source), [at])
        found = builder.load(builder.bitcast(start, eight.as_pointer()))
        found.align = 8
        values = builder.uitofp(found, ir.VectorType(ir.DoubleType(), 8))
        first = builder.extract_element(found, ir.IntType(32)(0))
        unknown = ir.Constant(values.type, [0.0, 0.0, 0.0, 0.0, -1.0, -1.0, 0.0, 0.0])
        values = builder.select(builder.icmp_unsigned("==", first, _WORD(0)), unknown, values)
        for lane, value in zip((2, 3), inserted, strict=True):
            values = builder.insert_element(values, value, ir.IntType(32)(lane))
        rounded = builder.fptrunc(values, ir.VectorType(ir.FloatType(), 8))
        end = builder.gep(_start(context, builder, signature.args[4], target), [place])
        builder.store(rounded, builder.bitcast(end, rounded.type.as_pointer()), align=4)
        return context.get_dummy_value()

    number, real = types.int64, types.float64
    return types.void(words, number, real, real, reals, number), write


@written
def natural(_: Any, number: Any) -> Typed:
    """A number that is not negative. Where it indexes an array, the code need not ask whether to
    count from the end, which is half of what an access costs."""

    def write(_context: Any, builder: Any, _signature: Any, given: Any) -> Any:
        is_natural = builder.icmp_signed(">=", given[0], ir.Constant(given[0].type, 0))
        builder.assume(is_natural)
        return given[0]

    return number(number), write


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
