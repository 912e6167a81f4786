"""What PyTorch holds of the GPUs, for Prometheus. Without CUDA, or an engine in another process, there is nothing."""

import sys
from collections.abc import Iterator
from typing import Any

from prometheus_client.core import GaugeMetricFamily
from prometheus_client.registry import Collector


class GpuMemory(Collector):
    def __init__(self, name: str) -> None:
        self._name = name

    def collect(self) -> Iterator[GaugeMetricFamily]:
        torch = sys.modules.get("torch")  # the engine's; a scrape is no reason to import it
        if torch is None or not torch.cuda.is_initialized():
            return
        family = GaugeMetricFamily(self._name, "Bytes of GPU memory.", labels=("device", "kind"))
        for device in range(torch.cuda.device_count()):
            for kind, value in memory(torch.cuda, device).items():
                family.add_metric((str(device), kind), value)
        yield family


def memory(cuda: Any, device: int) -> dict[str, int]:
    """In tensors; held by the allocator, those included; the card's. Nothing of a card that is not in use."""
    reserved = cuda.memory_reserved(device)
    if not reserved:
        return {}
    return {
        "allocated": cuda.memory_allocated(device),
        "reserved": reserved,
        "total": cuda.get_device_properties(device).total_memory,
    }
