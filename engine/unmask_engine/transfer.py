"""From the host to a device, without the host waiting for what the device still has to do."""

import torch
from torch import Tensor


def send(tensor: Tensor, device: torch.device) -> Tensor:
    """A tensor of the host on the device; itself where the device is the host.

    Copies out of memory that is not pinned wait for the device, even where they are asked not to.
    """
    if device.type == "cuda":
        tensor = tensor.pin_memory()
    return tensor.to(device, non_blocking=True)
