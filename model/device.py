"""Scoring on a GPU: the folded weights in torch, one fixed shape, replayed as a CUDA graph.

In: `Folded` weights, a device, a batch size. Out: log-odds. Does not know calibration or bundles.
The last batch is padded, so every row is computed at the same shape whatever its neighbours. On a
device without graphs (the CPU, for tests) the same code runs eagerly. With `bf16` the matrices are
multiplied in bfloat16; table sums, softmax and what is carried from layer to layer stay in float32.
"""

from __future__ import annotations

from typing import Any, Final

import numpy as np
import torch
from numpy.typing import NDArray

from model.fold import Codes, Folded, forward
from model.inputs import ScoringBatch
from model.kernel import encode_batch, torch_codes

PRECISIONS: Final = ("fp32", "bf16")


class DeviceScorer:
    """Weights on the device and one captured step."""

    def __init__(
        self, folded: Folded, device: str, batch: int = 64, precision: str = "fp32"
    ) -> None:
        assert precision in PRECISIONS, precision
        self._half = precision == "bf16"
        self._knots = folded.knots
        self._device = torch.device(device)
        self._batch = batch
        self._weights = Folded(*(torch.from_numpy(a).to(self._device) for a in folded))
        self._graph: Any = None
        self._inputs: Codes | None = None
        self._result: torch.Tensor | None = None
        torch.backends.cuda.matmul.allow_tf32 = False

    def _forward(self, codes: Codes) -> torch.Tensor:
        kind = self._device.type
        with torch.autocast(kind, torch.bfloat16, enabled=self._half, cache_enabled=False):
            return forward(self._weights, codes)

    def _capture(self, codes: Codes) -> None:
        self._inputs = Codes(*(part.clone() for part in codes))
        stream = torch.cuda.Stream()  # type: ignore[no-untyped-call]
        stream.wait_stream(torch.cuda.current_stream())
        with torch.cuda.stream(stream):
            for _ in range(3):
                self._forward(self._inputs)
        torch.cuda.current_stream().wait_stream(stream)
        self._graph = torch.cuda.CUDAGraph()
        with torch.cuda.graph(self._graph):
            self._result = self._forward(self._inputs)

    def _step(self, codes: Codes) -> torch.Tensor:
        if self._device.type != "cuda":
            return self._forward(codes)
        if self._graph is None:
            self._capture(codes)
        assert self._inputs is not None and self._result is not None
        for held, given in zip(self._inputs, codes, strict=True):
            held.copy_(given)
        self._graph.replay()
        return self._result

    @torch.inference_mode()
    def score(self, batch: ScoringBatch, out: NDArray[np.float32]) -> None:
        """Log-odds of all rows into `out`, in padded steps of the fixed shape."""
        arrays = (batch.current, batch.history, batch.length, batch.features)
        for start in range(0, len(batch), self._batch):
            count = min(self._batch, len(batch) - start)
            rows: list[Any] = [a[start : start + count] for a in arrays]
            if count < self._batch:
                fill = self._batch - count
                rows = [np.concatenate([a, np.zeros((fill, *a.shape[1:]), a.dtype)]) for a in rows]
            parts = encode_batch(rows[0], rows[1], rows[2], rows[3], self._knots)
            result = self._step(torch_codes(parts, self._device))
            out[start : start + count] = result[:count].float().cpu().numpy()
