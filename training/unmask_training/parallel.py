"""Training in several processes that average their gradients, started by torchrun; alone, nothing of it happens.

    unmask train mini --work WORK backbone --processes 2

Two processes of one thread each train a third faster than one of two threads: small matrices gain little from a second
core, whole batches gain all of it.
"""

import os
from collections.abc import Sequence

import torch
from torch import Tensor, distributed


def join(device: torch.device) -> torch.device:
    """Join the other processes of this run; returns what this one computes on.

    On a CPU each keeps to a core of its own; of GPUs each has its own, gradients go by NCCL and what is on the host
    by gloo.
    """
    if "LOCAL_RANK" not in os.environ:
        return device
    local = int(os.environ["LOCAL_RANK"])
    if device.type == "cuda":
        device = torch.device("cuda", local)
        torch.cuda.set_device(device)
        distributed.init_process_group("cpu:gloo,cuda:nccl")
        return device
    distributed.init_process_group("gloo")
    cores = sorted(os.sched_getaffinity(0))
    os.sched_setaffinity(0, {cores[local % len(cores)]})
    return device


def leave() -> None:
    if distributed.is_initialized():
        distributed.destroy_process_group()


def rank() -> int:
    return distributed.get_rank() if distributed.is_initialized() else 0


def average_gradients(parameters: Sequence[Tensor]) -> None:
    """Replace every gradient by its mean over the processes. Parameters without one count as zero."""
    if not distributed.is_initialized():
        return
    for p in parameters:
        if p.grad is None:
            p.grad = torch.zeros_like(p)
    flat = torch.cat([p.grad.flatten() for p in parameters if p.grad is not None])
    distributed.all_reduce(flat)
    flat /= distributed.get_world_size()
    for p, part in zip(parameters, torch.split(flat, [p.numel() for p in parameters]), strict=True):
        assert p.grad is not None
        p.grad.copy_(part.view_as(p))


def agreed(number: float) -> float:
    """The first process's number, in every process."""
    if not distributed.is_initialized():
        return number
    shared = torch.tensor([number], dtype=torch.float64)
    distributed.broadcast(shared, 0)
    return float(shared)
