"""Scores a second on one core: the shipped bundle's kernel beside other ways to compute scores.

    python benchmarks/score.py [--json] [--bundle DIR] [--presets]

Rows: the serving kernel at several batch sizes; the same folded weights in torch; the same in
onnxruntime; the unfolded training form over 64 + 1 events a score; full causal self-attention
(d = 128, 4 layers). One thread each, fp32, L = 64. With a GPU: the same bundle on it, in fp32 and
bf16. `--presets`: also untrained models of the sizes base and large. CPU time of this process is
used, so that other work on the machine does not count.
"""

from __future__ import annotations

import argparse
import json
import sys
import time
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import torch

from benchmarks.ground import machine
from model import bundle as bundles
from model import data
from model.device import PRECISIONS
from model.fold import Codes, Folded, fold, forward
from model.inputs import HISTORY, ScoringBatch
from model.kernel import encode_batch, kernel_of, torch_codes
from model.loop import Source
from model.rivals import CausalAttention
from model.score import Scorer
from model.transformer import PRESETS, Shape, Transformer
from streams.dev.shipped import PLANS, stream

ROWS = 2_048


def rate(step: Callable[[], Any], rows: int, rounds: int = 5) -> float:
    """Rows a second of CPU time, the best of some rounds, warm."""
    step()
    found = 0.0
    for _ in range(rounds):
        began = time.process_time()
        step()
        found = max(found, rows / (time.process_time() - began))
    return found


def batch_of(features: int) -> tuple[data.Dataset, ScoringBatch]:
    """Rows with full histories from a simulated stream."""
    from dataclasses import replace

    found = stream(replace(PLANS[2], events=60_000, accounts=400))
    assert found.features.shape[1] == features
    place = found.place()
    rows = np.flatnonzero(place >= HISTORY)[:ROWS]
    return found, data.gather(found, place, rows)


def part(batch: ScoringBatch, rows: Any) -> ScoringBatch:
    """Some rows of a batch."""
    arrays = (batch.current, batch.history, batch.length, batch.features)
    return ScoringBatch(*(np.ascontiguousarray(a[rows]) for a in arrays))


class _Onnx(torch.nn.Module):
    """`forward` with plain indexing, which every exporter knows."""

    def __init__(self, weights: Folded) -> None:
        super().__init__()
        self.weights = weights

    def forward(self, *parts: torch.Tensor) -> torch.Tensor:
        def bag(index: Any, table: Any, per_sample_weights: Any = None, mode: str = "sum") -> Any:
            rows = table[index]
            if per_sample_weights is not None:
                rows = rows * per_sample_weights[..., None]
            return rows.sum(1)

        kept = torch.nn.functional.embedding_bag
        torch.nn.functional.embedding_bag = bag
        try:
            return forward(self.weights, Codes(*parts))
        finally:
            torch.nn.functional.embedding_bag = kept


def onnx_rate(weights: Folded, codes: Codes, rows: int) -> float:
    """The folded model exported and run by onnxruntime on one thread."""
    import io
    import warnings

    import onnxruntime

    file = io.BytesIO()
    names = list(Codes._fields)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        torch.onnx.export(_Onnx(weights), tuple(codes), file, input_names=names, dynamo=False)
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = options.inter_op_num_threads = 1
    session = onnxruntime.InferenceSession(file.getvalue(), options)
    wanted = {one.name for one in session.get_inputs()}
    feed = {n: v.numpy() for n, v in zip(names, codes, strict=True) if n in wanted}
    ours = forward(weights, codes).numpy()
    assert np.abs(session.run(None, feed)[0] - ours).max() < 1e-3
    return rate(lambda: session.run(None, feed), rows)


def gpu_rates(bundle: Path, batch: ScoringBatch) -> dict[str, float]:
    """The same bundle on the GPU, wall-clock time, the codes made on one CPU core included."""
    found = {}
    for precision in PRECISIONS:
        gpu = Scorer.load(bundle, device="cuda", batch=1_024, precision=precision)
        began = time.monotonic()
        gpu.score(batch)
        name = f"{torch.cuda.get_device_name()}, {precision}"
        found[name] = len(batch) / (time.monotonic() - began)
    return found


def preset_rates(knots: Any, batch: ScoringBatch) -> dict[str, float]:
    """The kernel on untrained models of the larger sizes."""
    found = {}
    none = np.zeros((0, HISTORY), np.float32)
    for name in ("base", "large"):
        folded = fold(Transformer(PRESETS[name], knots))
        kernel = kernel_of(folded)
        some = (a[:200] for a in (batch.current, batch.history, batch.length, batch.features))
        parts = (*some, folded, np.empty(200, np.float32), none)
        found[f"kernel, preset {name}"] = rate(partial(kernel, *parts), 200, 3)
    return found


def main() -> None:
    """Print the table."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--json", action="store_true")
    parser.add_argument("--bundle", type=Path, default=bundles.shipped())
    parser.add_argument("--presets", action="store_true")
    chosen = parser.parse_args()
    torch.set_num_threads(1)
    scorer = Scorer.load(chosen.bundle)
    dataset, batch = batch_of(len(scorer.bundle.names))
    n = len(batch)

    def in_parts(size: int) -> None:
        for at in range(0, n, size):
            scorer.score(part(batch, slice(at, at + size)))

    table: dict[str, float] = {}
    for size in (1, 64, n):
        table[f"kernel, batch {size}"] = rate(lambda size=size: in_parts(size), n)
    model = scorer.bundle.model()
    folded = fold(model)
    weights = Folded(*(torch.from_numpy(a) for a in folded))
    some = slice(0, 256)
    arrays = (batch.current[some], batch.history[some], batch.length[some], batch.features[some])
    codes = torch_codes(encode_batch(*arrays, folded.knots))
    with torch.inference_mode():
        table["torch, folded, batch 256"] = rate(lambda: forward(weights, codes), 256, 3)
        try:
            table["onnxruntime, folded, batch 256"] = onnx_rate(weights, codes, 256)
        except (RuntimeError, ImportError) as error:
            sys.stderr.write(f"onnxruntime: {str(error).splitlines()[-1]}\n")
        source = Source(dataset, model.knots.numpy())
        rows = np.flatnonzero(source.place >= HISTORY)[:128]
        chunk, _ = source.chunk(rows, 1)
        table["torch, unfolded, batch 128"] = rate(lambda: model.logit(model(chunk)), 128, 3)
        full = CausalAttention(Shape(), model.knots.numpy(), width=128, layers=4).eval()
        table["full attention d=128, 4 layers"] = rate(lambda: full.logit(full(chunk)), 128, 3)
    if torch.cuda.is_available():
        table |= gpu_rates(chosen.bundle, batch)
    if chosen.presets:
        table |= preset_rates(model.knots.numpy(), batch)
    alert = ScoringBatch(*(a[:1] for a in arrays))
    scorer.explain(alert)
    began = time.process_time()
    for _ in range(20):
        scorer.explain(alert)
    explain_ms = (time.process_time() - began) / 20 * 1_000
    if chosen.json:
        found = {"scores_per_s": table, "explain_ms": explain_ms, "L": HISTORY}
        print(json.dumps({**found, "model_id": scorer.model_id, "machine": machine()}))
        return
    print(machine())
    print(f"{scorer.model_id}, L = {HISTORY}, fp32, one thread, CPU time")
    for name, value in table.items():
        print(f"{name:<34}{value:>12,.0f} scores/s")
    print(f"explanation of one alert: {explain_ms:.2f} ms")


if __name__ == "__main__":
    main()
