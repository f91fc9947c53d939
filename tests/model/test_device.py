"""The GPU's mathematics, held to the CPU kernel and to what a CUDA graph asks of it.

All of it runs here on the CPU; benchmarks/gpu.py asks the same of a real card.
"""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from numpy.typing import NDArray
from torch.utils._python_dispatch import TorchDispatchMode

from model import fold, rows, tokens
from model.data import Dataset, gather
from model.device import DeviceScorer
from model.errors import DeviceFailed, DeviceMissing
from model.inputs import ScoringBatch
from model.kernel import encode_batch, torch_codes
from model.score import Scorer
from model.transformer import Transformer
from tests.model.test_kernel import probability, run


@pytest.fixture(scope="module")
def batch(data: Dataset) -> ScoringBatch:
    return gather(data, data.place(), np.arange(100, 264))


def test_gpu_form_equals_kernel(data: Dataset, model: Transformer) -> None:
    """The GPU's mathematics, run on the CPU, in a whole step and a part of one."""
    folded = fold.fold(model)
    b = gather(data, data.place(), np.arange(100, 200))
    out = np.empty(len(b), np.float32)
    DeviceScorer(folded, "cpu", batch=64).score(b, out)
    assert np.abs(probability(out) - probability(run(folded, b))).max() < 1e-5


def test_bf16_on_a_device_is_close_and_not_the_same(data: Dataset, model: Transformer) -> None:
    folded = fold.fold(model)
    b = gather(data, data.place(), np.arange(100, 164))
    out = np.empty(len(b), np.float32)
    DeviceScorer(folded, "cpu", batch=64, precision="bf16").score(b, out)
    far = np.abs(probability(out) - probability(run(folded, b)))
    assert 1e-6 < far.max() < 5e-2


class Operations(TorchDispatchMode):
    """Names of all operations that torch is asked for."""

    def __init__(self) -> None:
        super().__init__()
        self.names: set[str] = set()

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        self.names.add(func.name().partition(".")[0])
        return func(*args, **(kwargs or {}))


def test_a_step_makes_no_constant_from_the_host_and_adds_in_a_fixed_order(
    model: Transformer, batch: ScoringBatch
) -> None:
    """A copy from the host's memory ends the capture of a CUDA graph, and with it the worker at its
    start; adding by index is done there by atomics, in another order each time."""
    folded = fold.fold(model)
    weights = fold.Folded(*(torch.from_numpy(a) for a in folded))
    arrays = (batch.current, batch.history, batch.length, batch.features)
    codes = torch_codes(encode_batch(*arrays, folded.knots))
    with Operations() as asked, torch.inference_mode():
        fold.forward(weights, codes)
    assert "aten::bmm" in asked.names or "aten::matmul" in asked.names
    refused = {"lift_fresh", "scatter_add", "scatter_add_", "index_add", "index_add_", "index_put_"}
    assert not {f"aten::{name}" for name in refused} & asked.names


def test_results_are_read_before_the_next_step_overwrites_them(
    model: Transformer, batch: ScoringBatch
) -> None:
    """A graph writes all results to one place; the codes of the next step are made meanwhile."""
    scorer = DeviceScorer(fold.fold(model), "cpu", batch=16)
    want = np.empty(len(batch), np.float32)
    scorer.score(batch, want)
    eager, place = scorer._step, np.full(16, np.nan, np.float32)

    def step(codes: fold.Codes) -> Callable[[], NDArray[np.float32]]:
        found = eager(codes)()
        place[: len(found)] = found
        return lambda: place

    scorer._step = step
    got = np.empty(len(batch), np.float32)
    scorer.score(batch, got)
    assert got.tobytes() == want.tobytes()


def test_products_with_marks_are_what_the_compiled_loops_do() -> None:
    """Forward and backward; pairs that name a row twice would be the difference, and none does."""
    torch.manual_seed(0)
    b, heads, t, reach = 2, 3, 5, 7
    offsets = torch.tensor(tokens.RELATION_OFFSETS)
    sizes = torch.tensor(tokens.RELATION_SIZES)
    index = ((torch.rand(b, t, reach, 3) * sizes).long() + offsets).to(torch.int16)
    row = torch.randn(b, heads, t, tokens.RELATION_ROWS, requires_grad=True)
    value = torch.randn(b, heads, t, reach, requires_grad=True)
    count = tokens.RELATION_ROWS
    compiled = rows.by_relation(row, index), rows.told_by_relation(value, index, count)
    products = rows.pick_by_marks(row, index), rows.put_by_marks(value, index, count)
    for one, other, by in zip(compiled, products, (row, value), strict=True):
        torch.testing.assert_close(one, other)
        weight = torch.randn_like(one)
        slopes = [torch.autograd.grad((x * weight).sum(), by)[0] for x in (one, other)]
        torch.testing.assert_close(*slopes)


def test_a_gpu_that_is_not_there_is_named(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("torch.cuda.is_available", lambda: False)
    assert Scorer.load(folder, device="auto").device == "cpu"
    with pytest.raises(DeviceMissing, match=r"no CUDA device\. set model.device to auto or cpu"):
        Scorer.load(folder, device="cuda")


@pytest.fixture
def bad_gpu(monkeypatch: pytest.MonkeyPatch) -> None:
    """torch sees a card whose driver then answers nothing; on the bare machine it is no card."""
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "")
    monkeypatch.setattr("torch.cuda.is_available", lambda: True)


@pytest.mark.usefixtures("bad_gpu")
def test_a_gpu_that_refuses_is_one_line_with_a_way_out(folder: Path) -> None:
    with pytest.raises(DeviceFailed, match=r"set model\.device to cpu") as problem:
        Scorer.load(folder, device="cuda")
    assert str(problem.value).startswith("the GPU cannot take the model: ")
    assert "\n" not in str(problem.value)


@pytest.mark.usefixtures("bad_gpu")
def test_where_the_choice_is_ours_the_cpu_takes_the_place_of_a_gpu_that_refuses(
    folder: Path, batch: ScoringBatch, caplog: pytest.LogCaptureFixture
) -> None:
    plain = Scorer.load(folder)
    fallen = Scorer.load(folder, device="auto")
    assert (fallen.device, fallen.fell_back, plain.fell_back) == ("cpu", True, False)
    assert "the CPU scores from here on: the GPU cannot take the model" in caplog.text
    assert fallen.score(batch).tobytes() == plain.score(batch).tobytes()


class Failing(DeviceScorer):
    """A card that is lost in its second batch."""

    batches = 0

    def score(self, batch: ScoringBatch, out: NDArray[np.float32]) -> None:
        self.batches += 1
        if self.batches > 1:
            out[:] = np.nan
            raise torch.OutOfMemoryError("CUDA out of memory\nand much more")
        super().score(batch, out)


@pytest.mark.parametrize("asked", ["auto", "cuda"])
def test_a_gpu_that_fails_in_service(
    folder: Path, batch: ScoringBatch, monkeypatch: pytest.MonkeyPatch, asked: str
) -> None:
    """No score is lost, and each is whole: one batch is all of one device."""
    plain = Scorer.load(folder)
    scorer = Scorer.load(folder)
    scorer._asked, scorer.device = asked, "cuda"
    scorer._gpu, scorer._kernel = Failing(scorer._folded, "cpu"), None
    first = scorer.score(batch)
    assert not scorer.fell_back and np.abs(first - plain.score(batch)).max() < 1e-5
    if asked == "cuda":
        with pytest.raises(DeviceFailed, match="CUDA out of memory"):
            scorer.score(batch)
        return
    for _ in range(2):
        assert scorer.score(batch).tobytes() == plain.score(batch).tobytes()
        assert (scorer.device, scorer.fell_back) == ("cpu", True)
