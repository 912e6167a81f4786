"""Where fine-tuning runs: on one device by itself, or on several through Hugging Face accelerate.

accelerate launch --config_file fsdp.yaml -m unmask_training.finetune --bundle ... (docs/training.md)
"""

import os
from collections.abc import Iterable
from contextlib import AbstractContextManager, nullcontext
from pathlib import Path
from typing import Any, Protocol

import torch
from torch import Tensor, nn
from torch.optim import Optimizer


class Devices(Protocol):
    """What the loop asks of them. `rank` of `count` processes."""

    device: torch.device
    rank: int
    count: int

    def prepare(self, module: nn.Module, optimizer: Optimizer) -> tuple[nn.Module, Optimizer]: ...

    def computing(self, module: nn.Module, last: bool) -> AbstractContextManager[Any]:
        """Around the forward and backward pass of a part of a step; gradients are shared in the `last` one."""

    def backward(self, loss: Tensor) -> None: ...

    def clip(self, parameters: Iterable[Tensor], norm: float) -> Tensor:
        """Returns the norm before."""

    def save(self, folder: Path, module: nn.Module, optimizer: Optimizer) -> None:
        """Weights that learn and the optimizer's state."""

    def load(self, folder: Path, module: nn.Module, optimizer: Optimizer) -> None: ...

    def whole_state(self, module: nn.Module) -> dict[str, Tensor]:
        """The state dict, gathered from all processes; may be empty in all but the first."""

    def wait(self) -> None:
        """Until every process is here."""


def find_devices(name: str, bf16: bool) -> Devices:
    """Several processes where a launcher has started them, else the device called `name`."""
    device = torch.device(name)
    return Accelerated(device, bf16) if "LOCAL_RANK" in os.environ else Alone(device, bf16)


class Alone:
    rank, count = 0, 1

    def __init__(self, device: torch.device, bf16: bool) -> None:
        self.device, self.bf16 = device, bf16

    def prepare(self, module: nn.Module, optimizer: Optimizer) -> tuple[nn.Module, Optimizer]:
        return module, optimizer

    def computing(self, module: nn.Module, last: bool) -> AbstractContextManager[Any]:
        return torch.autocast(self.device.type, torch.bfloat16) if self.bf16 else nullcontext()

    def backward(self, loss: Tensor) -> None:
        loss.backward()  # type: ignore[no-untyped-call]

    def clip(self, parameters: Iterable[Tensor], norm: float) -> Tensor:
        return nn.utils.clip_grad_norm_(parameters, norm)

    def save(self, folder: Path, module: nn.Module, optimizer: Optimizer) -> None:
        weights = {name: p.detach() for name, p in module.named_parameters() if p.requires_grad}
        torch.save({"weights": weights, "optimizer": optimizer.state_dict()}, folder / "state.pt")

    def load(self, folder: Path, module: nn.Module, optimizer: Optimizer) -> None:
        saved = torch.load(folder / "state.pt", map_location=self.device, weights_only=True)
        module.load_state_dict(saved["weights"], strict=False)
        optimizer.load_state_dict(saved["optimizer"])

    def whole_state(self, module: nn.Module) -> dict[str, Tensor]:
        return module.state_dict()

    def wait(self) -> None:
        return


class Accelerated:
    """DDP, FSDP or DeepSpeed, as `accelerate launch` was configured."""

    def __init__(self, device: torch.device, bf16: bool) -> None:
        from accelerate import Accelerator

        self.accelerator = Accelerator(mixed_precision="bf16" if bf16 else "no", cpu=device.type == "cpu")
        # accelerate numbers the one CPU, safetensors does not know it by that name.
        self.device: torch.device = device if device.type == "cpu" else self.accelerator.device
        self.rank: int = self.accelerator.process_index
        self.count: int = self.accelerator.num_processes

    def prepare(self, module: nn.Module, optimizer: Optimizer) -> tuple[nn.Module, Optimizer]:
        module, optimizer = self.accelerator.prepare(module, optimizer)
        return module, optimizer

    def computing(self, module: nn.Module, last: bool) -> AbstractContextManager[Any]:
        return nullcontext() if last else self.accelerator.no_sync(module)

    def backward(self, loss: Tensor) -> None:
        self.accelerator.backward(loss)

    def clip(self, parameters: Iterable[Tensor], norm: float) -> Tensor:
        return torch.as_tensor(self.accelerator.clip_grad_norm_(parameters, norm))

    def save(self, folder: Path, module: nn.Module, optimizer: Optimizer) -> None:
        self.accelerator.save_state(str(folder))

    def load(self, folder: Path, module: nn.Module, optimizer: Optimizer) -> None:
        self.accelerator.load_state(str(folder))

    def whole_state(self, module: nn.Module) -> dict[str, Tensor]:
        state: dict[str, Tensor] = self.accelerator.get_state_dict(module)
        return state

    def wait(self) -> None:
        self.accelerator.wait_for_everyone()
