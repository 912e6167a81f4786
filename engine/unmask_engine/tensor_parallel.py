"""Tensor parallel: one backbone in several processes, each with a part of every matrix; for models larger than a card.

The first process is the engine's: it alone prepares requests, samples and answers. The others follow it through its
forward passes and end with it.

**Exactness.** Every matrix is split by its outputs, and what it reads is gathered first. So no sum is ever split, each
number is computed as one process would, and tokens do not depend on the number of processes. To split every second
matrix by its inputs instead would move fewer bytes, but add up rounded parts.
"""

import contextlib
import multiprocessing
import os
import signal
from collections.abc import Callable, Mapping, Sequence
from datetime import timedelta
from multiprocessing.connection import Connection
from multiprocessing.process import BaseProcess
from pathlib import Path
from typing import Any, Final, cast

import torch
from torch import Tensor, distributed
from torch.distributed.device_mesh import init_device_mesh
from torch.distributed.tensor import Replicate, Shard
from torch.distributed.tensor.parallel import ColwiseParallel, ParallelStyle, parallelize_module

from unmask_engine.bundle import Bundle, BundleError, load_bundle
from unmask_engine.components import load_component
from unmask_engine.models.backbone import BackboneConfig, Wanted
from unmask_engine.models.omni import OmniModel

HOST: Final = "127.0.0.1"
PATIENCE: Final = timedelta(seconds=120)  # for the slowest process in one exchange

# What the others take part in: tensors first, then what is not one.
CALLS: Final[Mapping[str, Callable[..., Tensor]]] = {
    "embed": lambda model, ids: model.embed(ids),
    "forward_packed": lambda model, embeds, rows, lengths, counts: model.forward_packed(
        embeds, lengths, Wanted(rows, counts)
    ),
    "logits": lambda model, hidden: model.logits(hidden),
}


class GroupLost(BaseException):
    """The processes are not in step any more: the engine is at its end. No Exception, which would be one request's."""


class ParallelModel:
    """The model as the first process sees it. Belongs to one thread."""

    def __init__(self, model: OmniModel, pipes: Sequence[Connection], followers: Sequence[BaseProcess]) -> None:
        self._model = model
        self._pipes = pipes
        self._followers = followers

    def embed(self, ids: Tensor) -> Tensor:
        """(T,) token ids -> (T, H)."""
        return self._together("embed", (ids,))

    def encode_speech(self, feats: Tensor) -> Tensor:
        """The speech encoder is small: it is whole in the first process."""
        return self._model.encode_speech(feats)

    def forward_packed(self, embeds: Tensor, lengths: Sequence[int], wanted: Wanted) -> Tensor:
        """(T, H) of sequences end to end -> hidden states (R, H) of the wanted rows."""
        return self._together("forward_packed", (embeds, wanted.rows), tuple(lengths), tuple(wanted.counts))

    def logits(self, hidden: Tensor) -> Tensor:
        """(R, H) -> (R, V), not shifted."""
        return self._together("logits", (hidden,))

    def close(self) -> None:
        """Lets the other processes end. Without it they end with this one."""
        for pipe in self._pipes:
            pipe.close()
        for follower in self._followers:
            follower.join()
        distributed.destroy_process_group()

    def _together(self, name: str, tensors: Sequence[Tensor], *plain: object) -> Tensor:
        try:
            call = (name, [(tuple(tensor.shape), tensor.dtype) for tensor in tensors], plain)
            for pipe in self._pipes:
                pipe.send(call)
            tensors = [tensor.contiguous() for tensor in tensors]
            for tensor in tensors:
                distributed.broadcast(tensor, 0)
            return CALLS[name](self._model, *tensors, *plain).clone()  # which waits for what is still being gathered
        except Exception as error:
            raise GroupLost(f"a process of the tensor-parallel group is lost: {error!r}") from error


def lead(bundle: Bundle, model: OmniModel, device: torch.device, size: int) -> ParallelModel:
    """Start the other processes and split `model`, which is whole and on the CPU, among all of them.

    On GPUs they take the first `size` of them. Raises BundleError where the model or the machine does not allow it.
    """
    _check(bundle.name, model.model.config, device, size)
    threads = _threads(device, size)
    store = _store(0, size, is_master=True)
    spawn = multiprocessing.get_context("spawn")
    ends = [spawn.Pipe() for _ in range(1, size)]
    followers = []
    for rank, (_, theirs) in enumerate(ends, start=1):
        where = (Path(bundle.path), device.type, next(model.model.layers.parameters()).dtype)
        follower = spawn.Process(target=_follow, args=(rank, size, store.port, *where, threads, theirs), daemon=True)
        follower.start()
        theirs.close()
        followers.append(follower)
    pipes = [ours for ours, _ in ends]
    for pipe in pipes:
        try:
            problem = pipe.recv()
        except EOFError:
            problem = "it has ended; its output says why"
        if problem is not None:
            raise BundleError(f"bundle {bundle.name}: a process of the tensor-parallel group failed: {problem}")
    torch.set_num_threads(threads)
    _join(store, 0, size, device.type)
    return ParallelModel(_split(model, size, device.type), pipes, followers)


def _follow(
    rank: int, size: int, port: int, folder: Path, kind: str, dtype: torch.dtype, threads: int, pipe: Connection
) -> None:
    """The life of another process: load, split, and run what the first one runs, until it is gone."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C reaches the whole terminal; the first process drains
    torch.set_num_threads(threads)
    try:
        model = cast(OmniModel, load_component(load_bundle(folder), "backbone"))
        model.model.layers.to(dtype)
    except Exception as error:
        pipe.send(repr(error))
        return
    pipe.send(None)
    _join(_store(port, size), rank, size, kind)
    model = _split(model, size, kind)
    device = torch.device(kind)
    with contextlib.suppress(EOFError), torch.inference_mode():
        while True:
            name, shapes, plain = pipe.recv()
            tensors = [torch.empty(shape, dtype=kept, device=device) for shape, kept in shapes]
            for tensor in tensors:
                distributed.broadcast(tensor, 0)
            CALLS[name](model, *tensors, *plain)
    os._exit(0)  # the first process is gone: there is nobody to take leave of


def _store(port: int, size: int, *, is_master: bool = False) -> Any:
    """Where the processes find each other."""
    store: Any = distributed.TCPStore  # type: ignore[attr-defined]
    return store(HOST, port, size, is_master=is_master, wait_for_workers=False)


def _join(store: Any, rank: int, size: int, kind: str) -> None:
    if kind == "cuda":
        torch.cuda.set_device(rank)
    backend = "nccl" if kind == "cuda" else "gloo"
    distributed.init_process_group(backend, store=store, rank=rank, world_size=size, timeout=PATIENCE)


def _split(model: OmniModel, size: int, kind: str) -> OmniModel:
    """This process's part of every matrix, on its device; what is no matrix of the backbone is there whole."""
    mesh = init_device_mesh(kind, (size,))
    parts, gathered = ColwiseParallel(), ColwiseParallel(output_layouts=Replicate())
    of_parts = ColwiseParallel(input_layouts=Shard(-1), output_layouts=Replicate())
    plan: dict[str, ParallelStyle] = {
        "model.embed_tokens": gathered,
        "model.layers.*.self_attn.q_proj": parts,
        "model.layers.*.self_attn.k_proj": parts,
        "model.layers.*.self_attn.v_proj": parts,
        "model.layers.*.self_attn.o_proj": of_parts,
        "model.layers.*.mlp.gate_proj": parts,
        "model.layers.*.mlp.up_proj": parts,
        "model.layers.*.mlp.down_proj": of_parts,
        "lm_head": gathered,
    }
    # Each process has read the files: none sends weights to another.
    split = parallelize_module(model, mesh, plan, src_data_rank=None)
    return cast(OmniModel, split.to(kind))


def _check(name: str, config: BackboneConfig, device: torch.device, size: int) -> None:
    units = {"key heads": config.num_kv_heads, "hidden units": config.intermediate_size}
    for what, count in units.items():
        if count % size:
            raise BundleError(f"bundle {name}: its {count} {what} cannot be split evenly among {size} processes")
    found = torch.cuda.device_count()
    if device.type == "cuda" and (device.index or found < size):
        raise BundleError(f"{size} processes take the first {size} GPUs, beginning with cuda:0; there are {found}")


def _threads(device: torch.device, size: int) -> int:
    """On a CPU the processes share the cores."""
    return max(1, torch.get_num_threads() // size) if device.type == "cpu" else torch.get_num_threads()
