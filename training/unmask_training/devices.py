"""Where the recipe computes: on one GPU or on the CPUs. Data is drawn on the CPU, so that both train on the same."""

from contextlib import AbstractContextManager
from pathlib import Path
from typing import Any

import torch
from torch import nn

from unmask_engine.bfloat16 import multiplies_bfloat16

CPU = torch.device("cpu")


def chosen(name: str = "") -> torch.device:
    """The device of that name; without one, the GPU where there is one. ValueError where there is no such device."""
    if not name:
        return torch.device("cuda" if torch.cuda.is_available() else "cpu")
    try:
        device = torch.device(name)
    except RuntimeError:
        raise ValueError(f"there is no device {name!r}; allowed are cpu, cuda and cuda:N") from None
    if device.type not in ("cpu", "cuda"):
        raise ValueError(f"the recipe knows the devices cpu, cuda and cuda:N, not {name!r}")
    if device.type == "cuda" and (device.index or 0) >= torch.cuda.device_count():
        raise ValueError(f"this machine has {torch.cuda.device_count()} CUDA devices, so there is no {name!r}")
    return device


def device_of(model: nn.Module) -> torch.device:
    return next(model.parameters()).device


def mixed(device: torch.device) -> torch.autocast:
    """bfloat16 where it does no harm, on a device that multiplies it."""
    return torch.autocast(device.type, torch.bfloat16, enabled=multiplies_bfloat16(device))


def full_precision() -> AbstractContextManager[None]:
    """Convolutions of a GPU in float32 proper: what is tokenised must be what serving would have made of it."""
    flags: Any = torch.backends.cudnn.flags
    without_tf32: AbstractContextManager[None] = flags(enabled=True, allow_tf32=False)
    return without_tf32


def stored(path: Path) -> Any:
    """What torch.save wrote, on the CPU, wherever it was written; processes of a machine share its memory."""
    return torch.load(path, map_location=CPU, weights_only=True, mmap=True)
