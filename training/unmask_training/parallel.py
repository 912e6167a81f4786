"""Training in several processes, started by torchrun or `accelerate launch`; alone, nothing of it happens.

    unmask train mini --work WORK backbone --processes 2

Each process trains on batches of its own. A model that fits one device is whole in each of them, which average their
gradients: two processes of one thread each train a third faster than one of two threads, as small matrices gain little
from a second core and whole batches gain all of it. A larger one is split over them (`shard`), layer by layer.
"""

import os
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import torch
from torch import Tensor, distributed, nn
from torch.distributed.tensor import DTensor, distribute_tensor
from torch.utils._pytree import tree_map


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


def is_shared() -> bool:
    """Whether there are other processes, which must agree on what has gradients."""
    return distributed.is_initialized()


def shard(model: nn.Module, layers: Iterable[nn.Module], frozen: Iterable[nn.Parameter] = ()) -> None:
    """Split the parameters of `model` over the processes, in place (torch's FSDP2, fully_shard).

    Each of `layers` is gathered while it computes, all the rest for the whole of `model.forward`, through which every
    computation must go. Gradients come out averaged and split. `frozen` ones stay whole in every process.
    """
    from torch.distributed.fsdp import fully_shard

    if not distributed.is_initialized():
        return
    kept = set(frozen)
    for layer in layers:
        fully_shard(layer)
    fully_shard(model, ignored_params=kept)


def average_gradients(parameters: Sequence[Tensor]) -> None:
    """Replace every gradient by its mean over the processes, unless sharding has done so. All must have one."""
    if not distributed.is_initialized():
        return
    gradients = [p.grad for p in parameters if p.grad is not None and not isinstance(p.grad, DTensor)]
    if not gradients:
        return
    flat = torch.cat([gradient.flatten() for gradient in gradients])
    distributed.all_reduce(flat)
    flat /= distributed.get_world_size()
    for gradient, part in zip(gradients, torch.split(flat, [g.numel() for g in gradients]), strict=True):
        gradient.copy_(part.view_as(gradient))


def clip_gradients(parameters: Sequence[Tensor], limit: float) -> Tensor:
    """Scale the gradients to a norm of at most `limit`; returns the norm before."""
    norm = whole(nn.utils.get_total_norm([p.grad for p in parameters if p.grad is not None]))
    nn.utils.clip_grads_with_norm_(parameters, limit, norm)
    return norm


def whole(tensor: Tensor) -> Tensor:
    """The tensor, gathered from all processes where it is split: every one of them must ask."""
    return tensor.full_tensor() if isinstance(tensor, DTensor) else tensor


def whole_state(state: Any) -> Any:
    """What a checkpoint holds, with its split tensors gathered into the first process's memory; every one must ask."""

    def gathered(x: Any) -> Any:
        if not isinstance(x, DTensor):
            return x
        full = x.full_tensor()
        return full.cpu() if not rank() else None

    return tree_map(gathered, state)


def split_like(tensor: Tensor, example: Tensor) -> Tensor:
    """This process's part of a whole tensor, where that of `example` is split; on its device."""
    if not isinstance(example, DTensor):
        return tensor.to(example.device)
    # Every process has read the file: nothing need be sent.
    return distribute_tensor(tensor.to(example.device), example.device_mesh, example.placements, src_data_rank=None)


def load_whole(model: nn.Module, state: Mapping[str, Tensor]) -> None:
    """Load a whole state dict into a model that may be split."""
    wanted = model.state_dict()
    model.load_state_dict({name: split_like(t, wanted[name]) if name in wanted else t for name, t in state.items()})


def load_whole_optimizer(optimizer: torch.optim.Optimizer, state: Mapping[str, Any]) -> None:
    """Load an optimizer's whole state dict; what is as large as its parameter is split as that is."""
    parameters = [p for group in optimizer.param_groups for p in group["params"]]

    def part(x: Any, p: Tensor) -> Any:
        return split_like(x, p) if isinstance(x, Tensor) and x.shape == p.shape else x

    split = {i: {k: part(x, parameters[i]) for k, x in kept.items()} for i, kept in state["state"].items()}
    optimizer.load_state_dict({**state, "state": split})


def agreed(number: float) -> float:
    """The first process's number, in every process."""
    if not distributed.is_initialized():
        return number
    shared = torch.tensor([number], dtype=torch.float64)
    distributed.broadcast(shared, 0)
    return float(shared)
