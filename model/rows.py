"""Linear maps that training spends its time in, and their gradients: compiled for the CPU, and for
a GPU in operations that add in a fixed order.

In: tensors and table row numbers. Out: tensors. Does not know what the tables mean.

`table_sum`: sum of weighted table rows. `by_relation` and `told_by_relation` are each other's
transpose: the first picks three numbers of a row for each pair, the second adds three times into
it. Torch's own gather, scatter_add and embedding_bag do the same, but twice as slowly on a CPU (its
bag sorts all indices in the backward pass, its gather wants them as int64 for each head), and on a
GPU scatter_add adds by atomics, in another order each time. So there both are products with
`marks`, a matrix of ones and zeros: the same command gives the same bytes.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import torch
from numba import njit
from torch import Tensor
from torch.nn import functional


@njit(cache=True, nogil=True)
def _add_rows(grad: Any, index: Any, share: Any, out: Any) -> None:
    for i in range(index.shape[0]):
        for k in range(index.shape[1]):
            at, a = index[i, k], share[i, k]
            if a != np.float32(0):
                for o in range(grad.shape[1]):
                    out[at, o] += a * grad[i, o]


@njit(cache=True, nogil=True)
def _pick(row: Any, index: Any, out: Any) -> None:
    b, heads, t, reach = out.shape
    for i in range(b):
        for h in range(heads):
            for j in range(t):
                for r in range(reach):
                    at = index[i, j, r]
                    out[i, h, j, r] = (
                        row[i, h, j, at[0]] + row[i, h, j, at[1]] + row[i, h, j, at[2]]
                    )


@njit(cache=True, nogil=True)
def _put(value: Any, index: Any, out: Any) -> None:
    b, heads, t, reach = value.shape
    for i in range(b):
        for h in range(heads):
            for j in range(t):
                for r in range(reach):
                    at, x = index[i, j, r], value[i, h, j, r]
                    out[i, h, j, at[0]] += x
                    out[i, h, j, at[1]] += x
                    out[i, h, j, at[2]] += x


def _array(x: Tensor) -> Any:
    return x.detach().contiguous().numpy()


class _TableSum(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, table: Tensor, index: Tensor, share: Tensor) -> Tensor:
        ctx.save_for_backward(index, share)
        ctx.rows = table.shape
        return functional.embedding_bag(index, table, per_sample_weights=share, mode="sum")

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor, None, None]:
        index, share = ctx.saved_tensors
        out = np.zeros(ctx.rows, grad.numpy().dtype)
        _add_rows(_array(grad), _array(index), _array(share), out)
        return torch.from_numpy(out), None, None


def marks(index: Tensor, rows: int, dtype: torch.dtype) -> Tensor:
    """[..., rows]: one at each of the entries that index [..., relations] names, else zero.

    The relations have rows of their own, so no two of a pair's entries meet.
    """
    found = torch.zeros(*index.shape[:-1], rows, device=index.device, dtype=dtype)
    return found.scatter_(-1, index.long(), 1.0)


def pick_by_marks(row: Tensor, index: Tensor) -> Tensor:
    """`by_relation` as a product, for a GPU."""
    chosen = marks(index, row.shape[3], row.dtype)
    return (row.transpose(1, 2) @ chosen.mT).transpose(1, 2)


def put_by_marks(value: Tensor, index: Tensor, rows: int) -> Tensor:
    """`told_by_relation` as a product, for a GPU."""
    return (value.transpose(1, 2) @ marks(index, rows, value.dtype)).transpose(1, 2)


def _picked(row: Tensor, index: Tensor) -> Tensor:
    if row.is_cuda:
        return pick_by_marks(row, index)
    out = np.empty((*row.shape[:3], index.shape[2]), row.detach().numpy().dtype)
    _pick(_array(row), _array(index), out)
    return torch.from_numpy(out)


def _added(value: Tensor, index: Tensor, rows: int) -> Tensor:
    if value.is_cuda:
        return put_by_marks(value, index, rows)
    out = np.zeros((*value.shape[:3], rows), value.detach().numpy().dtype)
    _put(_array(value), _array(index), out)
    return torch.from_numpy(out)


class _Pick(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, row: Tensor, index: Tensor) -> Tensor:
        ctx.save_for_backward(index)
        ctx.rows = row.shape[3]
        return _picked(row, index)

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor, None]:
        (index,) = ctx.saved_tensors
        return _added(grad, index, ctx.rows), None


class _Put(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, value: Tensor, index: Tensor, rows: int) -> Tensor:
        ctx.save_for_backward(index)
        return _added(value, index, rows)

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor, None, None]:
        (index,) = ctx.saved_tensors
        return _picked(grad, index), None, None


def table_sum(table: Tensor, index: Tensor, share: Tensor) -> Tensor:
    """[n, width]: sum over k of share[n, k] x table[index[n, k]]. `share` gets no gradient."""
    if table.is_cuda:
        return functional.embedding_bag(index, table, per_sample_weights=share, mode="sum")
    found: Tensor = _TableSum.apply(table, index, share)
    return found


def by_relation(row: Tensor, index: Tensor) -> Tensor:
    """[B, H, T, R]: for each pair, the sum of its three entries of row [B, H, T, rows]."""
    found: Tensor = _Pick.apply(row, index)
    return found


def told_by_relation(value: Tensor, index: Tensor, rows: int) -> Tensor:
    """[B, H, T, rows]: each pair's value added at its three entries."""
    found: Tensor = _Put.apply(value, index, rows)
    return found
