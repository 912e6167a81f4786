"""The velocity network of the speech flow: a 1-D U-Net over mel frames (speech-decoder.md section 1.4).

One level of half rate, holding most of the layers. No masks: batch only mels of equal length, for padding leaks
through the group norms and the attention.
"""

import math
from typing import cast

import torch
import torch.nn.functional as F
from torch import Tensor, nn

_NORM_GROUPS = 8


class Estimator(nn.Module):
    """Velocity of the mel at time t: two stages down, a stack at half rate, two stages up with skips."""

    def __init__(
        self, num_mels: int, channels: int, num_blocks: int, num_mid: int, num_heads: int, head_dim: int
    ) -> None:
        super().__init__()
        in_channels, time_dim = 4 * num_mels, 4 * channels
        self.time_features = in_channels

        def stage(width: int, resample: nn.Module | None = None) -> _Stage:
            blocks = nn.ModuleList(_TransformerBlock(channels, num_heads, head_dim) for _ in range(num_blocks))
            return _Stage([_ResnetBlock(width, channels, time_dim), blocks, *([resample] if resample else [])])

        def same() -> nn.Module:
            return nn.Conv1d(channels, channels, 3, padding=1)

        self.time_mlp = _TimeMLP(in_channels, time_dim)
        self.down_blocks = nn.ModuleList([stage(in_channels, _Downsample(channels)), stage(channels, same())])
        self.mid_blocks = nn.ModuleList(stage(channels) for _ in range(num_mid))
        self.up_blocks = nn.ModuleList([stage(2 * channels, _Upsample(channels)), stage(2 * channels, same())])
        self.final_block = _Block(channels, channels)
        self.final_proj = nn.Conv1d(channels, num_mels, 1)

    def forward(self, x: Tensor, mu: Tensor, t: Tensor, spk: Tensor, cond: Tensor) -> Tensor:
        """x, mu, cond (B, M, T), t (B,) in [0, 1], spk (B, M) -> (B, M, T)."""
        time = self.time_mlp(_time_embedding(t, self.time_features).to(x.dtype))
        x = torch.cat([x, mu, spk[:, :, None].expand(-1, -1, x.shape[2]), cond], dim=1)
        skips = []
        for down in cast(list[_Stage], self.down_blocks):
            x = down(x, time)
            skips.append(x)
            x = down.resample(x)
        for mid in self.mid_blocks:
            x = mid(x, time)
        for up in cast(list[_Stage], self.up_blocks):
            skip = skips.pop()
            x = torch.cat([x[:, :, : skip.shape[2]], skip], dim=1)  # the crop is for odd T
            x = up.resample(up(x, time))
        out: Tensor = self.final_proj(self.final_block(x))
        return out


class _Stage(nn.ModuleList):
    """0: a resnet block, 1: transformer blocks, 2: a convolution that may change the rate. (B, C, T)."""

    def forward(self, x: Tensor, time: Tensor) -> Tensor:
        x = self[0](x, time).transpose(1, 2)  # B, T, C
        for block in cast(nn.ModuleList, self[1]):
            x = block(x)
        return x.transpose(1, 2)

    def resample(self, x: Tensor) -> Tensor:
        out: Tensor = self[2](x)
        return out


def _time_embedding(t: Tensor, features: int) -> Tensor:
    """Sinusoids of 1000 t: (B,) -> float32 (B, features), sines first."""
    half = features // 2
    rates = torch.exp(torch.arange(half, dtype=torch.float32, device=t.device) * (-math.log(10000.0) / (half - 1)))
    angles = 1000.0 * t.float()[:, None] * rates
    return torch.cat([angles.sin(), angles.cos()], dim=-1)


class _TimeMLP(nn.Module):
    def __init__(self, features: int, time_dim: int) -> None:
        super().__init__()
        self.linear_1 = nn.Linear(features, time_dim)
        self.linear_2 = nn.Linear(time_dim, time_dim)

    def forward(self, x: Tensor) -> Tensor:
        out: Tensor = self.linear_2(F.silu(self.linear_1(x)))
        return out


class _Block(nn.Module):
    def __init__(self, in_channels: int, out_channels: int) -> None:
        super().__init__()
        self.block = nn.Sequential(
            nn.Conv1d(in_channels, out_channels, 3, padding=1), nn.GroupNorm(_NORM_GROUPS, out_channels), nn.Mish()
        )

    def forward(self, x: Tensor) -> Tensor:
        out: Tensor = self.block(x)
        return out


class _ResnetBlock(nn.Module):
    def __init__(self, in_channels: int, out_channels: int, time_dim: int) -> None:
        super().__init__()
        self.mlp = nn.Sequential(nn.Mish(), nn.Linear(time_dim, out_channels))
        self.block1 = _Block(in_channels, out_channels)
        self.block2 = _Block(out_channels, out_channels)
        self.res_conv = nn.Conv1d(in_channels, out_channels, 1)

    def forward(self, x: Tensor, time: Tensor) -> Tensor:
        hidden = self.block1(x) + self.mlp(time)[:, :, None]
        out: Tensor = self.block2(hidden) + self.res_conv(x)
        return out


class _TransformerBlock(nn.Module):
    """Attention over all frames and a feed-forward of exact GELU; no positions, no time conditioning. (B, T, C)."""

    def __init__(self, channels: int, num_heads: int, head_dim: int) -> None:
        super().__init__()
        self.norm1 = nn.LayerNorm(channels)
        self.attn1 = _Attention(channels, num_heads, head_dim)
        self.norm3 = nn.LayerNorm(channels)
        self.ff = _FeedForward(channels)

    def forward(self, x: Tensor) -> Tensor:
        x = x + self.attn1(self.norm1(x))
        hidden: Tensor = self.ff(self.norm3(x))
        return x + hidden


class _Attention(nn.Module):
    def __init__(self, channels: int, num_heads: int, head_dim: int) -> None:
        super().__init__()
        self.num_heads = num_heads
        self.to_q = nn.Linear(channels, num_heads * head_dim, bias=False)
        self.to_k = nn.Linear(channels, num_heads * head_dim, bias=False)
        self.to_v = nn.Linear(channels, num_heads * head_dim, bias=False)
        self.to_out = nn.ModuleList([nn.Linear(num_heads * head_dim, channels)])

    def forward(self, x: Tensor) -> Tensor:
        q, k, v = (
            proj(x).unflatten(-1, (self.num_heads, -1)).transpose(1, 2) for proj in (self.to_q, self.to_k, self.to_v)
        )
        out: Tensor = self.to_out[0](F.scaled_dot_product_attention(q, k, v).transpose(1, 2).flatten(2))
        return out


class _FeedForward(nn.Module):
    def __init__(self, channels: int) -> None:
        super().__init__()
        self.net = nn.Sequential(_GELULinear(channels, 4 * channels), nn.Identity(), nn.Linear(4 * channels, channels))

    def forward(self, x: Tensor) -> Tensor:
        out: Tensor = self.net(x)
        return out


class _GELULinear(nn.Module):
    def __init__(self, in_features: int, out_features: int) -> None:
        super().__init__()
        self.proj = nn.Linear(in_features, out_features)

    def forward(self, x: Tensor) -> Tensor:
        return F.gelu(self.proj(x))


class _Downsample(nn.Module):
    def __init__(self, channels: int) -> None:
        super().__init__()
        self.conv = nn.Conv1d(channels, channels, 3, stride=2, padding=1)

    def forward(self, x: Tensor) -> Tensor:
        out: Tensor = self.conv(x)
        return out


class _Upsample(nn.Module):
    def __init__(self, channels: int) -> None:
        super().__init__()
        self.conv = nn.ConvTranspose1d(channels, channels, 4, stride=2, padding=1)

    def forward(self, x: Tensor) -> Tensor:
        out: Tensor = self.conv(x)
        return out
