"""What `pretrain` and `finetune` share: plan told first, progress bar, TensorBoard, processes.

In: flags. Out: callbacks for the training loop. Does not know what is trained.
"""

from __future__ import annotations

import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any

import typer

from streams.cli.progress import cut_off

if TYPE_CHECKING:
    from rich.console import Console

    from model.data import Dataset
    from model.forecast import Job
    from model.loop import Recipe
    from model.transformer import Shape


class Training:
    """A context manager around one run; joins the other processes where `torchrun` started it."""

    def __init__(self, steps: int, threads: int, device: str, tensorboard: Path | None) -> None:
        self._steps, self._wanted = steps, device
        self.threads = threads
        self._folder = tensorboard
        self._bar: Any = None
        self._task: Any = None
        self._writer: Any = None
        self._runs = 0
        self._judged: dict[str, float] = {}
        self.device = "cpu"
        self.first = True
        """Whether this process is the one that speaks and writes."""

    def __enter__(self) -> Training:
        import torch

        from model import processes

        torch.set_num_threads(self.threads)
        self.device = processes.join(self._wanted)
        self.first = processes.is_first()
        return self

    def __exit__(self, *problem: object) -> None:
        from model import processes

        if self._bar is not None:
            self._bar.stop()
        if self._writer is not None:
            self._writer.close()
        if problem[0] is None:
            processes.leave()
        elif cut_off(problem[0]):
            self.say("stopped; the same command goes on from what --checkpoint kept last, if given")

    def say(self, line: str) -> None:
        """A line on stderr, from the first process only; above the bar where one is drawn."""
        if not self.first:
            return
        if self._bar is None:
            typer.echo(line, err=True)
        else:
            self._bar.console.print(line, markup=False, highlight=False, soft_wrap=True)

    def plan(self, dataset: Dataset, name: str, shape: Shape, recipe: Recipe, job: Job) -> None:
        """Tell what will be done, what it takes and what serving will cost, before it starts."""
        from model import processes
        from model.forecast import forecast

        self.say("timing a few updates for the plan")
        told = forecast(dataset, shape, recipe, self.device, job)
        if not self.first:
            return
        updates = recipe.steps * len(job.done)
        fits = f" in {len(job.done)} fits" if len(job.done) > 1 else ""
        kept = f", {sum(job.done):,} of them done" if any(job.done) else ""
        self.say(
            f"plan: {name}, {told.parameters:,} parameters, on {processes.count()} x {self.device};"
            f" {len(dataset):,} events,"
            f" {updates:,} updates of {recipe.batch * recipe.chunk:,}{fits}{kept}"
        )
        self.say(
            f"plan: about {told.seconds:,.0f} s and {told.training_mb:,} MB to train (updates"
            f" {told.updates_s:,.0f} s, judging {told.judging_s:,.0f} s, trees"
            f" {told.trees_s:,.0f} s, reading {told.reading_s:,.0f} s); to serve,"
            f" {told.multiplications:,} multiplications a score, about {told.scores_per_s:,.0f}"
            " scores/s on one core"
        )
        if self._folder is not None:
            from torch.utils.tensorboard import SummaryWriter

            # What an earlier run told after its last checkpoint is told again.
            again = sum(job.done) + 1 if any(job.done) else None
            self._writer = SummaryWriter(str(self._folder), purge_step=again)
        if sys.stderr.isatty():
            from rich.console import Console

            self.draw(Console(stderr=True), updates)

    def draw(self, console: Console, updates: int) -> None:
        """Start the bar on a terminal."""
        from rich import progress as rp

        self._bar = rp.Progress(
            rp.TextColumn("{task.description}"), rp.BarColumn(), rp.MofNCompleteColumn(),
            rp.TextColumn("{task.fields[told]}"), rp.TimeRemainingColumn(), console=console,
        )  # fmt: skip
        self._bar.start()
        self._task = self._bar.add_task("updates", total=updates, told="")

    def watch(self, step: int, told: dict[str, float]) -> None:
        """After each update: the bar, and TensorBoard. Several fits follow one another."""
        at = self._runs * self._steps + step
        if step == self._steps:
            self._runs += 1
        if "judged" in told:
            self._judged = {"judged": told["judged"]}
        if self._bar is not None:
            known = {k: v for k, v in told.items() if k == "loss"} | self._judged
            shown = " ".join(f"{k} {v:.4f}" for k, v in known.items())
            self._bar.update(self._task, completed=at, told=shown)
        if self._writer is not None:
            for name, value in told.items():
                self._writer.add_scalar(name, value, at)
