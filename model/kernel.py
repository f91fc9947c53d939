"""The CPU kernel: log-odds of events from folded weights, one event after another.

In: the arrays of a `ScoringBatch` and a `Folded`. Out: log-odds float32, and attention weights.
Does not know calibration, files, or what the features mean.

Why the bits never change: each event is computed alone, by loops of one fixed order, with no
reassociation, no fused multiply-add and an exponential made of + and x only. So the result does not
depend on neighbours, batch size, thread count or vector width, and is the same on other machines.
Why it is fast: every matrix is walked as "for each input, add its row times x", so the inner loop
runs over outputs and the compiler vectorises it without changing the order of any sum.
Steps for one event:
 1. codes of its history rows, sums of their table rows (each tap apart), then the three taps added;
 2. codes of the pairs (event, past event);
 3. start vector: rows of the event's own fields, feature rows interpolated between knots;
 4. for each layer: norm, query, logits, softmax with the "nothing there" slot, values, MLP;
 5. norm and head.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import lru_cache
from typing import Any

import numpy as np
from numba import njit
from numpy.typing import NDArray

from model import tokens
from model.fold import Codes, Folded
from model.inputs import AUTH_MASK, AUTH_SHIFT, HISTORY
from model.transformer import TAPS

_FIELDS = len(tokens.FIELDS)
_REACH = tokens.REACH
_RELATIONS = tokens.RELATION_ROWS
_AUTH_OFF = np.uint64(0xFFFFFFFFFFFFFFFF ^ (AUTH_MASK << AUTH_SHIFT))
_OFFSETS = np.array(tokens.OFFSETS, np.int64)
_RELATION_OFFSETS = np.array(tokens.RELATION_OFFSETS, np.int64)
_F = np.float32
_LANES = 16


@njit(inline="always")
def _sum_squares(x: NDArray[np.float32], lanes: NDArray[np.float32]) -> Any:
    for lane in range(_LANES):
        lanes[lane] = _F(0)
    for i in range(0, len(x), _LANES):
        for lane in range(_LANES):
            lanes[lane] += x[i + lane] * x[i + lane]
    total = _F(0)
    for lane in range(_LANES):
        total += lanes[lane]
    return total


@njit(inline="always")
def _exp_rows(x: NDArray[np.float32], bits: NDArray[np.int32], two: NDArray[np.float32]) -> None:
    """x = exp(x) for x <= 0: 2**whole by exponent bits, times a polynomial (Cephes); 0 below -80.

    `two` is `bits` seen as float32.
    """
    for i in range(len(x)):
        y = max(x[i], _F(-80.0))
        whole = np.floor(y * _F(1.44269504) + _F(0.5))
        bits[i] = (np.int32(whole) + np.int32(127)) << np.int32(23)
        f = (y - whole * _F(0.693359375)) - whole * _F(-2.12194440e-4)
        p = _F(1.9875691500e-4)
        p = p * f + _F(1.3981999507e-3)
        p = p * f + _F(8.3334519073e-3)
        p = p * f + _F(4.1665795894e-2)
        p = p * f + _F(1.6666665459e-1)
        p = p * f + _F(5.0000001201e-1)
        x[i] = (p * f * f + f) + _F(1.0)
    for i in range(len(x)):
        x[i] = x[i] * two[i]


@njit(cache=True, nogil=True)
def encode_batch(
    current: NDArray[np.uint64],
    history: NDArray[np.uint64],
    length: NDArray[np.int32],
    features: NDArray[np.float32],
    knots: NDArray[np.float32],
) -> tuple[Any, Any, Any, Any, Any, Any]:
    """The codes of a batch as arrays, for the GPU path (the CPU kernel makes them as it goes)."""
    n, count = features.shape
    event = np.zeros((n, HISTORY + 1, _FIELDS), np.int16)
    before = np.zeros((n, HISTORY + 1), np.int8)
    seen = np.zeros((n, HISTORY), np.bool_)
    relation = np.zeros((n, HISTORY, 3), np.int16)
    row = np.empty((n, count), np.uint8)
    weight = np.empty((n, count), np.float32)
    rows = np.empty((HISTORY + 1, 4), np.uint64)
    for i in range(n):
        rows[:HISTORY] = history[i]
        rows[HISTORY] = current[i]
        rows[HISTORY, 0] &= _AUTH_OFF
        first = HISTORY - length[i]
        for j in range(first, HISTORY + 1):
            tokens.encode_event(rows, j, j - first, event[i, j])
            for f in range(_FIELDS):
                event[i, j, f] += _OFFSETS[f]
            before[i, j] = min(j - first, 2)
        for j in range(max(first, HISTORY - _REACH), HISTORY):
            seen[i, j] = True
            w = rows[HISTORY]
            tokens.relate(w[0], w[1], w[3], rows[j], relation[i, j])
        for r in range(3):
            for j in range(HISTORY):
                relation[i, j, r] += _RELATION_OFFSETS[r]
        for f in range(count):
            row[i, f], weight[i, f] = tokens.encode_feature(features[i, f], knots[f])
    return event, before, seen, relation, row, weight


def torch_codes(parts: tuple[Any, ...]) -> Codes:
    """`encode_batch`'s arrays as tensors over the same memory."""
    import torch

    return Codes(*(torch.from_numpy(part) for part in parts))


@njit(inline="always")
def _matmul(x: Any, matrix: Any, out: Any, inputs: int, outputs: int) -> None:
    for i in range(inputs):
        a = x[i]
        for o in range(outputs):
            out[o] += a * matrix[i, o]


@njit(inline="always")
def _unit(h: Any, out: Any, lanes: Any, width: int) -> None:
    scale = _F(1.0) / np.sqrt(_sum_squares(h, lanes) * _F(1.0 / width) + _F(1e-6))
    for i in range(width):
        out[i] = h[i] * scale


@njit(inline="always")
def _remember(
    rows: Any, first: int, w: Any, codes: Any, parts: Any, kt: Any, v: Any, key: int, value: int
) -> None:
    """Step 1: keys (transposed) and values of the rows that are attended to."""
    both = key + value
    taps = TAPS * both
    for j in range(first, HISTORY):
        tokens.encode_event(rows, j, j - first, codes)
        for o in range(taps):
            parts[j, o] = _F(0)
        for f in range(_FIELDS):
            at = _OFFSETS[f] + codes[f]
            for o in range(taps):
                parts[j, o] += w.event[at, o]
    for j in range(max(first, HISTORY - _REACH), HISTORY):
        if j - first >= 1:
            for o in range(both):
                parts[j, o] += parts[j - 1, both + o]
        if j - first >= 2:
            for o in range(both):
                parts[j, o] += parts[j - 2, 2 * both + o]
        for o in range(key):
            kt[o, j] = parts[j, o]
        for o in range(value):
            v[j, o] = parts[j, key + o]


@njit(inline="always")
def _pair_up(rows: Any, low: int, relation: Any) -> None:
    """Step 2."""
    for j in range(low, HISTORY):
        pair = relation[j]
        tokens.relate(rows[HISTORY, 0], rows[HISTORY, 1], rows[HISTORY, 3], rows[j], pair)
        for r in range(3):
            pair[r] += _RELATION_OFFSETS[r]


@njit(inline="always")
def _begin(codes: Any, features: Any, w: Any, h: Any, width: int) -> None:
    """Step 3."""
    h[:] = _F(0)
    for f in range(_FIELDS):
        at = _OFFSETS[f] + codes[f]
        for o in range(width):
            h[o] += w.current[at, o]
    for f in range(len(features)):
        at, share = tokens.encode_feature(features[f], w.knots[f])
        rest = _F(1.0) - share
        after = at + 1 if share > _F(0) else at
        for o in range(width):
            h[o] += rest * w.feature[f, at, o] + share * w.feature[f, after, o]


@njit(inline="always")
def _attend(
    q: Any, layer: int, w: Any, low: int, relation: Any, kt: Any, v: Any, by_row: Any,
    logits: Any, bits: Any, two: Any, mixed: Any, told: Any, lanes: Any,
    heads: int, key: int, value: int,
) -> None:  # fmt: skip
    """One layer's softmax and mix; `mixed` gets heads * value numbers."""
    for head in range(heads):
        lg = logits[head]
        for j in range(HISTORY):
            lg[j] = w.recency[layer, head, j]
        by_row[:] = _F(0)
        for o in range(key):
            a = q[head * key + o]
            for j in range(HISTORY):
                lg[j] += a * kt[o, j]
            for r in range(_RELATIONS):
                by_row[r] += a * w.relation_key[layer, o, r]
        top = w.nothing[layer, head]
        for j in range(low, HISTORY):
            x = lg[j] + by_row[relation[j, 0]]
            x = x + by_row[relation[j, 1]]
            x = x + by_row[relation[j, 2]]
            lg[j] = x
            top = max(top, x)
        for j in range(HISTORY):
            lg[j] = lg[j] - top if j >= low else _F(-100.0)
        lanes[0] = w.nothing[layer, head] - top
        _exp_rows(lanes[:1], bits, two)
        total = lanes[0]
        _exp_rows(lg, bits, two)
        for j in range(low, HISTORY):
            total += lg[j]
        share = _F(1.0) / total
        told[:] = _F(0)
        mix = mixed[head * value : (head + 1) * value]
        for o in range(value):
            mix[o] = _F(0)
        for j in range(HISTORY):
            lg[j] = lg[j] * share if j >= low else _F(0)
        for j in range(low, HISTORY):
            a = lg[j]
            told[relation[j, 0]] += a
            told[relation[j, 1]] += a
            told[relation[j, 2]] += a
            for o in range(value):
                mix[o] += a * v[j, o]
        for r in range(_RELATIONS):
            a = told[r]
            if a != _F(0):
                for o in range(value):
                    mix[o] += a * w.relation_value[layer, r, o]


Kernel = Callable[..., None]


@lru_cache(maxsize=8)
def kernel_for(width: int, layers: int, heads: int, key: int, value: int, hidden: int) -> Kernel:
    """Compile the kernel for one set of sizes, known to the compiler as constants."""
    taps = TAPS * (key + value)
    per_value = heads * value
    per_key = heads * key

    @njit(cache=True, nogil=True)
    def run(current: Any, history: Any, length: Any, features: Any, w: Any, out: Any,
            weights: Any) -> None:  # fmt: skip
        """Log-odds into `out`; mean attention into `weights` if it has rows."""
        rows = np.empty((HISTORY + 1, 4), np.uint64)
        codes = np.empty(_FIELDS, np.int16)
        relation = np.zeros((HISTORY, 3), np.int16)
        parts = np.zeros((HISTORY, taps), np.float32)
        kt = np.zeros((key, HISTORY), np.float32)
        v = np.zeros((HISTORY, value), np.float32)
        h = np.empty(width, np.float32)
        x = np.empty(width, np.float32)
        q = np.empty(per_key, np.float32)
        by_row = np.empty(_RELATIONS, np.float32)
        logits = np.empty((heads, HISTORY), np.float32)
        bits = np.empty(HISTORY, np.int32)
        two = bits.view(np.float32)
        mixed = np.empty(per_value, np.float32)
        told = np.empty(_RELATIONS, np.float32)
        lanes = np.empty(_LANES, np.float32)
        up = np.empty(hidden, np.float32)
        for i in range(len(out)):
            rows[:HISTORY] = history[i]
            rows[HISTORY] = current[i]
            rows[HISTORY, 0] &= _AUTH_OFF
            first = HISTORY - length[i]
            low = max(first, HISTORY - _REACH)
            _remember(rows, first, w, codes, parts, kt, v, key, value)
            _pair_up(rows, low, relation)
            tokens.encode_event(rows, HISTORY, length[i], codes)
            _begin(codes, features[i], w, h, width)
            for layer in range(layers):
                _unit(h, x, lanes, width)
                for o in range(per_key):
                    q[o] = w.query_bias[layer, o]
                _matmul(x, w.query[layer], q, width, per_key)
                _attend(q, layer, w, low, relation, kt, v, by_row, logits, bits, two, mixed,
                       told, lanes, heads, key, value)  # fmt: skip
                if len(weights) > 0:
                    for head in range(heads):
                        for j in range(HISTORY):
                            weights[i, j] += logits[head, j] * _F(1.0 / (heads * layers))
                _matmul(mixed, w.out[layer], h, per_value, width)
                _unit(h, x, lanes, width)
                for o in range(hidden):
                    up[o] = w.up_bias[layer, o]
                _matmul(x, w.up[layer], up, width, hidden)
                for o in range(hidden):
                    up[o] = max(up[o], _F(0))
                for o in range(width):
                    h[o] += w.down_bias[layer, o]
                _matmul(up, w.down[layer], h, hidden, width)
            _unit(h, x, lanes, width)
            total = w.head_bias[0]
            for o in range(width):
                total += x[o] * w.head[o]
            out[i] = total

    return run


def kernel_of(folded: Folded) -> Kernel:
    """The kernel that fits these weights. Sizes must be multiples of 16 (lanes)."""
    layers, heads, _ = folded.recency.shape
    width, hidden = folded.up.shape[1:]
    key, value = folded.relation_key.shape[1], folded.relation_value.shape[2]
    assert width % _LANES == 0 and key % 8 == 0 and value % 8 == 0, (width, key, value)
    return kernel_for(width, layers, heads, key, value, hidden)
