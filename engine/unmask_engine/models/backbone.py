"""The Dream body: a Qwen2.5-style transformer with full bidirectional attention over packed sequences.

Source: reference/decoding.md "Model". RMSNorm before attention and before the gated SiLU MLP, rotary positions, biases
on q, k and v only, and no attention mask of any kind. Sequences are packed end to end: `(T, hidden)` and lengths.

Layers compute in the dtype of their weights; the sum that runs past them keeps the dtype of the embeddings.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cache, lru_cache
from inspect import signature
from itertools import accumulate
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from unmask_engine.models.dense_attention import attend_densely, learnt_densely
from unmask_engine.models.graphs import LayerGraphs
from unmask_engine.models.products import RowwiseLinear, join, keep_the_order_of_sums, one_product
from unmask_engine.transfer import send
from unmask_kernels.rowwise import Implementation, add_norm, gate, rotate


@dataclass(frozen=True)
class BackboneConfig:
    vocab_size: int
    hidden_size: int
    intermediate_size: int
    num_layers: int
    num_heads: int
    num_kv_heads: int
    rope_theta: float = 1e6
    rms_norm_eps: float = 1e-6

    def __post_init__(self) -> None:
        if self.hidden_size % (2 * self.num_heads):
            raise ValueError(f"hidden_size {self.hidden_size} must be an even multiple of num_heads {self.num_heads}")
        if self.num_heads % self.num_kv_heads:
            raise ValueError(f"num_heads {self.num_heads} must be a multiple of num_kv_heads {self.num_kv_heads}")

    @property
    def head_dim(self) -> int:
        return self.hidden_size // self.num_heads


@dataclass(frozen=True)
class Packing:
    """What every layer needs to know about a packed batch: where sequences end, and the rotary table of its rows."""

    lengths: tuple[int, ...]  # tokens per sequence, in order
    cos: Tensor  # (T, 1, D) float32
    sin: Tensor  # (T, 1, D) float32
    ends: Tensor  # (sequences + 1,) int32: where each sequence begins, and where the last one ends


@dataclass(frozen=True)
class Wanted:
    """The rows whose hidden states are asked for: the last layer computes no others.

    `rows` (R,) rise; `counts` of them belong to each sequence. What `rows` holds beyond sum(counts) fills up a shape:
    its results mean nothing.
    """

    rows: Tensor
    counts: tuple[int, ...]


def rotary_table(positions: Tensor, head_dim: int, theta: float) -> tuple[Tensor, Tensor]:
    """Cosine and sine of the rotary angles in float32; each half of the head dimension repeats the D/2 frequencies."""
    exponents = torch.arange(0, head_dim, 2, dtype=torch.float32, device=positions.device) / head_dim
    angles = positions.float()[:, None] * theta**-exponents  # (T, D/2)
    angles = torch.cat((angles, angles), dim=-1)[:, None]  # (T, 1, D)
    return angles.cos(), angles.sin()


@lru_cache(maxsize=32)
def pack(lengths: tuple[int, ...], head_dim: int, theta: float, device: torch.device) -> Packing:
    """Positions restart at 0 for each sequence. The same lengths come step after step, hence the cache."""
    with torch.inference_mode(False):  # what is kept must do for training, too
        positions = send(torch.cat([torch.arange(length) for length in lengths]), device)  # (T,)
        return Packing(lengths, *rotary_table(positions, head_dim, theta), _ends(lengths, device))


def _kernels(x: Tensor) -> Implementation:
    """Triton's for inference on a CUDA device, torch's own for training and CPUs."""
    return "triton" if type(x) is Tensor and x.is_cuda and not torch.is_grad_enabled() else "reference"


def packed_attention(
    q: Tensor, k: Tensor, v: Tensor, asking: Sequence[int], lengths: Sequence[int], ends: Tensor | None = None
) -> Tensor:
    """Bidirectional grouped-query attention within each packed sequence.

    q: (R, heads, D) of which `asking` rows belong to each sequence; what is beyond them is not looked at.
    k, v: (T, kv_heads, D), `lengths` rows each -> (sum(asking), heads, D). A CUDA device reads in `ends`, if given,
    where the sequences end.
    """
    if q.is_cuda and q.dtype in (torch.float16, torch.bfloat16):
        return _varlen_attention(q, k, v, asking, lengths, ends)
    if len(set(lengths)) == 1 and tuple(asking) == tuple(lengths):
        batched = (x.view(len(lengths), lengths[0], *x.shape[1:]) for x in (q[: len(k)], k, v))
        return _attend(*batched).flatten(0, 1)
    spans = zip(_spans(asking), _spans(lengths), strict=True)
    return torch.cat([_attend(q[None, a], k[None, s], v[None, s])[0] for a, s in spans if a.stop > a.start])


def _spans(lengths: Sequence[int]) -> list[slice]:
    return [slice(end - length, end) for end, length in zip(accumulate(lengths), lengths, strict=True)]


def _varlen_attention(
    q: Tensor, k: Tensor, v: Tensor, asking: Sequence[int], lengths: Sequence[int], ends: Tensor | None = None
) -> Tensor:
    """All sequences in one flash attention call.

    Where heads are grouped and `max_q` is 1, flash attention splits the keys and adds up in another order than in
    company; so it is never 1. What learns has its keys repeated: the backward pass of grouped heads is not tried yet.
    """
    from torch.nn.attention.varlen import varlen_attn

    if ends is None:
        ends = _ends(tuple(lengths), q.device)
    if k.requires_grad:
        k, v = (x.repeat_interleave(q.shape[1] // x.shape[1], dim=1) for x in (k, v))
    out = varlen_attn(
        q[: sum(asking)].contiguous(),
        k,
        v,
        ends if tuple(asking) == tuple(lengths) else _ends(tuple(asking), q.device),
        ends,
        max(2, *asking),
        max(lengths),
        **_grouping(),
    )
    assert isinstance(out, Tensor)  # not asked for more
    return out


@cache
def _grouping() -> dict[str, Any]:
    """Torch 2.11 groups heads where there are fewer of keys, unasked; later ones want to be told."""
    from torch.nn.attention.varlen import varlen_attn

    return {"enable_gqa": True} if "enable_gqa" in signature(varlen_attn).parameters else {}


@lru_cache(maxsize=64)
def _ends(lengths: tuple[int, ...], device: torch.device) -> Tensor:
    """(sequences + 1,) int32: where each sequence begins, and where the last one ends."""
    with torch.inference_mode(False):
        return send(torch.tensor([0, *accumulate(lengths)], dtype=torch.int32), device)


def _attend(q: Tensor, k: Tensor, v: Tensor) -> Tensor:
    q, k, v = (x.transpose(1, 2) for x in (q, k, v))  # (B, heads, L, D)
    grouped = q.shape[1] != k.shape[1]
    if learnt_densely(q, k):
        k, v = (x.repeat_interleave(q.shape[1] // x.shape[1], dim=1) for x in (k, v))
        return attend_densely(q, k, v).transpose(1, 2)
    return F.scaled_dot_product_attention(q, k, v, enable_gqa=grouped).transpose(1, 2)  # (B, L, heads, D)


class RMSNorm(nn.Module):
    """Normalises in float32 and rounds to the input's dtype before the weight is applied: the reference's order."""

    def __init__(self, size: int, eps: float) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.ones(size))
        self.eps = eps

    def forward(self, x: Tensor, delta: Tensor | None = None, rows: Tensor | None = None) -> tuple[Tensor, Tensor]:
        """x (T, H) and what is added to it, to `rows` of it alone if given -> the sum, and its norm."""
        if delta is not None and type(delta) is not Tensor:  # on its way from other processes: torch waits for it
            x, delta, rows = (x if rows is None else x[rows]) + delta, None, None
        return add_norm(x, delta, self.weight, self.eps, rows=rows, impl=_kernels(x))


class Attention(nn.Module):
    def __init__(self, config: BackboneConfig) -> None:
        super().__init__()
        self.head_dim = config.head_dim
        kv_size = config.num_kv_heads * config.head_dim
        self.q_proj = nn.Linear(config.hidden_size, config.hidden_size)
        self.k_proj = nn.Linear(config.hidden_size, kv_size)
        self.v_proj = nn.Linear(config.hidden_size, kv_size)
        self.o_proj = nn.Linear(config.hidden_size, config.hidden_size, bias=False)

    def forward(self, x: Tensor, packing: Packing, wanted: Wanted | None = None) -> Tensor:
        """(T, hidden) -> (T, hidden), or (R, hidden) for the wanted rows."""
        x = x.to(self.q_proj.weight.dtype)
        rows, asking = (None, packing.lengths) if wanted is None else (wanted.rows, wanted.counts)
        together = one_product(x, self.q_proj, self.k_proj, self.v_proj)
        if together is not None:
            q, k, v = together
            q = q if rows is None else q[rows]
        else:
            k, v = self.k_proj(x), self.v_proj(x)
            q = self.q_proj(x if rows is None else x[rows])
        # (T or R, heads, D), (T, kv_heads, D)
        q, k, v = (each.view(len(each), each.shape[1] // self.head_dim, self.head_dim) for each in (q, k, v))
        q, k = rotate(q, k, packing.cos, packing.sin, rows=rows, impl=_kernels(q))
        attended = packed_attention(q, k, v, asking, packing.lengths, packing.ends).flatten(-2)
        if len(attended) < len(q):
            attended = F.pad(attended, (0, 0, 0, len(q) - len(attended)))
        out: Tensor = self.o_proj(attended)
        return out


class MLP(nn.Module):
    def __init__(self, config: BackboneConfig) -> None:
        super().__init__()
        self.gate_proj = nn.Linear(config.hidden_size, config.intermediate_size, bias=False)
        self.up_proj = nn.Linear(config.hidden_size, config.intermediate_size, bias=False)
        self.down_proj = RowwiseLinear(config.intermediate_size, config.hidden_size, bias=False)

    def forward(self, x: Tensor) -> Tensor:
        x = x.to(self.gate_proj.weight.dtype)
        gated, up = one_product(x, self.gate_proj, self.up_proj) or (self.gate_proj(x), self.up_proj(x))
        out: Tensor = self.down_proj(gate(gated, up, impl=_kernels(gated)))
        return out


class Layer(nn.Module):
    def __init__(self, config: BackboneConfig) -> None:
        super().__init__()
        self.self_attn = Attention(config)
        self.mlp = MLP(config)
        self.input_layernorm = RMSNorm(config.hidden_size, config.rms_norm_eps)
        self.post_attention_layernorm = RMSNorm(config.hidden_size, config.rms_norm_eps)

    def forward(self, x: Tensor, packing: Packing, wanted: Wanted | None = None) -> Tensor:
        _, normed = self.input_layernorm(x)
        attended = self.self_attn(normed, packing, wanted)
        x, normed = self.post_attention_layernorm(x, attended, None if wanted is None else wanted.rows)
        out: Tensor = x + self.mlp(normed)
        return out


class Backbone(nn.Module):
    """Token embeddings, layers and final norm; the head lives in `OmniModel`, as in the published state dict."""

    def __init__(self, config: BackboneConfig) -> None:
        super().__init__()
        self.config = config
        self.embed_tokens = nn.Embedding(config.vocab_size, config.hidden_size)
        self.layers = nn.ModuleList(Layer(config) for _ in range(config.num_layers))
        self.norm = RMSNorm(config.hidden_size, config.rms_norm_eps)
        self._graphs = LayerGraphs()

    def join_products(self) -> None:
        """For inference on a CUDA device: products of the same rows become one. Their weights are moved in memory."""
        for layer in self.layers:
            assert isinstance(layer, Layer)
            attention, mlp = layer.self_attn, layer.mlp
            join(attention.q_proj, attention.k_proj, attention.v_proj)
            join(mlp.gate_proj, mlp.up_proj)

    def forward(self, embeds: Tensor, lengths: Sequence[int], wanted: Wanted | None = None) -> Tensor:
        """(T, hidden) packed embeddings and the length of each sequence -> (T, hidden) after the final norm.

        With `wanted` only those rows: (R, hidden).
        """
        if sum(lengths) != embeds.shape[0]:
            raise ValueError(f"lengths sum to {sum(lengths)}, but {embeds.shape[0]} rows are packed")
        packing = pack(tuple(lengths), self.config.head_dim, self.config.rope_theta, embeds.device)
        if embeds.is_cuda and not torch.is_grad_enabled():
            keep_the_order_of_sums()
        hidden = self._graphs.run(self._first_layers, next(self.layers.parameters()), embeds, packing)
        out: Tensor = self.norm(self.layers[-1](hidden, packing, wanted))[1]
        return out

    def _first_layers(self, hidden: Tensor, packing: Packing) -> Tensor:
        """All but the last one."""
        for layer in self.layers[:-1]:
            hidden = layer(hidden, packing)
        return hidden
