"""`--device`: checked before a model is loaded onto it."""

import re

from unmask_server.commands.exits import UsageError


def pick_device(name: str) -> str:
    """`auto` is the first GPU, else the CPU."""
    import torch

    if not re.fullmatch(r"auto|cpu|cuda(:\d+)?", name):
        raise UsageError(f"--device {name}: it may be auto, cpu, cuda, cuda:1, ...")
    if name == "auto":
        return "cuda" if torch.cuda.is_available() else "cpu"
    try:
        torch.empty(0, device=name)
    except (RuntimeError, AssertionError) as error:
        raise UsageError(f"--device {name}: {str(error).splitlines()[0]}") from None
    return name
