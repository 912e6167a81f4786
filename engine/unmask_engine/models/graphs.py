"""The layers of a forward pass as CUDA graphs: the host launches one thing where it launched a thousand.

A graph holds its kernels, their shapes and their memory. So there is one for each number of packed rows, a multiple of
the runner's tile; where its sequences end, and their rotary table, are read from memory that is filled before it runs.
The kernels are those that run without it, on rows that are the same: so are the results, bit for bit.
"""

import logging
from collections.abc import Callable
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING

import torch
from torch import Tensor

if TYPE_CHECKING:
    from unmask_engine.models.backbone import Packing

MOST_ROWS = 1024  # of a graph; a device takes longer for more than a host takes to launch their kernels
MOST_SEQUENCES = 16  # of a graph
MOST_GRAPHS = 64  # all multiples of the runner's tile up to MOST_ROWS; half a gigabyte at 7B

log = logging.getLogger("unmask")

Layers = Callable[[Tensor, "Packing"], Tensor]


@dataclass
class _Captured:
    graph: torch.cuda.CUDAGraph
    embeds: Tensor  # (T, H), read by the graph
    packing: "Packing"  # read by the graph
    hidden: Tensor  # (T, H), written by it
    lengths: tuple[int, ...] = ()  # whose ends and rotary table `packing` holds

    def run(self, embeds: Tensor, packing: "Packing") -> Tensor:
        self.embeds.copy_(embeds)
        if self.lengths != packing.lengths:
            self.lengths = packing.lengths
            self.packing.cos.copy_(packing.cos)
            self.packing.sin.copy_(packing.sin)
            num_ends = len(packing.ends)
            self.packing.ends[:num_ends].copy_(packing.ends)
            self.packing.ends[num_ends:].copy_(packing.ends[-1:].expand(MOST_SEQUENCES + 1 - num_ends))  # empty ones
        self.graph.replay()
        return self.hidden


@dataclass
class LayerGraphs:
    """Of one model's layers, for one thread. Graphs go when its weights have moved."""

    _captured: dict[int, _Captured | None] = field(default_factory=dict)  # None where it failed
    _met: set[int] = field(default_factory=set)
    _weights: int = 0  # where they are
    _memory: "torch.cuda._POOL_HANDLE | None" = None  # what the graphs compute in, one after the other

    def run(self, layers: Layers, weight: Tensor, embeds: Tensor, packing: "Packing") -> Tensor:
        """(T, H) -> (T, H), good until the next run. The same `layers` every time, and one `weight` of them.

        A number of rows is captured when it comes for the second time: many come but once.
        """
        num_rows = len(embeds)
        if num_rows > MOST_ROWS or len(packing.lengths) > MOST_SEQUENCES or not can_be_captured(weight):
            return layers(embeds, packing)
        if self._weights != weight.data_ptr():
            self._captured.clear()
            self._met.clear()
            self._weights, self._memory = weight.data_ptr(), None
        if num_rows not in self._met:
            self._met.add(num_rows)
            return layers(embeds, packing)
        if num_rows not in self._captured and len(self._captured) < MOST_GRAPHS:
            try:
                self._captured[num_rows] = self._capture(layers, embeds, packing)
            except RuntimeError as error:  # no memory left, most likely
                log.warning("passes of %d rows run without a CUDA graph: %r", num_rows, error)
                self._captured[num_rows] = None
        captured = self._captured.get(num_rows)
        return layers(embeds, packing) if captured is None else captured.run(embeds, packing)

    def _capture(self, layers: Layers, embeds: Tensor, packing: "Packing") -> _Captured:
        given = torch.empty_like(embeds)
        ends = packing.ends.new_full((MOST_SEQUENCES + 1,), len(embeds))
        cos, sin = torch.empty_like(packing.cos), torch.empty_like(packing.sin)
        static = replace(packing, lengths=(len(embeds),), cos=cos, sin=sin, ends=ends)
        if self._memory is None:
            self._memory = torch.cuda.graph_pool_handle()
        graph = torch.cuda.CUDAGraph()
        # Other threads may go on allocating: they decode pictures and sound.
        with torch.cuda.graph(graph, pool=self._memory, capture_error_mode="thread_local"):
            hidden = layers(given, static)
        return _Captured(graph, given, static, hidden)


def can_be_captured(weight: Tensor) -> bool:
    """Whether layers with such weights read no lengths on the host, in this mode.

    Flash attention does not, eager attention does. Nor may processes that share the layers talk to each other, or
    gradients be wanted.
    """
    is_plain = weight.is_cuda and type(weight.data) is Tensor
    return is_plain and weight.dtype in (torch.bfloat16, torch.float16) and torch.is_inference_mode_enabled()
