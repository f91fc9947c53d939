"""Two linear maps that training spends its time in, and their gradients, compiled for the CPU.

In: tensors and table row numbers. Out: tensors. Does not know what the tables mean.

`table_sum`: sum of weighted table rows. `by_relation` and `told_by_relation` are each other's
transpose: the first picks three numbers of a row for each pair, the second adds three times into
it. Torch's own gather, scatter_add and embedding_bag do the same on a GPU, and twice as slowly on a
CPU (its bag sorts all indices in the backward pass, its gather wants them as int64 for each head).
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


class _Pick(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, row: Tensor, index: Tensor) -> Tensor:
        ctx.save_for_backward(index)
        ctx.rows = row.shape
        b, heads, t, _ = row.shape
        out = np.empty((b, heads, t, index.shape[2]), row.detach().numpy().dtype)
        _pick(_array(row), _array(index), out)
        return torch.from_numpy(out)

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor, None]:
        (index,) = ctx.saved_tensors
        out = np.zeros(ctx.rows, grad.numpy().dtype)
        _put(_array(grad), _array(index), out)
        return torch.from_numpy(out), None


class _Put(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, value: Tensor, index: Tensor, rows: int) -> Tensor:
        ctx.save_for_backward(index)
        ctx.reach = value.shape
        b, heads, t, _ = value.shape
        out = np.zeros((b, heads, t, rows), value.detach().numpy().dtype)
        _put(_array(value), _array(index), out)
        return torch.from_numpy(out)

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor, None, None]:
        (index,) = ctx.saved_tensors
        out = np.empty(ctx.reach, grad.numpy().dtype)
        _pick(_array(grad), _array(index), out)
        return torch.from_numpy(out), None, None


def table_sum(table: Tensor, index: Tensor, share: Tensor) -> Tensor:
    """[n, width]: sum over k of share[n, k] x table[index[n, k]]. `share` gets no gradient."""
    if table.is_cuda:
        return functional.embedding_bag(index, table, per_sample_weights=share, mode="sum")
    found: Tensor = _TableSum.apply(table, index, share)
    return found


def by_relation(row: Tensor, index: Tensor) -> Tensor:
    """[B, H, T, R]: for each pair, the sum of its three entries of row [B, H, T, rows]."""
    if not row.is_cuda:
        found: Tensor = _Pick.apply(row, index)
        return found
    wide = index.long()[:, None].expand(-1, row.shape[1], -1, -1, -1)
    return sum((row.gather(3, wide[..., c]) for c in range(3)), torch.zeros((), device=row.device))


def told_by_relation(value: Tensor, index: Tensor, rows: int) -> Tensor:
    """[B, H, T, rows]: each pair's value added at its three entries."""
    if not value.is_cuda:
        found: Tensor = _Put.apply(value, index, rows)
        return found
    out = torch.zeros(*value.shape[:3], rows, device=value.device, dtype=value.dtype)
    wide = index.long()[:, None].expand(-1, value.shape[1], -1, -1, -1)
    for c in range(3):
        out = out.scatter_add(3, wide[..., c], value)
    return out
