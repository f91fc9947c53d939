"""Training on several processes: who this one is, its share of a batch, gradients made equal.

In: the environment that `torchrun` sets. Out: the same weights in every process. Does not know what
is trained. Without `torchrun` there is one process and every function here does nothing.

Each process cuts the same batches and keeps every n-th chunk of them; gradients are averaged before
each step, so the weights stay the same bit for bit. The first process alone judges, speaks and
writes.
"""

from __future__ import annotations

import os
from collections.abc import Iterable, Mapping, Sequence
from typing import Final

import torch
import torch.distributed as dist
from torch import Tensor

from model.errors import DeviceMissing

DEVICES: Final = ("auto", "cpu", "cuda")


def count() -> int:
    """Processes that train together."""
    return dist.get_world_size() if dist.is_initialized() else 1


def number() -> int:
    """This process, from 0."""
    return dist.get_rank() if dist.is_initialized() else 0


def is_first() -> bool:
    """Whether this is the process that speaks; known before it has met the others, too."""
    return os.environ.get("RANK", "0") == "0"


def device(wanted: str) -> str:
    """cpu or cuda, as `wanted`: auto is a GPU where there is one.

    Raises DeviceMissing on another word, and where cuda is wanted and there is no GPU: hours on the
    CPU are no answer to that.
    """
    if wanted not in DEVICES:
        raise DeviceMissing(f"no device {wanted}", remedy=f"give one of {', '.join(DEVICES)}")
    cuda = wanted != "cpu" and torch.cuda.is_available()
    if wanted == "cuda" and not cuda:
        raise DeviceMissing("no CUDA device", remedy="give auto or cpu")
    return "cuda" if cuda else "cpu"


def join(wanted: str = "auto") -> str:
    """Meet the other processes where `torchrun` started this one. Returns the device to train on.

    `wanted` as in `device`, with its errors.
    """
    cuda = device(wanted) == "cuda"
    place = int(os.environ.get("LOCAL_RANK", "0"))
    if int(os.environ.get("WORLD_SIZE", "1")) > 1 and not dist.is_initialized():
        dist.init_process_group("nccl" if cuda else "gloo")
    if not cuda:
        return "cpu"
    torch.cuda.set_device(place)
    return f"cuda:{place}"


def leave() -> None:
    """Wait for the others and part."""
    if dist.is_initialized():
        dist.barrier()
        dist.destroy_process_group()


def average_gradients(parameters: Iterable[Tensor]) -> None:
    """Every process gets the mean of all processes' gradients; a missing one counts as zero."""
    if count() == 1:
        return
    held = list(parameters)
    for one in held:
        if one.grad is None:
            one.grad = torch.zeros_like(one)
    grads = [one.grad for one in held if one.grad is not None]
    flat = torch.cat([grad.reshape(-1) for grad in grads])
    dist.all_reduce(flat)
    flat /= count()
    at = 0
    for grad in grads:
        grad.copy_(flat[at : at + grad.numel()].view_as(grad))
        at += grad.numel()


def share_of(found: int, device: torch.device) -> float:
    """What each process divides its sum over `found` things by, so that the mean over processes is
    the mean over all things: their number a process; of nothing at all, as if it were one."""
    if count() == 1:
        return float(max(found, 1))
    held = torch.tensor(found, dtype=torch.int64, device=device)
    dist.all_reduce(held)
    return max(int(held), 1) / count()


def from_first(value: float, device: str) -> float:
    """The first process's number, in all of them."""
    if count() == 1:
        return value
    held = torch.tensor([value], dtype=torch.float64, device=device)
    dist.broadcast(held, 0)
    return float(held[0])


def random_states() -> list[dict[str, Tensor]]:
    """The states of torch's generators in each process, in order: of the CPU and, where one is in
    use, of the GPU, which draws the dropout there."""
    own = {"cpu": torch.get_rng_state()}
    if torch.cuda.is_initialized():  # type: ignore[no-untyped-call]
        own["cuda"] = torch.cuda.get_rng_state()
    if count() == 1:
        return [own]
    found: list[dict[str, Tensor] | None] = [None] * count()
    dist.all_gather_object(found, own)
    return [states for states in found if states is not None]


def set_random_states(states: Sequence[Mapping[str, Tensor]]) -> None:
    """This process goes on drawing where `random_states` found it."""
    own = states[number()]
    torch.set_rng_state(own["cpu"].cpu())
    if "cuda" in own and torch.cuda.is_initialized():  # type: ignore[no-untyped-call]
        torch.cuda.set_rng_state(own["cuda"].cpu())
