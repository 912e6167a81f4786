"""The token half of the speech flow: embeddings of 12.5 Hz tokens -> mu, a first guess of the mel frames.

A conformer without convolutions over relative positions, in which each block of 10 tokens sees itself and all
before it, then the length regulator (speech-decoder.md sections 1.2 and 1.3).
"""

import math

import torch
import torch.nn.functional as F
from torch import Tensor, nn


class TokenEncoder(nn.Module):
    """(B, L, D) -> (B, L, D). `block_size` counts tokens from the start of the prompt."""

    def __init__(self, d_model: int, num_heads: int, ffn_size: int, num_layers: int, block_size: int) -> None:
        super().__init__()
        self.block_size = block_size
        self.embed = _InputLayer(d_model)
        self.encoders = nn.ModuleList(_EncoderLayer(d_model, num_heads, ffn_size) for _ in range(num_layers))
        self.after_norm = nn.LayerNorm(d_model)

    def forward(self, x: Tensor) -> Tensor:
        length = x.shape[1]
        x = self.embed(x)
        positions = _relative_positions(length, x.shape[2], x.device).to(x.dtype)
        index = torch.arange(length, device=x.device)
        block = index // self.block_size
        visible = (index <= index[:, None]) | (block == block[:, None])  # L, L: query, key
        for layer in self.encoders:
            x = layer(x, positions, visible)
        out: Tensor = self.after_norm(x)
        return out


class LengthRegulator(nn.Module):
    """Stretches (B, C, L) to (B, C, num_frames) by nearest neighbour, then smooths by four convolutions."""

    def __init__(self, channels: int, num_layers: int = 4) -> None:
        super().__init__()
        layers: list[nn.Module] = []
        for _ in range(num_layers):
            layers += [nn.Conv1d(channels, channels, 3, padding=1), nn.GroupNorm(1, channels), nn.Mish()]
        self.model = nn.Sequential(*layers, nn.Conv1d(channels, channels, 1))

    def forward(self, x: Tensor, num_frames: int) -> Tensor:
        out: Tensor = self.model(x[:, :, nearest_token(x.shape[2], num_frames, x.device)])
        return out


def nearest_token(num_tokens: int, num_frames: int, device: torch.device | None = None) -> Tensor:
    """The token that each frame repeats: (num_frames,) int64.

    floor(i * float32(L / T)) in float32, as `F.interpolate` has it. Integer or float64 arithmetic picks another token
    at some lengths (24 tokens among them), and the mel changes by up to 0.37.
    """
    scale = torch.tensor(num_tokens / num_frames, dtype=torch.float32, device=device)
    index = (torch.arange(num_frames, dtype=torch.float32, device=device) * scale).floor().long()
    return index.clamp(max=num_tokens - 1)


class _InputLayer(nn.Module):
    def __init__(self, d_model: int) -> None:
        super().__init__()
        self.out = nn.Sequential(nn.Linear(d_model, d_model), nn.LayerNorm(d_model, eps=1e-5))
        self.scale = math.sqrt(d_model)

    def forward(self, x: Tensor) -> Tensor:
        out: Tensor = self.out(x) * self.scale
        return out


class _EncoderLayer(nn.Module):
    def __init__(self, d_model: int, num_heads: int, ffn_size: int) -> None:
        super().__init__()
        self.norm_mha = nn.LayerNorm(d_model, eps=1e-5)
        self.self_attn = _RelativeAttention(d_model, num_heads)
        self.norm_ff = nn.LayerNorm(d_model, eps=1e-5)
        self.feed_forward = _FeedForward(d_model, ffn_size)

    def forward(self, x: Tensor, positions: Tensor, visible: Tensor) -> Tensor:
        x = x + self.self_attn(self.norm_mha(x), positions, visible)
        hidden: Tensor = self.feed_forward(self.norm_ff(x))
        return x + hidden


class _FeedForward(nn.Module):
    def __init__(self, d_model: int, ffn_size: int) -> None:
        super().__init__()
        self.w_1 = nn.Linear(d_model, ffn_size)
        self.w_2 = nn.Linear(ffn_size, d_model)

    def forward(self, x: Tensor) -> Tensor:
        out: Tensor = self.w_2(F.silu(self.w_1(x)))
        return out


class _RelativeAttention(nn.Module):
    """score[i, j] = ((q_i + u) . k_j + (q_i + v) . p_{i-j}) / sqrt(D), as in Transformer-XL."""

    def __init__(self, d_model: int, num_heads: int) -> None:
        super().__init__()
        self.num_heads = num_heads
        self.linear_q = nn.Linear(d_model, d_model)
        self.linear_k = nn.Linear(d_model, d_model)
        self.linear_v = nn.Linear(d_model, d_model)
        self.linear_out = nn.Linear(d_model, d_model)
        self.linear_pos = nn.Linear(d_model, d_model, bias=False)
        self.pos_bias_u = nn.Parameter(torch.zeros(num_heads, d_model // num_heads))
        self.pos_bias_v = nn.Parameter(torch.zeros(num_heads, d_model // num_heads))

    def forward(self, x: Tensor, positions: Tensor, visible: Tensor) -> Tensor:
        length = x.shape[1]
        q, k, v = (self._heads(proj(x)) for proj in (self.linear_q, self.linear_k, self.linear_v))  # B, H, L, D
        p = self._heads(self.linear_pos(positions)[None])  # 1, H, 2L - 1, D
        by_offset = (q + self.pos_bias_v[:, None]) @ p.transpose(-1, -2)  # B, H, L, 2L - 1
        index = torch.arange(length, device=x.device)
        column = (length - 1) - index[:, None] + index  # column c holds i - j = L - 1 - c
        bias = by_offset.gather(-1, column.expand(*by_offset.shape[:2], -1, -1)) / math.sqrt(q.shape[-1])
        bias = bias.masked_fill(~visible, float("-inf"))
        mixed = F.scaled_dot_product_attention(q + self.pos_bias_u[:, None], k, v, attn_mask=bias)
        out: Tensor = self.linear_out(mixed.transpose(1, 2).flatten(2))
        return out

    def _heads(self, x: Tensor) -> Tensor:
        return x.view(*x.shape[:2], self.num_heads, -1).transpose(1, 2)


def _relative_positions(length: int, d_model: int, device: torch.device) -> Tensor:
    """Sinusoids of i - j from L - 1 (a key far to the left) down to 1 - L: float32 (2L - 1, D)."""
    offsets = torch.arange(length - 1, -length, -1, dtype=torch.float32, device=device)
    rates = torch.exp(torch.arange(0, d_model, 2, dtype=torch.float32, device=device) * (-math.log(10000.0) / d_model))
    angles = offsets[:, None] * rates
    return torch.stack([angles.sin(), angles.cos()], dim=-1).flatten(1)
