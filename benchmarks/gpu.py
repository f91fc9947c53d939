"""A GPU beside one CPU core: are the scores the same, how long do they take, how fast is training.

    python benchmarks/gpu.py [--presets small,base,large] [--rows N] [--json]

Serving, for each preset (small is the shipped bundle, the others have random weights):
 - how far log-odds and probabilities are from the CPU kernel's, in fp32 and bf16;
 - rows whose bits change: scored again, in another order, each alone in its batch, by a second
   scorer of the same weights, and (not promised) by one of another batch size;
 - milliseconds a call by the number of rows in it, p50 and p99, and scores a second in one call of
   all rows. Wall clock; codes, copies and waiting included.
Training, for each preset: events a second of updates of 64 chunks of 64, the memory they took, and
whether a run made twice ended in the same bytes. Where there is no GPU, the CPU's rows alone.
"""

from __future__ import annotations

import argparse
import json
import time
from collections.abc import Callable
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from benchmarks.ground import machine
from benchmarks.score import batch_of, part
from model import bundle as bundles
from model.data import Dataset
from model.device import PRECISIONS, DeviceScorer
from model.finetune import labels_only, lesson_loss
from model.fold import Folded, fold
from model.inputs import HISTORY, ScoringBatch
from model.kernel import kernel_of
from model.loop import Recipe, Source, train
from model.transformer import PRESETS, Transformer
from model.waves import Waved

STEP = 64
"""Rows of a step, as `worker.score_batch` has it."""
STEPS = (STEP, 256, 1_024)
CALLS = (1, 8, 64, 256, 1_024)
Score = Callable[[ScoringBatch], NDArray[np.float32]]


def weights_of(preset: str, knots: NDArray[np.float32]) -> Folded:
    """Of the shipped bundle, or random ones under which everything counts."""
    if preset == "small":
        return fold(bundles.read(bundles.shipped()).model())
    torch.manual_seed(0)
    model = Transformer(PRESETS[preset], knots)
    with torch.no_grad():
        for name, one in model.named_parameters():
            if "gain" not in name and "recency" not in name:
                one += torch.randn_like(one) * (0.1 if "table" in name else 0.02)
    return fold(model)


def on_cpu(folded: Folded) -> Score:
    """The kernel that serves on a CPU, on one thread."""
    run, none = kernel_of(folded), np.zeros((0, HISTORY), np.float32)

    def score(b: ScoringBatch) -> NDArray[np.float32]:
        out = np.empty(len(b), np.float32)
        run(b.current, b.history, b.length, b.features, folded, out, none)
        return out

    return score


def on_gpu(folded: Folded, precision: str = "fp32", step: int = STEP) -> Score:
    """What serves where there is a GPU."""
    scorer = DeviceScorer(folded, "cuda", step, precision)

    def score(b: ScoringBatch) -> NDArray[np.float32]:
        out = np.empty(len(b), np.float32)
        scorer.score(b, out)
        return out

    return score


def probability(logit: NDArray[np.float32]) -> NDArray[np.float64]:
    """The logistic function."""
    return 1 / (1 + np.exp(-logit.astype(np.float64)))


def same_bits(folded: Folded, precision: str, batch: ScoringBatch) -> dict[str, int]:
    """How many rows change their bits, by what was changed."""
    score = on_gpu(folded, precision)
    first = score(batch)
    order = np.random.default_rng(1).permutation(len(batch))
    moved = np.empty_like(first)
    moved[order] = score(part(batch, order))
    alone = np.concatenate([score(part(batch, [i])) for i in range(0, len(batch), 8)])
    found = {
        "again": sum(int((score(batch) != first).sum()) for _ in range(10)),
        "another order": int((moved != first).sum()),
        "alone": int((alone != first[::8]).sum()),
        "second scorer": int((on_gpu(folded, precision)(batch) != first).sum()),
    }
    for step in STEPS[1:]:
        other = on_gpu(folded, precision, step)(batch)
        found[f"steps of {step}"] = int((other != first).sum())
    return found


def calls(score: Score, batch: ScoringBatch, seconds: float = 1.0) -> dict[str, list[float]]:
    """p50 and p99 milliseconds a call, by rows in it."""
    found = {}
    for count in [c for c in CALLS if c <= len(batch)]:
        starts = range(0, len(batch) - count + 1, count)
        parts = [part(batch, slice(at, at + count)) for at in starts]
        score(parts[0])
        took: list[float] = []
        ends = time.perf_counter() + seconds
        while time.perf_counter() < ends or len(took) < 20:
            began = time.perf_counter()
            score(parts[len(took) % len(parts)])
            took.append((time.perf_counter() - began) * 1_000)
        found[str(count)] = [round(float(x), 3) for x in np.percentile(took, [50, 99])]
    return found


def rate(score: Score, batch: ScoringBatch, rounds: int = 3) -> float:
    """Scores a second when all rows come in one call, the best round."""
    found = 0.0
    for _ in range(rounds):
        began = time.perf_counter()
        score(batch)
        found = max(found, len(batch) / (time.perf_counter() - began))
    return round(found)


def serving(preset: str, knots: NDArray[np.float32], batch: ScoringBatch) -> dict[str, Any]:
    """The table of one preset."""
    folded = weights_of(preset, knots)
    cpu = on_cpu(folded)
    want = cpu(batch)
    found: dict[str, Any] = {"deviation of log-odds": round(float(want.std()), 3)}
    found["cpu"] = {"calls_ms": calls(cpu, batch), "scores_per_s": rate(cpu, batch)}
    if not torch.cuda.is_available():
        return found
    for precision in PRECISIONS:
        score = on_gpu(folded, precision)
        got = score(batch)
        found[precision] = {
            "log-odds off": float(np.abs(got - want).max()),
            "probability off": float(np.abs(probability(got) - probability(want)).max()),
            "rows whose bits change": same_bits(folded, precision, part(batch, slice(0, 512))),
            "calls_ms": calls(score, batch),
            "scores_per_s": rate(score, batch),
        }
        for step in STEPS[1:]:
            wide = on_gpu(folded, precision, step)
            found[precision][f"scores_per_s, steps of {step}"] = rate(wide, batch)
    return found


def training(
    preset: str, knots: NDArray[np.float32], dataset: Dataset, device: str, steps: int
) -> dict[str, Any]:
    """Updates of a fine-tuning on the labels, timed without the first."""
    chosen = np.asarray(dataset.label) >= 0
    lesson = labels_only(np.asarray(dataset.label), chosen)
    recipe = Recipe(steps=steps)
    cuda = device == "cuda"
    states, times = [], list[float]()
    for _ in range(2 if cuda else 1):
        torch.manual_seed(0)
        model = Waved(PRESETS[preset], knots).to(device)
        source = Source(dataset, knots, device)
        if cuda:
            torch.cuda.reset_peak_memory_stats()
        times.clear()
        train(
            model, source, lesson.chosen, lesson_loss(lesson), recipe,
            watch=lambda step, told: times.append(time.perf_counter()),
        )  # fmt: skip
        states.append({k: v.cpu().numpy().tobytes() for k, v in model.state_dict().items()})
    skipped = min(3, len(times) - 2)
    spent = (times[-1] - times[skipped]) / (len(times) - 1 - skipped)
    found: dict[str, Any] = {"events_per_s": round(recipe.batch * recipe.chunk / spent)}
    if cuda:
        found["gpu_memory_mb"] = torch.cuda.max_memory_allocated() // 1_000_000
        found["same bytes twice"] = states[0] == states[1]
    return found


def main() -> None:
    """Print the tables."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--presets", default="small,base,large")
    parser.add_argument("--rows", type=int, default=2_048)
    parser.add_argument("--json", action="store_true")
    chosen = parser.parse_args()
    torch.set_num_threads(1)
    shipped = bundles.read(bundles.shipped())
    dataset, batch = batch_of(len(shipped.names))
    knots = shipped.model().knots.numpy()
    cuda = torch.cuda.is_available()
    report: dict[str, Any] = {
        "machine": machine(),
        "torch": torch.__version__,
        "gpu": torch.cuda.get_device_name() if cuda else None,
    }
    for preset in chosen.presets.split(","):
        rows = chosen.rows if preset == "small" or cuda else 256
        found = {"serving": serving(preset, knots, part(batch, slice(0, rows)))}
        few = {"small": 20, "base": 8, "large": 3}[preset]
        found["training, cpu"] = training(preset, knots, dataset, "cpu", few)
        if cuda:
            found["training, gpu"] = training(preset, knots, dataset, "cuda", 60)
        report[preset] = found
        if not chosen.json:
            print(json.dumps({preset: found}, indent=1))
    if chosen.json:
        print(json.dumps(report))
    else:
        print(json.dumps({k: report[k] for k in ("machine", "torch", "gpu")}, indent=1))


if __name__ == "__main__":
    main()
