"""MAGVIT-v2, the image tokenizer: pixels <-> one id of `num_bits` sign bits per patch (arXiv 2310.05737).

Lookup-free quantisation: the encoder gives `num_bits` numbers a patch, their signs are the token. Parameter names and
shapes are those of the published checkpoint (tests/golden/magvitv2_keys.json); arithmetic: docs of the image path in
reference/model.md, pinned by the golden vectors. Plain convolutions, so it runs in bfloat16 autocast and channels_last.
"""

from dataclasses import dataclass
from itertools import pairwise

import torch
import torch.nn.functional as F
from torch import Tensor, nn

_NORM_EPS = 1e-6


@dataclass(frozen=True)
class ImageTokenizerConfig:
    """The defaults are the published tokenizer. Every `channels * multiplier` must divide by `norm_groups`."""

    channels: int = 128
    multipliers: tuple[int, ...] = (1, 2, 2, 4, 4)  # of `channels`, one a resolution, finest first
    num_res_blocks: int | tuple[int, ...] = (4, 3, 4, 3, 4)  # of the encoder, finest first; a number: the same at each
    num_bits: int = 13
    norm_groups: int = 32

    @property
    def factor(self) -> int:
        """Pixels along one side of a token's patch."""
        return 1 << (len(self.multipliers) - 1)

    @property
    def num_codes(self) -> int:
        return 1 << self.num_bits

    @property
    def widths(self) -> tuple[int, ...]:
        """Channels at each resolution, finest first."""
        return tuple(self.channels * multiplier for multiplier in self.multipliers)

    @property
    def encoder_blocks(self) -> tuple[int, ...]:
        """Residual blocks at each resolution of the encoder, finest first."""
        if isinstance(self.num_res_blocks, int):
            return (self.num_res_blocks,) * len(self.multipliers)
        return tuple(self.num_res_blocks)

    @property
    def decoder_blocks(self) -> tuple[int, ...]:
        """A decoder stage has the blocks, and leaves at the width, of the encoder's next finer stage."""
        return (self.encoder_blocks[0], *self.encoder_blocks[:-1])


class ImageTokenizer(nn.Module):
    """Pixels are (B, 3, H, W) in [-1, 1] with H and W multiples of `config.factor`; h, w = H, W over the factor."""

    def __init__(self, config: ImageTokenizerConfig) -> None:
        super().__init__()
        self.config = config
        self.encoder = _Encoder(config)
        self.decoder = _Decoder(config)
        self.quantize = _SignQuantiser(config.num_bits)

    def encode_latent(self, images: Tensor) -> Tensor:
        """(B, 3, H, W) -> (B, num_bits, h, w), the numbers whose signs are the token."""
        height, width = images.shape[-2:]
        if height % self.config.factor or width % self.config.factor or not height or not width:
            raise ValueError(f"image sides must be positive multiples of {self.config.factor}, got {height} x {width}")
        latent: Tensor = self.encoder(images)
        return latent

    def quantise(self, latent: Tensor) -> Tensor:
        """(B, num_bits, h, w) -> ids (B, h, w) int64."""
        return self.quantize.ids(latent)

    def encode(self, images: Tensor) -> Tensor:
        """(B, 3, H, W) -> ids (B, h, w) int64."""
        return self.quantise(self.encode_latent(images))

    def decode_bits(self, bits: Tensor) -> Tensor:
        """(B, num_bits, h, w) of -1 and +1 -> (B, 3, H, W), not clamped. Gradients reach `bits`."""
        images: Tensor = self.decoder(bits)
        return images

    def decode(self, ids: Tensor) -> Tensor:
        """Ids (B, h, w) -> (B, 3, H, W), not clamped."""
        return self.decode_bits(self.quantize.bits(ids))


class _SignQuantiser(nn.Module):
    """A bit is `z > 0`; channel 0 is the most significant. Both tables are part of the checkpoint's state dict."""

    embedding: Tensor  # (2^bits, bits) of -1 and +1
    power_vals: Tensor  # (bits,) int64: 2^(bits-1) ... 1

    def __init__(self, num_bits: int) -> None:
        super().__init__()
        powers = 2 ** torch.arange(num_bits - 1, -1, -1)
        codes = torch.arange(2**num_bits)
        self.register_buffer("power_vals", powers)
        self.register_buffer("embedding", (codes[:, None] & powers != 0).float() * 2 - 1)

    def ids(self, latent: Tensor) -> Tensor:
        return ((latent > 0) * self.power_vals[:, None, None]).sum(1)  # (B, bits, h, w) -> (B, h, w)

    def bits(self, ids: Tensor) -> Tensor:
        return self.embedding[ids].movedim(-1, 1)  # (B, h, w, bits) -> (B, bits, h, w)


class _Encoder(nn.Module):
    def __init__(self, config: ImageTokenizerConfig) -> None:
        super().__init__()
        widths, groups = config.widths, config.norm_groups
        self.conv_in = _conv3(3, widths[0])
        self.down = nn.ModuleList()
        pairs = pairwise((widths[0], *widths))
        for level, ((entering, leaving), num_blocks) in enumerate(zip(pairs, config.encoder_blocks, strict=True)):
            stage = _Stage(entering, leaving, num_blocks, groups)
            if level < len(widths) - 1:
                stage.downsample = _Downsample(leaving)
            self.down.append(stage)
        self.mid = _Middle(widths[-1], groups)
        self.norm_out = _norm(widths[-1], groups)
        self.conv_out = _conv3(widths[-1], config.num_bits)
        self.quant_conv = nn.Conv2d(config.num_bits, config.num_bits, 1)

    def forward(self, x: Tensor) -> Tensor:
        x = self.conv_in(x)
        for stage in self.down:
            x = stage(x)
        x = self.conv_out(F.silu(self.norm_out(self.mid(x))))
        latent: Tensor = self.quant_conv(x)
        return latent


class _Decoder(nn.Module):
    """The encoder mirrored, moved by one stage: `ImageTokenizerConfig.decoder_blocks`."""

    def __init__(self, config: ImageTokenizerConfig) -> None:
        super().__init__()
        widths, groups = config.widths, config.norm_groups
        self.post_quant_conv = nn.Conv2d(config.num_bits, config.num_bits, 1)
        self.conv_in = _conv3(config.num_bits, widths[-1])
        self.mid = _Middle(widths[-1], groups)
        self.up = nn.ModuleList()  # finest first, as the checkpoint numbers them; run in reverse
        pairs = pairwise((widths[0], *widths))
        for level, ((leaving, entering), num_blocks) in enumerate(zip(pairs, config.decoder_blocks, strict=True)):
            stage = _Stage(entering, leaving, num_blocks, groups)
            if level > 0:
                stage.upsample = _Upsample(leaving)
            self.up.append(stage)
        self.norm_out = _norm(widths[0], groups)
        self.conv_out = _conv3(widths[0], 3)

    def forward(self, bits: Tensor) -> Tensor:
        x = self.mid(self.conv_in(self.post_quant_conv(bits)))
        for stage in reversed(self.up):
            x = stage(x)
        images: Tensor = self.conv_out(F.silu(self.norm_out(x)))
        return images


class _Stage(nn.Module):
    """The residual blocks of one resolution, then a change of resolution if there is one."""

    def __init__(self, entering: int, leaving: int, num_blocks: int, groups: int) -> None:
        super().__init__()
        widths = (entering, *[leaving] * num_blocks)
        self.block = nn.ModuleList(_ResBlock(a, b, groups) for a, b in pairwise(widths))
        self.downsample: nn.Module | None = None
        self.upsample: nn.Module | None = None

    def forward(self, x: Tensor) -> Tensor:
        for block in self.block:
            x = block(x)
        resample = self.downsample or self.upsample
        y: Tensor = x if resample is None else resample(x)
        return y


class _Middle(nn.Module):
    def __init__(self, width: int, groups: int) -> None:
        super().__init__()
        self.block_1 = _ResBlock(width, width, groups)
        self.attn_1 = _Attention(width, groups)
        self.block_2 = _ResBlock(width, width, groups)

    def forward(self, x: Tensor) -> Tensor:
        y: Tensor = self.block_2(self.attn_1(self.block_1(x)))
        return y


class _ResBlock(nn.Module):
    def __init__(self, entering: int, leaving: int, groups: int) -> None:
        super().__init__()
        self.norm1 = _norm(entering, groups)
        self.conv1 = _conv3(entering, leaving)
        self.norm2 = _norm(leaving, groups)
        self.conv2 = _conv3(leaving, leaving)
        self.nin_shortcut = nn.Conv2d(entering, leaving, 1) if entering != leaving else None

    def forward(self, x: Tensor) -> Tensor:
        y: Tensor = self.conv1(F.silu(self.norm1(x)))
        y = self.conv2(F.silu(self.norm2(y)))
        shortcut: Tensor = x if self.nin_shortcut is None else self.nin_shortcut(x)
        return shortcut + y


class _Attention(nn.Module):
    """One head over all positions, as wide as the feature map."""

    def __init__(self, width: int, groups: int) -> None:
        super().__init__()
        self.norm = _norm(width, groups)
        self.q, self.k, self.v, self.proj_out = (nn.Conv2d(width, width, 1) for _ in range(4))

    def forward(self, x: Tensor) -> Tensor:
        y: Tensor = self.norm(x)
        q, k, v = (conv(y).flatten(2).transpose(1, 2).unsqueeze(1) for conv in (self.q, self.k, self.v))
        y = F.scaled_dot_product_attention(q, k, v)  # (B, 1, h*w, C), scaled by C^-1/2
        y = self.proj_out(y.squeeze(1).transpose(1, 2).reshape(x.shape))
        return x + y


class _Downsample(nn.Module):
    def __init__(self, width: int) -> None:
        super().__init__()
        self.conv = nn.Conv2d(width, width, 3, stride=2)

    def forward(self, x: Tensor) -> Tensor:
        y: Tensor = self.conv(F.pad(x, (0, 1, 0, 1)))  # one row below and one column to the right only
        return y


class _Upsample(nn.Module):
    def __init__(self, width: int) -> None:
        super().__init__()
        self.conv = _conv3(width, width)

    def forward(self, x: Tensor) -> Tensor:
        y: Tensor = self.conv(F.interpolate(x, scale_factor=2.0, mode="nearest"))
        return y


def _conv3(entering: int, leaving: int) -> nn.Conv2d:
    return nn.Conv2d(entering, leaving, 3, padding=1)


def _norm(width: int, groups: int) -> nn.GroupNorm:
    return nn.GroupNorm(groups, width, eps=_NORM_EPS)
