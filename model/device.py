"""Scoring on a GPU: the folded weights in torch, one fixed shape, replayed as a CUDA graph.

In: `Folded` weights, a device, a batch size. Out: log-odds. Does not know calibration or bundles.
A step always computes all rows of its shape: what is left over are rows of the step before, whose
results nobody reads. So every row is computed at the same shape whatever its neighbours, and
nothing adds in an order of its own choice: the same row gets the same bits, as long as the card,
torch and the shape stay the same. On a device without graphs (the CPU, for tests) the same code
runs eagerly. With `bf16` the matrices are multiplied in bfloat16; table sums, softmax and what is
carried from layer to layer stay in float32.

While the GPU computes one step the CPU makes the codes of the next.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, Final

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from model.fold import Codes, Folded, forward
from model.inputs import EVENT_WORDS, HISTORY, ScoringBatch
from model.kernel import encode_batch, torch_codes

PRECISIONS: Final = ("fp32", "bf16")


Step = Callable[[Codes], Callable[[], NDArray[np.float32]]]
"""Starts on the codes of one fixed shape; what it returns waits for the log-odds."""


class DeviceScorer:
    """Weights on the device and one captured step. One thread at a time may score."""

    def __init__(
        self, folded: Folded, device: str, batch: int = 64, precision: str = "fp32"
    ) -> None:
        assert precision in PRECISIONS, precision
        self._half = precision == "bf16"
        self._knots = folded.knots
        self._device = torch.device(device)
        self._batch = batch
        self._weights = Folded(*(torch.from_numpy(a).to(self._device) for a in folded))
        cuda = self._device.type == "cuda"
        self._step: Step = self._captured() if cuda else self._eager

    def _forward(self, codes: Codes) -> Tensor:
        kind = self._device.type
        with torch.autocast(kind, torch.bfloat16, enabled=self._half, cache_enabled=False):
            return forward(self._weights, codes).float()

    def _eager(self, codes: Codes) -> Callable[[], NDArray[np.float32]]:
        found = self._forward(Codes(*(part.to(self._device) for part in codes)))
        return lambda: found.cpu().numpy()

    @torch.inference_mode()
    def _captured(self) -> Step:
        """The step as a CUDA graph, between buffers that stay: page-locked ones here, so that
        copies do not wait, and theirs on the device."""
        torch.backends.cuda.matmul.allow_tf32 = False
        codes = self._encode(_no_rows(self._batch, len(self._knots)))
        sent = Codes(*(part.pin_memory() for part in codes))
        held = Codes(*(part.to(self._device) for part in sent))
        side = torch.cuda.Stream()  # type: ignore[no-untyped-call]
        side.wait_stream(torch.cuda.current_stream())
        with torch.cuda.stream(side):
            for _ in range(3):  # what is made at first use may not be made in a capture
                self._forward(held)
        torch.cuda.current_stream().wait_stream(side)
        graph = torch.cuda.CUDAGraph()
        with torch.cuda.graph(graph):
            result = self._forward(held)
        told = torch.empty(self._batch, dtype=torch.float32, pin_memory=True)
        done = torch.cuda.Event()  # type: ignore[no-untyped-call]

        def wait() -> NDArray[np.float32]:
            done.synchronize()
            return told.numpy()

        def step(given: Codes) -> Callable[[], NDArray[np.float32]]:
            n = len(given.before)
            for here, there, one in zip(sent, held, given, strict=True):
                here[:n].copy_(one)
                there[:n].copy_(here[:n], non_blocking=True)
            graph.replay()
            told.copy_(result, non_blocking=True)
            done.record()
            return wait

        return step

    def _encode(self, rows: tuple[Any, ...]) -> Codes:
        current, history, length, features = rows
        return torch_codes(encode_batch(current, history, length, features, self._knots))

    @torch.inference_mode()
    def score(self, batch: ScoringBatch, out: NDArray[np.float32]) -> None:
        """Log-odds of all rows into `out`, in steps of the fixed shape."""
        arrays = (batch.current, batch.history, batch.length, batch.features)
        began: tuple[Callable[[], NDArray[np.float32]], slice] | None = None
        for start in range(0, len(batch), self._batch):
            part = slice(start, min(start + self._batch, len(batch)))
            codes = self._encode(tuple(a[part] for a in arrays))
            if began is not None:
                _take(*began, out)
            began = self._step(codes), part
        if began is not None:
            _take(*began, out)


def _take(result: Callable[[], NDArray[np.float32]], part: slice, out: NDArray[np.float32]) -> None:
    out[part] = result()[: part.stop - part.start]


def _no_rows(count: int, features: int) -> tuple[NDArray[Any], ...]:
    """Rows of zeros: an event of which nothing is known."""
    return (
        np.zeros((count, EVENT_WORDS), np.uint64),
        np.zeros((count, HISTORY, EVENT_WORDS), np.uint64),
        np.zeros(count, np.int32),
        np.zeros((count, features), np.float32),
    )
