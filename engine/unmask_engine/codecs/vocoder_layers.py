"""Layers of the vocoder: weight-normed convolutions under the published names, the snake, the residual block."""

import torch
import torch.nn.functional as F
from torch import Tensor, nn


class _WeightNorm(nn.Module):
    """A convolution's weight g v / ||v||, the norm taken per first dimension, and its bias.

    The parameters are called `weight_g` and `weight_v` as in the published file: torch's own parametrization reads
    these names but writes others.
    """

    weight: nn.Parameter | None  # once folded
    weight_g: nn.Parameter | None
    weight_v: nn.Parameter | None

    def __init__(self, plain: nn.Conv1d | nn.ConvTranspose1d) -> None:
        """Starts from torch's initialisation of the plain layer."""
        super().__init__()
        assert plain.bias is not None
        self.weight_v = nn.Parameter(plain.weight.detach())
        self.weight_g = nn.Parameter(_row_norm(plain.weight.detach()))
        self.register_parameter("weight", None)
        self.bias = nn.Parameter(plain.bias.detach())

    def normed_weight(self) -> Tensor:
        if self.weight is not None:
            return self.weight
        assert self.weight_g is not None
        assert self.weight_v is not None
        return self.weight_v * (self.weight_g / _row_norm(self.weight_v))

    def fold(self) -> None:
        self.weight = nn.Parameter(self.normed_weight().detach(), requires_grad=False)
        self.weight_g = self.weight_v = None


class WeightNormConv1d(_WeightNorm):
    """Weight-normed Conv1d with "same" padding."""

    def __init__(self, in_channels: int, out_channels: int, kernel: int, dilation: int = 1) -> None:
        super().__init__(nn.Conv1d(in_channels, out_channels, kernel))
        self.dilation = dilation
        self.padding = dilation * (kernel - 1) // 2

    def forward(self, x: Tensor) -> Tensor:
        return F.conv1d(x, self.normed_weight(), self.bias, padding=self.padding, dilation=self.dilation)


class WeightNormConvTranspose1d(_WeightNorm):
    """Multiplies the length by `rate`; the first dimension, that of the norm, is the input channel."""

    def __init__(self, in_channels: int, out_channels: int, kernel: int, rate: int) -> None:
        if kernel < rate or (kernel - rate) % 2:
            raise ValueError(f"an upsampling kernel of {kernel} does not fit a rate of {rate}")
        super().__init__(nn.ConvTranspose1d(in_channels, out_channels, kernel))
        self.rate = rate
        self.padding = (kernel - rate) // 2

    def forward(self, x: Tensor) -> Tensor:
        return F.conv_transpose1d(x, self.normed_weight(), self.bias, stride=self.rate, padding=self.padding)


def fold_weight_norm(module: nn.Module) -> None:
    """Replaces g and v by the plain weight in all weight-normed layers of `module`, for inference; cannot be undone."""
    for layer in module.modules():
        if isinstance(layer, _WeightNorm):
            layer.fold()


class Snake(nn.Module):
    """x + sin(a x)^2 / a with one a per channel; (B, C, T)."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.alpha = nn.Parameter(torch.ones(channels))

    def forward(self, x: Tensor) -> Tensor:
        alpha = self.alpha[:, None]
        return x + torch.sin(alpha * x).square() / (alpha + 1e-9)


class ResBlock(nn.Module):
    """For each dilation: x + conv(snake(dilated conv(snake(x))))."""

    def __init__(self, channels: int, kernel: int, dilations: tuple[int, ...]) -> None:
        super().__init__()
        self.convs1 = nn.ModuleList(WeightNormConv1d(channels, channels, kernel, d) for d in dilations)
        self.convs2 = nn.ModuleList(WeightNormConv1d(channels, channels, kernel) for _ in dilations)
        self.activations1 = nn.ModuleList(Snake(channels) for _ in dilations)
        self.activations2 = nn.ModuleList(Snake(channels) for _ in dilations)

    def forward(self, x: Tensor) -> Tensor:
        for conv1, conv2, act1, act2 in zip(
            self.convs1, self.convs2, self.activations1, self.activations2, strict=True
        ):
            x = x + conv2(act2(conv1(act1(x))))
        return x


def resblock_radius(kernel: int, dilations: tuple[int, ...]) -> int:
    """Frames to each side that one output frame of a `ResBlock` depends on."""
    return sum((kernel - 1) // 2 * (dilation + 1) for dilation in dilations)


def _row_norm(weight: Tensor) -> Tensor:
    norm: Tensor = torch.linalg.vector_norm(weight, dim=(1, 2), keepdim=True)
    return norm
