"""Where bfloat16 pays."""

from functools import cache

import torch


@cache
def multiplies_bfloat16(device: torch.device) -> bool:
    """Whether the device has matrix instructions for bfloat16; CPUs without them are far slower in it than in float32.

    On CPUs that have them the backbone's layers run four times faster in it (docs/log.md).
    """
    if device.type != "cpu":
        return True
    capabilities = torch.cpu.get_capabilities() if hasattr(torch.cpu, "get_capabilities") else {}
    return bool(capabilities.get("avx512_bf16") or capabilities.get("amx_bf16"))
