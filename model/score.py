"""Scoring: arrays in, calibrated probabilities out. What the service holds of a model.

In: a bundle's folder and `ScoringBatch`es. Out: float64 probabilities, and for alerts the part that
each feature group played. Does not know Kafka, thresholds or decisions.

The score of a row depends on that row alone: see `model/kernel.py` for why, and tests/model for the
proof (neighbours, order, batch, threads). `model/stub.py` stands in where no model is wanted.
"""

from __future__ import annotations

import logging
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from itertools import pairwise
from pathlib import Path
from typing import Any, Final

import numpy as np
from numba import njit
from numpy.typing import NDArray

from model import bundle as bundles
from model.bundle import Bundle
from model.errors import BundleError, DeviceFailed, DeviceMissing
from model.fold import Folded, fold
from model.inputs import HISTORY, ScoringBatch
from model.kernel import kernel_of

Probabilities = NDArray[np.float64]
GOLDEN_TOLERANCE: Final = 1e-6
GPU_TOLERANCE: Final = {"fp32": 1e-3, "bf16": 5e-2}
MAX_THREADS: Final = 64
_logger = logging.getLogger(__name__)
_NO_WEIGHTS: Final = np.zeros((0, HISTORY), np.float32)


@njit(cache=True, nogil=True)
def _calibrate(
    logit: NDArray[np.float32], xs: NDArray[np.float64], ys: NDArray[np.float64]
) -> NDArray[np.float64]:
    """Straight lines between knots (outer slopes go on), then the logistic function.

    The exponential is made of + and x, so that every machine gives the same bits.
    """
    out = np.empty(len(logit), np.float64)
    for i in range(len(logit)):
        x = np.float64(logit[i])
        k = 0
        while k < len(xs) - 2 and x >= xs[k + 1]:
            k += 1
        z = ys[k] + (x - xs[k]) * ((ys[k + 1] - ys[k]) / (xs[k + 1] - xs[k]))
        z = min(max(z, -40.0), 40.0)
        whole = np.floor(-z * 1.4426950408889634 + 0.5)
        r = (-z - whole * 0.6931471803691238) - whole * 1.9082149292705877e-10
        term, total = 1.0, 1.0
        for d in range(1, 14):
            term = term * r / d
            total += term
        power = 1.0
        for _ in range(int(abs(whole))):
            power = power * 2.0
        out[i] = 1.0 / (1.0 + (total * power if whole >= 0 else total / power))
    return out


def calibrate(logit: NDArray[np.float32], line: Sequence[tuple[float, float]]) -> Probabilities:
    """Log-odds to probabilities by the knots of a bundle."""
    knots = np.array(line, np.float64)
    xs, ys = np.ascontiguousarray(knots[:, 0]), np.ascontiguousarray(knots[:, 1])
    return _calibrate(np.ascontiguousarray(logit, np.float32), xs, ys)


class Scorer:
    """A loaded bundle on the CPU kernel, or on a GPU where there is one.

    fell_back: the device was left to us (`auto`), and its GPU failed: it is the CPU since then
    """

    needs_history: Final = True

    def __init__(
        self,
        bundle: Bundle,
        device: str = "cpu",
        threads: int = 1,
        batch: int = 64,
        precision: str = "fp32",
    ) -> None:
        if not 1 <= threads <= MAX_THREADS:
            raise ValueError(f"threads is {threads}, give 1 to {MAX_THREADS}")
        self.bundle = bundle
        self.device = _device(device)
        self._folded: Folded = fold(bundle.model())
        self._asked = device
        self.fell_back = False
        self._threads = threads
        self._pool = ThreadPoolExecutor(threads) if threads > 1 else None
        self._kernel: Any = None
        self._gpu: Any = None
        if self.device == "cpu":
            self._start_cpu()
        else:
            self._start_gpu(batch, precision)

    @classmethod
    def load(
        cls,
        path: str | Path,
        device: str = "cpu",
        threads: int = 1,
        batch: int = 64,
        precision: str = "fp32",
        public_key: bytes | None = None,
    ) -> Scorer:
        """Read a bundle, compile and warm up, score its golden rows.

        Raises BundleError; DeviceMissing and DeviceFailed where a GPU is wanted.
        `precision`: fp32 or bf16, for a GPU; the CPU kernel is always fp32.
        """
        return cls(bundles.read(Path(path), public_key), device, threads, batch, precision)

    @property
    def model_id(self) -> str:
        return self.bundle.model_id

    @property
    def feature_digest(self) -> str:
        return self.bundle.feature_digest

    def _start_cpu(self) -> None:
        self._kernel = kernel_of(self._folded)
        self._check_golden(GOLDEN_TOLERANCE)

    def _start_gpu(self, batch: int, precision: str) -> None:
        from model.device import DeviceScorer

        try:
            self._gpu = DeviceScorer(self._folded, self.device, batch, precision)
        except RuntimeError as error:  # torch's base of all that a driver or a card may refuse
            self._fall_back(error)
        else:
            self._check_golden(GPU_TOLERANCE[precision])

    def _fall_back(self, error: RuntimeError) -> None:
        """Go on with the CPU. Raises DeviceFailed where the GPU was asked for by name."""
        failed = DeviceFailed(
            f"the GPU cannot take the model: {str(error).partition(chr(10))[0]}",
            remedy="Give it memory or a newer driver, or set model.device to cpu",
        )
        if self._asked != "auto":
            raise failed from error
        _logger.warning("the CPU scores from here on: %s", failed)
        self._gpu, self.device, self.fell_back = None, "cpu", True
        self._start_cpu()

    def _check_golden(self, tolerance: float) -> None:
        """Also the warm-up: the first call compiles."""
        golden, want = self.bundle.golden, self.bundle.golden_scores
        if golden is None or want is None:
            raise BundleError(f"bundle {self.model_id} has no golden rows")
        far = float(np.abs(self.score(golden) - want).max())
        if not far <= tolerance:
            raise BundleError(
                f"bundle {self.model_id} scores its golden rows {far:.2g} off",
                remedy="the file or this machine's arithmetic is wrong; do not serve it",
            )

    def logits(self, batch: ScoringBatch) -> NDArray[np.float32]:
        """Log-odds before calibration, float32 [n]."""
        if batch.features.shape[1] != len(self.bundle.names):
            raise BundleError(
                f"bundle {self.model_id} wants {len(self.bundle.names)} features, "
                f"the batch has {batch.features.shape[1]}"
            )
        out = np.empty(len(batch), np.float32)
        if self._gpu is not None:
            try:
                self._gpu.score(batch, out)
                return out
            except RuntimeError as error:
                self._fall_back(error)
        if self._pool is None or len(batch) < 2 * self._threads:
            self._run(batch, slice(0, len(batch)), out)
        else:
            edges = np.linspace(0, len(batch), self._threads + 1).astype(int)
            parts = [slice(a, b) for a, b in pairwise(edges)]
            list(self._pool.map(lambda part: self._run(batch, part, out), parts))
        return out

    def _run(self, batch: ScoringBatch, part: slice, out: NDArray[np.float32]) -> None:
        self._kernel(
            batch.current[part],
            batch.history[part],
            batch.length[part],
            batch.features[part],
            self._folded,
            out[part],
            _NO_WEIGHTS,
        )

    def calibrate(self, logits: NDArray[np.float32]) -> NDArray[np.float64]:
        """Log-odds of the model to probabilities."""
        return calibrate(logits, self.bundle.calibration)

    def score(self, batch: ScoringBatch) -> NDArray[np.float64]:
        """Calibrated probability of fraud, float64 [n]."""
        return self.calibrate(self.logits(batch))

    def attention(self, batch: ScoringBatch) -> NDArray[np.float32]:
        """How much each past event was looked at, [n, HISTORY], mean of heads and layers."""
        weights = np.zeros((len(batch), HISTORY), np.float32)
        kernel = self._kernel or kernel_of(self._folded)
        out = np.empty(len(batch), np.float32)
        parts = (batch.current, batch.history, batch.length, batch.features)
        kernel(*parts, self._folded, out, weights)
        return weights

    def explain(self, batch: ScoringBatch) -> list[dict[str, float]]:
        """Per row: log-odds that each feature group adds. See `model/explain.py`."""
        from model.explain import contributions

        return contributions(self, batch)


def _device(wanted: str) -> str:
    """`auto` is the GPU where torch sees one, else the CPU."""
    if wanted == "cpu":
        return "cpu"
    import torch

    if torch.cuda.is_available():
        return "cuda"
    if wanted == "cuda":
        raise DeviceMissing("no CUDA device", remedy="set model.device to auto or cpu")
    return "cpu"
